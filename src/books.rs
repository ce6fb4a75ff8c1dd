//! The ledger: what was received, and what became of it, under one lock (P10).
//!
//! Promises that a snapshot is taken at one instant, and that a receipt settled twice or never shows as an imbalance:
//! receipts are entered by number, and what is in flight is counted, not computed. Knows no queue and no clock.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::config::exit;
use crate::events::{self, Event};
use crate::outcome::{ChangeReport, Indexed, Outcome, OutcomeName};

/// One delivery in the books; never reused within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReceiptNumber(u64);

/// How a receipt ended, as acknowledged by SQS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The delete was acknowledged.
    Deleted,
    /// Send and delete were acknowledged.
    DeadLettered,
    /// The return was acknowledged.
    Returned,
    /// Nothing was acknowledged by the end of the lease.
    LeaseLost,
}

impl End {
    /// `settlement` in log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            End::Deleted => "deleted",
            End::DeadLettered => "dead_lettered",
            End::Returned => "returned",
            End::LeaseLost => "lease_lost",
        }
    }
}

#[derive(Default)]
struct Counts {
    next: u64,
    open: BTreeSet<ReceiptNumber>,
    line: BooksLine,
}

/// The ledger of one process.
#[derive(Default)]
pub struct Books(Mutex<Counts>);

/// The books at one instant: the fields of P10, flat. `final` marks the last line of a process.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
#[allow(missing_docs, reason = "the fields are those of P10 and are named there")]
pub struct BooksLine {
    pub received: u64,
    pub deleted: u64,
    pub done: u64,
    pub superseded: u64,
    pub skipped: u64,
    pub dead_lettered: u64,
    pub returned: u64,
    pub lease_lost: u64,
    pub in_flight: u64,
    pub changes_parsed: u64,
    pub changes_done: u64,
    pub changes_superseded: u64,
    pub changes_skipped: u64,
    pub changes_retried: u64,
    pub changes_rejected: u64,
    pub changes_abandoned: u64,
    pub documents_offered: u64,
    pub documents_indexed: u64,
    pub documents_parked: u64,
    pub documents_failed: u64,
    pub replayed: u64,
    pub balanced: bool,
    #[serde(rename = "final")]
    pub last: bool,
}

impl BooksLine {
    /// The three sums of P10.
    pub fn balances(&self) -> bool {
        self.received == self.deleted + self.dead_lettered + self.returned + self.lease_lost + self.in_flight
            && self.deleted == self.done + self.superseded + self.skipped
            && self.changes_parsed
                == self.changes_done
                    + self.changes_superseded
                    + self.changes_skipped
                    + self.changes_retried
                    + self.changes_rejected
                    + self.changes_abandoned
            && self.documents_offered == self.documents_indexed + self.documents_parked + self.documents_failed
    }

    /// An error line where they do not balance: a defect of ours, told wherever the books are looked at.
    pub fn checked(self) -> Self {
        if !self.balanced {
            events::OutOfBalance { detail: format!("{self:?}") }.emit();
        }
        self
    }

    /// What a process ends with whose last books these are (design §8).
    pub fn exit_code(&self) -> u8 {
        if self.balanced { exit::EX_OK } else { exit::EX_BOOKS }
    }
}

impl Books {
    /// A receipt was taken on.
    pub fn received(&self) -> ReceiptNumber {
        let mut counts = self.lock();
        let number = ReceiptNumber(counts.next);
        counts.next += 1;
        counts.open.insert(number);
        counts.line.received += 1;
        number
    }

    /// A receipt ended; `outcome` divides the deleted ones. A second end of the same receipt is counted too:
    /// it must show.
    pub fn settled(&self, number: ReceiptNumber, end: End, outcome: OutcomeName) {
        let mut counts = self.lock();
        counts.open.remove(&number);
        let line = &mut counts.line;
        match end {
            End::Deleted => {
                line.deleted += 1;
                match outcome {
                    OutcomeName::Done => line.done += 1,
                    OutcomeName::Superseded => line.superseded += 1,
                    OutcomeName::Skipped => line.skipped += 1,
                    // Not a deletion the table knows: left out of the parts, so that the sum shows it.
                    OutcomeName::Retried | OutcomeName::Rejected | OutcomeName::Panicked | OutcomeName::Cancelled => {}
                }
            }
            End::DeadLettered => line.dead_lettered += 1,
            End::Returned => line.returned += 1,
            End::LeaseLost => line.lease_lost += 1,
        }
    }

    /// The changes of a message whose work has ended.
    pub fn changes(&self, reports: &[ChangeReport], abandoned: usize) {
        let mut counts = self.lock();
        let line = &mut counts.line;
        line.changes_parsed += (reports.len() + abandoned) as u64;
        line.changes_abandoned += abandoned as u64;
        for report in reports {
            match &report.outcome {
                Outcome::Done => line.changes_done += 1,
                Outcome::Superseded => line.changes_superseded += 1,
                Outcome::Skip(_) => line.changes_skipped += 1,
                Outcome::Retry(_) => line.changes_retried += 1,
                Outcome::Reject(_) => line.changes_rejected += 1,
            }
        }
    }

    /// A document was offered to the side path, and this became of it.
    pub fn document(&self, indexed: Indexed) {
        let mut counts = self.lock();
        let line = &mut counts.line;
        line.documents_offered += 1;
        match indexed {
            Indexed::Indexed => line.documents_indexed += 1,
            Indexed::Parked => line.documents_parked += 1,
            Indexed::None => line.documents_failed += 1,
        }
    }

    /// Parked documents that reached the index later.
    pub fn replayed(&self, documents: u64) {
        self.lock().line.replayed += documents;
    }

    /// Receipts in hand.
    pub fn in_flight(&self) -> usize {
        self.lock().open.len()
    }

    /// The books now.
    pub fn snapshot(&self, last: bool) -> BooksLine {
        let counts = self.lock();
        let mut line = BooksLine { in_flight: counts.open.len() as u64, last, ..counts.line.clone() };
        line.balanced = line.balances();
        line
    }

    /// A panic elsewhere while the lock was held leaves counts as they were: still the best we have.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::SkipReason;

    fn report(outcome: Outcome) -> ChangeReport {
        ChangeReport { work_id: None, key: "b/k".into(), outcome, indexed: Indexed::None }
    }

    #[test]
    fn the_books_balance_at_every_step() {
        let books = Books::default();
        let numbers: Vec<_> = (0..6).map(|_| books.received()).collect();
        assert_eq!(books.snapshot(false).in_flight, 6);
        let ends = [
            (End::Deleted, OutcomeName::Done),
            (End::Deleted, OutcomeName::Superseded),
            (End::Deleted, OutcomeName::Skipped),
            (End::DeadLettered, OutcomeName::Rejected),
            (End::Returned, OutcomeName::Retried),
            (End::LeaseLost, OutcomeName::Cancelled),
        ];
        for (number, (end, outcome)) in numbers.into_iter().zip(ends) {
            books.settled(number, end, outcome);
            assert!(books.snapshot(false).balanced, "{end:?}");
        }
        books.changes(&[report(Outcome::Done), report(Outcome::Skip(SkipReason::DirectoryMarker))], 3);
        for indexed in [Indexed::Indexed, Indexed::Parked, Indexed::None] {
            books.document(indexed);
        }
        let line = books.snapshot(true);
        assert!(line.balanced && line.last);
        assert_eq!((line.received, line.deleted, line.in_flight), (6, 3, 0));
        assert_eq!((line.changes_parsed, line.changes_abandoned, line.documents_offered), (5, 3, 3));
    }

    #[test]
    fn a_receipt_settled_twice_shows() {
        let books = Books::default();
        let number = books.received();
        books.settled(number, End::Deleted, OutcomeName::Done);
        books.settled(number, End::Returned, OutcomeName::Cancelled);
        assert!(!books.snapshot(false).balanced);
        assert_eq!((books.snapshot(true).exit_code(), Books::default().snapshot(true).exit_code()), (70, 0));
    }

    #[test]
    fn a_deletion_without_finished_work_shows() {
        let books = Books::default();
        let number = books.received();
        books.settled(number, End::Deleted, OutcomeName::Cancelled);
        assert!(!books.snapshot(false).balanced);
    }
}
