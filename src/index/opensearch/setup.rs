//! `worker setup-index`: the index, its mapping and its two aliases, made where they are missing.
//!
//! Promises to be idempotent, also when two run at once, to remove nothing, and to say what it did and what it
//! could not do. Knows no document.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use opensearch::http::Method;
use opensearch::http::headers::HeaderMap;
use serde_json::{Value, json};

use super::alias::Standing;
use super::analyzer::{Analyzer, AnalyzerChoice, Taken};
use super::mapping;
use super::reply::whole_trouble;
use super::wire::{Answer, Ask};
use super::{OpenSearchIndex, in_path};

/// An index is created across the cluster: that may take longer than a bulk request is allowed to.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SetupStep {
    /// Was missing, is there now.
    Created(String),
    /// Was there, and is right.
    Present(String),
    /// Was there, and was changed.
    Changed(String),
    /// Is there and cannot be changed in place; with what to do.
    Conflict(String),
}

impl fmt::Display for SetupStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetupStep::Created(what) => write!(f, "created   {what}"),
            SetupStep::Present(what) => write!(f, "present   {what}"),
            SetupStep::Changed(what) => write!(f, "changed   {what}"),
            SetupStep::Conflict(what) => write!(f, "conflict  {what}"),
        }
    }
}

/// What `setup-index` found and did, in order. `Display` is what the command prints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetupReport {
    /// The index that writes go to.
    pub index: String,
    /// The steps.
    pub steps: Vec<SetupStep>,
}

impl SetupReport {
    /// Something stays that a command cannot put right: the exit code should tell.
    pub fn has_conflicts(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, SetupStep::Conflict(_)))
    }
}

impl fmt::Display for SetupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

/// Why there is no report.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SetupError {
    /// The names are in use for something else, or ambiguous: somebody has to decide. The text says how.
    #[error("{0}")]
    Names(String),
    /// The analyzer that was asked for cannot be had. The text says what mends it.
    #[error("{0}")]
    Analyzer(String),
    /// OpenSearch does not answer, or not as hoped.
    #[error("search unavailable: {0}")]
    Unavailable(String),
}

/// Says how an index stands, and changes nothing.
#[async_trait]
pub trait Examine: Send + Sync {
    /// What is as it should be, and what is not (conflicts).
    async fn examine(&self) -> Result<SetupReport, SetupError>;
}

#[async_trait]
impl Examine for OpenSearchIndex {
    async fn examine(&self) -> Result<SetupReport, SetupError> {
        OpenSearchIndex::examine(self).await
    }
}

impl OpenSearchIndex {
    /// Makes what is missing, says what is there. Safe to run at any time and by many at once.
    pub async fn setup_index(&self, choice: AnalyzerChoice) -> Result<SetupReport, SetupError> {
        let mut steps = Vec::new();
        let read_alias = self.read_alias();
        let reading = self.standing(&read_alias).await?;
        if reading == Standing::Index {
            return Err(taken(&read_alias));
        }
        let index = match self.standing(&self.alias).await? {
            Standing::Index => return Err(taken(&self.alias)),
            Standing::Alias { write: Some(index), .. } => {
                steps.push(SetupStep::Present(format!("alias {} writes to index {index}", self.alias)));
                index
            }
            Standing::Alias { write: None, holders } => {
                let names = holders.into_keys().collect::<Vec<_>>().join(", ");
                return Err(SetupError::Names(format!(
                    "alias {} stands for {names}, and none of them is its write index: choose one with POST /_aliases \
                     {{\"actions\":[{{\"add\":{{\"index\":\"…\",\"alias\":\"{}\",\"is_write_index\":true}}}}]}}",
                    self.alias, self.alias
                )));
            }
            Standing::Missing | Standing::Unreadable => match self.create_or_adopt(choice, &mut steps).await? {
                Some(index) => index,
                // Created whole, by one request: nothing is left to compare.
                None => return Ok(SetupReport { index: format!("{}-v1", self.alias), steps }),
            },
        };
        self.settle_mapping(&index, choice, &mut steps).await?;
        self.settle_read_alias(&index, &read_alias, &mut steps).await?;
        Ok(SetupReport { index, steps })
    }

    /// What [`OpenSearchIndex::setup_index`] would find, without a change: what is missing or wrong is a conflict.
    pub async fn examine(&self) -> Result<SetupReport, SetupError> {
        let mut steps = Vec::new();
        let index = match self.standing(&self.alias).await? {
            Standing::Alias { write: Some(index), .. } => index,
            Standing::Index => return Err(taken(&self.alias)),
            Standing::Alias { write: None, .. } | Standing::Missing | Standing::Unreadable => {
                return Err(SetupError::Names(format!("alias {} writes to no index", self.alias)));
            }
        };
        let theirs = self.mappings(&index).await?;
        match Analyzer::of_mapping(&theirs) {
            None => steps.push(SetupStep::Conflict(format!("{index} has a mapping that is none of ours"))),
            Some(analyzer) => {
                let drift = mapping::drift(&theirs, analyzer);
                let told = drift.conflicts.iter().map(|told| format!("{told} in {index}"));
                let dynamic = drift.dynamic.then(|| format!("{index} maps unknown fields by itself"));
                let missing = drift.add.iter().map(|(name, _)| format!("{index} has no field {name}"));
                steps.extend(told.chain(dynamic).chain(missing).map(SetupStep::Conflict));
                if drift.is_none() {
                    steps.push(SetupStep::Present(format!(
                        "mapping of {index}, text by analyzer {}",
                        analyzer.as_str()
                    )));
                }
            }
        }
        let alias = self.read_alias();
        let filtered = match self.standing(&alias).await? {
            Standing::Alias { holders, .. } => {
                holders.get(&index).is_some_and(|held| held.get("filter") == Some(&mapping::not_deleted()))
            }
            Standing::Index | Standing::Missing | Standing::Unreadable => false,
        };
        steps.push(match filtered {
            true => SetupStep::Present(format!("alias {alias} without deleted documents")),
            false => SetupStep::Conflict(format!("alias {alias} does not show {index} without deleted documents")),
        });
        Ok(SetupReport { index, steps })
    }

    /// `None` where the index was created with all that belongs to it.
    async fn create_or_adopt(
        &self,
        choice: AnalyzerChoice,
        steps: &mut Vec<SetupStep>,
    ) -> Result<Option<String>, SetupError> {
        let first = format!("{}-v1", self.alias);
        let versions = self.versions().await?;
        if versions.is_empty() {
            let Taken { analyzer, why } = self.choose(choice).await?;
            let mut body = mapping::index_body(analyzer);
            body["aliases"] = json!({
                &self.alias: { "is_write_index": true },
                self.read_alias(): { "filter": mapping::not_deleted() },
            });
            let answer = self.call(Method::Put, &format!("/{}", in_path(&first)), Some(body)).await?;
            if answer.status == 200 {
                let how = format!("index {first} with its mapping, text by analyzer {} ({why})", analyzer.as_str());
                steps.push(SetupStep::Created(how));
                steps.push(SetupStep::Created(format!("alias {} that writes to it", self.alias)));
                steps.push(SetupStep::Created(format!("alias {} without deleted documents", self.read_alias())));
                return Ok(None);
            }
            // Somebody else was faster with the same: theirs is as good, and is looked at like any other.
            let exists = String::from_utf8_lossy(&answer.body).contains("resource_already_exists_exception");
            if !exists {
                return Err(refused(&format!("cannot create index {first}"), &answer));
            }
        }
        let index = match &versions[..] {
            [] => first,
            [only] => only.clone(),
            // An alias was lost: guessing would write into the past.
            several => {
                return Err(SetupError::Names(format!(
                    "alias {} is missing and there are several indices it may have stood for: {}; point it at one of \
                     them with POST /_aliases",
                    self.alias,
                    several.join(", ")
                )));
            }
        };
        self.add_alias(&index, &self.alias, json!({ "is_write_index": true })).await?;
        steps.push(SetupStep::Present(format!("index {index}")));
        steps.push(SetupStep::Created(format!("alias {} that writes to it", self.alias)));
        Ok(Some(index))
    }

    async fn settle_mapping(
        &self,
        index: &str,
        choice: AnalyzerChoice,
        steps: &mut Vec<SetupStep>,
    ) -> Result<(), SetupError> {
        let path = format!("/{}/_mapping", in_path(index));
        let theirs = self.mappings(index).await?;
        let (analyzer, better) = match (choice, Analyzer::of_mapping(&theirs)) {
            // Not a mistake: it was the best when the index was made, or somebody's choice.
            (AnalyzerChoice::Auto, Some(has)) => {
                let best = self.choose(choice).await?;
                (has, (best.analyzer != has).then_some(best))
            }
            (AnalyzerChoice::Auto | AnalyzerChoice::Only(_), _) => (self.choose(choice).await?.analyzer, None),
        };
        let drift = mapping::drift(&theirs, analyzer);
        if drift.is_none() {
            let hint = better.map(|Taken { analyzer, why }| {
                format!("; `worker migrate-index` would build the next index with {} ({why})", analyzer.as_str())
            });
            let hint = hint.unwrap_or_default();
            steps.push(SetupStep::Present(format!("mapping of {index}, text by analyzer {}{hint}", analyzer.as_str())));
        }
        let migrate = "an index cannot change that in place: `worker migrate-index` builds the next version from the \
                       records, and moves the aliases to it";
        steps.extend(drift.conflicts.iter().map(|told| SetupStep::Conflict(format!("{told} in {index}: {migrate}"))));
        if drift.dynamic {
            let answer = self.call(Method::Put, &path, Some(json!({ "dynamic": false }))).await?;
            steps.push(match answer.status {
                200 => SetupStep::Changed(format!("{index} no longer maps unknown fields by itself")),
                _ => SetupStep::Conflict(format!("dynamic of {index}: {}", said(&answer))),
            });
        }
        // One by one: a field that is refused (its analyzer is not in the settings) must not keep the others out.
        for (name, field) in drift.add {
            let body = json!({ "properties": { &name: field } });
            let answer = self.call(Method::Put, &path, Some(body)).await?;
            steps.push(match answer.status {
                200 => SetupStep::Changed(format!("field {name} added to {index}, for documents written from now on")),
                _ => SetupStep::Conflict(format!("field {name} in {index}: {}; {migrate}", said(&answer))),
            });
        }
        Ok(())
    }

    /// The object under `mappings`.
    pub(super) async fn mappings(&self, index: &str) -> Result<Value, SetupError> {
        let answer = self.call(Method::Get, &format!("/{}/_mapping", in_path(index)), None).await?;
        let mut found: Option<Value> = serde_json::from_slice(&answer.body).ok();
        match found.as_mut().and_then(|found| found.get_mut(index)?.get_mut("mappings")) {
            Some(theirs) if answer.status == 200 => Ok(theirs.take()),
            _ => Err(refused(&format!("cannot read the mapping of {index}"), &answer)),
        }
    }

    async fn settle_read_alias(&self, index: &str, alias: &str, steps: &mut Vec<SetupStep>) -> Result<(), SetupError> {
        // Looked up again: somebody else may have made it with the index.
        let definition = match self.standing(alias).await? {
            Standing::Alias { holders, .. } => holders.get(index).cloned(),
            Standing::Index => return Err(taken(alias)),
            Standing::Missing | Standing::Unreadable => None,
        };
        let filter = mapping::not_deleted();
        if definition.as_ref().and_then(|alias| alias.get("filter")) == Some(&filter) {
            steps.push(SetupStep::Present(format!("alias {alias} without deleted documents")));
            return Ok(());
        }
        self.add_alias(index, alias, json!({ "filter": filter })).await?;
        steps.push(match definition {
            None => SetupStep::Created(format!("alias {alias} without deleted documents")),
            Some(_) => SetupStep::Changed(format!("alias {alias} hides deleted documents now")),
        });
        Ok(())
    }

    async fn add_alias(&self, index: &str, alias: &str, mut add: Value) -> Result<(), SetupError> {
        add["index"] = json!(index);
        add["alias"] = json!(alias);
        let answer = self.call(Method::Post, "/_aliases", Some(json!({ "actions": [{ "add": add }] }))).await?;
        if answer.status == 200 { Ok(()) } else { Err(refused(&format!("cannot set alias {alias}"), &answer)) }
    }

    pub(super) async fn standing(&self, name: &str) -> Result<Standing, SetupError> {
        let answer = self.call(Method::Get, &format!("/{}/_alias", in_path(name)), None).await?;
        match answer.status {
            200 => match Standing::read(name, &answer.body) {
                Standing::Unreadable => Err(refused(&format!("cannot read what {name} is"), &answer)),
                standing => Ok(standing),
            },
            // A 404 of something else than OpenSearch (a wrong path in the endpoint) must not start a creation.
            404 if String::from_utf8_lossy(&answer.body).contains("index_not_found_exception") => Ok(Standing::Missing),
            _ => Err(refused(&format!("cannot look up {name}"), &answer)),
        }
    }

    /// Existing indices `{alias}-v<number>`.
    pub(super) async fn versions(&self) -> Result<Vec<String>, SetupError> {
        let answer = self.call(Method::Get, &format!("/{}-v*/_alias", in_path(&self.alias)), None).await?;
        let found: Option<serde_json::Map<String, Value>> = serde_json::from_slice(&answer.body).ok();
        let (200, Some(found)) = (answer.status, found) else {
            return Err(refused("cannot list indices", &answer));
        };
        let prefix = format!("{}-v", self.alias);
        let numbered = |name: &String| name.strip_prefix(&prefix).is_some_and(|number| number.parse::<u32>().is_ok());
        Ok(found.into_iter().map(|(name, _)| name).filter(numbered).collect())
    }

    pub(super) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Answer, SetupError> {
        let timeout = self.request_timeout.max(PATIENCE);
        let body = body.map(|body| Bytes::from(body.to_string()));
        let ask = Ask { method, path, query: &[], headers: HeaderMap::new(), body, timeout };
        self.wire.ask(ask).await.map_err(SetupError::Unavailable)
    }
}

pub(super) fn taken(name: &str) -> SetupError {
    SetupError::Names(format!(
        "{name} is an index, and an alias of that name is needed: choose other names with OPENSEARCH_INDEX, or, if \
         nobody needs index {name}, delete it and run this again"
    ))
}

pub(super) fn said(answer: &Answer) -> String {
    whole_trouble(answer.status, &answer.body)
}

pub(super) fn refused(what: &str, answer: &Answer) -> SetupError {
    SetupError::Unavailable(format!("{what}: {}", said(answer)))
}
