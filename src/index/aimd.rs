//! How hard the index is leant on, pure: how many bulk requests may be outstanding, and how many documents go into one.
//!
//! Additive increase on well answers, multiplicative decrease on 429, on a timeout and on an answer far slower than usual
//! (AIMD, as TCP does it: Chiu and Jain 1989). Promises that one trouble that meets many requests at once is one decrease,
//! that a limit which nobody used up does not grow, and that one request of one document always remains. Knows no clock,
//! no socket and no document.

use std::time::Duration;

/// Outstanding requests to begin with.
const FIRST_REQUESTS: usize = 2;
/// Never more than this, however well it goes: with 5 MiB each, 40 MiB of documents on their way.
const MOST_REQUESTS: usize = 8;
/// Documents of a batch, at most and to begin with.
pub const MOST_DOCUMENTS: usize = 200;
/// A full batch that went well lets the next grow by this part: a fixed step would be too long where batches are small.
const GROWTH: usize = 10;
/// Slower than the usual by this factor is trouble,
const SLOWER: u32 = 3;
/// but not below this: a tenth of a second after five milliseconds is noise.
const NOISE: Duration = Duration::from_secs(1);
/// Weight of a new answer in what is usual: an eighth.
const WEIGHT: u32 = 8;

/// One request under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    number: u64,
    documents: usize,
    /// The batch was as large as it may be.
    full: bool,
    /// No other request could have gone beside it.
    saturated: bool,
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It was answered, and nothing was said of too many.
    Answered,
    /// 429, for all of it or for some of its items.
    Busy,
    /// No answer within the request timeout.
    TimedOut,
    /// Quickly, and for a reason that is no matter of load: refused, unreachable, forbidden, unreadable.
    Failed,
}

/// The limits, and what they were learnt from.
#[derive(Clone, Debug)]
pub struct Aimd {
    requests: usize,
    documents: usize,
    patience: Duration,
    launched: u64,
    /// Requests of lower numbers were under way at the last decrease: what becomes of them is old news.
    cut_before: u64,
    /// Well answers since the limit of requests last moved.
    well: usize,
    usual: Option<Duration>,
}

impl Aimd {
    /// For requests that are given up after `patience`.
    pub fn new(patience: Duration) -> Self {
        Self {
            requests: FIRST_REQUESTS,
            documents: MOST_DOCUMENTS,
            patience,
            launched: 0,
            cut_before: 0,
            well: 0,
            usual: None,
        }
    }

    /// Outstanding requests allowed now, at least 1.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// Documents of one batch allowed now, at least 1.
    pub fn documents(&self) -> usize {
        self.documents
    }

    /// A request goes; `outstanding` counts it too. `full`: more documents would have gone with it, had they been allowed.
    pub fn launch(&mut self, documents: usize, full: bool, outstanding: usize) -> Ticket {
        let number = self.launched;
        self.launched += 1;
        Ticket { number, documents, full, saturated: outstanding >= self.requests }
    }

    /// A request has ended after this long.
    pub fn end(&mut self, ticket: Ticket, ending: Ending, took: Duration) {
        match ending {
            Ending::Failed => {}
            Ending::Busy | Ending::TimedOut => self.decrease(ticket),
            Ending::Answered => {
                let slow = self.is_slow(took);
                self.usual = Some(self.usual.map_or(took, |usual| (usual * (WEIGHT - 1) + took) / WEIGHT));
                if slow { self.decrease(ticket) } else { self.increase(ticket) }
            }
        }
    }

    /// A batch of this many documents was refused as a whole although none of them is to blame: it was its size.
    pub fn too_large(&mut self, documents: usize) {
        self.documents = (self.documents.min(documents) / 2).max(1);
    }

    /// From half a timeout on, the next one a little slower would be lost.
    fn is_slow(&self, took: Duration) -> bool {
        took >= self.patience / 2 || took >= NOISE && self.usual.is_some_and(|usual| took > usual * SLOWER)
    }

    fn increase(&mut self, ticket: Ticket) {
        if ticket.full {
            self.documents = (self.documents + (self.documents / GROWTH).max(1)).min(MOST_DOCUMENTS);
        }
        if ticket.saturated {
            self.well += 1;
        }
        // One more for each whole round of well answers.
        if self.well >= self.requests {
            self.well = 0;
            self.requests = (self.requests + 1).min(MOST_REQUESTS);
        }
    }

    fn decrease(&mut self, ticket: Ticket) {
        if ticket.number < self.cut_before {
            return;
        }
        self.cut_before = self.launched;
        self.well = 0;
        self.requests = (self.requests / 2).max(1);
        // Half of what was sent, and not of what could have been: below that a smaller limit changes nothing.
        self.documents = (self.documents.min(ticket.documents) / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    /// One request after the other, each as large as allowed and with no place beside it.
    fn one_by_one(aimd: &mut Aimd, ending: Ending, took: Duration, times: usize) {
        for _ in 0..times {
            let ticket = aimd.launch(aimd.documents(), true, aimd.requests());
            aimd.end(ticket, ending, took);
        }
    }

    #[test]
    fn the_limits_move_as_in_this_table() {
        type Limits = (usize, usize);
        // What ends how, how often, and the limits of requests and documents after it.
        let steps: [(&str, Ending, Duration, usize, Limits); 12] = [
            ("a round of well answers is one request more", Ending::Answered, 50 * MS, 2, (3, 200)),
            ("and the next round takes longer", Ending::Answered, 50 * MS, 2, (3, 200)),
            ("the third answer completes it", Ending::Answered, 50 * MS, 1, (4, 200)),
            ("a 429 halves both", Ending::Busy, 5 * MS, 1, (2, 100)),
            ("a timeout too", Ending::TimedOut, 10 * SECOND, 1, (1, 50)),
            ("one request remains, and in the end one document", Ending::Busy, 5 * MS, 9, (1, 1)),
            ("it grows by steps and not by doubling", Ending::Answered, 50 * MS, 1, (2, 2)),
            ("up to its most", Ending::Answered, 50 * MS, 100, (8, 200)),
            ("a quick failure says nothing of load", Ending::Failed, 5 * MS, 20, (8, 200)),
            ("much slower than usual, and noticeable", Ending::Answered, 2 * SECOND, 1, (4, 100)),
            ("half a timeout is too slow whatever is usual", Ending::Answered, 5 * SECOND, 1, (2, 50)),
            ("what is a little slower is well", Ending::Answered, 900 * MS, 2, (3, 60)),
        ];
        let mut aimd = Aimd::new(10 * SECOND);
        assert_eq!((aimd.requests(), aimd.documents()), (2, 200));
        for (name, ending, took, times, expected) in steps {
            one_by_one(&mut aimd, ending, took, times);
            assert_eq!((aimd.requests(), aimd.documents()), expected, "{name}");
        }
    }

    #[test]
    fn what_meets_all_requests_at_once_is_one_decrease() {
        let mut aimd = Aimd::new(10 * SECOND);
        one_by_one(&mut aimd, Ending::Answered, 50 * MS, 100);
        let tickets: Vec<Ticket> = (1..=8).map(|outstanding| aimd.launch(200, true, outstanding)).collect();
        for ticket in tickets {
            aimd.end(ticket, Ending::TimedOut, 10 * SECOND);
        }
        assert_eq!((aimd.requests(), aimd.documents()), (4, 100));
        one_by_one(&mut aimd, Ending::TimedOut, 10 * SECOND, 1);
        assert_eq!((aimd.requests(), aimd.documents()), (2, 50), "the next one is news");
    }

    #[test]
    fn well_answers_from_before_a_decrease_do_not_count_towards_the_next_increase() {
        let mut aimd = Aimd::new(10 * SECOND);
        one_by_one(&mut aimd, Ending::Answered, 50 * MS, 2 + 3 + 4 + 5 + 6 + 7 + 7);
        assert_eq!(aimd.requests(), 8);
        one_by_one(&mut aimd, Ending::Busy, 5 * MS, 1);
        one_by_one(&mut aimd, Ending::Answered, 50 * MS, 3);
        assert_eq!(aimd.requests(), 4);
        one_by_one(&mut aimd, Ending::Answered, 50 * MS, 1);
        assert_eq!(aimd.requests(), 5);
    }

    #[test]
    fn a_limit_that_nobody_used_up_does_not_grow() {
        let mut aimd = Aimd::new(10 * SECOND);
        one_by_one(&mut aimd, Ending::Busy, MS, 1);
        assert_eq!((aimd.requests(), aimd.documents()), (1, 100));
        aimd.requests = 3;
        for _ in 0..50 {
            let ticket = aimd.launch(5, false, 1);
            aimd.end(ticket, Ending::Answered, 50 * MS);
        }
        assert_eq!((aimd.requests(), aimd.documents()), (3, 100));
    }

    #[test]
    fn a_batch_shrinks_below_what_was_sent() {
        let mut aimd = Aimd::new(10 * SECOND);
        let ticket = aimd.launch(25, false, 1);
        aimd.end(ticket, Ending::TimedOut, 10 * SECOND);
        assert_eq!(aimd.documents(), 12);
        aimd.too_large(8);
        assert_eq!(aimd.documents(), 4);
        aimd.too_large(1);
        assert_eq!(aimd.documents(), 1);
    }

    #[test]
    fn a_new_pace_becomes_the_usual_one() {
        let mut aimd = Aimd::new(100 * SECOND);
        one_by_one(&mut aimd, Ending::Answered, 100 * MS, 20);
        one_by_one(&mut aimd, Ending::Answered, 4 * SECOND, 30);
        assert!(aimd.requests() > 4 && aimd.documents() == 200, "{aimd:?}");
    }
}
