//! A trial: everything that may happen to some workers in some minutes, drawn from one seed, run on the model, judged.
//!
//! Promises that the seed alone decides, down to the order of every call, and that after the faults have stopped the
//! workers get their time to drain: what is left then is a broken promise (P5). Judges nothing else by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::faults::Stamp;
use super::judge;
use super::life::Life;
use super::story::{Ended, Line, Story, Violation, WorkerStory};
use super::worker::{Setup, Site, Worker};
use super::{Cut, RESULTS, World};

pub mod plan;
pub mod trace;
pub mod weather;
pub mod workload;

use plan::{AtCall, Event, Plan, millis};
use workload::Producers;

/// A worker that was asked to stop has ended by then (its drain, an open poll, the settling), whatever the services do.
const STOPS_WITHIN: Duration = Duration::from_secs(240);

/// What came of a trial.
pub struct Report {
    pub plan: Plan,
    pub violations: Vec<Violation>,
    /// Calls of all workers.
    pub calls: usize,
    /// Simulated time.
    pub lasted: Duration,
    /// With [`Want::Trace`].
    pub trace: Vec<String>,
}

/// What is wanted of a trial beside its violations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    Verdict,
    Trace,
}

/// One living incarnation.
struct Living {
    who: String,
    setup: Setup,
    started: Stamp,
    asked_to_stop: Option<Stamp>,
    worker: Worker,
}

/// The place of one worker: at most one that is meant to run, and those that are on their way out.
struct Place {
    setup: Setup,
    lives: usize,
    now: Option<Living>,
    leaving: Vec<Living>,
}

struct Trial {
    plan: Plan,
    site: Site,
    producers: Producers,
    places: Vec<Place>,
    began: Instant,
    stories: Vec<WorkerStory>,
    violations: Vec<Violation>,
}

/// Runs a seed in a runtime of its own.
pub fn run(seed: u64, want: Want) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    // Made inside, for outside of the runtime the clock is not paused.
    runtime.block_on(async { Trial::new(Plan::draw(seed)).run(want).await })
}

impl Trial {
    fn new(plan: Plan) -> Self {
        let mut site = Site::in_world(World::with(plan.seed, plan.max_receive_count));
        site.restless = Some(plan.restless);
        for (file, acts) in &plan.reading {
            site.reader.plan(file, acts.iter().cloned());
        }
        let place = |setup: &Setup| Place { setup: setup.clone(), lives: 0, now: None, leaving: Vec::new() };
        let places = plan.setups.iter().map(place).collect();
        let (producers, began) = (Producers::default(), Instant::now());
        Self { plan, site, producers, places, began, stories: Vec::new(), violations: Vec::new() }
    }

    async fn run(mut self, want: Want) -> Report {
        weather::set(&self.site.world, &self.plan.climate, &self.plan.gusts, Duration::ZERO);
        for (at, event) in std::mem::take(&mut self.plan.events) {
            if at > self.plan.span {
                break; // a return after the end of the troubles: everybody is started then
            }
            sleep_until(self.began + at).await;
            self.happen(&event, at).await;
        }
        sleep_until(self.began + self.plan.span).await;
        let healed_at = self.heal().await;
        let drained = self.drain().await;
        self.stop_all().await;
        self.tell_lines();
        let world = self.site.world.clone();
        let story = Story {
            world: &world,
            reader: &self.site.reader,
            workers: &self.stories,
            keys: &self.producers.keys,
            sent: &self.producers.sent,
            healed_at,
            drained,
        };
        self.violations.extend(judge::judge(&story));
        let trace = match want {
            Want::Verdict => Vec::new(),
            Want::Trace => trace::of(&story, self.began),
        };
        let calls = trace::calls(&world);
        Report { lasted: self.began.elapsed(), plan: self.plan, violations: self.violations, calls, trace }
    }

    async fn happen(&mut self, event: &Event, at: Duration) {
        match event {
            Event::Producer(deed) => self.producers.act(&self.site.world, deed),
            Event::Weather => weather::set(&self.site.world, &self.plan.climate, &self.plan.gusts, at),
            Event::Start(place) => self.start(*place).await,
            Event::Crash(place) => {
                if let Some(living) = &self.places[*place].now {
                    living.worker.crash();
                }
            }
            Event::CrashAtCall(place, at_call, cut) => self.trap(*place, *at_call, {
                let cut = *cut;
                move |_| Some(cut)
            }),
            Event::FreezeAtCall(place, at_call, still) => self.trap(*place, *at_call, {
                let still = *still;
                move |life| {
                    life.freeze();
                    let life = Arc::clone(life);
                    tokio::spawn(async move {
                        tokio::time::sleep(still).await;
                        life.thaw();
                    });
                    None
                }
            }),
            Event::Stop(place) => self.ask_to_stop(*place),
            Event::Hurry(place) => {
                for living in &self.places[*place].leaving {
                    living.worker.abandon();
                }
            }
            Event::Freeze(place) => {
                if let Some(living) = &self.places[*place].now {
                    living.worker.life.freeze();
                }
            }
            Event::Thaw(place) => {
                let place = &self.places[*place];
                place.now.iter().chain(&place.leaving).for_each(|living| living.worker.life.thaw());
            }
            Event::Step(milliseconds) => self.site.world.clock.step(*milliseconds),
        }
    }

    /// Once, at the call that was drawn.
    fn trap(&self, place: usize, at_call: AtCall, act: impl Fn(&Arc<Life>) -> Option<Cut> + Send + 'static) {
        let Some(living) = &self.places[place].now else { return };
        let (life, mut skip) = (Arc::clone(&living.worker.life), Some(at_call.skip));
        living.worker.wires.cut_at(move |asking| {
            if at_call.verb.is_some_and(|verb| verb != asking.verb) {
                return None;
            }
            let left = skip?;
            skip = left.checked_sub(1);
            if left == 0 { act(&life) } else { None }
        });
    }

    async fn start(&mut self, place: usize) {
        self.bury().await;
        if self.places[place].now.is_some() {
            return;
        }
        let number = place + 1;
        let place = &mut self.places[place];
        place.lives += 1;
        let who = format!("w{number}.{}", place.lives);
        let started = self.site.world.ticks.stamp();
        let worker = self.site.start(&who, &place.setup);
        place.now = Some(Living { who, setup: place.setup.clone(), started, asked_to_stop: None, worker });
    }

    fn ask_to_stop(&mut self, place: usize) {
        let place = &mut self.places[place];
        if let Some(mut living) = place.now.take() {
            living.asked_to_stop = Some(self.site.world.ticks.stamp());
            living.worker.ask_to_stop();
            place.leaving.push(living);
        }
    }

    /// Writes the stories of those that have ended since.
    async fn bury(&mut self) {
        for place in &mut self.places {
            let all = std::mem::take(&mut place.leaving).into_iter().chain(place.now.take());
            for living in all {
                let dead = living.worker.life.died().is_some();
                if dead || living.worker.has_ended() {
                    self.stories.push(story_of(living, &mut self.violations).await);
                } else if living.asked_to_stop.is_some() {
                    place.leaving.push(living);
                } else {
                    place.now = Some(living);
                }
            }
        }
    }

    /// Faults stop, nobody stands still, everybody is there.
    async fn heal(&mut self) -> Instant {
        let healed_at = weather::heal(&self.site.world, &self.plan.climate);
        for place in &self.places {
            place.now.iter().chain(&place.leaving).for_each(|living| {
                living.worker.wires.no_trap();
                living.worker.life.thaw();
            });
        }
        if self.plan.redeploy {
            self.site.reader.heal();
        }
        for place in 0..self.places.len() {
            if self.plan.redeploy {
                self.ask_to_stop(place);
            }
            self.start(place).await;
        }
        healed_at
    }

    /// Until the queue and the parked prefix are empty, and stay so.
    async fn drain(&mut self) -> bool {
        let deadline = Instant::now() + self.plan.patience;
        let mut since = None;
        while Instant::now() < deadline {
            let world = &self.site.world;
            let empty = world.queue.holds_nothing() && world.store.none(RESULTS, "retry-index/");
            since = if empty { since.or(Some(Instant::now())) } else { None };
            if since.is_some_and(|since| since.elapsed() >= self.plan.quiet) {
                return true;
            }
            tokio::time::sleep(millis(3_000)).await;
        }
        false
    }

    async fn stop_all(&mut self) {
        for place in 0..self.places.len() {
            self.ask_to_stop(place);
        }
        for place in &mut self.places {
            for living in std::mem::take(&mut place.leaving) {
                self.stories.push(story_of(living, &mut self.violations).await);
            }
        }
    }

    /// Hands each story its lines.
    fn tell_lines(&mut self) {
        let mut of: BTreeMap<Arc<str>, Vec<Line>> = BTreeMap::new();
        for told in self.site.take_lines() {
            match told.who {
                Some(who) => of.entry(who).or_default().push(told.line),
                None => self
                    .violations
                    .push(Violation { rule: "harness", what: format!("a line of nobody's task: {:?}", told.line) }),
            }
        }
        for story in &mut self.stories {
            story.lines = of.remove(story.who.as_str()).unwrap_or_default();
        }
    }
}

async fn story_of(living: Living, violations: &mut Vec<Violation>) -> WorkerStory {
    let Living { who, setup, started, asked_to_stop, worker } = living;
    let (life, complaint) = (Arc::clone(&worker.life), worker.wires.complaint());
    let ended = match life.died() {
        Some(at) => Ended::Crashed(at),
        None => match timeout(STOPS_WITHIN, worker.ended()).await {
            Ok(Ok(Ok(books))) => Ended::Stopped(books),
            other => {
                let what = match other {
                    Ok(Ok(Err(broken))) => broken.to_string(),
                    Ok(Err(panic)) => panic.to_string(),
                    Ok(Ok(Ok(_))) => String::new(),
                    Err(_) => format!("not within {STOPS_WITHIN:?} of being asked to"),
                };
                violations.push(Violation { rule: "ends", what: format!("{who} did not end well: {what}") });
                life.kill();
                Ended::Crashed(life.died().unwrap_or(started))
            }
        },
    };
    WorkerStory { who, setup, started, asked_to_stop, ended, frozen: life.frozen(), lines: Vec::new(), complaint }
}
