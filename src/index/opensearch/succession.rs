//! `worker migrate-index` on OpenSearch: the next index with an alias of its own, its notes, and the move of the aliases.
//!
//! The next index is written to through the alias `{index}-next`, so that the way into it is that of every document
//! (`require_alias`), and so that it is found again by whoever goes on. Its notes lie in its mapping, under `_meta`.
//! Promises to delete nothing, and to refuse what it did not make. Knows no record.

use std::sync::Arc;

use async_trait::async_trait;
use opensearch::http::Method;
use serde_json::{Value, json};

use super::alias::Standing;
use super::analyzer::{Analyzer, AnalyzerChoice};
use super::setup::{SetupError, refused, said, taken};
use super::{OpenSearchIndex, in_path, mapping};
use crate::index::SearchError;
use crate::index::succession::{Begun, Progress, Succession, SuccessionError};

/// Others may be at it as well: each of these looks again.
const LOOKS: u32 = 5;

/// The indices behind one alias, one after the other.
pub struct OpenSearchSuccession {
    /// The client of the write alias.
    pub index: Arc<OpenSearchIndex>,
    /// How the text of the next one is cut.
    pub analyzer: AnalyzerChoice,
}

impl From<SetupError> for SuccessionError {
    fn from(error: SetupError) -> Self {
        match error {
            SetupError::Names(why) | SetupError::Analyzer(why) => SuccessionError::Refused(why),
            SetupError::Unavailable(why) => SuccessionError::Unavailable(why),
        }
    }
}

impl OpenSearchIndex {
    /// The alias through which the next index is written to while it is built.
    pub fn next_alias(&self) -> String {
        format!("{}-next", self.alias)
    }
}

#[async_trait]
impl Succession for OpenSearchSuccession {
    async fn begin(&self, anew: bool) -> Result<Begun, SuccessionError> {
        let mut last = SuccessionError::Unavailable("several migrations are at it".into());
        for _ in 0..LOOKS {
            match self.look(anew).await? {
                Look::Begun(begun) => return Ok(begun),
                Look::Again(why) => last = SuccessionError::Unavailable(why),
            }
        }
        Err(last)
    }

    async fn note(&self, new: &str, progress: &Progress) -> Result<(), SearchError> {
        let path = format!("/{}/_mapping", in_path(new));
        let body = json!({ "_meta": meta(progress) });
        let answer = self.index.call(Method::Put, &path, Some(body)).await.map_err(unavailable)?;
        match answer.status {
            200 if acknowledged(&answer.body) => Ok(()),
            200 => Err(SearchError::Unavailable("not all nodes of the cluster have taken the note".into())),
            _ => Err(SearchError::Unavailable(format!("cannot note the progress in {new}: {}", said(&answer)))),
        }
    }

    async fn take_over(&self, old: &str, new: &str) -> Result<(), SuccessionError> {
        let index = &self.index;
        let (write, read, next) = (&index.alias, index.read_alias(), index.next_alias());
        let actions = json!({ "actions": [
            { "remove": { "index": old, "alias": write, "must_exist": true } },
            { "remove": { "index": old, "alias": read, "must_exist": true } },
            { "add": { "index": new, "alias": write, "is_write_index": true } },
            { "add": { "index": new, "alias": read, "filter": mapping::not_deleted() } },
            { "remove": { "index": new, "alias": next } },
        ] });
        let answer = index.call(Method::Post, "/_aliases", Some(actions)).await?;
        // Whether all nodes know is found out by the next note.
        if answer.status == 200 {
            return Ok(());
        }
        // Somebody else was faster, or the reply to our own first try was lost.
        match index.standing(write).await? {
            Standing::Alias { write: Some(there), .. } if there == new => Ok(()),
            Standing::Alias { .. } | Standing::Index | Standing::Missing | Standing::Unreadable => {
                let why = format!("the aliases cannot be moved from {old} to {new}: {}", said(&answer));
                Err(if answer.status == 404 {
                    SuccessionError::Refused(why)
                } else {
                    SuccessionError::Unavailable(why)
                })
            }
        }
    }
}

enum Look {
    Begun(Begun),
    /// Somebody else has changed something meanwhile.
    Again(String),
}

impl OpenSearchSuccession {
    async fn look(&self, anew: bool) -> Result<Look, SuccessionError> {
        let index = &self.index;
        let old = self.in_use().await?;
        let theirs = index.mappings(&old).await?;
        if let Some(progress) = progress_of(&theirs).filter(|progress| !progress.done) {
            return Ok(Look::Begun(Begun::Moved { new: old, progress }));
        }
        let chosen = index.choose(self.analyzer).await?;
        let next = index.next_alias();
        let new = match index.standing(&next).await? {
            Standing::Index => return Err(taken(&next).into()),
            Standing::Alias { holders, .. } => {
                let names: Vec<String> = holders.into_keys().collect();
                let [new] = &names[..] else {
                    return Err(SuccessionError::Refused(format!(
                        "alias {next}, through which the next index is written to, stands for {}: leave it to one of them, or \
                         delete those that nobody needs",
                        names.join(" and ")
                    )));
                };
                new.clone()
            }
            Standing::Missing | Standing::Unreadable => {
                if !anew && mapping::drift(&theirs, chosen.analyzer).is_none() {
                    return Ok(Look::Begun(Begun::Same { index: old }));
                }
                return self.create(&old, chosen.analyzer).await;
            }
        };
        let theirs = index.mappings(&new).await?;
        let Some(progress) = progress_of(&theirs) else {
            return Err(SuccessionError::Refused(format!(
                "alias {next} stands for {new}, which no migration has made: take the alias away from it, and run this again"
            )));
        };
        if progress.from != old {
            return Err(SuccessionError::Refused(format!(
                "{new} was begun as the next index of {}, and {old} is in use now: nobody needs it; delete it (DELETE /{new}) \
                 and run this again",
                progress.from
            )));
        }
        if let Some(conflict) = mapping::drift(&theirs, chosen.analyzer).conflicts.first() {
            let has = Analyzer::of_mapping(&theirs).map_or("another", Analyzer::as_str);
            return Err(SuccessionError::Refused(format!(
                "{new} is half built with another mapping ({conflict}): go on with OPENSEARCH_ANALYZER={has}, or delete it \
                 (DELETE /{new}) and run this again"
            )));
        }
        let analyzer = format!("{} ({})", chosen.analyzer.as_str(), chosen.why);
        Ok(Look::Begun(Begun::Building { old, new, analyzer, progress }))
    }

    /// The one index behind both aliases. With others behind them, their documents would be left behind, or found twice.
    async fn in_use(&self) -> Result<String, SuccessionError> {
        let index = &self.index;
        let setup = "`worker setup-index` makes it";
        let old = match index.standing(&index.alias).await? {
            Standing::Index => return Err(taken(&index.alias).into()),
            Standing::Missing | Standing::Unreadable => {
                return Err(SuccessionError::Refused(format!("alias {} is missing: {setup}", index.alias)));
            }
            Standing::Alias { write: Some(old), holders } if holders.len() == 1 => old,
            Standing::Alias { holders, .. } => {
                let names = holders.into_keys().collect::<Vec<_>>().join(", ");
                return Err(SuccessionError::Refused(format!(
                    "alias {} stands for {names}: a migration takes over from the one index that is written to, with no \
                     other beside it",
                    index.alias
                )));
            }
        };
        let read = index.read_alias();
        match index.standing(&read).await? {
            Standing::Alias { holders, .. } if holders.keys().eq([&old]) => Ok(old),
            Standing::Alias { holders, .. } => {
                let names = holders.into_keys().collect::<Vec<_>>().join(", ");
                Err(SuccessionError::Refused(format!(
                    "alias {read} stands for {names}, and documents are written to {old}: leave {old} alone in it"
                )))
            }
            Standing::Index => Err(taken(&read).into()),
            Standing::Missing | Standing::Unreadable => {
                Err(SuccessionError::Refused(format!("alias {read} is missing: {setup}")))
            }
        }
    }

    async fn create(&self, old: &str, analyzer: Analyzer) -> Result<Look, SuccessionError> {
        let index = &self.index;
        let prefix = format!("{}-v", index.alias);
        let number = |name: &String| name.strip_prefix(&prefix)?.parse::<u32>().ok();
        let last = index.versions().await?.iter().filter_map(number).max().unwrap_or(0);
        let new = format!("{prefix}{}", last.saturating_add(1));
        let progress = Progress { v: 1, from: old.to_owned(), ..Progress::default() };
        let mut body = mapping::index_body(analyzer);
        body["mappings"]["_meta"] = meta(&progress);
        // With its alias, in one step: without it nobody would find the index again.
        body["aliases"] = json!({ index.next_alias(): { "is_write_index": true } });
        let answer = index.call(Method::Put, &format!("/{}", in_path(&new)), Some(body)).await?;
        let what = format!("cannot create index {new}");
        match answer.status {
            200 => Ok(Look::Again(format!("{new} was created, and is not there"))),
            // Another migration has made it, or another one with this alias; whatever it is, the next look says so.
            400 | 500
                if ["resource_already_exists_exception", "more than one write index"]
                    .iter()
                    .any(|words| String::from_utf8_lossy(&answer.body).contains(words)) =>
            {
                Ok(Look::Again(format!("{what}: {}", said(&answer))))
            }
            400 => Err(SuccessionError::Refused(format!("{what}: {}", said(&answer)))),
            _ => Err(refused(&what, &answer).into()),
        }
    }
}

fn meta(progress: &Progress) -> Value {
    json!({ "quittance": { "migration": progress } })
}

fn progress_of(mappings: &Value) -> Option<Progress> {
    let noted = mappings.pointer("/_meta/quittance/migration")?;
    serde_json::from_value(noted.clone()).ok()
}

fn acknowledged(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|reply| reply["acknowledged"] == true)
}

fn unavailable(error: SetupError) -> SearchError {
    match error {
        SetupError::Names(why) | SetupError::Analyzer(why) | SetupError::Unavailable(why) => {
            SearchError::Unavailable(why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::succession::Pass;

    #[test]
    fn a_note_comes_back_from_the_mapping_and_nobody_elses_is_taken_for_one() {
        let pass = Some(Pass { began_ms: 9, after: Some("processed/default/a.json".into()) });
        let progress = Progress { v: 1, from: "files-v1".into(), since_ms: 7, pass, done: false, note: 3 };
        assert_eq!(progress_of(&json!({ "_meta": meta(&progress), "properties": {} })), Some(progress));
        for other in
            [json!({}), json!({ "_meta": {} }), json!({ "_meta": { "quittance": { "migration": { "v": "x" } } } })]
        {
            assert_eq!(progress_of(&other), None, "{other}");
        }
    }

    #[test]
    fn only_what_all_nodes_have_taken_is_acknowledged() {
        assert!(acknowledged(br#"{"acknowledged":true}"#));
        for body in [&br#"{"acknowledged":false}"#[..], b"{}", b"<html>"] {
            assert!(!acknowledged(body));
        }
    }
}
