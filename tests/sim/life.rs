//! One incarnation of a worker: runs, stands still as after SIGSTOP, or is dead as after SIGKILL.
//!
//! Promises that of a frozen or dead worker no task is polled, and that every line is told under the name of the
//! incarnation whose task told it. What it had asked of a service goes on there.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use fastrand::Rng;
use quittance::spawn::Turns;

use super::faults::{Stamp, Ticks, chance};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Runs,
    Frozen(Stamp),
    Dead(Stamp),
}

struct State {
    mode: Mode,
    /// Tasks that would have run.
    waiting: Vec<Waker>,
    frozen: Vec<(Stamp, Stamp)>,
    rng: Rng,
    /// Share of turns that are put off until everybody else has had one.
    restless: f64,
    /// Turns until it freezes by itself.
    turns_left: Option<usize>,
}

pub struct Life {
    who: Arc<str>,
    ticks: Ticks,
    state: Mutex<State>,
}

thread_local! {
    static RUNNING: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// The incarnation whose task is running.
pub fn running() -> Option<Arc<str>> {
    RUNNING.with_borrow(Clone::clone)
}

impl Life {
    /// `restless`: the share of turns that are put off, so that tasks come in an order drawn from the seed.
    pub fn new(who: &str, ticks: Ticks, seed: u64, restless: f64) -> Arc<Self> {
        let rng = Rng::with_seed(seed);
        let state =
            State { mode: Mode::Runs, waiting: Vec::new(), frozen: Vec::new(), rng, restless, turns_left: None };
        Arc::new(Self { who: who.into(), ticks, state: Mutex::new(state) })
    }

    pub fn freeze(&self) {
        let mut state = self.state.lock().unwrap();
        if state.mode == Mode::Runs {
            state.mode = Mode::Frozen(self.ticks.stamp());
        }
    }

    /// Freezes before the so-manieth turn of its tasks from here on.
    pub fn freeze_in(&self, turns: usize) {
        self.state.lock().unwrap().turns_left = Some(turns);
    }

    pub fn thaw(&self) {
        let mut state = self.state.lock().unwrap();
        if let Mode::Frozen(since) = state.mode {
            state.frozen.push((since, self.ticks.stamp()));
            state.mode = Mode::Runs;
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// The first death stands.
    pub fn kill(&self) {
        let mut state = self.state.lock().unwrap();
        if let Mode::Frozen(since) = state.mode {
            state.frozen.push((since, self.ticks.stamp()));
        }
        if !matches!(state.mode, Mode::Dead(_)) {
            state.mode = Mode::Dead(self.ticks.stamp());
            state.waiting.clear();
        }
    }

    pub fn died(&self) -> Option<Stamp> {
        if let Mode::Dead(at) = self.state.lock().unwrap().mode { Some(at) } else { None }
    }

    pub fn is_frozen(&self) -> bool {
        matches!(self.state.lock().unwrap().mode, Mode::Frozen(_))
    }

    /// Spans in which it stood still.
    pub fn frozen(&self) -> Vec<(Stamp, Stamp)> {
        self.state.lock().unwrap().frozen.clone()
    }
}

/// Sets the name for the length of one poll, also when it panics.
struct Named(Option<Arc<str>>);

impl Drop for Named {
    fn drop(&mut self) {
        RUNNING.set(self.0.take());
    }
}

impl Turns for Life {
    fn turn(&self, context: &mut Context<'_>, poll: &mut dyn FnMut(&mut Context<'_>)) {
        {
            let mut state = self.state.lock().unwrap();
            let state = &mut *state;
            if state.turns_left.take_if(|left| *left == 0).is_some() && state.mode == Mode::Runs {
                state.mode = Mode::Frozen(self.ticks.stamp());
            }
            state.turns_left = state.turns_left.map(|left| left - 1);
            match state.mode {
                Mode::Runs if chance(&mut state.rng, state.restless) => return context.waker().wake_by_ref(),
                Mode::Runs => {}
                Mode::Frozen(_) => return state.waiting.push(context.waker().clone()),
                Mode::Dead(_) => return,
            }
        }
        let _named = Named(RUNNING.replace(Some(Arc::clone(&self.who))));
        poll(context);
    }
}
