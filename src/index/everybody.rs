//! Whose fault it is when one document after the other is refused: nobody's own, where several distinct ones are and none
//! is taken in between (design §2, as for messages).
//!
//! Promises bounded memory. Pure; knows no index.

use std::collections::BTreeSet;

/// Distinct ones, and none taken in between, that make it everybody's trouble (design §2).
const EVERYBODY: usize = 5;

/// Who was refused since somebody was taken.
#[derive(Debug)]
pub struct Refused<K>(BTreeSet<K>);

impl<K> Default for Refused<K> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<K: Ord> Refused<K> {
    /// This one was refused. True: it is no fault of its own.
    pub fn add(&mut self, who: K) -> bool {
        if self.0.len() < EVERYBODY {
            self.0.insert(who);
        }
        self.0.len() >= EVERYBODY
    }

    /// Somebody was taken: what others suffer is their own.
    pub fn somebody_was_taken(&mut self) {
        self.0.clear();
    }
}

impl Refused<String> {
    /// This one is gone, whatever it was.
    pub fn forget(&mut self, who: &str) {
        self.0.remove(who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_distinct_ones_in_a_row_are_no_fault_of_their_own_and_four_are() {
        let mut refused = Refused::default();
        for who in ["a", "b", "a", "c", "d", "d"] {
            assert!(!refused.add(who.to_owned()), "{who}");
        }
        refused.forget("a");
        assert!(!refused.add("e".to_owned()) && refused.add("f".to_owned()) && refused.add("a".to_owned()));
        refused.somebody_was_taken();
        assert!(!refused.add("a".to_owned()));
    }
}
