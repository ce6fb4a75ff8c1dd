//! The doctor: `worker check`. Looks at everything the worker leans on and says what is wrong and what mends it.
//!
//! Promises an answer for every point (each call has a timeout, all run side by side, no failure hides another),
//! and that looking changes nothing: no message is received, and the one object written is removed.
//! Knows the ports only; opening clients and reading variables is the caller's.

use std::future::Future;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::clock::{WallClock, rfc3339};
use crate::heartbeat;
use crate::index::Search;
use crate::index::opensearch::{Examine, SetupError, SetupStep};
use crate::message::detail::{detail, printable};
use crate::message::s3_event::Source;
use crate::queue::{Queue, SQS_MAX_VISIBILITY};
use crate::receive::poll_wait;
use crate::shutdown::SETTLE_MARGIN;
use crate::store::Store;
use crate::store::wiring::Wiring;

mod buckets;
pub mod canary;
pub mod host;
mod queues;
mod report;
mod wiring;

use host::Disk;
pub use report::{exit_code, exit_code_before_start, json, text};

/// How long one call may take: a closed port must not look like a slow one for minutes.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A fix may hold a whole command line.
const FIX_CHARS: usize = 2_000;

/// How a point came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Works, and will hurt one day.
    Warn,
    /// Does not work, or loses something.
    Fail,
    /// Not looked at; the evidence says why.
    Skipped,
}

/// One point: what was looked at, what was seen, what to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Stable name of the point.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen, on one line.
    pub evidence: String,
    /// What mends it; a command where there is one.
    pub fix: Option<String>,
}

impl Finding {
    fn new(name: &'static str, verdict: Verdict, evidence: &str, fix: Option<&str>) -> Self {
        let fix = fix.map(|fix| printable(fix, FIX_CHARS));
        Self { name, verdict, evidence: detail(evidence), fix }
    }

    fn pass(name: &'static str, evidence: &str) -> Self {
        Self::new(name, Verdict::Pass, evidence, None)
    }

    fn warn(name: &'static str, evidence: &str, fix: &str) -> Self {
        Self::new(name, Verdict::Warn, evidence, Some(fix))
    }

    fn fail(name: &'static str, evidence: &str, fix: &str) -> Self {
        Self::new(name, Verdict::Fail, evidence, Some(fix))
    }

    fn skipped(name: &'static str, evidence: &str) -> Self {
        Self::new(name, Verdict::Skipped, evidence, None)
    }
}

/// A queue and the name it goes by in commands.
#[derive(Clone, Copy)]
pub struct QueueAt<'a> {
    /// Its URL.
    pub url: &'a str,
    /// The port.
    pub queue: &'a dyn Queue,
}

/// What is looked at.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The main queue.
    pub queue: QueueAt<'a>,
    /// Its dead-letter queue, if one is configured or was found by the redrive policy.
    pub dlq: Option<QueueAt<'a>>,
    /// Sources and results.
    pub store: &'a dyn Store,
    /// What may be read.
    pub sources: &'a [Source],
    /// Where records go.
    pub results_bucket: &'a str,
    /// The index; `None` with `SKIP_OPENSEARCH`, or without an endpoint.
    pub search: Option<&'a dyn Search>,
    /// `SKIP_OPENSEARCH`.
    pub skip_opensearch: bool,
    /// The write alias.
    pub index: &'a str,
    /// `SQS_VISIBILITY_TIMEOUT`.
    pub visibility: Duration,
    /// `DRAIN_TIMEOUT`.
    pub drain_timeout: Duration,
    /// What the buckets do by themselves; `None` is not looked at.
    pub wiring: Option<&'a dyn Wiring>,
    /// The index's mapping and read alias; `None` is not looked at.
    pub mapping: Option<&'a dyn Examine>,
    /// Where files lie while they are read; `None` is not looked at.
    pub disk: Option<&'a Disk>,
    /// This host's clock.
    pub clock: &'a dyn WallClock,
}

/// Looks at everything; the findings come in a fixed order.
pub async fn check(subject: &Subject<'_>) -> Vec<Finding> {
    let queues = async {
        let (findings, arn) = queues::check(subject).await;
        (findings, wiring::check(subject, arn.as_deref()).await)
    };
    let ((mut findings, wired), sources, (results, written), index, mapping) = tokio::join!(
        queues,
        buckets::check_sources(subject),
        buckets::check_results(subject),
        check_index(subject),
        check_mapping(subject)
    );
    findings.extend(sources);
    findings.extend(results);
    findings.extend(wired);
    findings.push(index);
    findings.extend(mapping);
    findings.push(ladder(subject));
    findings.push(host::clock(written));
    findings.extend(host::disk(subject));
    findings
}

/// A call with an end; a timeout becomes the port's own word for "no answer".
async fn within<T, E>(call: impl Future<Output = Result<T, E>>, no_answer: fn(String) -> E) -> Result<T, E> {
    let late = || Err(no_answer(format!("no answer within {} s", CALL_TIMEOUT.as_secs())));
    tokio::time::timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_elapsed| late())
}

async fn check_index(subject: &Subject<'_>) -> Finding {
    let name = "index";
    if subject.skip_opensearch {
        return Finding::skipped(
            name,
            "SKIP_OPENSEARCH is set: documents are parked, and replayed once it is off again",
        );
    }
    let Some(search) = subject.search else {
        return Finding::fail(
            name,
            "no search endpoint is configured",
            "set OPENSEARCH_ENDPOINT, or SKIP_OPENSEARCH=true to park all documents",
        );
    };
    let alias = subject.index;
    match within(search.probe(), crate::index::SearchError::Unavailable).await {
        Ok(()) => Finding::pass(name, &format!("alias {alias} is there and can be written to")),
        Err(error) => Finding::fail(
            name,
            &format!("alias {alias}: {error}"),
            "check OPENSEARCH_ENDPOINT, its credentials and the network; where the alias is not there yet: \
             worker setup-index (the worker runs without it, and parks)",
        ),
    }
}

/// A mapping that differs loses fields, and is no reason not to start (P4).
async fn check_mapping(subject: &Subject<'_>) -> Option<Finding> {
    let (name, examine) = ("mapping", subject.mapping?);
    let fix = "worker setup-index, which says what it can mend; for the rest worker migrate-index";
    let examined = within(examine.examine(), SetupError::Unavailable).await;
    Some(match examined {
        Err(SetupError::Unavailable(_)) => Finding::skipped(name, "needs an index that answers"),
        Err(error @ (SetupError::Names(_) | SetupError::Analyzer(_))) => Finding::fail(name, &error.to_string(), fix),
        Ok(report) => {
            let of = |conflicts: bool| {
                let steps = report.steps.iter().filter(|step| matches!(step, SetupStep::Conflict(_)) == conflicts);
                let told = steps.map(|step| match step {
                    SetupStep::Created(what)
                    | SetupStep::Present(what)
                    | SetupStep::Changed(what)
                    | SetupStep::Conflict(what) => what.as_str(),
                });
                told.collect::<Vec<_>>().join("; ")
            };
            match report.has_conflicts() {
                true => Finding::fail(name, &of(true), fix),
                false => Finding::pass(name, &of(false)),
            }
        }
    })
}

/// Who we are: an access key's id and when it expires, or why there is none.
pub fn credentials(found: Result<(&str, Option<SystemTime>), &str>, fix: &str) -> Finding {
    let name = "credentials";
    match found {
        Ok((id, expiry)) => {
            // The id is no secret, and the last of it is enough to know it by.
            let end: String = id.chars().skip(id.chars().count().saturating_sub(4)).collect();
            let until = expiry.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
            let until = until.map_or_else(
                || "without an end".to_owned(),
                |at| format!("until {}", rfc3339(u64::try_from(at.as_millis()).unwrap_or(u64::MAX))),
            );
            Finding::pass(name, &format!("access key …{end}, {until}"))
        }
        Err(why) => Finding::fail(name, &format!("no AWS credentials: {why}"), fix),
    }
}

/// The time-outs that must nest, from the inside out, each with its reason.
fn ladder(subject: &Subject<'_>) -> Finding {
    let lease = subject.visibility;
    let wait = poll_wait(lease);
    let drain = subject.drain_timeout;
    // Open polls end while the work drains; then what is left is settled.
    let stop = wait.max(drain) + SETTLE_MARGIN;
    let evidence = format!(
        "poll {} s < heartbeat every {} s < lease {} s < {} s (sqs limit); \
         stop: drain or open poll {} s + settling {} s = {} s < TimeoutStopSec",
        wait.as_secs(),
        heartbeat::every(lease).as_secs(),
        lease.as_secs(),
        SQS_MAX_VISIBILITY.as_secs(),
        wait.max(drain).as_secs(),
        SETTLE_MARGIN.as_secs(),
        stop.as_secs()
    );
    if lease < SQS_MAX_VISIBILITY {
        Finding::pass("timeouts", &evidence)
    } else {
        Finding::fail("timeouts", &evidence, "lower SQS_VISIBILITY_TIMEOUT: sqs ends every lease at 43200 s")
    }
}
