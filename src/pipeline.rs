//! Joins the stations: receivers → leases → work → settler, with the side path beside them.
//!
//! Promises the order of the end (design §4): polls stop, open polls finish, work finishes or is abandoned at the
//! deadline, the last lease closes the settler's input, the settler flushes, the books are closed. No counters, no
//! sleeps: each step waits for the ownership of the one before. Knows no SDK: it runs unchanged on the model.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::books::{Books, BooksLine};
use crate::crash_loop::{Company, CrashLoop, Stay};
use crate::events::{self, Event};
use crate::gate::{Gate, Probe};
use crate::index::replay::Replayer;
use crate::lease::{Brake, Intake, Lease, Pulse};
use crate::limits::Live;
use crate::message::detail::detail;
use crate::outcome::{Dependency, Judgement, Outcome, RejectReason, RetryReason, Verdict};
use crate::pause::Watch;
use crate::process::{Processor, Progress, Scope, Stopped};
use crate::queue::Queue;
use crate::receive::{Receiver, pollers};
use crate::retry::Jitter;
use crate::settle::{Desk, Settler, SettlerBroken};
use crate::shutdown::Stop;
use crate::spawn::tied;

/// How often the books are written down.
const BOOKS_EVERY: Duration = Duration::from_secs(60);
/// An open poll's answer may be this much later than its wait; one that hangs keeps no work from being given back.
const POLL_LATE: Duration = Duration::from_secs(1);

/// Where the settler runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seat {
    /// On a thread of its own with a runtime of its own: starved work loses no lease.
    OwnThread,
    /// On the caller's runtime: the simulation has but one.
    Here,
}

/// Everything a worker consists of, ready to run.
pub struct Pipeline {
    /// The main queue, on the polling client.
    pub queue: Arc<dyn Queue>,
    /// The settler's desk, on its own clients.
    pub desk: Desk,
    /// The critical path.
    pub processor: Arc<Processor>,
    /// The intake gate.
    pub gate: Arc<Gate>,
    /// Finds out what kills its workers.
    pub crash_loop: Arc<CrashLoop>,
    /// Drives the bulk lane; `None` with `SKIP_OPENSEARCH`.
    pub lane: Option<futures_util::future::BoxFuture<'static, ()>>,
    /// Replays what is parked; `None` when it is off.
    pub replayer: Option<Replayer>,
    /// The ledger that all stations write to.
    pub books: Arc<Books>,
    /// Spread of polls.
    pub jitter: Arc<Jitter>,
    /// The buckets that intake needs, for the gate.
    pub probe: Probe,
    /// Looks at the fleet-wide pause; `None` only where nobody could pause.
    pub pause: Option<Watch>,
    /// What may change while it runs; as they are at the start, they are the most.
    pub limits: Live,
    /// `WaitTimeSeconds`.
    pub poll_wait: Duration,
    /// Where the settler runs.
    pub seat: Seat,
}

impl Pipeline {
    /// Runs until stopped; the books as they are at the end. `ready` is called when intake starts, with the way to ask
    /// whether the settler still turns.
    pub async fn run(self, stop: Stop, ready: impl FnOnce(Pulse)) -> Result<BooksLine, SettlerBroken> {
        let (visibility, clock) = (self.desk.visibility, self.desk.lease_clock.clone());
        let concurrency = self.limits.now().concurrency;
        let (intake, words) = Intake::new(concurrency);
        let mut settler = start_settler(Settler::new(self.desk, words), self.seat);

        // Beside the road: these end after the work, for the work uses them.
        let beside = TaskTracker::new();
        let end_of_work = CancellationToken::new();
        beside.spawn(tied(write_books(Arc::clone(&self.books), end_of_work.clone())));
        beside.spawn(tied(Arc::clone(&self.gate).probe_while_shut(self.probe, end_of_work.clone())));
        if let Some(pause) = self.pause {
            beside.spawn(tied(pause.run(Arc::clone(&self.gate), end_of_work.clone())));
        }
        if let Some(lane) = self.lane {
            let end = end_of_work.clone();
            // Cut off at the end: nobody waits for what is still queued, and a sick index must not delay the exit.
            beside.spawn(tied(async move {
                tokio::select! { biased; () = end.cancelled() => {}, () = lane => {} }
            }));
        }
        if let Some(replayer) = self.replayer {
            // Not to the end of the work: its lease is let go while the others drain.
            beside.spawn(tied(replayer.run(self.gate.pauses(), stop.stop.clone())));
        }

        let (polls, work) = (TaskTracker::new(), TaskTracker::new());
        let give_back = CancellationToken::new();
        let polling = TaskTracker::new();
        polling.close();
        for _ in 0..pollers(concurrency) {
            let receiver = Receiver {
                queue: Arc::clone(&self.queue),
                intake: intake.clone(),
                gate: Arc::clone(&self.gate),
                limits: self.limits.clone(),
                crash_loop: Arc::clone(&self.crash_loop),
                wait: self.poll_wait,
                visibility,
                jitter: Arc::clone(&self.jitter),
                clock: clock.clone(),
                polling: polling.clone(),
            };
            let (work, processor, gate) = (work.clone(), Arc::clone(&self.processor), Arc::clone(&self.gate));
            let (crash_loop, ends) = (Arc::clone(&self.crash_loop), (stop.stop.clone(), give_back.clone()));
            polls.spawn(tied(receiver.run(stop.stop.clone(), move |lease| {
                let (processor, gate) = (Arc::clone(&processor), Arc::clone(&gate));
                work.spawn(tied(receipt(lease, processor, gate, Arc::clone(&crash_loop), ends.clone())));
            })));
        }
        beside.spawn(tied(follow(intake.brake(), self.limits.clone(), end_of_work.clone())));
        let pulse = intake.pulse();
        drop(intake); // the receivers hold the road now: when they and every lease are gone, the settler may end
        drop(self.processor);
        polls.close();
        ready(pulse);

        // The stop first: where there is nothing to drain, the settler may rightly have ended before this task wakes.
        tokio::select! {
            biased;
            () = stop.stop.cancelled() => {}
            broken = &mut settler => return Err(how_it_broke(broken)),
        }
        self.gate.leave(); // what waits for the end of an outage goes back now, and not at the deadline
        let in_flight = self.books.snapshot(false).in_flight;
        let drain = self.limits.now().drain;
        events::Stopping { signal: stop.why(), in_flight, drain_seconds: drain.as_secs() }.emit();
        let asked = Instant::now();
        let deadline = asked + drain;
        let drained = async {
            polls.wait().await;
            work.close();
            work.wait().await;
        };
        tokio::pin!(drained);
        let why = tokio::select! {
            biased;
            () = &mut drained => None,
            () = stop.abandon.cancelled() => Some("a second signal"),
            () = tokio::time::sleep_until(deadline) => Some("the drain deadline"),
        };
        if let Some(why) = why {
            // Our own open polls first: they would take what is given back, and raise its receive count for nothing.
            // The end has to wait for them anyway.
            let polls_end = tokio::time::timeout_at(asked + self.poll_wait + POLL_LATE, polls.wait());
            let finished = tokio::select! {
                biased;
                () = &mut drained => true,
                _ = polls_end => false,
            };
            if !finished {
                events::Abandoning { why, in_flight: self.books.snapshot(false).in_flight }.emit();
                give_back.cancel();
                drained.await;
            }
        }
        // Nobody can speak to the settler any more: it settles what it holds and ends.
        let settled = settler.await;
        end_of_work.cancel();
        beside.close();
        beside.wait().await;
        match settled {
            Ok(Ok(())) => Ok(self.books.snapshot(true)),
            broken @ (Ok(Err(_)) | Err(_)) => Err(how_it_broke(broken)),
        }
    }
}

/// Keeps no more in flight than the limit of now.
async fn follow(mut brake: Brake, limits: Live, end: CancellationToken) {
    let mut ear = limits.ear();
    loop {
        let wanted = ear.hear().concurrency;
        let held = async {
            brake.hold_at(wanted).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            _ = ear.news() => {}
            () = held => {}
        }
    }
}

/// How a settler ended, as its thread tells it.
pub type SettlerEnd = Result<Result<(), SettlerBroken>, oneshot::error::RecvError>;

/// Of an end that is not `Ok(Ok(()))`.
pub fn how_it_broke(end: SettlerEnd) -> SettlerBroken {
    match end {
        Ok(Err(broken)) => broken,
        Ok(Ok(())) => SettlerBroken::because("it ended before it was asked to"),
        Err(_) => SettlerBroken::because("its thread is gone"),
    }
}

/// Starts a settler where it is to sit; the channel tells its end.
pub fn start_settler(settler: Settler, seat: Seat) -> oneshot::Receiver<Result<(), SettlerBroken>> {
    let (end, ended) = oneshot::channel();
    match seat {
        Seat::Here => drop(tokio::spawn(tied(async move { drop(end.send(settler.run().await)) }))),
        Seat::OwnThread => {
            let thread = std::thread::Builder::new().name("settler".into()).spawn(move || {
                match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => {
                        drop(end.send(runtime.block_on(settler.run())));
                        // Not waited for: a name that is being looked up (getaddrinfo) cannot be cut short.
                        runtime.shutdown_background();
                    }
                    Err(error) => drop(end.send(Err(SettlerBroken::because(&format!("no runtime: {error}"))))),
                }
            });
            // A thread that did not start has dropped `end`: the caller hears it as broken.
            drop(thread);
        }
    }
    ended
}

/// The task of one receipt: holds the lease until its work is judged, or has to wait elsewhere. From `stop` on what has
/// not begun is returned, from `give_back` on what has begun too. Public for the tests that cut it short.
pub async fn receipt(
    mut lease: Lease,
    processor: Arc<Processor>,
    gate: Arc<Gate>,
    crash_loop: Arc<CrashLoop>,
    (stop, give_back): (CancellationToken, CancellationToken),
) {
    let term = Arc::clone(lease.term());
    let (mut leave, mut kept) = (None, None);
    loop {
        let begun = match leave.take() {
            Some(company) => Ok(company), // its mark could not be taken back
            None => tokio::select! {
                biased;
                () = term.ended() => Err(Stay::Stopping),
                () = give_back.cancelled() => Err(Stay::Stopping),
                begun = crash_loop.begin(&mut lease, &stop) => begun,
            },
        };
        let judgement = match begun {
            Ok(company) => {
                let Some(judgement) = work_on(&lease, &company, &processor, &gate, &give_back).await else { return };
                leave = Some(company);
                judgement
            }
            Err(stay) => Judgement::without_work(unbegun(stay, &gate)),
        };
        kept = gate.keep(&judgement.verdict, lease.message().receive_count, kept);
        let again = match &mut kept {
            None => false,
            Some(kept) => tokio::select! {
                biased;
                () = term.ended() => false,
                () = give_back.cancelled() => false,
                again = crash_loop.rest(&mut lease, &mut leave, kept.again()) => again,
            },
        };
        if !again {
            return lease.settle(judgement);
        }
    }
}

/// Once through the work, spawned inside of the lease's scope; `None`: the lease is nobody's any more.
async fn work_on(
    lease: &Lease,
    company: &Company,
    processor: &Arc<Processor>,
    gate: &Gate,
    give_back: &CancellationToken,
) -> Option<Judgement> {
    let permit = lease.permit()?;
    let (message, term, company) = (Arc::clone(lease.message()), Arc::clone(lease.term()), company.clone());
    let progress = Arc::new(Progress::default());
    // Tied to this task: if it is dropped, the lease is returned, and work without a lease must not go on (P7).
    let mut work = AbortOnDropHandle::new(tokio::spawn(tied({
        let (term, progress, processor) = (Arc::clone(&term), Arc::clone(&progress), Arc::clone(processor));
        async move {
            let scope = Scope { may_act: Arc::new(move || term.is_live()), keep: Arc::new((permit, company)) };
            processor.message(&message, &scope, &progress).await
        }
    })));
    let ended = tokio::select! {
        biased;
        ended = &mut work => ended,
        () = term.ended() => stopped(work).await,
        () = give_back.cancelled() => stopped(work).await,
    };
    let ended = ended.map_err(|end| end.is_panic().then(|| panic_text(end)));
    if let Err(Some(text)) = &ended {
        progress.panicked(text);
    }
    let (mut reports, abandoned, cut_short) = progress.so_far();
    for report in &mut reports {
        report.outcome = gate.weigh(&report.key, report.outcome.clone());
    }
    let verdict = match ended {
        Ok(Ok(outcome)) => {
            let weighed = reports.iter().map(|report| report.outcome.clone()).reduce(Outcome::worse);
            Verdict::Judged(weighed.unwrap_or_else(|| gate.weigh("", outcome)))
        }
        Err(Some(panic)) => Verdict::Panicked(panic),
        Ok(Err(Stopped)) | Err(None) => Verdict::Cancelled,
    };
    match &verdict {
        Verdict::Judged(Outcome::Done | Outcome::Superseded | Outcome::Retry(RetryReason::Systemic(..))) => {}
        Verdict::Judged(Outcome::Skip(_) | Outcome::Retry(_) | Outcome::Reject(_))
        | Verdict::Panicked(_)
        | Verdict::Cancelled => gate.undecided(),
    }
    Some(Judgement { verdict, reports, abandoned, cut_short })
}

/// Work that has not begun; only a store that is sick is the gate's concern.
fn unbegun(stay: Stay, gate: &Gate) -> Verdict {
    let verdict = match stay {
        Stay::Sick(detail) => {
            let sick = Outcome::Retry(RetryReason::Systemic(Dependency::Results, detail));
            return Verdict::Judged(gate.weigh("", sick));
        }
        Stay::TooLong(detail) => Verdict::Judged(Outcome::Retry(RetryReason::Systemic(Dependency::Host, detail))),
        Stay::Condemned(detail) => Verdict::Judged(Outcome::Reject(RejectReason::CrashLoop(detail))),
        Stay::Stopping => Verdict::Cancelled,
    };
    gate.undecided();
    verdict
}

/// Cancels the work and waits until it has really stopped; it may have finished in the same instant.
async fn stopped<T>(work: AbortOnDropHandle<T>) -> Result<T, JoinError> {
    work.abort();
    work.await
}

fn panic_text(end: JoinError) -> String {
    let panic = end.into_panic();
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    detail(&text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".into()))
}

async fn write_books(books: Arc<Books>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval_at(Instant::now() + BOOKS_EVERY, BOOKS_EVERY);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {
                books.snapshot(false).checked().emit();
            }
        }
    }
}
