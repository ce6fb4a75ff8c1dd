//! Who is newer: the rules of `src/process/record.rs`, in numbers instead of text.
//!
//! Promises to say what the code says, case by case (`tests/promises/newest_wins.rs` holds the two side by side).
//! Includes nothing of this folder, so that it can be compiled there as well.

/// What a place says of the file. Equal texts have equal etags, as in S3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Content {
    /// The place says nothing.
    #[default]
    Nothing,
    /// The file is not there.
    Gone,
    A,
    B,
}

impl Content {
    pub fn is_text(self) -> bool {
        match self {
            Content::A | Content::B => true,
            Content::Nothing | Content::Gone => false,
        }
    }
}

/// A record as its metadata tells it. Two records that are equal in all this are one object: the body has the same
/// fields and no others that matter, so this also stands for the object's etag.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Record {
    /// 0: there is no record.
    pub revision: u8,
    /// 0: none is known.
    pub sequencer: u8,
    /// `Gone` is a tombstone.
    pub content: Content,
    /// The message that wrote it.
    pub message: u8,
}

impl Record {
    pub fn is_there(self) -> bool {
        self.revision > 0
    }

    /// All of it in 16 bits.
    pub fn word(self) -> u64 {
        let Self { revision, sequencer, content, message } = self;
        u64::from(revision) | u64::from(sequencer) << 4 | (content as u64) << 8 | u64::from(message) << 12
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rank {
    Newer,
    Equal,
    Older,
}

/// `ours` is 0 for a change without a sequencer; `seen` is `Nothing` while the source was not read.
pub fn rank(record: Record, ours: u8, seen: Content, message: u8) -> Rank {
    let by_object = || {
        let same_state = seen == Content::Nothing || record.content == seen;
        if same_state && record.message == message { Rank::Equal } else { Rank::Older }
    };
    match (ours, record.sequencer) {
        (0, _) => by_object(),
        (_, 0) => Rank::Older,
        (ours, theirs) if ours < theirs => Rank::Newer,
        (ours, theirs) if ours > theirs => Rank::Older,
        (_, _) => by_object(),
    }
}

/// Time does not help: it stands still. What it adds is a gap, and only order counts.
pub fn next_revision(over: Record) -> u8 {
    over.revision + 1
}

/// A change without a sequencer keeps the record's.
pub fn stored_sequencer(over: Record, ours: u8) -> u8 {
    if ours == 0 { over.sequencer } else { ours }
}
