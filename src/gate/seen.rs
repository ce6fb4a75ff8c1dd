//! The gate as somebody sees it who only looks: whether intake is held, by what, and who answered lately.
//!
//! Promises that a look changes nothing and that nobody is asked for it: SQS and S3 are judged by the calls that the worker
//! makes anyway, its polls and its looks at the pause.

use super::{Gate, Mode};

/// Calls in a row without an answer from which on a dependency is not there.
const MISSES: u32 = 3;

/// How a dependency answered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Answers {
    misses: u32,
    trouble: String,
}

impl Answers {
    fn note(&mut self, answer: Result<(), &str>) {
        match answer {
            Ok(()) => *self = Self::default(),
            Err(why) => {
                self.misses = self.misses.saturating_add(1);
                why.clone_into(&mut self.trouble);
            }
        }
    }

    fn trouble(&self) -> Option<String> {
        (self.misses >= MISSES).then(|| self.trouble.clone())
    }
}

/// Who holds intake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// Which hand: `fleet`, `signal`, `page`.
    pub hand: &'static str,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// The gate at one instant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The critical breaker is open: nothing is received, or one message to find out.
    pub is_shut: bool,
    /// Pauses.
    pub holds: Vec<Hold>,
    /// It is not known yet whether the fleet is paused.
    pub waits_for_word: bool,
    /// Why SQS is not there, if it is not.
    pub queue_trouble: Option<String>,
    /// Why S3 is not there, if it is not.
    pub store_trouble: Option<String>,
}

impl Seen {
    /// Somebody has paused intake.
    pub fn is_paused(&self) -> bool {
        !self.holds.is_empty()
    }

    /// Nothing holds intake.
    pub fn is_open(&self) -> bool {
        !self.is_shut && !self.is_paused() && !self.waits_for_word
    }
}

impl Gate {
    /// How a poll of the queue ended.
    pub fn queue_answered(&self, answer: Result<(), &str>) {
        self.with(|state| state.queue.note(answer));
    }

    /// How a look at the results bucket ended.
    pub fn store_answered(&self, answer: Result<(), &str>) {
        self.with(|state| state.store.note(answer));
    }

    /// As it stands.
    pub fn seen(&self) -> Seen {
        let mode = self.posture.get().mode;
        self.with(|state| Seen {
            is_shut: mode != Mode::Free,
            holds: state
                .hands
                .iter()
                .filter_map(|(hand, said)| said.as_ref().map(|(by, reason)| (*hand, by, reason)))
                .map(|(hand, by, reason)| Hold { hand, by: by.clone(), reason: reason.clone() })
                .collect(),
            waits_for_word: state.hands.values().any(Option::is_none),
            queue_trouble: state.queue.trouble(),
            store_trouble: state.store.trouble(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_is_gone_after_a_few_calls_without_an_answer_and_back_with_one() {
        let mut answers = Answers::default();
        for _ in 1..MISSES {
            answers.note(Err("down"));
            assert_eq!(answers.trouble(), None);
        }
        answers.note(Err("still down"));
        assert_eq!(answers.trouble().as_deref(), Some("still down"));
        answers.note(Ok(()));
        assert_eq!(answers.trouble(), None);
    }
}
