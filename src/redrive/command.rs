//! `redrive` and `redrive plan`: from what was typed to a drain, its progress on the terminal, its report on stdout.
//!
//! Promises that queues which do not belong together are refused before anything is received, that the drain obeys the
//! pause, and that a run which did not end prints the command that goes on. Decides nothing about a letter.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_config::SdkConfig;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::archive::Archive;
use super::audit::Audit;
use super::drain::{Drain, Sink};
use super::hold::{self, Grip, Hold};
use super::look::Look;
use super::pair::{Pair, Refusal};
use super::plan::{NoPlan, Plan};
use super::progress::{self, Pace};
use super::report::Tally;
use super::select::Selection;
use crate::books::Books;
use crate::clock::{LeaseClock, SystemClock, WallClock};
use crate::config::{DrainConfig, exit};
use crate::index::bulk::Lane;
use crate::index::catalogue::Catalogue;
use crate::index::opensearch::OpenSearchIndex;
use crate::index::park::Parking;
use crate::index::{Search, SidePath};
use crate::message::s3_event::Wanted;
use crate::pause::PauseFile;
use crate::pipeline::Seat;
use crate::queue::QueueError;
use crate::queue::sqs::{self, SqsQueue};
use crate::retry::Jitter;
use crate::start::begin::{Begin, begin};
use crate::start::{self, CannotStart, Queues, stop_on_interrupt};
use crate::store::s3::{self, S3Store};
use crate::terminal::{Page, out, page, say, shell};
use crate::upkeep::command::Place;
use crate::upkeep::outbox::Outbox;

/// What both commands need.
struct Site {
    aws: SdkConfig,
    store: Arc<S3Store>,
    index: Option<Arc<OpenSearchIndex>>,
    queues: Queues,
    /// ARNs of other queues whose letters go to the DLQ too: theirs are left to them.
    others: Vec<String>,
    /// ARN of the only queue whose letters are taken, where those others are not known.
    only: Option<String>,
    stop: CancellationToken,
}

impl Site {
    async fn of(config: &DrainConfig, place: &Place) -> Result<Result<Self, u8>, CannotStart> {
        let (aws, stop) = (start::aws().await?, stop_on_interrupt()?);
        let client = sqs::settling_client(&aws);
        let queues = start::find_queues(&config.queue_url, config.dlq_url.as_deref(), &client).await?;
        let pair = Pair {
            main: queues.facts.clone(),
            dlq: queues.dlq.clone(),
            // A right that may be missing: the policies of both queues say whether they belong together, and each letter
            // says whose it is.
            sources: sources(sqs::sources_of(&client, &queues.dlq_url).await)?,
            sources_of_main: sources(sqs::sources_of(&client, &config.queue_url).await)?,
        };
        if let Some(Refusal { why, can_be_allowed }) = pair.refusal(&config.allow_unpaired) {
            let fix = match can_be_allowed {
                true => format!("; if it is meant all the same: --allow-unpaired {}", pair.dlq.arn),
                false => String::new(),
            };
            if place.json {
                out(&json!({ "ended": "refused", "why": why }).to_string());
            }
            say(&format!("redrive: refused: {why}{fix}"));
            return Ok(Err(exit::EX_REFUSED));
        }
        for warning in pair.warnings() {
            say(&format!("redrive: {warning}"));
        }
        let (others, only) = (pair.others(&config.allow_unpaired), pair.only(&config.allow_unpaired));
        let store = Arc::new(S3Store::new(s3::client(&aws)));
        start::look_at_bucket("S3_BUCKET", &place.results_bucket, store.as_ref()).await?;
        // A HEAD below a bucket that is not there says the same as one of a file that is gone, which is archived for good.
        let buckets: BTreeSet<&String> = config.sources.iter().map(|source| &source.bucket).collect();
        for bucket in buckets {
            start::look_at_bucket("SOURCE_BUCKETS", bucket, store.as_ref()).await?;
        }
        let index = match &config.opensearch {
            Some(search) => Some(Arc::new(start::index_client(search, &aws)?)),
            None => None,
        };
        Ok(Ok(Self { aws, store, index, queues, others, only, stop }))
    }

    fn look(&self, config: &DrainConfig, place: &Place) -> Look {
        Look {
            store: self.store.clone(),
            catalogue: self.index.clone().map(|index| index as Arc<dyn Catalogue>),
            wanted: Wanted::new(config.sources.clone(), place.results_bucket.clone()),
            namespace: config.namespace.clone(),
            results_bucket: place.results_bucket.clone(),
        }
    }

    /// Letters of other queues are theirs.
    fn selection(&self, typed: &Selection) -> Selection {
        Selection { not_of: self.others.clone(), only_of: self.only.clone(), ..typed.clone() }
    }

    fn hold(&self, most: usize, visibility: Duration) -> Hold {
        let queue = |client| Arc::new(SqsQueue::new(client, &self.queues.dlq_url));
        Hold::new(Grip {
            polling: queue(sqs::polling_client(&self.aws, hold::WAIT)),
            settling: queue(sqs::settling_client(&self.aws)),
            most,
            visibility,
            jitter: Jitter::from_entropy(),
            clock: LeaseClock::of_system(),
            seat: Seat::OwnThread,
        })
    }
}

/// What SQS says of a queue's sources; `None` where it may not be asked. One that does not answer now is asked by the next
/// run: its silence must not open what its answer would have kept shut.
fn sources(said: Result<Vec<String>, QueueError>) -> Result<Option<Vec<String>>, CannotStart> {
    match said {
        Ok(names) => Ok(Some(names)),
        Err(QueueError::Denied(_) | QueueError::Refused(_)) => Ok(None),
        Err(error @ (QueueError::Unavailable(_) | QueueError::Missing(_))) => {
            Err(CannotStart::missing(format!("which queues share the dead-letter queue cannot be asked: {error}")))
        }
    }
}

/// Says what a drain would do.
pub async fn plan(config: DrainConfig, place: Place) -> Result<u8, CannotStart> {
    let site = match Site::of(&config, &place).await? {
        Ok(site) => site,
        Err(code) => return Ok(code),
    };
    let plan = Plan {
        look: site.look(&config, &place),
        selection: site.selection(&config.selection),
        tenant_from: config.tenant_from,
        force: config.limits.force,
        rate: config.rate,
        main: site.queues.facts.clone(),
        dlq: site.queues.dlq.clone(),
        sample: config.sample.map(|number| (site.hold(number, config.visibility), number)),
        clock: Arc::new(SystemClock),
        stop: site.stop.clone(),
    };
    let stop = site.stop.clone();
    match plan.make().await {
        Ok(report) if place.json => out(&json!(report).to_string()),
        Ok(report) => page(&report.text()),
        Err(error @ (NoPlan::Store(_) | NoPlan::Settler(_) | NoPlan::Queue(_))) => {
            return Err(CannotStart::missing(error.to_string()));
        }
    }
    Ok(if stop.is_cancelled() { exit::EX_INTERRUPTED } else { exit::EX_OK })
}

/// Drains.
pub async fn drain(config: DrainConfig, place: Place, run_id: String) -> Result<u8, CannotStart> {
    let site = match Site::of(&config, &place).await? {
        Ok(site) => site,
        Err(code) => return Ok(code),
    };
    let file = PauseFile { store: site.store.clone(), bucket: place.results_bucket.clone() };
    let paused = match begin(file, true, place.json, &site.stop).await? {
        Begin::Go(paused) => paused,
        Begin::Refused(code) => return Ok(code),
    };
    let (clock, jitter): (Arc<dyn WallClock>, _) = (Arc::new(SystemClock), Arc::new(Jitter::from_entropy()));
    let lane = site.index.clone().map(|index| {
        let (lane, drive) = Lane::new(index as Arc<dyn Search>, Arc::clone(&jitter));
        tokio::spawn(drive);
        lane
    });
    let client = sqs::settling_client(&site.aws);
    let main = Arc::new(SqsQueue::new(client.clone(), &config.queue_url));
    let parking = Parking {
        store: site.store.clone(),
        bucket: place.results_bucket.clone(),
        namespace: config.namespace.clone(),
        clock: Arc::clone(&clock),
        news: Arc::default(),
    };
    let again = again(std::env::args_os().skip(1).map(|text| text.to_string_lossy().into_owned()));
    let run = Drain {
        look: site.look(&config, &place),
        side_path: Arc::new(SidePath { lane, parking, books: Arc::new(Books::default()) }),
        index: site.index.clone().map(|index| index as Arc<dyn Search>),
        hold: site.hold(config.limits.most_held.saturating_add(config.limits.batch_size), config.visibility),
        dlq: Arc::new(SqsQueue::new(client, &site.queues.dlq_url)),
        outbox: Outbox::new(main.clone(), config.rate),
        main,
        archive: Archive { store: site.store.clone(), bucket: place.results_bucket.clone(), clock: Arc::clone(&clock) },
        audit: Audit {
            store: site.store.clone(),
            bucket: place.results_bucket.clone(),
            clock: Arc::clone(&clock),
            jitter: Arc::clone(&jitter),
            run_id,
        },
        selection: site.selection(&config.selection),
        tenant_from: config.tenant_from,
        limits: config.limits,
        source_queue: site.queues.facts.arn.clone(),
        clock,
        jitter,
        stop: site.stop.clone(),
        paused,
    };
    let mut bar = Bar { page: Page::new(place.json), began: Instant::now(), pace: Pace::default() };
    let report = run.run(&mut bar).await.map_err(|broken| CannotStart::missing(broken.to_string()))?;
    bar.page.close();
    let code = report.code();
    if place.json {
        out(&json!(report).to_string());
    } else {
        page(&report.text(&again));
    }
    Ok(code)
}

/// The very same command: at the same rate, from the same queue, within the same limits. But for the password.
fn again(typed: impl Iterator<Item = String>) -> String {
    const SECRET: &str = "--opensearch-password";
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=:/.,@%+".contains(c);
    let mut words = vec!["redrive".to_owned()];
    for text in typed {
        let is_secret = words.last().is_some_and(|before| before == SECRET);
        words.push(match text.split_once('=') {
            _ if is_secret => "'***'".to_owned(),
            Some((SECRET, _)) => format!("{SECRET}='***'"),
            Some(_) | None if text.is_empty() || !text.chars().all(plain) => shell(&text),
            Some(_) | None => text,
        });
    }
    words.join(" ")
}

/// One line of progress on a terminal, nothing elsewhere.
struct Bar {
    page: Page,
    began: Instant,
    pace: Pace,
}

impl Sink for Bar {
    fn progress(&mut self, tally: &Tally, about: u64, doing: &str) {
        let rate = self.pace.at(self.began.elapsed(), tally.decided());
        self.page.line(&progress::line(tally, about, rate, doing, self.page.columns()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRETS: &str = "--opensearch-password '***' --opensearch-password='***'";

    #[test]
    fn sqs_that_does_not_answer_is_no_missing_right() {
        let why = || "why".to_owned();
        assert_eq!(sources(Ok(vec!["main".into()])), Ok(Some(vec!["main".into()])));
        for not_allowed in [QueueError::Denied(why()), QueueError::Refused(why())] {
            assert_eq!(sources(Err(not_allowed)), Ok(None));
        }
        for silent in [QueueError::Unavailable(why()), QueueError::Missing(why())] {
            assert!(
                sources(Err(silent)).is_err_and(|told| told.code == exit::EX_TEMPFAIL && told.line.contains("why"))
            );
        }
    }

    #[test]
    fn the_command_that_goes_on_is_the_one_that_was_typed_with_all_that_holds_it_back() {
        let typed = [
            "--batch-size",
            "50",
            "--rate=5",
            "--max-messages",
            "500",
            "--queue-url",
            "https://sqs.eu-west-1.amazonaws.com/111111111111/files",
            "--key-prefix",
            "2026/it's $(here)",
            "--tenant",
            "",
            "--opensearch-password",
            "hunter2",
            "--opensearch-password=hunter2",
        ];
        let (plain, quoted) = typed.split_at(8);
        let expected = format!("redrive {} '2026/it'\\''s $(here)' --tenant '' {SECRETS}", plain.join(" "));
        assert_eq!(again([plain, quoted].concat().into_iter().map(str::to_owned)), expected);
    }
}
