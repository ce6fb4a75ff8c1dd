//! Workers of a simulation: the crate's own pipeline on the model, many at once, stopped or crashed at will.
//!
//! Promises that the books are looked at before every call and at the end, and compared with what the queue itself
//! remembers; a test that asks for nothing still asks for that (P10).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quittance::attempts::AttemptsLog;
use quittance::books::{Books, BooksLine};
use quittance::clock::WallClock;
use quittance::config::{OnExtractionError, OnMissingObject, TenantFrom};
use quittance::crash_loop::CrashLoop;
use quittance::dead_letter::DeadLetters;
use quittance::gate::{Gate, Probe};
use quittance::index::SidePath;
use quittance::index::bulk::Lane;
use quittance::index::park::Parking;
use quittance::index::parked::Lots;
use quittance::index::replay::Replayer;
use quittance::index::replay::lease::Replaying;
use quittance::index::replay::patience::Budget;
use quittance::limits::{Limits, Live};
use quittance::message::s3_event::{Source, Wanted};
use quittance::message::{DocumentId, MessageId, Namespace};
use quittance::pause::{PauseFile, Watch};
use quittance::pipeline::{Pipeline, Seat};
use quittance::process::Processor;
use quittance::queue::Queue;
use quittance::retry::{Backoff, Jitter};
use quittance::settle::{Counted, Desk, Failures, SettlerBroken};
use quittance::shutdown::Stop;
use quittance::spawn::{Turns, given_by};
use quittance::store::{Store, layout};
use serde_json::Value;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep};
use tracing_subscriber::layer::SubscriberExt as _;

use super::faults::Ticks;
use super::life::{self, Life};
use super::reader::Reader;
use super::story::Line;
use super::wires::{Wired, Wires};
use super::{QueueAnswer, QueueAsk, RESULTS, SOURCE, World};

/// Settings of a worker; the defaults are those of design §8 where they matter.
#[derive(Clone, Debug)]
pub struct Setup {
    pub concurrency: usize,
    pub visibility: Duration,
    pub drain: Duration,
    pub max_attempts: u32,
    pub max_receive_count: Option<u32>,
    pub backoff: Backoff,
    pub replay: bool,
    pub replay_budget: Budget,
    /// False is `SKIP_OPENSEARCH`.
    pub search: bool,
    pub on_missing: OnMissingObject,
    pub on_extraction_error: OnExtractionError,
    pub max_object_bytes: u64,
    /// Buckets that may be read.
    pub sources: Vec<&'static str>,
    /// The client's request timeout to the index.
    pub search_timeout: Option<Duration>,
    pub seat: Seat,
    /// False is an operator's command: what is not finished is returned, and nothing is held against it.
    pub counts_failures: bool,
    /// Looks at `control/pause.json`, every few seconds: off where nobody pauses, for the histories' sake.
    pub obeys_pause: bool,
}

impl Setup {
    pub fn limits(&self) -> Limits {
        let Self { concurrency, drain, max_attempts, backoff, .. } = self;
        Limits { concurrency: *concurrency, drain: *drain, max_attempts: *max_attempts, backoff: *backoff }
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            concurrency: 20,
            visibility: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            max_attempts: 5,
            max_receive_count: Some(20),
            backoff: Backoff { base: Duration::from_secs(30), cap: Duration::from_secs(900) },
            replay: true,
            replay_budget: Budget {
                retries: 5,
                backoff: Backoff { base: Duration::from_secs(30), cap: Duration::from_secs(3_600) },
            },
            search: true,
            on_missing: OnMissingObject::DeadLetter,
            on_extraction_error: OnExtractionError::Index,
            max_object_bytes: 1 << 20,
            sources: vec![SOURCE],
            search_timeout: Some(Duration::from_secs(10)),
            seat: Seat::Here,
            counts_failures: true,
            obeys_pause: false,
        }
    }
}

pub fn namespace() -> Namespace {
    Namespace::parse("default").unwrap()
}

pub fn document_id(key: &str) -> DocumentId {
    DocumentId::of(&namespace(), SOURCE, key)
}

pub fn record_key(key: &str) -> String {
    quittance::store::layout::record(&namespace(), &document_id(key))
}

/// A world, a reader and the lines its workers log.
pub struct Site {
    pub world: World,
    pub reader: Arc<Reader>,
    /// Workers draw each from a seed of its own, and put off this share of their tasks' turns.
    pub restless: Option<f64>,
    lines: Arc<Mutex<Vec<Told>>>,
    temp: tempfile::TempDir,
    incarnations: AtomicUsize,
    _listening: tracing::subscriber::DefaultGuard,
}

impl Site {
    pub fn new(seed: u64) -> Self {
        Self::in_world(World::new(seed))
    }

    pub fn in_world(world: World) -> Self {
        let lines = Arc::<Mutex<Vec<_>>>::default();
        let layer = Listener { lines: Arc::clone(&lines), ticks: world.ticks.clone() };
        let listening = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        Self {
            world,
            reader: Arc::default(),
            restless: None,
            lines,
            temp: tempfile::tempdir().unwrap(),
            incarnations: AtomicUsize::new(0),
            _listening: listening,
        }
    }

    /// Of a worker that is about to start: never the same twice.
    pub fn next_run(&self, who: &str) -> String {
        format!("{who}-{}", self.incarnations.fetch_add(1, Ordering::Relaxed))
    }

    /// The facts of this name, in order.
    pub fn lines(&self, event: &str) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|told| told.line.event == event).map(|told| told.line.fields.clone()).collect()
    }

    /// Takes what was logged, in order: by whom (`None`: by nobody's task), and what.
    pub fn take_lines(&self) -> Vec<Told> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }

    /// Begins anew: what was told so far is forgotten.
    pub fn forget_lines(&self) {
        self.lines.lock().unwrap().clear();
    }

    /// `outcome/settlement` of every receipt that ended, in order.
    pub fn settlements(&self) -> Vec<String> {
        let word = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
        let lines = self.lines("message_settled");
        lines.iter().map(|line| format!("{}/{}", word(line, "outcome"), word(line, "settlement"))).collect()
    }

    /// Of a message; as it lies in the store.
    pub fn attempts_of(&self, message: &MessageId) -> Option<Value> {
        let key = quittance::store::layout::attempts(&namespace(), message);
        self.world.store.object(RESULTS, &key).map(|object| serde_json::from_slice(&object.body).unwrap())
    }

    /// Attempts records that hold something against their message: a failure or a mark.
    pub fn troubles(&self) -> Vec<String> {
        let records = self.world.store.keys(RESULTS, "attempts/").into_iter();
        let told =
            records.map(|key| String::from_utf8(self.world.store.object(RESULTS, &key).unwrap().body.into()).unwrap());
        told.filter(|body| {
            let record: Value = serde_json::from_str(body).unwrap();
            record["failed"] != 0 || record["begun"].is_array()
        })
        .collect()
    }

    fn store(&self, who: &str, wires: &Arc<Wires>) -> Arc<dyn Store> {
        Arc::new(Wired { wires: Arc::clone(wires), port: self.world.store.seen_by(who) })
    }

    fn clock(&self) -> Arc<dyn WallClock> {
        Arc::new(self.world.clock.clone())
    }

    pub fn desk(&self, who: &str, setup: &Setup, wires: &Arc<Wires>, books: &Arc<Books>) -> Desk {
        let queue = |queue: &super::ModelQueue| -> Arc<dyn Queue> {
            Arc::new(Wired { wires: Arc::clone(wires), port: queue.seen_by(who) })
        };
        let counted = || Counted {
            dead_letters: DeadLetters {
                queue: queue(&self.world.dead_letters),
                source_queue: self.world.queue.arn(),
                store: self.store(who, wires),
                bucket: RESULTS.into(),
                clock: self.clock(),
            },
            attempts: self.attempts(who, wires),
            limits: Live::new(setup.limits()),
            on_missing: setup.on_missing,
            max_receive_count: setup.max_receive_count,
        };
        Desk {
            queue: queue(&self.world.queue),
            failures: if setup.counts_failures { Failures::Counted(Arc::new(counted())) } else { Failures::Returned },
            books: Arc::clone(books),
            jitter: Jitter::seeded(self.world.seed ^ 1 ^ self.restless.map_or(0, |_| of_name(who))),
            visibility: setup.visibility,
            lease_clock: self.world.clock.lease_clock(),
        }
    }

    pub fn attempts(&self, who: &str, wires: &Arc<Wires>) -> AttemptsLog {
        AttemptsLog {
            store: self.store(who, wires),
            bucket: RESULTS.into(),
            namespace: namespace(),
            clock: self.clock(),
            run: wires.run.clone(),
        }
    }

    pub fn crash_loop(&self, who: &str, setup: &Setup, wires: &Arc<Wires>) -> CrashLoop {
        CrashLoop::new(self.attempts(who, wires), setup.max_receive_count, setup.visibility)
    }

    /// The critical path without a side path of its own (`lane`: the way into the index).
    pub fn processor(
        &self,
        who: &str,
        setup: &Setup,
        wires: &Arc<Wires>,
        books: &Arc<Books>,
        lane: Option<Lane>,
    ) -> Processor {
        let sources = setup.sources.iter().map(|name| Source { bucket: (*name).into(), prefix: String::new() });
        Processor {
            store: self.store(who, wires),
            extract: self.reader.clone(),
            side_path: Arc::new(SidePath { lane, parking: self.parking(who, wires), books: Arc::clone(books) }),
            clock: self.clock(),
            wanted: Wanted::new(sources.collect(), RESULTS.into()),
            namespace: namespace(),
            results_bucket: RESULTS.into(),
            max_object_bytes: setup.max_object_bytes,
            tenant_from: TenantFrom::Prefix(1),
            on_extraction_error: setup.on_extraction_error,
            temp_folder: self.temp.path().to_owned(),
        }
    }

    fn parking(&self, who: &str, wires: &Arc<Wires>) -> Parking {
        let store = self.store(who, wires);
        Parking { store, bucket: RESULTS.into(), namespace: namespace(), clock: self.clock(), news: Arc::default() }
    }

    /// What replays, put together as `start` does it for worker and operator, and what drives its lane.
    pub fn replayer(
        &self,
        who: &str,
        setup: &Setup,
        wires: &Arc<Wires>,
        books: &Arc<Books>,
        jitter: &Arc<Jitter>,
    ) -> (Replayer, futures_util::future::BoxFuture<'static, ()>) {
        let search = self.world.search.seen_by(who).given_up_after(setup.search_timeout);
        let search = Wired { wires: Arc::clone(wires), port: search };
        let (lane, driver) = Lane::new(Arc::new(search), Arc::clone(jitter));
        let replayer = Replayer {
            store: self.store(who, wires),
            bucket: RESULTS.into(),
            namespace: namespace(),
            lane,
            parking: self.parking(who, wires),
            books: Arc::clone(books),
            jitter: Arc::clone(jitter),
            budget: setup.replay_budget,
            me: Replaying { id: wires.run.clone(), by: format!("worker {who}") },
        };
        (replayer, Box::pin(driver))
    }

    /// `redrive parked` with these wires.
    pub fn lots(&self, who: &str, wires: &Arc<Wires>) -> Lots {
        Lots { parking: self.parking(who, wires) }
    }

    /// Starts a worker, put together as `start::worker` does it.
    pub fn start(&self, who: &str, setup: &Setup) -> Worker {
        let books = Arc::new(Books::default());
        // One each, as in life: workers must not move in step.
        let seed = self.world.seed ^ of_name(who);
        let life = Life::new(who, self.world.ticks.clone(), seed, self.restless.unwrap_or(0.0));
        let wires = Wires::of(Arc::clone(&books), self.next_run(who), Some(Arc::clone(&life)));
        let jitter = Arc::new(Jitter::seeded(seed));
        let (mut lane, mut drive, mut replayer) = (None, None, None);
        if setup.search {
            let (new, driver) = self.replayer(who, setup, &wires, &books, &jitter);
            lane = Some(new.lane.clone());
            replayer = setup.replay.then_some(new);
            drive = Some(driver);
        }
        let gate = Arc::new(Gate::new(Arc::clone(&jitter)).of_queue(setup.max_receive_count, setup.concurrency));
        let crash_loop = Arc::new(self.crash_loop(who, setup, &wires));
        let limits = Live::new(setup.limits());
        let pipeline = Pipeline {
            queue: Arc::new(Wired { wires: Arc::clone(&wires), port: self.world.queue.seen_by(who) }),
            desk: self.desk(who, setup, &wires, &books),
            processor: Arc::new(self.processor(who, setup, &wires, &books, lane)),
            gate: Arc::clone(&gate),
            crash_loop,
            lane: drive,
            replayer,
            books: Arc::clone(&books),
            pause: setup.obeys_pause.then(|| Watch {
                file: PauseFile { store: self.store(who, &wires), bucket: RESULTS.into() },
                jitter: Arc::clone(&jitter),
            }),
            jitter,
            probe: Probe {
                store: self.store(who, &wires),
                results_bucket: RESULTS.into(),
                key: layout::probe(&namespace()),
                sources: setup
                    .sources
                    .iter()
                    .map(|name| Source { bucket: (*name).into(), prefix: String::new() })
                    .collect(),
            },
            limits: limits.clone(),
            poll_wait: (setup.visibility / 4).clamp(Duration::from_secs(1), Duration::from_secs(20)),
            seat: setup.seat,
        };
        let stop = Stop::default();
        let run = tokio::spawn(given_by(Arc::clone(&life) as Arc<dyn Turns>, pipeline.run(stop.clone(), |_| {})));
        Worker { who: who.to_owned(), books, wires, life, gate, limits, stop, run, world: self.world.clone() }
    }

    /// Runs one worker, named "last", until nothing is left in the queue; its books at the end.
    pub async fn drain(&self, setup: &Setup) -> BooksLine {
        self.drain_as("last", setup).await
    }

    /// The same under another name.
    pub async fn drain_as(&self, who: &str, setup: &Setup) -> BooksLine {
        let worker = self.start(who, setup);
        self.until_empty().await;
        worker.stop().await
    }

    /// Until the queue holds nothing, within two hours.
    pub async fn until_empty(&self) {
        until("the queue is empty", Duration::from_secs(7_200), || self.world.queue.is_empty()).await;
    }
}

/// One worker of a site.
pub struct Worker {
    who: String,
    pub books: Arc<Books>,
    pub wires: Arc<Wires>,
    pub life: Arc<Life>,
    pub gate: Arc<Gate>,
    pub limits: Live,
    stop: Stop,
    run: JoinHandle<Result<BooksLine, SettlerBroken>>,
    world: World,
}

impl Worker {
    /// As SIGTERM does; waits for the end and checks the books against the queue's own memory.
    pub async fn stop(self) -> BooksLine {
        self.stop.ask("the test");
        let line = self.run.await.unwrap().unwrap();
        assert_eq!(self.wires.complaint(), None, "{}: books during the run", self.who);
        assert!(line.balanced && line.in_flight == 0, "{}: {line:?}", self.who);
        let (mut received, mut deletes) = (0, 0);
        self.world.queue.look(|memory| {
            for call in memory.calls.iter().filter(|call| *call.who == *self.who) {
                match (&call.ask, &call.answered) {
                    (_, Some((_, QueueAnswer::Received(messages)))) => received += messages.len() as u64,
                    (QueueAsk::Delete(_), Some((_, QueueAnswer::Entries(replies)))) => {
                        deletes += replies.iter().filter(|reply| reply.is_ok()).count() as u64;
                    }
                    _ => {}
                }
            }
        });
        assert_eq!(line.received, received, "{}: received, by the books and by the queue", self.who);
        let booked = line.deleted + line.dead_lettered;
        assert!(booked <= deletes && deletes <= booked + line.lease_lost, "{}: {deletes} deletes, {line:?}", self.who);
        line
    }

    /// The end of a worker that was asked for it.
    pub async fn ended(self) -> Result<Result<BooksLine, SettlerBroken>, JoinError> {
        self.run.await
    }

    pub fn has_ended(&self) -> bool {
        self.run.is_finished()
    }

    /// Waits for the end that a broken settler makes.
    pub async fn broken(self) -> SettlerBroken {
        self.run.await.unwrap().unwrap_err()
    }

    /// Asks for the end without waiting for it.
    pub fn ask_to_stop(&self) {
        self.stop.ask("the test");
    }

    /// A second signal.
    pub fn abandon(&self) {
        self.stop.abandon.cancel();
    }

    /// As kill -9 does: nothing of it runs any more; what it had asked of a service goes on there.
    pub fn crash(&self) {
        self.wires.cut_now();
    }
}

/// Waits on the paused clock, never on the wall's.
pub async fn until(what: &str, within: Duration, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + within;
    let step = (within / 5_000).max(Duration::from_millis(10));
    while !is_so() {
        assert!(Instant::now() < deadline, "not so within {within:?}: {what}");
        sleep(step).await;
    }
}

/// FNV-1a.
fn of_name(who: &str) -> u64 {
    who.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// A line, and whose task told it.
pub struct Told {
    pub who: Option<Arc<str>>,
    pub line: Line,
}

/// Facts as they are told on this thread.
struct Listener {
    lines: Arc<Mutex<Vec<Told>>>,
    ticks: Ticks,
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Listener {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut fact = Fact::default();
        event.record(&mut fact);
        if let Fact(Some(name), Some(fields)) = fact {
            let line = Line { stamp: self.ticks.stamp(), event: name, fields: serde_json::from_str(&fields).unwrap() };
            self.lines.lock().unwrap().push(Told { who: life::running(), line });
        }
    }
}

#[derive(Default)]
struct Fact(Option<String>, Option<String>);

impl tracing::field::Visit for Fact {
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        match field.name() {
            "fact" => self.0 = Some(value.to_owned()),
            "fields" => self.1 = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "fields" {
            self.1 = Some(format!("{value:?}"));
        }
    }
}

/// Runs `run` for each seed in a runtime of its own; says which seed it was that failed.
pub fn for_seeds<R: Future<Output = ()>>(seeds: std::ops::Range<u64>, run: impl Fn(u64) -> R) {
    struct Says(u64);
    impl Drop for Says {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failing seed: {}", self.0);
            }
        }
    }
    for seed in seeds {
        let _says = Says(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(run(seed));
    }
}
