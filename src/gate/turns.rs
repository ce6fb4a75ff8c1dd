//! Who may try while the gate is half open. Pure: reports come in, an answer goes out.
//!
//! Promises that one try goes at a time, and that messages are *asked for* at growing distances, for each is a receive
//! that SQS counts and may dead-letter for. A message that is kept in hand costs no receive: it may try after every
//! good probe. A probe that turns good resets the distance. Knows no store and no message.

use std::time::Duration;

use tokio::time::Instant;

use crate::retry::{Backoff, Jitter};

/// Between two messages that are received only to find out: doubling, for the probe has been well all the while and
/// says nothing (a fault that it cannot see).
const DISTANCE: Backoff = Backoff { base: Duration::from_secs(60), cap: Duration::from_secs(900) };
/// One try has this long before the next is let go: a long poll and some work.
const ONE_TRY: Duration = Duration::from_secs(30);
/// Where both are due, who asks goes first by this much: a kept message may itself be what fails.
const HEAD_START: Duration = Duration::from_secs(2);

/// The turns of one opening of the breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Turns {
    /// The next try of anybody.
    next: Instant,
    /// The next try that may ask for a message.
    ask: Instant,
    /// The next try of a kept message.
    kept: Instant,
    /// Messages asked for that decided nothing good, since the probe turned well.
    asked: u32,
    well: bool,
}

impl Turns {
    /// The breaker has opened: nothing is known of the probe yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now, ask: now, kept: now, asked: 0, well: false }
    }

    /// The probe has answered; `keeping`: a message is kept, which can find out without a receive.
    pub(super) fn probed(&mut self, well: bool, keeping: bool, now: Instant) {
        if well && !self.well {
            self.asked = 0;
            self.next = now;
            self.ask = if keeping { now + ONE_TRY } else { now };
        }
        self.well = well;
        self.kept = if self.ask <= now { now + HEAD_START } else { now };
    }

    /// May one message be asked for? Otherwise, not before then.
    pub(super) fn ask(&mut self, now: Instant, jitter: &Jitter) -> Result<(), Instant> {
        let due = self.next.max(self.ask);
        if now < due {
            return Err(due);
        }
        self.next = now + ONE_TRY;
        self.ask = now + DISTANCE.wait(self.asked, jitter);
        self.asked = self.asked.saturating_add(1);
        Ok(())
    }

    /// May a kept message try? Otherwise, not before then.
    pub(super) fn try_kept(&mut self, now: Instant) -> Result<(), Instant> {
        let due = self.next.max(self.kept);
        if now < due {
            return Err(due);
        }
        self.next = now + ONE_TRY;
        Ok(())
    }

    /// A try came to nothing either way (no message, or one that ended before it needed what is sick): the next may
    /// follow at once. Where a message is kept, that one: who asks an empty queue would ask again and again.
    pub(super) fn undecided(&mut self, keeping: bool, now: Instant) {
        self.asked = self.asked.saturating_sub(1);
        self.next = now;
        self.kept = now;
        self.ask = if keeping { now + ONE_TRY } else { now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Asks as soon as it may, for this long, with a good probe every minute; the times in seconds.
    fn asks(turns: &mut Turns, from: Instant, hours: u64) -> Vec<u64> {
        let (jitter, mut now, mut asked) = (Jitter::seeded(1), from, Vec::new());
        while now < from + Duration::from_secs(hours * 3600) {
            turns.probed(true, false, now);
            if turns.ask(now, &jitter).is_ok() {
                asked.push((now - from).as_secs());
            }
            now += 60 * SECOND;
        }
        asked
    }

    #[test]
    fn under_a_good_probe_messages_are_asked_for_at_growing_distances() {
        let now = Instant::now();
        let asked = asks(&mut Turns::new(now), now, 6);
        assert_eq!(asked[..2], [0, 60], "at once, then soon");
        let gaps: Vec<u64> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[4..].iter().all(|gap| (450..=960).contains(gap)), "{gaps:?}");
        assert!(asked.len() <= 45, "{} in six hours", asked.len());
    }

    #[test]
    fn a_probe_that_turns_well_resets_the_distance_and_one_that_stays_well_does_not() {
        let (jitter, start) = (Jitter::seeded(1), Instant::now());
        let mut turns = Turns::new(start);
        asks(&mut turns, start, 2);
        let now = start + 7200 * SECOND;
        turns.probed(true, false, now);
        assert!(turns.ask(now, &jitter).is_err_and(|due| due > now + 60 * SECOND), "well as before");
        turns.probed(false, false, now);
        turns.probed(true, false, now);
        assert_eq!(turns.ask(now, &jitter), Ok(()), "it was sick, and is well");
        assert!(turns.ask(now, &jitter).is_err_and(|due| due <= now + 60 * SECOND), "and the distances begin anew");
    }

    #[test]
    fn one_try_goes_at_a_time() {
        let (jitter, now) = (Jitter::seeded(1), Instant::now());
        let mut turns = Turns::new(now);
        turns.probed(true, false, now);
        assert_eq!(turns.ask(now, &jitter), Ok(()));
        assert_eq!(turns.try_kept(now + 5 * SECOND), Err(now + ONE_TRY));
        assert_eq!(turns.try_kept(now + ONE_TRY), Ok(()));
        assert!(turns.ask(now + ONE_TRY, &jitter).is_err());
        turns.undecided(false, now + ONE_TRY);
        assert_eq!(turns.ask(now + ONE_TRY, &jitter), Ok(()), "it decided nothing: the next at once");
        turns.undecided(true, now + ONE_TRY);
        assert!(turns.ask(now + ONE_TRY, &jitter).is_err(), "an empty queue is not asked in a kept one's stead");
        assert_eq!(turns.try_kept(now + ONE_TRY), Ok(()));
    }

    #[test]
    fn a_kept_message_goes_first_when_the_probe_turns_well_and_never_shuts_the_others_out() {
        let (jitter, now) = (Jitter::seeded(1), Instant::now());
        let mut turns = Turns::new(now);
        turns.probed(true, true, now);
        assert!(turns.ask(now, &jitter).is_err(), "there is one that costs no receive");
        assert_eq!(turns.try_kept(now), Ok(()));
        // It fails, and fails again after each good probe.
        let (mut kept, mut asked) = (0, 0);
        for minute in 1..=120 {
            let now = now + 60 * minute * SECOND;
            turns.probed(true, true, now);
            match turns.try_kept(now) {
                Ok(()) => kept += 1,
                Err(_) => asked += u32::from(turns.ask(now, &jitter).is_ok()),
            }
        }
        assert!(kept > 60 && (8..30).contains(&asked), "kept {kept}, asked {asked}");
        // And where nobody can ask (every seat is taken), its turn comes all the same.
        let later = now + 7300 * SECOND;
        turns.probed(true, true, later + 1800 * SECOND);
        assert_eq!(turns.try_kept(later + 1800 * SECOND + HEAD_START), Ok(()));
    }
}
