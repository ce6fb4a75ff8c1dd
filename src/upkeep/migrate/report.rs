//! What a migration came to, counted and told.
//!
//! Promises that whatever end there is says what to do next. Knows no index and no store.

use serde::Serialize;

use crate::config::exit;

/// What it is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// All records.
    First,
    /// The old index is looked through for documents without a record.
    Compare,
    /// What was recorded meanwhile.
    Again,
    /// What was recorded round the move of the aliases.
    Last,
}

impl Phase {
    /// For a line.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::First => "first",
            Phase::Compare => "compare",
            Phase::Again => "again",
            Phase::Last => "last",
        }
    }
}

/// What was counted by this run, over all its passes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Tally {
    /// Passes that were begun or gone on with.
    pub passes: u64,
    /// Keys of records that were listed.
    pub listed: u64,
    /// Records that the new index holds, or something newer of theirs.
    pub brought: u64,
    /// Refused by the new index, and known to be refused: they lie under `errored-index/`.
    pub errored: u64,
    /// Refused by the new index: in its way.
    pub refused: u64,
    /// Could not be read, or got no clear answer: in its way.
    pub unclear: u64,
    /// Left behind, as it was told: under `errored-index/`, but for those that cannot be read.
    pub left_behind: u64,
    /// Documents of the old index that were looked at,
    pub compared: u64,
    /// and those that have no record: in its way.
    pub without_record: u64,
    /// Objects among the records that are none.
    pub odd: u64,
}

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(tag = "ended", content = "why", rename_all = "snake_case")]
pub enum End {
    /// The aliases have moved and all is in the new index.
    Moved,
    /// There was nothing to do.
    Same {
        /// The index in use.
        index: String,
    },
    /// Searches would lose something by the move: somebody must decide.
    Blocked,
    /// The aliases have moved, and some records could not be brought.
    Owed,
    /// The names are not as they should be, or what was asked for cannot be had.
    Refused(String),
    /// It was asked to stop.
    #[default]
    Interrupted,
    /// A dependency is sick.
    Sick(String),
}

/// A run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// In use when it began; empty where it was not found.
    pub old: String,
    /// The next one.
    pub new: String,
    /// By which the text of the new one is cut; `None` where this run did not fill it.
    pub analyzer: Option<String>,
    /// Counts.
    pub tally: Tally,
    /// How it ended.
    #[serde(flatten)]
    pub end: End,
}

/// Who listens to a run.
pub trait Sink: Send {
    /// A record or document is in the way, or left behind.
    fn unclear(&mut self, name: &str, why: &str);
    /// A page is done.
    fn progress(&mut self, phase: Phase, report: &Report);
}

impl Report {
    /// Exit code of design §8: what the same command may mend is 75, what somebody must decide is 78.
    pub fn code(&self) -> u8 {
        match &self.end {
            End::Moved | End::Same { .. } => exit::EX_OK,
            End::Blocked | End::Refused(_) => exit::EX_CONFIG,
            End::Owed | End::Interrupted | End::Sick(_) => exit::EX_TEMPFAIL,
        }
    }

    /// For a person. `alias`: the write alias.
    pub fn text(&self, alias: &str) -> String {
        let Self { old, new, tally, .. } = self;
        let again = "to go on: worker migrate-index";
        let mut text = String::new();
        if let Some(analyzer) = &self.analyzer {
            text += &format!("{new}: text by analyzer {analyzer}\n");
        }
        if tally.passes > 0 {
            let Tally {
                passes,
                listed,
                brought,
                errored,
                refused,
                unclear,
                left_behind,
                compared,
                without_record,
                odd,
            } = tally;
            text += &format!(
                "{passes} passes, {listed} records listed, {brought} brought, {errored} errored before, {refused} refused, \
                 {unclear} could not be judged, {left_behind} left behind; {compared} documents of {old} compared, \
                 {without_record} without a record\n"
            );
            if *odd > 0 {
                text += &format!("{odd} objects under processed/ are no records\n");
            }
        }
        text += &match &self.end {
            End::Moved => format!(
                "moved     {alias} and {alias}-search, from {old} to {new}\nkept      {old}: nothing is written to it any more. \
                 When nobody needs it: DELETE /{old}\n"
            ),
            End::Same { index } => {
                format!("present   {index} is as it should be; to build the next index all the same: --rebuild\n")
            }
            End::Blocked => format!(
                "blocked   searches would lose what stands in the lines above; nothing was moved, {old} is in use\nmend it, and: \
                 worker migrate-index; or leave it behind: worker migrate-index --leave-behind\n"
            ),
            End::Owed => format!(
                "moved     {alias} and {alias}-search, from {old} to {new}\nowed      what stands in the lines above is not in {new} \
                 yet; {again}\n"
            ),
            End::Refused(why) => format!("refused   {why}\n"),
            End::Interrupted => format!("stopped   what is done is done; {again}\n"),
            End::Sick(why) => format!("stopped   {why}; what is done is done; {again}\n"),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_code_and_says_what_to_do_next() {
        let (old, new) = ("files-v1".to_owned(), "files-v2".to_owned());
        let table = [
            (End::Moved, 0, "DELETE /files-v1"),
            (End::Same { index: new.clone() }, 0, "--rebuild"),
            (End::Blocked, 78, "--leave-behind"),
            (End::Owed, 75, "to go on: worker migrate-index"),
            (End::Refused("alias files is missing: setup-index".into()), 78, "setup-index"),
            (End::Interrupted, 75, "to go on: worker migrate-index"),
            (End::Sick("S3: down".into()), 75, "S3: down; what is done is done; to go on"),
        ];
        for (end, code, next) in table {
            let report = Report { end, old: old.clone(), new: new.clone(), ..Report::default() };
            assert_eq!(report.code(), code, "{report:?}");
            assert!(report.text("files").contains(next), "{}", report.text("files"));
            assert!(serde_json::to_string(&report).unwrap().contains("\"ended\":"), "{report:?}");
        }
    }
}
