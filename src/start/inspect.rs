//! `redrive inspect`: clients, the page, exit codes.
//!
//! Promises that a page which cannot be written is one clear line before anything is looked at, and that what is there
//! under its name stays whole until the new page is.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use super::{CannotStart, find_queues, look_at_bucket, stop_on_interrupt};
use crate::clock::{LeaseClock, SystemClock, WallClock as _};
use crate::config::{InspectConfig, exit};
use crate::index::park::Lot;
use crate::index::park::markers::Markers;
use crate::pipeline::Seat;
use crate::queue::sqs::{self, SqsQueue};
use crate::redrive::archive::shelf::Shelf;
use crate::redrive::hold::{self, Grip, Hold, LEASE};
use crate::redrive::inspect::{Inspect, NoReport, html, show};
use crate::retry::Jitter;
use crate::store::s3::{self, S3Store};
use crate::terminal::{Page, page, say};
use crate::upkeep::command::Place;

/// Looks, and says what it saw.
pub async fn inspect(config: InspectConfig, place: Place) -> Result<u8, CannotStart> {
    let aws = super::aws().await?;
    let store = Arc::new(S3Store::new(s3::client(&aws)));
    look_at_bucket("S3_BUCKET", &place.results_bucket, store.as_ref()).await?;
    let InspectConfig { since, until, sample, most, message_id, html, queue_url, dlq_url, tenant_from, namespace } =
        config;
    let client = sqs::settling_client(&aws);
    let dlq_url = find_queues(&queue_url, dlq_url.as_deref(), &client).await?.dlq_url;
    let paper = html.as_deref().map(Paper::open).transpose()?;
    let stop = stop_on_interrupt()?;
    let queue = |client| Arc::new(SqsQueue::new(client, &dlq_url));
    let sample = sample.map(|most| {
        let hold = Hold::new(Grip {
            polling: queue(sqs::polling_client(&aws, hold::WAIT)),
            settling: queue(sqs::settling_client(&aws)),
            most,
            visibility: LEASE,
            jitter: Jitter::from_entropy(),
            clock: LeaseClock::of_system(),
            seat: Seat::OwnThread,
        });
        (hold, most)
    });
    let shelf = Shelf { store: store.clone(), bucket: place.results_bucket.clone() };
    let progress = Page::new(place.json);
    let tell = |line: &str| progress.line(line);
    if let Some(id) = message_id {
        let answer = show(&shelf, &id, sample, &stop, &tell).await;
        progress.close();
        return match answer {
            Ok(answer) => {
                page(if place.json { &answer.json } else { &answer.text });
                Ok(answer.code)
            }
            Err(none) => no_report(&none),
        };
    }
    let now = SystemClock.unix_ms();
    let inspect = Inspect {
        errored: Markers { store, bucket: place.results_bucket, namespace, lot: Lot::Errored },
        shelf,
        dlq: queue(client),
        dlq_url: dlq_url.clone(),
        sample,
        since_ms: since.map(|when| when.ms(now)),
        until_ms: until.map(|when| when.ms(now)),
        tenant_from,
        most,
        clock: Arc::new(SystemClock),
        stop,
    };
    let report = inspect.run(&tell).await;
    progress.close();
    let report = match report {
        Ok(report) => report,
        Err(none) => return no_report(&none),
    };
    if place.json {
        page(&serde_json::to_string(&report).unwrap_or_default()); // strings and numbers
    } else {
        page(&report.text());
    }
    if let Some(paper) = paper {
        paper.write(&html::page(&report))?;
    }
    Ok(if report.is_well() { exit::EX_OK } else { exit::EX_PARTIAL })
}

fn no_report(none: &NoReport) -> Result<u8, CannotStart> {
    match none {
        NoReport::Interrupted => {
            say("redrive: interrupted; what was received is returned");
            Ok(exit::EX_INTERRUPTED)
        }
        NoReport::Sick(why) => Err(CannotStart::missing(why.clone())),
    }
}

/// A file in the making, beside the one that it will be.
struct Paper<'a> {
    file: tempfile::NamedTempFile,
    name: &'a Path,
}

impl<'a> Paper<'a> {
    fn open(name: &'a Path) -> Result<Self, CannotStart> {
        let folder = name.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // To be read by whom the umask lets.
        let mode = std::fs::Permissions::from_mode(0o666);
        match tempfile::Builder::new().prefix(".redrive-inspect-").permissions(mode).tempfile_in(folder) {
            Ok(file) => Ok(Self { file, name }),
            Err(error) => Err(cannot_write(name, &error)),
        }
    }

    fn write(self, text: &str) -> Result<(), CannotStart> {
        let Self { mut file, name } = self;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all());
        let put = written.and_then(|()| file.persist(name).map(drop).map_err(|error| error.error));
        put.map_err(|error| cannot_write(name, &error))
    }
}

fn cannot_write(name: &Path, error: &std::io::Error) -> CannotStart {
    CannotStart::missing(format!("--html: cannot write {}: {error}", name.display()))
}
