//! What a run has brought of late, so that its next pass need not read it again.
//!
//! A listing tells an object's etag, and so its state: one that was brought in this state is in the new index, whatever any
//! clock says. Promises a bound: what does not fit is read again, which costs a GET and harms nothing.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::store::Listed;

/// States that are remembered: some 20 MiB.
const MOST: usize = 500_000;

/// States of records, by 128 bits of a hash: two are never taken for one.
#[derive(Default)]
pub struct Memory(Mutex<HashSet<[u8; 16]>>);

impl Memory {
    pub(super) fn keep(&self, object: &Listed) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if states.len() < MOST {
            states.extend(state(object));
        }
    }

    pub(super) fn has(&self, object: &Listed) -> bool {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state(object).is_some_and(|state| states.contains(&state))
    }
}

/// `None`: the listing does not tell it.
fn state(object: &Listed) -> Option<[u8; 16]> {
    let digest = Sha256::digest(format!("{}\0{}", object.key, object.etag));
    let mut state = [0; 16];
    state.copy_from_slice(&digest[..16]);
    (!object.etag.is_empty()).then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_state_that_was_brought_is_known() {
        let object = |key: &str, etag: &str| Listed { key: key.into(), etag: etag.into(), ..Listed::default() };
        let memory = Memory::default();
        for known in [object("a", "1"), object("b", "")] {
            memory.keep(&known);
        }
        let table = [("a", "1", true), ("a", "2", false), ("b", "1", false), ("b", "", false), ("a1", "", false)];
        for (key, etag, expected) in table {
            assert_eq!(memory.has(&object(key, etag)), expected, "{key} {etag}");
        }
    }
}
