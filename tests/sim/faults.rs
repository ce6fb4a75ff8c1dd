//! What can go wrong with one call, and the record of all calls: shared by the three models.
//!
//! Promises that a seed replays (every choice is drawn from the model's own generator, and nothing is drawn for
//! a fault that is off), and that a call whose caller went away stays in the history, unanswered.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// How one call ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// As the service means it.
    Proceed,
    /// Nothing happens, the caller sees "unavailable".
    FailBefore,
    /// It happens, the caller sees "unavailable".
    LoseReply,
    /// Nothing happens, the caller is told to slow down.
    Throttle,
}

/// The faults of one operation. All off by default; the probabilities are between 0 and 1.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Every call fails before its effect, until switched off.
    pub down: bool,
    /// As [`Faults::down`], until then.
    pub down_until: Option<Instant>,
    /// Share of calls that end as [`Fate::FailBefore`].
    pub fail_before: f64,
    /// Share of calls that end as [`Fate::LoseReply`].
    pub lose_reply: f64,
    /// Share of calls that end as [`Fate::Throttle`].
    pub throttle: f64,
    /// Least and most time of each way, to the service and back.
    pub latency: (Duration, Duration),
    /// Calls are served one after the other: each waits for those before it, and then takes its time.
    pub one_at_a_time: bool,
    /// Fates of the next calls, in order; before any share is drawn.
    pub next: VecDeque<Fate>,
    /// With `one_at_a_time`: when the calls so far have been served.
    pub busy_until: Option<Instant>,
}

/// One call's draw.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    pub fate: Fate,
    /// Time until the effect.
    pub there: Duration,
    /// Time from the effect to the answer.
    pub back: Duration,
}

impl Faults {
    /// Decides one call.
    pub fn draw(&mut self, rng: &mut Rng) -> Drawn {
        let (mut there, mut back) = (between(rng, self.latency), between(rng, self.latency));
        if self.one_at_a_time {
            let now = Instant::now();
            let served = self.busy_until.map_or(now, |until| until.max(now)) + there;
            self.busy_until = Some(served);
            there = served - now;
            back = Duration::ZERO;
        }
        let down = self.down || self.down_until.is_some_and(|until| Instant::now() < until);
        let fate = match self.next.pop_front() {
            Some(fate) => fate,
            None if down || chance(rng, self.fail_before) => Fate::FailBefore,
            None if chance(rng, self.throttle) => Fate::Throttle,
            None if chance(rng, self.lose_reply) => Fate::LoseReply,
            None => Fate::Proceed,
        };
        Drawn { fate, there, back }
    }
}

/// True with this probability; draws nothing when it is off.
pub fn chance(rng: &mut Rng, share: f64) -> bool {
    share > 0.0 && rng.f64() < share
}

/// A time in the range; draws nothing when the range is a point.
pub fn between(rng: &mut Rng, (least, most): (Duration, Duration)) -> Duration {
    let width = u64::try_from(most.saturating_sub(least).as_millis()).unwrap();
    if width == 0 { least } else { least + Duration::from_millis(rng.u64(0..=width)) }
}

/// Every call is at least one real await: a model that answers at once hides races.
pub async fn travel(time: Duration) {
    if time.is_zero() {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(time).await;
    }
}

/// Runs a call as a task of its service, which goes on while its caller stands still. When the caller goes away, the
/// call ends with it (false), or goes on (true): an aborted long poll may still take messages, an aborted delete may
/// still delete. `gone` is told when the caller went away before it heard the answer.
pub async fn carry<T: Send + 'static>(
    goes_on: bool,
    gone: impl FnOnce(),
    call: impl Future<Output = T> + Send + 'static,
) -> T {
    let mut caller = Caller(Some(gone));
    let carried = tokio::spawn(call);
    let ended = if goes_on { carried.await } else { AbortOnDropHandle::new(carried).await };
    let answer = match ended {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await, // the runtime is going down
        },
    };
    caller.0 = None;
    answer
}

/// The caller's side of a call under way.
struct Caller<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for Caller<F> {
    fn drop(&mut self) {
        if let Some(gone) = self.0.take() {
            gone();
        }
    }
}

/// One order over the events of all models of a world.
#[derive(Clone, Debug, Default)]
pub struct Ticks(Arc<AtomicU64>);

impl Ticks {
    pub fn stamp(&self) -> Stamp {
        Stamp { order: self.0.fetch_add(1, Ordering::Relaxed), at: Instant::now() }
    }
}

/// When something happened: paused time, and its place among all events.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Stamp {
    pub order: u64,
    pub at: Instant,
}

/// Who asked what, when, and what was answered.
#[derive(Clone, PartialEq, Debug)]
pub struct Call<Ask, Answer> {
    pub who: Arc<str>,
    pub ask: Ask,
    pub asked: Stamp,
    /// When the service acted (or found nothing to do); `None` where it never did.
    pub took_effect: Option<Stamp>,
    /// `None`: there is no answer yet, or nobody to hear it.
    pub answered: Option<(Stamp, Answer)>,
    /// When its caller went away (a timeout of its own, a crash): it has heard no answer, whatever was said later.
    pub gone: Option<Stamp>,
}

impl<Ask, Answer> Call<Ask, Answer> {
    /// The answer that the caller has heard, and when.
    pub fn heard(&self) -> Option<(Stamp, &Answer)> {
        let (stamp, answer) = self.answered.as_ref()?;
        self.gone.is_none().then_some((*stamp, answer))
    }

    /// When the call was over for its caller; `None` while it is under way.
    pub fn over(&self) -> Option<Stamp> {
        self.gone.or(self.answered.as_ref().map(|(stamp, _)| *stamp))
    }
}

/// The calls of one model, in the order asked.
#[derive(Clone, Debug)]
pub struct History<Ask, Answer> {
    pub calls: Vec<Call<Ask, Answer>>,
    ticks: Ticks,
}

impl<Ask, Answer> History<Ask, Answer> {
    pub fn new(ticks: Ticks) -> Self {
        Self { calls: Vec::new(), ticks }
    }

    pub fn stamp(&self) -> Stamp {
        self.ticks.stamp()
    }

    pub fn ask(&mut self, who: &Arc<str>, ask: Ask) -> usize {
        let asked = self.stamp();
        self.calls.push(Call { who: who.clone(), ask, asked, took_effect: None, answered: None, gone: None });
        self.calls.len() - 1
    }

    pub fn effect(&mut self, call: usize) {
        self.calls[call].took_effect = Some(self.stamp());
    }

    pub fn gone(&mut self, call: usize) {
        self.calls[call].gone = Some(self.stamp());
    }

    pub fn answer(&mut self, call: usize, answer: Answer) {
        self.calls[call].answered = Some((self.stamp(), answer));
    }
}
