//! What a run of the drain did, in columns that add up.
//!
//! Promises that every receipt is in one column of what was decided and in one of how it ended, and that a report which
//! does not add up says so (exit 70: a defect of ours). Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::expiry::Expiry;

use crate::books::BooksLine;
use crate::config::exit;
use crate::message::detail::detail;
use crate::terminal::shell;

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "ended", rename_all = "snake_case")]
pub enum End {
    /// The DLQ is empty, but for what was left.
    Emptied,
    /// `--max-batches` or `--max-messages`.
    Limit,
    /// All that were named by their ids have been met.
    Found,
    /// Ctrl-C, SIGTERM, a dropped terminal.
    Interrupted,
    /// The fleet was paused.
    Paused,
    /// Too many came back.
    Bouncing {
        /// Of the last that were sent.
        came_back: usize,
        /// How many those are.
        of: usize,
    },
    /// The first ones were sent, and nobody worked on them.
    Unanswered {
        /// How many.
        sent: usize,
        /// How long was waited.
        seconds: u64,
    },
    /// More letters than can be held at once do not match.
    TooManyAside {
        /// How many are held.
        held: usize,
    },
    /// A dependency is sick.
    Sick {
        /// What it said.
        why: String,
    },
}

/// The columns.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Tally {
    /// Receipts taken on.
    pub received: u64,
    /// Nothing was left to do.
    pub dropped: u64,
    /// Brought into the index from their records.
    pub indexed: u64,
    /// As these, but the index did not take them: parked.
    pub parked: u64,
    /// Sent back to the main queue.
    pub resent: u64,
    /// Given up, into the archive.
    pub archived: u64,
    /// Meant, and left where they are: somebody could not be asked, or did not answer.
    pub left: u64,
    /// Not meant, by the selection.
    pub unmatched: u64,
    /// Sent in this run, and back already.
    pub came_back: u64,
    /// Received ahead of the end, and put back before they were looked at.
    pub ahead: u64,
    /// Deletes that SQS acknowledged.
    pub deleted: u64,
    /// Returns that SQS acknowledged.
    pub returned: u64,
    /// Neither was acknowledged while the lease lasted: they show again by themselves.
    pub lease_lost: u64,
    /// Receipts of messages that were in hand already: SQS delivered them twice.
    pub twins: u64,
    /// Batches.
    pub batches: u64,
    /// By reason and by what was done.
    pub by_reason: BTreeMap<String, BTreeMap<&'static str, u64>>,
}

impl Tally {
    /// What was settled, once nothing is in flight.
    pub fn close(&mut self, books: &BooksLine) {
        let BooksLine { received, deleted, returned, lease_lost, .. } = books;
        (self.received, self.deleted, self.returned, self.lease_lost) = (*received, *deleted, *returned, *lease_lost);
        self.twins = received.saturating_sub(self.decided() + self.set_aside());
    }

    /// Letters that were meant.
    pub fn decided(&self) -> u64 {
        self.finished() + self.left
    }

    /// Letters that may go.
    pub fn finished(&self) -> u64 {
        self.dropped + self.indexed + self.parked + self.resent + self.archived
    }

    fn set_aside(&self) -> u64 {
        self.unmatched + self.came_back + self.ahead
    }

    /// Decided and settled are two accounts of the same receipts.
    pub fn adds_up(&self) -> bool {
        self.received == self.deleted + self.returned + self.lease_lost
            && self.received == self.decided() + self.set_aside() + self.twins
            // A receipt is deleted only where it may go; twins and lost leases are what may be missing.
            && self.deleted <= self.finished()
            && self.finished() <= self.deleted + self.lease_lost
            && self.twins <= self.lease_lost
    }
}

/// A whole report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// The run; its audit lies under `redrive/{run_id}/`.
    pub run_id: String,
    /// How it ended.
    #[serde(flatten)]
    pub end: End,
    /// The columns.
    #[serde(flatten)]
    pub tally: Tally,
    /// They add up.
    pub adds_up: bool,
    /// In the DLQ at the end, as SQS says approximately; `None`: it does not say.
    pub left_in_dlq: Option<u64>,
    /// Letters in flight at the end that were none of ours: somebody else receives from the DLQ.
    pub held_elsewhere: u64,
    /// When the first of those that were met and stay is taken by SQS (R11).
    pub first_expires: Option<Expiry>,
    /// Ids that were asked for and not met.
    pub missing: Vec<String>,
    /// What the first that was left said.
    pub trouble: Option<String>,
}

impl Report {
    /// Exit code of design §8.
    pub fn code(&self) -> u8 {
        let Tally { left, came_back, lease_lost, twins, .. } = &self.tally;
        match &self.end {
            _ if !self.adds_up => exit::EX_BOOKS,
            End::Interrupted => exit::EX_INTERRUPTED,
            End::Sick { .. } => exit::EX_TEMPFAIL,
            End::Paused | End::Bouncing { .. } | End::Unanswered { .. } | End::TooManyAside { .. } => exit::EX_PARTIAL,
            End::Emptied | End::Limit | End::Found
                if left
                    + came_back
                    + lease_lost.saturating_sub(*twins)
                    + self.missing.len() as u64
                    + self.held_elsewhere
                    > 0 =>
            {
                exit::EX_PARTIAL
            }
            End::Emptied | End::Limit | End::Found => exit::EX_OK,
        }
    }

    /// For a person. `again`: the command that goes on.
    pub fn text(&self, again: &str) -> String {
        let Tally { received, dropped, indexed, parked, resent, archived, left, unmatched, came_back, .. } =
            &self.tally;
        let Tally { ahead, deleted, returned, lease_lost, twins, batches, by_reason, .. } = &self.tally;
        let mut page = format!("{} letters in {batches} batches (run {})\n", self.tally.decided(), self.run_id);
        for (number, what) in [
            (resent, "sent back to the main queue"),
            (indexed, "brought into the index from their records"),
            (parked, "parked for the replay"),
            (dropped, "dropped: their work was done"),
            (archived, "archived: redrive archive list"),
            (left, "left in the DLQ"),
            (unmatched, "not selected, put back"),
            (came_back, "came back within this run, put back"),
            (ahead, "received ahead, put back before they were looked at"),
        ] {
            if *number > 0 {
                page += &format!("{number:>9}  {what}\n");
            }
        }
        for (reason, actions) in by_reason {
            let actions: Vec<String> = actions.iter().map(|(name, number)| format!("{number} {name}")).collect();
            page += &format!("  {reason}: {}\n", actions.join(", "));
        }
        page += &format!("received {received} = deleted {deleted} + returned {returned} + lease_lost {lease_lost}");
        page += &if *twins > 0 { format!(" ({twins} delivered twice)\n") } else { "\n".to_owned() };
        if !self.adds_up {
            page += "THE COLUMNS DO NOT ADD UP: a defect of redrive; please report it with this page\n";
        }
        if let Some(trouble) = &self.trouble {
            page += &format!("the first that was left: {}\n", detail(trouble));
        }
        if let Some(left) = self.left_in_dlq {
            page += &format!("about {left} in the DLQ now; audit: redrive/{}/\n", self.run_id);
        }
        if self.held_elsewhere > 0 {
            page += &format!("{} are held by somebody else who receives from the DLQ\n", self.held_elsewhere);
        }
        if let Some(first) = &self.first_expires {
            page += &format!("of those that were put back SQS deletes the first {}\n", first.text());
        }
        for id in &self.missing {
            page += &format!("not met: {}; what it became: redrive trace {}\n", detail(id), shell(id));
        }
        page += &self.ending(again);
        page
    }

    fn ending(&self, again: &str) -> String {
        match &self.end {
            End::Emptied | End::Found => String::new(),
            End::Limit => format!("stopped at the limit that was asked for; to go on: {again}\n"),
            End::Interrupted => format!("interrupted after a whole batch; to go on: {again}\n"),
            End::Paused => format!("the fleet was paused (redrive status); to go on: redrive resume, then {again}\n"),
            End::Bouncing { came_back, of } => format!(
                "stopped: {came_back} of the last {of} that were sent back are in the DLQ again. See why (redrive \
                 inspect), mend it, then: {again}; or leave these out with --reason, --key-prefix, --tenant\n"
            ),
            End::Unanswered { sent, seconds } => format!(
                "stopped: {sent} messages were sent back and none of them has a record after {seconds} s. Is a worker \
                 running and not paused? Are they in the DLQ again (redrive inspect)? Then: {again}\n"
            ),
            End::TooManyAside { held } => format!(
                "stopped: {held} letters that are not selected, were left or came back are in hand, as many as are good (20,000, or 512 MiB of \
                 bodies). Select more of them, or the rest first: {again}\n"
            ),
            End::Sick { why } => format!("stopped: {}; to go on: {again}\n", detail(why)),
        }
    }
}
