//! What becomes of a dead letter: the decision of design §7 as a table. Pure.
//!
//! Promises P9's order: finished work is dropped only on proof, what the index lacks is indexed from its record, what
//! can never be done is archived, the rest is sent back, and what is not known is left alone. Asks nobody.

use crate::message::s3_event::Unreadable;

/// So often a message is sent back, then it is archived (design §7).
pub const MOST_REDRIVES: u32 = 3;
/// So often one that was denied.
pub const MOST_REDRIVES_OF_DENIED: u32 = 2;

/// What is known of one change of a letter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// The workers would skip it.
    Nothing,
    /// Its record is durable, or a newer one, and the index holds it.
    Finished,
    /// Its record is durable, or a newer one, and the index lacks it.
    Unindexed,
    /// To be worked on anew.
    Owed,
    /// It can never be done.
    Hopeless(Hopeless),
    /// Somebody could not be asked.
    Unknown(String),
}

/// Why a letter is given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hopeless {
    /// Nothing that a worker can read.
    Malformed(String),
    /// Beyond a limit that no worker lifts.
    Limit(String),
    /// Its bucket is not a source.
    NotAllowed(String),
    /// Its bucket is a source, and this part of it is not: kept, for nothing proves that its work is done.
    NotWanted(String),
    /// The file was created and is gone, and nothing explains it.
    SourceMissing,
    /// Denied again after it was sent back.
    Denied,
    /// Sent back three times, and here again.
    RedrivenTooOften(u32),
    /// It has ten attributes already, or 1 MiB: the count of its redrives has no room, and it would go round for ever.
    NoRoom,
}

impl Hopeless {
    /// Stable name: `reason` of the archive.
    pub fn as_str(&self) -> &'static str {
        match self {
            Hopeless::Malformed(_) => "malformed",
            Hopeless::Limit(_) => "limit",
            Hopeless::NotAllowed(_) => "not_allowed",
            Hopeless::NotWanted(_) => "prefix_not_wanted",
            Hopeless::SourceMissing => "source_missing",
            Hopeless::Denied => "denied",
            Hopeless::RedrivenTooOften(_) => "redriven_too_often",
            Hopeless::NoRoom => "no_room",
        }
    }

    /// For a person.
    pub fn detail(&self) -> String {
        match self {
            Hopeless::Malformed(why) | Hopeless::Limit(why) | Hopeless::NotAllowed(why) | Hopeless::NotWanted(why) => {
                why.clone()
            }
            Hopeless::SourceMissing => "the file is gone, and no record explains it".to_owned(),
            Hopeless::Denied => format!("denied, and denied again after {MOST_REDRIVES_OF_DENIED} redrives"),
            Hopeless::RedrivenTooOften(times) => format!("redriven {times} times"),
            Hopeless::NoRoom => "ten attributes, or 1 MiB: no room for the count of its redrives".to_owned(),
        }
    }
}

impl From<&Unreadable> for Hopeless {
    fn from(unreadable: &Unreadable) -> Self {
        match unreadable {
            Unreadable::Malformed(why) => Hopeless::Malformed(why.clone()),
            Unreadable::Limit(why) => Hopeless::Limit(why.clone()),
        }
    }
}

/// What to do with a letter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// All of it is durable, and indexed: nothing is left to do.
    Drop,
    /// The index lacks what the records have.
    Index,
    /// Back to the main queue.
    Resend,
    /// Into the archive, for good; what its records have goes into the index all the same.
    Archive(Hopeless),
    /// It stays where it is.
    Leave(String),
}

/// What counts beside the changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// How often it was sent back.
    pub redrives: u32,
    /// Its last reason is `denied`.
    pub denied: bool,
    /// An eleventh attribute would be one too many.
    pub full: bool,
    /// Its note is of this version, which is none of ours.
    pub newer: Option<u64>,
    /// The operator wants finished work done again (`--force`). Version order stands: a newer record still wins.
    pub force: bool,
}

/// The table.
pub fn decide(works: &[Work], history: History) -> Action {
    let owed = |work: &Work| match work {
        Work::Owed => true,
        Work::Finished | Work::Unindexed => history.force,
        Work::Nothing | Work::Hopeless(_) | Work::Unknown(_) => false,
    };
    let unknown = works.iter().find_map(|work| match work {
        Work::Unknown(why) => Some(why.clone()),
        Work::Nothing | Work::Finished | Work::Unindexed | Work::Owed | Work::Hopeless(_) => None,
    });
    if let Some(why) = unknown {
        return Action::Leave(why);
    }
    if works.iter().any(owed) {
        return match history {
            // Its count of redrives is not ours to read: it would be sent back for ever.
            History { newer: Some(version), .. } => later(version),
            History { redrives, .. } if redrives >= MOST_REDRIVES => {
                Action::Archive(Hopeless::RedrivenTooOften(redrives))
            }
            History { redrives, denied: true, .. } if redrives >= MOST_REDRIVES_OF_DENIED => {
                Action::Archive(Hopeless::Denied)
            }
            History { full: true, .. } => Action::Archive(Hopeless::NoRoom),
            History { .. } => Action::Resend,
        };
    }
    let hopeless = works.iter().find_map(|work| match work {
        Work::Hopeless(why) => Some(why.clone()),
        Work::Nothing | Work::Finished | Work::Unindexed | Work::Owed | Work::Unknown(_) => None,
    });
    match (hopeless, history.newer) {
        // What this release cannot read, or may not, the one that wrote it may.
        (Some(_), Some(version)) => later(version),
        (Some(why), None) => Action::Archive(why),
        (None, _) if works.contains(&Work::Unindexed) => Action::Index,
        (None, _) => Action::Drop,
    }
}

/// A later release wrote its note, and redrives it.
fn later(version: u64) -> Action {
    Action::Leave(format!("its attribute is of version {version}: use the redrive of that release"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_letter_has_one_decision_and_the_worst_of_its_changes_makes_it() {
        use Work::{Finished, Nothing, Owed, Unindexed};
        let gone = || Work::Hopeless(Hopeless::SourceMissing);
        let unknown = || Work::Unknown("S3".into());
        let archive = || Action::Archive(Hopeless::SourceMissing);
        let leave = || Action::Leave("S3".into());
        let table = [
            (vec![], Action::Drop),
            (vec![Nothing], Action::Drop),
            (vec![Finished], Action::Drop),
            (vec![Finished, Nothing], Action::Drop),
            (vec![Unindexed], Action::Index),
            (vec![Finished, Unindexed, Nothing], Action::Index),
            (vec![Owed], Action::Resend),
            (vec![Finished, Owed], Action::Resend),
            (vec![Unindexed, Owed], Action::Resend),
            // What can be done is done first; the next time round only the hopeless one is left, and archived.
            (vec![gone(), Owed], Action::Resend),
            (vec![gone()], archive()),
            (vec![gone(), Finished], archive()),
            (vec![gone(), Unindexed], archive()),
            (vec![gone(), Nothing], archive()),
            (vec![unknown()], leave()),
            (vec![unknown(), Finished], leave()),
            (vec![unknown(), gone()], leave()),
            (vec![Owed, unknown()], leave()),
        ];
        for (works, expected) in table {
            assert_eq!(decide(&works, History::default()), expected, "{works:?}");
        }
    }

    #[test]
    fn what_was_sent_back_too_often_is_archived_and_only_that() {
        let of = |redrives, denied| History { redrives, denied, ..History::default() };
        let table = [
            (of(0, false), Action::Resend),
            (of(2, false), Action::Resend),
            (of(3, false), Action::Archive(Hopeless::RedrivenTooOften(3))),
            (of(9, true), Action::Archive(Hopeless::RedrivenTooOften(9))),
            (of(1, true), Action::Resend),
            (of(2, true), Action::Archive(Hopeless::Denied)),
            (History { full: true, ..History::default() }, Action::Archive(Hopeless::NoRoom)),
            (
                History { newer: Some(2), ..History::default() },
                Action::Leave("its attribute is of version 2: use the redrive of that release".into()),
            ),
        ];
        for (history, expected) in table {
            assert_eq!(decide(&[Work::Owed], history), expected, "{history:?}");
            // Finished work is finished, however often it came by.
            assert_eq!(decide(&[Work::Finished], history), Action::Drop, "{history:?}");
            assert_eq!(decide(&[Work::Unindexed], history), Action::Index, "{history:?}");
        }
    }

    #[test]
    fn what_a_later_release_wrote_is_not_given_up_by_this_one() {
        let newer = History { newer: Some(2), ..History::default() };
        let malformed = Work::Hopeless(Hopeless::Malformed("a form of that release".into()));
        let left = decide(&[Work::Owed], newer);
        assert!(matches!(left, Action::Leave(_)));
        assert_eq!(decide(std::slice::from_ref(&malformed), newer), left);
        assert_eq!(decide(&[malformed, Work::Unindexed], newer), left);
    }

    #[test]
    fn force_sends_finished_work_back_and_nothing_that_is_hopeless() {
        let force = History { force: true, ..History::default() };
        assert_eq!(decide(&[Work::Finished], force), Action::Resend);
        assert_eq!(decide(&[Work::Unindexed], force), Action::Resend);
        assert_eq!(decide(&[Work::Nothing], force), Action::Drop);
        assert_eq!(decide(&[Work::Hopeless(Hopeless::SourceMissing)], force), Action::Archive(Hopeless::SourceMissing));
        assert_eq!(decide(&[Work::Unknown("S3".into())], force), Action::Leave("S3".into()));
    }
}
