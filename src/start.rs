//! From a configuration to a pipeline: clients, and what must be there before the first message is asked for.
//!
//! Promises that a queue or bucket that is not there is one clear line and exit 75 before anything is received, and
//! that OpenSearch never is (P4). Builds; runs nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use tokio::sync::Notify;

use crate::admin::Admin;
use crate::attempts::AttemptsLog;
use crate::books::Books;
use crate::clock::{LeaseClock, SystemClock, WallClock};
use crate::config::{OpenSearchAuth, OpenSearchConfig, WorkerConfig, exit};
use crate::crash_loop::CrashLoop;
use crate::dead_letter::DeadLetters;
use crate::events::{self, Event};
use crate::gate::{Gate, Probe};
use crate::index::bulk::Lane;
use crate::index::opensearch::{Auth, OpenSearchIndex, OpenSearchSettings, SetupError};
use crate::index::park::Parking;
use crate::index::replay::Replayer;
use crate::index::replay::lease::Replaying;
use crate::index::replay::patience::Budget;
use crate::index::{Search, SidePath};
use crate::limits::Live;
use crate::message::s3_event::Wanted;
use crate::metrics::{Facts, Meters};
use crate::pause::{PauseFile, Watch};
use crate::pipeline::{Pipeline, Seat};
use crate::process::Processor;
use crate::process::extract::{ChildPool, ChildSettings};
use crate::process::fetch::TempFolder;
use crate::queue::sqs::{self, SqsQueue};
use crate::queue::{Queue, QueueError, QueueFacts};
use crate::retry::{Backoff, Jitter};
use crate::settle::{Counted, Desk, Failures};
use crate::store::s3::{self, S3Store};
use crate::store::{Store, StoreError, layout};
use crate::survey::Surveyor;

pub mod archive;
pub mod begin;
mod canary;
pub mod doctor;
pub mod inspect;
mod look;
pub mod migrate;
pub mod parked;

pub use begin::stop_on_interrupt;

use canary::canary;
use look::Stations;

/// An outage never slows settlement by more than this, once (design §6).
const SEARCH_TIMEOUT: Duration = Duration::from_secs(10);
const SEARCH_CONNECT: Duration = Duration::from_secs(2);
/// One look at a queue or bucket at start; longer than the clients' own limit of a call (30 s for a bucket), so that one
/// answer that does not come is asked for again.
const LOOK_LIMIT: Duration = Duration::from_secs(32);

/// Why a worker does not start: one line for the operator, and the exit code.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{line}")]
pub struct CannotStart {
    /// What is wrong, and what to do.
    pub line: String,
    /// Exit code of design §8.
    pub code: u8,
}

impl CannotStart {
    /// Something is not there: exit 75.
    pub fn missing(line: String) -> Self {
        Self { line, code: exit::EX_TEMPFAIL }
    }

    fn misconfigured(line: String) -> Self {
        Self { line, code: exit::EX_CONFIG }
    }
}

/// The AWS configuration of this process.
pub async fn aws() -> Result<SdkConfig, CannotStart> {
    let config = crate::aws::load().await;
    if config.region().is_none() {
        return Err(CannotStart::misconfigured(
            "AWS_REGION is not set, and no profile or instance names a region; fix: set AWS_REGION".into(),
        ));
    }
    Ok(config)
}

/// The index client of a configuration; `None` with `SKIP_OPENSEARCH`.
pub fn search_index(config: &WorkerConfig, aws: &SdkConfig) -> Result<Option<OpenSearchIndex>, CannotStart> {
    config.opensearch.as_ref().map(|search| index_client(search, aws)).transpose()
}

/// The client of one index.
pub fn index_client(search: &OpenSearchConfig, aws: &SdkConfig) -> Result<OpenSearchIndex, CannotStart> {
    let OpenSearchConfig { endpoint, index, auth } = search;
    let auth = match auth {
        OpenSearchAuth::None => Auth::None,
        OpenSearchAuth::Basic { username, password } => {
            Auth::Basic { username: username.clone(), password: password.expose().to_owned() }
        }
        OpenSearchAuth::SigV4 => Auth::SigV4 { sdk_config: Box::new(aws.clone()) },
    };
    let settings = OpenSearchSettings {
        endpoint: endpoint.clone(),
        index: index.clone(),
        auth,
        request_timeout: SEARCH_TIMEOUT,
        connect_timeout: SEARCH_CONNECT,
    };
    OpenSearchIndex::new(settings).map_err(CannotStart::misconfigured)
}

/// The two queues of a worker, found and joined.
pub struct Queues {
    /// URL of the DLQ, as configured or as found.
    pub dlq_url: String,
    /// What the main queue says of itself.
    pub facts: QueueFacts,
    /// What the DLQ says.
    pub dlq: QueueFacts,
}

/// Looks at both queues.
pub async fn find_queues(
    queue_url: &str,
    dlq_url: Option<&str>,
    client: &aws_sdk_sqs::Client,
) -> Result<Queues, CannotStart> {
    let facts = look_at_queue("SQS_QUEUE_URL", queue_url, client).await?;
    let dlq_url = match (dlq_url, &facts.dead_letter_arn) {
        (Some(url), _) => url.to_owned(),
        (None, Some(arn)) => sqs::url_of_arn(client, arn).await.map_err(|error| {
            CannotStart::missing(format!("the dead-letter queue {arn} cannot be found: {error}; set SQS_DLQ_URL"))
        })?,
        (None, None) => {
            return Err(CannotStart::misconfigured(format!(
                "queue {} has no redrive policy, so its dead-letter queue is not known; \
                 set SQS_DLQ_URL, or give the queue a redrive policy (`worker check` prints the command)",
                queue_url
            )));
        }
    };
    let dead = look_at_queue("SQS_DLQ_URL", &dlq_url, client).await?;
    Ok(Queues { dlq_url, facts, dlq: dead })
}

/// Looks at a queue that is needed.
pub async fn look_at_queue(variable: &str, url: &str, client: &aws_sdk_sqs::Client) -> Result<QueueFacts, CannotStart> {
    let queue = SqsQueue::new(client.clone(), url);
    match tokio::time::timeout(LOOK_LIMIT, queue.facts()).await {
        Ok(Ok(facts)) => Ok(facts),
        Ok(Err(QueueError::Missing(_))) => Err(CannotStart::missing(format!(
            "{variable}: there is no queue {url}; check the URL, the region and the account"
        ))),
        Ok(Err(error @ (QueueError::Denied(_) | QueueError::Refused(_) | QueueError::Unavailable(_)))) => {
            Err(CannotStart::missing(format!("{variable}: queue {url} cannot be reached: {error}")))
        }
        Err(_) => Err(CannotStart::missing(format!("{variable}: queue {url} did not answer within {LOOK_LIMIT:?}"))),
    }
}

/// Looks at a bucket that is needed.
pub async fn look_at_bucket(variable: &str, bucket: &str, store: &dyn Store) -> Result<(), CannotStart> {
    match tokio::time::timeout(LOOK_LIMIT, store.probe(bucket)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(StoreError::BucketMissing(_))) => Err(CannotStart::missing(format!(
            "{variable}: there is no bucket {bucket}; create it, or correct the name"
        ))),
        Ok(Err(error)) => Err(CannotStart::missing(format!("{variable}: bucket {bucket} cannot be reached: {error}"))),
        Err(_) => {
            Err(CannotStart::missing(format!("{variable}: bucket {bucket} did not answer within {LOOK_LIMIT:?}")))
        }
    }
}

/// Where the pause cannot be seen, nothing may be received.
async fn look_at_pause(file: &PauseFile) -> Result<(), CannotStart> {
    match tokio::time::timeout(LOOK_LIMIT, file.look()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(no_pause_file(&file.bucket, &error)),
        Err(_) => Err(no_pause_file(&file.bucket, &StoreError::Unavailable(format!("no answer in {LOOK_LIMIT:?}")))),
    }
}

/// Neither a worker nor an operator goes on without it.
pub fn no_pause_file(bucket: &str, error: &StoreError) -> CannotStart {
    let key = layout::PAUSE;
    let fix = match error {
        StoreError::BucketMissing(_) => "create the bucket, or correct the name".to_owned(),
        StoreError::Denied(_) => format!(
            "grant s3:ListBucket on the bucket and s3:GetObject on {key} \
             (to pause and resume: deploy/iam-operator-policy.json)"
        ),
        StoreError::Throttled(_)
        | StoreError::Archived(_)
        | StoreError::Interrupted(_)
        | StoreError::Unavailable(_)
        | StoreError::Refused(_) => {
            "check the network to S3 (endpoint, DNS, proxy, AWS_ENDPOINT_URL) and the credentials".to_owned()
        }
    };
    CannotStart::missing(format!("S3_BUCKET: the pause of bucket {bucket} ({key}) is out of reach: {error}; {fix}"))
}

/// A worker that is ready to run, with what must outlive it.
pub struct Worker {
    /// The stations.
    pub pipeline: Pipeline,
    /// The line that says that intake starts.
    pub ready: events::Ready,
    /// Removed when dropped.
    pub temp: TempFolder,
    /// Status page and metrics; `None` when off or when the port cannot be had.
    pub admin: Option<Admin>,
    /// What can be told of it.
    pub facts: Arc<Facts>,
    /// Looks at what is parked and dead-lettered; `None` where nobody would be told.
    pub surveyor: Option<Surveyor>,
}

/// Looks at what is needed and builds the pipeline.
/// `run_id`: of this incarnation, as in its log lines; `meters` hear its facts already.
pub async fn worker(
    config: &WorkerConfig,
    aws: &SdkConfig,
    run_id: &str,
    meters: Arc<Meters>,
) -> Result<Worker, CannotStart> {
    let queues = find_queues(&config.queue_url, config.dlq_url.as_deref(), &sqs::settling_client(aws)).await?;
    if queues.dlq.arn == queues.facts.arn {
        return Err(CannotStart::misconfigured(format!(
            "SQS_DLQ_URL is the queue itself ({}): a dead-lettered message would come straight back",
            queues.facts.arn
        )));
    }
    let store: Arc<dyn Store> = Arc::new(S3Store::new(s3::client(aws)));
    look_at_bucket("S3_BUCKET", &config.results_bucket, store.as_ref()).await?;
    let pause = PauseFile { store: Arc::clone(&store), bucket: config.results_bucket.clone() };
    look_at_pause(&pause).await?;
    let buckets: BTreeSet<&String> = config.sources.iter().map(|source| &source.bucket).collect();
    for bucket in buckets {
        look_at_bucket("SOURCE_BUCKETS", bucket, store.as_ref()).await?;
    }
    warn_of_queue(config, &queues.facts);
    let temp = TempFolder::open(&config.temp_path()).map_err(|error| {
        CannotStart::missing(format!("TEMP_DIR: cannot use {}: {error}", config.temp_path().display()))
    })?;

    let clock: Arc<dyn WallClock> = Arc::new(SystemClock);
    let (books, jitter) = (Arc::clone(&meters.books), Arc::new(Jitter::from_entropy()));
    let news = Arc::new(Notify::new());
    let parking = || Parking {
        news: Arc::clone(&news),
        store: Arc::clone(&store),
        bucket: config.results_bucket.clone(),
        namespace: config.namespace.clone(),
        clock: Arc::clone(&clock),
    };
    let (mut lane, mut drive, mut replayer) = (None, None, None);
    if let Some(index) = search_index(config, aws)? {
        look_at_search(&index).await;
        let search: Arc<dyn Search> = Arc::new(index);
        let (new_lane, driver) = Lane::new(search, Arc::clone(&jitter));
        if config.replay {
            replayer = Some(Replayer {
                store: Arc::clone(&store),
                bucket: config.results_bucket.clone(),
                namespace: config.namespace.clone(),
                lane: new_lane.clone(),
                parking: parking(),
                books: Arc::clone(&books),
                jitter: Arc::clone(&jitter),
                budget: replay_budget(config.replay_max_retries, config.replay_base_backoff, config.replay_max_backoff),
                me: Replaying { id: run_id.to_owned(), by: format!("worker {run_id} on {}", host()) },
            });
        }
        lane = Some(new_lane);
        drive = Some(Box::pin(driver) as futures_util::future::BoxFuture<'static, ()>);
    }
    let gate = Arc::new(Gate::new(Arc::clone(&jitter)).of_queue(queues.facts.max_receive_count, config.concurrency));
    let stations = Stations {
        meters,
        gate: Arc::clone(&gate),
        lane: lane.clone(),
        clock: Arc::clone(&clock),
        store: Arc::clone(&store),
        jitter: Arc::clone(&jitter),
        queues: &queues,
    };
    let (facts, surveyor, admin) = look::look(config, aws, run_id, stations).await;
    let side_path = Arc::new(SidePath { lane, parking: parking(), books: Arc::clone(&books) });
    let processor = Processor {
        store: Arc::clone(&store),
        extract: Arc::new(ChildPool::start(ChildSettings::new(config.extractors))),
        side_path,
        clock: Arc::clone(&clock),
        wanted: Wanted::new(config.sources.clone(), config.results_bucket.clone()),
        namespace: config.namespace.clone(),
        results_bucket: config.results_bucket.clone(),
        max_object_bytes: config.max_object_bytes,
        tenant_from: config.tenant_from,
        on_extraction_error: config.on_extraction_error,
        temp_folder: temp.path(),
    };
    let max_receive_count = queues.facts.max_receive_count;
    let ready = events::Ready {
        queue_url: config.queue_url.clone(),
        dlq_url: queues.dlq_url.clone(),
        results_bucket: config.results_bucket.clone(),
        index: config.opensearch.as_ref().map(|search| search.index.clone()),
        concurrency: config.concurrency,
        admin: admin.as_ref().and_then(Admin::address).map(|address| address.to_string()),
    };
    let attempts = |store| AttemptsLog {
        store,
        bucket: config.results_bucket.clone(),
        namespace: config.namespace.clone(),
        clock: Arc::clone(&clock),
        run: run_id.to_owned(),
    };
    let marks = attempts(Arc::clone(&store));
    let crash_loop = CrashLoop::new(marks, max_receive_count, config.visibility);
    let limits = Live::new(config.limits());
    let pipeline = Pipeline {
        queue: Arc::new(SqsQueue::new(sqs::polling_client(aws, config.poll_wait()), &config.queue_url)),
        desk: desk(config, aws, queues, attempts, &clock, &books, &limits),
        processor: Arc::new(processor),
        gate,
        crash_loop: Arc::new(crash_loop),
        lane: drive,
        replayer,
        books,
        pause: Some(Watch { file: pause, jitter: Arc::clone(&jitter) }),
        jitter,
        probe: Probe {
            store,
            results_bucket: config.results_bucket.clone(),
            key: layout::probe(&config.namespace),
            sources: config.sources.clone(),
        },
        limits,
        poll_wait: config.poll_wait(),
        seat: Seat::OwnThread,
    };
    Ok(Worker { pipeline, ready, temp, admin, facts, surveyor })
}

/// The settler's desk: its clients are its own, for their connections live on the runtime that opened them.
fn desk(
    config: &WorkerConfig,
    aws: &SdkConfig,
    queues: Queues,
    attempts: impl FnOnce(Arc<dyn Store>) -> AttemptsLog,
    clock: &Arc<dyn WallClock>,
    books: &Arc<Books>,
    limits: &Live,
) -> Desk {
    let client = sqs::settling_client(aws);
    let store: Arc<dyn Store> = Arc::new(S3Store::new(s3::client(aws)));
    Desk {
        queue: Arc::new(SqsQueue::new(client.clone(), &config.queue_url)),
        failures: Failures::Counted(Arc::new(Counted {
            dead_letters: DeadLetters {
                queue: Arc::new(SqsQueue::new(client, &queues.dlq_url)),
                source_queue: queues.facts.arn,
                store: Arc::clone(&store),
                bucket: config.results_bucket.clone(),
                clock: Arc::clone(clock),
            },
            attempts: attempts(store),
            limits: limits.clone(),
            on_missing: config.on_missing_object,
            max_receive_count: queues.facts.max_receive_count,
        })),
        books: Arc::clone(books),
        jitter: Jitter::from_entropy(),
        visibility: config.visibility,
        lease_clock: LeaseClock::of_system(),
    }
}

/// `FAILED_RETRY_*`.
pub fn replay_budget(retries: u32, base: Duration, cap: Duration) -> Budget {
    Budget { retries, backoff: Backoff { base, cap } }
}

/// This machine's name.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Why an index could not be set up. What only another configuration mends is exit 78.
pub fn no_index(error: &SetupError) -> CannotStart {
    match error {
        SetupError::Analyzer(line) => CannotStart::misconfigured(line.clone()),
        SetupError::Names(_) | SetupError::Unavailable(_) => CannotStart::missing(error.to_string()),
    }
}

/// Looks at an index that is needed (a worker's is not: see `look_at_search`).
pub async fn look_at_index(index: &OpenSearchIndex) -> Result<(), CannotStart> {
    index.probe().await.map_err(|error| CannotStart::missing(format!("OPENSEARCH_ENDPOINT: {error}")))
}

/// Not fatal, whatever it says: it is a side path. The documents are parked until it is well.
async fn look_at_search(index: &OpenSearchIndex) {
    if let Err(error) = index.probe().await {
        let detail = format!(
            "OpenSearch is not ready: {error}; documents are parked and replayed later \
             (`worker setup-index` creates index and aliases)"
        );
        events::Notice { detail }.emit();
    }
}

fn warn_of_queue(config: &WorkerConfig, facts: &QueueFacts) {
    let wanted = config.max_attempts + 1;
    if let Some(limit) = facts.max_receive_count.filter(|limit| *limit < wanted) {
        let detail = format!(
            "the queue's maxReceiveCount is {limit}: a message has at most {limit} attempts here, for SQS would \
             dead-letter it without a reason; 20 is advised (`worker check` prints the command)"
        );
        events::Notice { detail }.emit();
    }
}
