//! Letters of the DLQ into hand: the next batch, and what is set aside on the way.
//!
//! Promises that a letter is met once in a run (what is not meant is kept until the end), that what is held is bounded in
//! number and bytes, and that the DLQ is called empty only when polls and counts both say so (R8). Judges no letter.

use std::sync::Arc;

use tokio::time::Instant;

use crate::events::{self, Event as _};

use super::drain::{AGAIN, Held, LOOK_LIMIT, Run, SICK_FOR, Sink};
use super::hold::bytes;
use super::letter::Letter;
use super::report::End;

/// Empty rounds of long polls in a row, before the DLQ can be called empty.
const EMPTY_ROUNDS: u32 = 3;

impl Run {
    /// The next batch; at least one letter.
    pub(super) async fn gather(&mut self, size: usize, sink: &mut dyn Sink) -> Result<Vec<Held>, End> {
        let (mut empty, mut troubles, mut quiet_since) = (0, 0, Instant::now());
        while self.waiting.len() < size {
            if let Some(end) = self.stopped() {
                return Err(end);
            }
            match self.take_in(size - self.waiting.len()).await {
                Ok(0) if !self.waiting.is_empty() => break, // what there is need not wait for more
                Ok(0) => {
                    empty += 1;
                    if empty >= EMPTY_ROUNDS
                        && let Some(end) = self.is_empty(quiet_since).await
                    {
                        return Err(end);
                    }
                }
                Ok(_) => (empty, troubles, quiet_since) = (0, 0, Instant::now()),
                Err(why) if quiet_since.elapsed() >= SICK_FOR => return Err(End::Sick { why }),
                Err(why) => {
                    sink.progress(&self.tally, self.about, &format!("waiting: {why}"));
                    let pause = AGAIN.wait(troubles, &self.of.jitter);
                    let retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                    events::ReceiveFailed { detail: why, retry_in_ms }.emit();
                    self.rest(pause).await;
                    troubles += 1;
                }
            }
            if self.is_full() || self.has_met_all_that_were_named() {
                break;
            }
        }
        if self.waiting.is_empty() {
            return Err(match self.has_met_all_that_were_named() {
                true => End::Found, // it was met, and is back within this run
                false => End::TooManyAside { held: self.aside.len() },
            });
        }
        Ok(self.waiting.drain(..size.min(self.waiting.len())).collect())
    }

    /// One round of polls; how many letters came, meant or not.
    pub(super) async fn take_in(&mut self, about: usize) -> Result<usize, String> {
        let leases = self.of.hold.receive(about).await.map_err(|error| format!("the dead-letter queue: {error}"))?;
        let number = leases.len();
        for lease in leases {
            let letter = Letter::read(Arc::clone(lease.message()), &self.of.look.wanted);
            let matches = self.of.selection.matches(&letter, &self.of.tenant_from, self.of.clock.unix_ms());
            if matches {
                self.missing.retain(|id| *id != letter.message.id.0 && *id != letter.first_id().0);
            }
            if self.watched.came_back(&letter) {
                self.tally.came_back += 1;
                self.aside.push(lease);
            } else if matches {
                self.waiting.push_back(Held { lease, letter });
            } else {
                self.tally.unmatched += 1;
                self.aside.push(lease);
            }
        }
        Ok(number)
    }

    /// Several empty long polls say little (R8): the counts must say so too. What others hold is waited for as long as a
    /// lease lasts; what is counted and handed out to nobody, or cannot be counted, is not called empty.
    async fn is_empty(&mut self, quiet_since: Instant) -> Option<End> {
        let quiet = quiet_since.elapsed();
        let sick = |why: String| (quiet >= SICK_FOR).then_some(End::Sick { why });
        match tokio::time::timeout(LOOK_LIMIT, self.of.dlq.facts()).await {
            Ok(Ok(facts)) => match facts.visible + facts.delayed {
                0 => {
                    let others = facts.in_flight.saturating_sub(self.of.hold.books().in_flight);
                    let ends = others == 0 || quiet >= self.of.hold.visibility() * 2;
                    if ends {
                        self.held_elsewhere = others;
                    }
                    ends.then_some(End::Emptied)
                }
                counted => sick(format!("the dead-letter queue: SQS counts {counted} letters, and hands out none")),
            },
            Ok(Err(error)) => sick(format!("the dead-letter queue's counts: {error}")),
            Err(_) => sick(format!("the dead-letter queue's counts: no answer within {LOOK_LIMIT:?}")),
        }
    }

    /// More must not be received.
    pub(super) fn is_full(&self) -> bool {
        let waiting = self.waiting.iter().map(|held| bytes(&held.lease)).sum::<usize>();
        self.too_many_aside().is_some() || waiting + self.aside_bytes() >= self.of.limits.most_bytes
    }

    /// What is set aside leaves no room for a batch.
    pub(super) fn too_many_aside(&self) -> Option<End> {
        let held = self.aside.len();
        let is_full = held >= self.of.limits.most_held || self.aside_bytes() >= self.of.limits.most_bytes;
        is_full.then_some(End::TooManyAside { held })
    }

    fn aside_bytes(&self) -> usize {
        self.aside.iter().map(bytes).sum()
    }
}
