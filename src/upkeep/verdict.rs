//! What bucket, record and index mean together: well, or what is wrong and which road leads out.
//!
//! Pure: a table. Promises that every state in which the three differ to a reader has a verdict, and that each road ends
//! in all three being in step.

use serde::Serialize;

use crate::index::catalogue::Held;
use crate::process::record::Standing;

/// What is wrong with a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The file is there and has no record.
    MissingRecord,
    /// Its record is that of another state of the file, or a tombstone.
    StaleRecord,
    /// The record is right and the index has no such document.
    MissingDocument,
    /// The index holds an older revision than the record's, or another kind of document at the same one.
    StaleDocument,
    /// The index holds a newer revision than the record's: a record was lost or put back.
    StrayDocument,
    /// The file is gone and its record is no tombstone.
    OrphanedRecord,
    /// The index shows a document that has neither file nor record.
    OrphanedDocument,
}

/// The three kinds that are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something is not there.
    Missing,
    /// Something is not of the newest state.
    Stale,
    /// Something is there whose source is gone.
    Orphaned,
}

/// The normal road that brings a file back in step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Road {
    /// A message: look at this file.
    Message,
    /// A message: this file was removed.
    Removal,
    /// A marker for the replay. Cheaper than a message where the record is right: one PUT, and the replay's GET of the
    /// record, instead of fetching and reading the file again; and it changes no revision.
    Park,
}

impl Finding {
    /// Which of the three it is counted as.
    pub fn kind(self) -> Kind {
        match self {
            Finding::MissingRecord | Finding::MissingDocument => Kind::Missing,
            Finding::StaleRecord | Finding::StaleDocument | Finding::StrayDocument => Kind::Stale,
            Finding::OrphanedRecord | Finding::OrphanedDocument => Kind::Orphaned,
        }
    }

    /// What repairs it.
    pub fn road(self) -> Road {
        match self {
            Finding::MissingRecord | Finding::StaleRecord => Road::Message,
            Finding::MissingDocument | Finding::StaleDocument => Road::Park,
            // The record must come to a revision above the index's, which a new one does: revisions grow with time.
            Finding::StrayDocument => Road::Message,
            // There is a record: the look finds the file gone and makes the tombstone.
            Finding::OrphanedRecord => Road::Message,
            // There is none: the same look would wait for a file and end in the dead-letter queue.
            Finding::OrphanedDocument => Road::Removal,
        }
    }

    /// For a person.
    pub fn as_str(self) -> &'static str {
        match self {
            Finding::MissingRecord => "no record",
            Finding::StaleRecord => "its record is of another state",
            Finding::MissingDocument => "not in the index",
            Finding::StaleDocument => "an older revision is in the index",
            Finding::StrayDocument => "the index is ahead of the record",
            Finding::OrphanedRecord => "the file is gone, its record says otherwise",
            Finding::OrphanedDocument => "the file and its record are gone, the index shows it",
        }
    }
}

/// The verdict on a file: the etag of its object, if it is there; what its record says; what the index holds. `None` is
/// well.
pub fn verdict(object: Option<&str>, record: Option<&Standing>, held: Option<Held>) -> Option<Finding> {
    let Some(record) = record else {
        return match (object, held) {
            (Some(_), _) => Some(Finding::MissingRecord),
            // A tombstone without a record shows nothing to anybody.
            (None, None | Some(Held { deleted: true, .. })) => None,
            (None, Some(Held { deleted: false, .. })) => Some(Finding::OrphanedDocument),
        };
    };
    match (object, &record.source_etag) {
        (Some(etag), Some(recorded)) if etag == recorded => {}
        (Some(_), Some(_) | None) => return Some(Finding::StaleRecord),
        (None, Some(_)) => return Some(Finding::OrphanedRecord),
        (None, None) => {}
    }
    // The record is right. Whether the index agrees:
    let tombstone = record.source_etag.is_none();
    match held {
        None if tombstone => None, // nothing is shown (purged, or never indexed)
        None => Some(Finding::MissingDocument),
        Some(held) if held.revision > record.revision => Some(Finding::StrayDocument),
        Some(held) if held.revision < record.revision || held.deleted != tombstone => Some(Finding::StaleDocument),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_record_and_index_have_one_verdict_together() {
        use Finding::*;
        let live = |etag: &str| {
            Some(Standing {
                revision: 7,
                sequencer: None,
                source_etag: Some(etag.into()),
                message_id: None,
                object_etag: "o".into(),
            })
        };
        let tombstone = live("e").map(|record| Standing { source_etag: None, ..record });
        let held = |revision, deleted| Some(Held { revision, deleted });
        let (there, gone) = (Some("e"), None);
        let table = [
            (there, live("e"), held(7, false), None, "in step"),
            (there, live("e"), None, Some(MissingDocument), "the index lost it"),
            (there, live("e"), held(6, false), Some(StaleDocument), "the index is behind"),
            (there, live("e"), held(6, true), Some(StaleDocument), "the index still has the tombstone"),
            (there, live("e"), held(7, true), Some(StaleDocument), "the index has another kind of document"),
            (there, live("e"), held(8, false), Some(StrayDocument), "the record was put back"),
            (there, live("d"), held(7, false), Some(StaleRecord), "overwritten, and nobody heard"),
            (there, live("d"), None, Some(StaleRecord), "the record comes first"),
            (there, tombstone.clone(), held(7, true), Some(StaleRecord), "came back, and nobody heard"),
            (there, tombstone.clone(), None, Some(StaleRecord), "came back after a purge of the index"),
            (there, None, None, Some(MissingRecord), "nobody heard of it"),
            (there, None, held(7, false), Some(MissingRecord), "the record was lost"),
            (there, None, held(7, true), Some(MissingRecord), "purged, and came back"),
            (gone, live("e"), held(7, false), Some(OrphanedRecord), "removed, and nobody heard"),
            (gone, live("e"), None, Some(OrphanedRecord), "removed, and not in the index either"),
            (gone, live("e"), held(6, true), Some(OrphanedRecord), "came and went, and nobody heard"),
            (gone, tombstone.clone(), held(7, true), None, "removed, and all know"),
            (gone, tombstone.clone(), None, None, "removed, and purged from the index"),
            (gone, tombstone.clone(), held(6, false), Some(StaleDocument), "the index still shows it"),
            (gone, tombstone.clone(), held(6, true), Some(StaleDocument), "an older tombstone"),
            (gone, tombstone.clone(), held(7, false), Some(StaleDocument), "the index shows it at that revision"),
            (gone, tombstone, held(8, false), Some(StrayDocument), "the tombstone was put back"),
            (gone, None, held(7, false), Some(OrphanedDocument), "only the index knows it"),
            (gone, None, held(7, true), None, "a tombstone that nobody sees"),
            (gone, None, None, None, "nothing anywhere"),
        ];
        for (object, record, held, expected, why) in table {
            assert_eq!(verdict(object, record.as_ref(), held), expected, "{why}");
        }
    }

    #[test]
    fn a_file_without_object_and_record_is_never_sent_as_a_look() {
        use Finding::*;
        let all = [
            MissingRecord,
            StaleRecord,
            MissingDocument,
            StaleDocument,
            StrayDocument,
            OrphanedRecord,
            OrphanedDocument,
        ];
        let roads = all.map(Finding::road);
        use Road::{Message, Park, Removal};
        assert_eq!(roads, [Message, Message, Park, Park, Message, Message, Removal]);
    }
}
