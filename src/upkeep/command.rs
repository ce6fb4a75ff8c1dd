//! The upkeep commands of `redrive`: clients, what is said, exit codes.
//!
//! Promises that what writes does not begin while the fleet is paused and stops between two steps when it is, and that a
//! run that did not end says how to go on. Decides nothing about a file.

use std::sync::Arc;
use std::time::Instant;

use aws_config::SdkConfig;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::outbox::Outbox;
use super::purge::{self, Purge};
use super::reconcile::{self, Cursor, Found, Reconcile};
use super::reprocess::{self, Older, Reprocess};
use super::{Area, Ended};
use crate::clock::{SystemClock, WallClock as _};
use crate::config::{FindConfig, PurgeConfig, ReconcileConfig, ReprocessConfig, exit};
use crate::events::{self, Event as _};
use crate::index::opensearch::Hit;
use crate::index::park::Parking;
use crate::message::detail::{detail, printable};
use crate::metrics::emf::MetricsLine;
use crate::pause::PauseFile;
use crate::queue::sqs::{self, SqsQueue};
use crate::start::begin::{Begin, begin};
use crate::start::{self, CannotStart, stop_on_interrupt};
use crate::store::s3::{self, S3Store};
use crate::terminal::{KEY_CHARS, Page, out, say, shell};

/// What every upkeep command knows.
pub struct Place {
    /// Results bucket.
    pub results_bucket: String,
    /// JSON on stdout.
    pub json: bool,
}

impl Place {
    fn pause_file(&self, store: &Arc<S3Store>) -> PauseFile {
        PauseFile { store: store.clone(), bucket: self.results_bucket.clone() }
    }
}

/// Compares, and repairs.
pub async fn reconcile(config: ReconcileConfig, place: Place) -> Result<u8, CannotStart> {
    let (aws, stop) = (start::aws().await?, stop_on_interrupt()?);
    let store = Arc::new(S3Store::new(s3::client(&aws)));
    let paused = match begin(place.pause_file(&store), config.repair.is_some(), place.json, &stop).await? {
        Begin::Go(paused) => paused,
        Begin::Refused(code) => return Ok(code),
    };
    let index = start::index_client(&config.opensearch, &aws)?;
    start::look_at_bucket("S3_BUCKET", &place.results_bucket, store.as_ref()).await?;
    start::look_at_bucket("UPKEEP_BUCKET", &config.area.bucket, store.as_ref()).await?;
    start::look_at_index(&index).await?;
    let clock = Arc::new(SystemClock);
    let repair = match &config.repair {
        Some((url, rate)) => Some(outbox(url, *rate, &aws).await?),
        None => None,
    };
    let repairs = repair.is_some();
    let run = Reconcile {
        parking: Parking {
            store: store.clone(),
            bucket: place.results_bucket.clone(),
            namespace: config.namespace.clone(),
            clock: clock.clone(),
            news: Arc::default(),
        },
        store,
        catalogue: Arc::new(index),
        repair,
        area: config.area.clone(),
        namespace: config.namespace,
        results_bucket: place.results_bucket,
        min_age: config.min_age,
        max_object_bytes: config.max_object_bytes,
        clock,
        stop,
    };
    let (mut page, began) = (Page::new(place.json), Instant::now());
    let report = run.run(config.resume, &mut page).await;
    page.close();
    let reconcile::Report { tally, ended, cursor } = &report;
    let on = matches!(ended, Ended::Interrupted | Ended::Sick(_)).then(|| match cursor {
        None => String::new(),
        Some(Cursor::Key(key)) => format!(" --resume-from {}", shell(key)),
        Some(Cursor::Record(id)) => format!(" --resume-from-record {id}"),
    });
    let reconciled = events::Reconciled {
        bucket: config.area.bucket.clone(),
        prefix: config.area.prefix.clone(),
        complete: *ended == Ended::Complete,
        objects: tally.objects,
        records: tally.records,
        well: tally.well,
        young: tally.young,
        parked: tally.parked,
        errored: tally.errored,
        too_large: tally.too_large,
        unclear: tally.unclear,
        missing: tally.missing,
        stale: tally.stale,
        orphaned: tally.orphaned,
        repaired_messages: tally.repaired_messages,
        repaired_parked: tally.repaired_parked,
        ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    reconciled.emit();
    if config.metrics_emf {
        MetricsLine::of_reconciliation(SystemClock.unix_ms(), &reconciled).emit();
    }
    if place.json {
        out(&json!({ "report": tally, "complete": *ended == Ended::Complete, "repair": repairs }).to_string());
    } else {
        out(&told(tally, repairs));
    }
    let command = format!("redrive reconcile{}{}", of_area(&config.area), if repairs { " --repair" } else { "" });
    Ok(ending(ended, &paused, on.map(|on| command + &on), tally.is_well()))
}

/// Has files worked on anew.
pub async fn reprocess(config: ReprocessConfig, place: Place) -> Result<u8, CannotStart> {
    let (aws, stop) = (start::aws().await?, stop_on_interrupt()?);
    let store = Arc::new(S3Store::new(s3::client(&aws)));
    let paused = match begin(place.pause_file(&store), config.send.is_some(), place.json, &stop).await? {
        Begin::Go(paused) => paused,
        Begin::Refused(code) => return Ok(code),
    };
    start::look_at_bucket("UPKEEP_BUCKET", &config.area.bucket, store.as_ref()).await?;
    let mut filter = String::new();
    let older_than = match config.older_than {
        None => None,
        Some((than, search)) => {
            let index = start::index_client(&search, &aws)?;
            start::look_at_index(&index).await?;
            filter = format!(" --extractor-older-than {than}");
            let results_bucket = place.results_bucket.clone();
            Some(Older { than, catalogue: Arc::new(index), namespace: config.namespace, results_bucket })
        }
    };
    let outbox = match &config.send {
        Some((url, rate)) => Some(outbox(url, *rate, &aws).await?),
        None => None,
    };
    let dry = outbox.is_none();
    let (area, max_object_bytes) = (config.area.clone(), config.max_object_bytes);
    let run = Reprocess { store, outbox, area, older_than, max_object_bytes, stop };
    let mut page = Page::new(place.json);
    let reprocess::Report { tally, ended, cursor } = run.run(config.resume, &mut page).await;
    page.close();
    let complete = ended == Ended::Complete;
    if place.json {
        out(&json!({ "report": tally, "complete": complete, "dry_run": dry, "resume_from": cursor }).to_string());
    } else {
        let reprocess::Tally { objects, sent, new_enough, skipped, unclear } = &tally;
        let verb = if dry { "would be sent" } else { "sent" };
        out(&format!(
            "{objects} files: {sent} {verb}, {new_enough} new enough, {skipped} skipped, {unclear} could not be judged"
        ));
    }
    let dry = if dry { " --dry-run" } else { "" };
    let resume = cursor.map(|key| format!(" --resume-from {}", shell(&key))).unwrap_or_default();
    let on = format!("redrive reprocess{}{filter}{dry}{resume}", of_area(&config.area));
    Ok(ending(&ended, &paused, (!complete).then_some(on), tally.unclear == 0))
}

/// Forgets what was removed long ago.
pub async fn purge(config: PurgeConfig, place: Place) -> Result<u8, CannotStart> {
    let (aws, stop) = (start::aws().await?, stop_on_interrupt()?);
    let store = Arc::new(S3Store::new(s3::client(&aws)));
    let paused = match begin(place.pause_file(&store), !config.dry_run, place.json, &stop).await? {
        Begin::Go(paused) => paused,
        Begin::Refused(code) => return Ok(code),
    };
    let index = start::index_client(&config.opensearch, &aws)?;
    start::look_at_bucket("S3_BUCKET", &place.results_bucket, store.as_ref()).await?;
    start::look_at_index(&index).await?;
    let run = Purge {
        store,
        catalogue: Arc::new(index),
        namespace: config.namespace,
        results_bucket: place.results_bucket,
        older_than: config.older_than,
        dry_run: config.dry_run,
        clock: Arc::new(SystemClock),
        stop,
    };
    let mut page = Page::new(place.json);
    let purge::Report { tally, ended, unsupported } = run.run(&mut page).await;
    page.close();
    let complete = ended == Ended::Complete;
    if place.json {
        let no_delete = unsupported.is_some();
        out(&json!({ "report": tally, "complete": complete, "dry_run": config.dry_run, "no_conditional_delete": no_delete })
            .to_string());
    } else {
        let purge::Tally { records, tombstones, purged, markers, came_back, records_left, unclear } = &tally;
        out(&format!(
            "{tombstones} old tombstones among {records} records: {purged} purged with {markers} markers, {came_back} came \
             back and stay, {records_left} records left, {unclear} could not be judged"
        ));
        if let Some(why) = &unsupported {
            out(&format!(
                "this store has no conditional DELETE ({}): index entries and markers are gone, the records stay",
                detail(why)
            ));
        }
    }
    let days = config.older_than.as_secs() / 86_400;
    let on = format!("redrive purge-tombstones --older-than {days}d");
    Ok(ending(&ended, &paused, (!complete).then_some(on), tally.records_left + tally.unclear == 0))
}

/// Looks for words.
pub async fn find(config: FindConfig, json: bool) -> Result<u8, CannotStart> {
    // No region is needed where nothing is signed: the index client says so itself where one is.
    let index = start::index_client(&config.opensearch, &crate::aws::load().await)?;
    match index.find(&config.words, &config.namespace, config.limit).await {
        Ok(hits) if json => out(&json!({ "hits": hits }).to_string()),
        Ok(hits) if hits.is_empty() => out("nothing was found"),
        Ok(hits) => hits.iter().for_each(|hit| out(&shown(hit))),
        Err(error) => return Err(CannotStart::missing(error.to_string())),
    }
    Ok(exit::EX_OK)
}

fn shown(hit: &Hit) -> String {
    let title = hit.title.as_ref().map(|title| format!("  {}", printable(title, 200))).unwrap_or_default();
    let mut text = format!("{:8.2}  s3://{}/{}{title}", hit.score, hit.bucket, printable(&hit.key, KEY_CHARS));
    for piece in &hit.highlights {
        text += &format!("\n          … {}", printable(&piece.split_whitespace().collect::<Vec<_>>().join(" "), 400));
    }
    text
}

fn told(tally: &reconcile::Tally, repairs: bool) -> String {
    let reconcile::Tally { objects, records, well, young, parked, errored, too_large, unclear, .. } = tally;
    let mut text = format!(
        "{objects} files, {records} records: {} missing, {} stale, {} orphaned; {well} in step, {young} too young to judge, \
         {parked} parked, {errored} refused by the index, {too_large} too large, {unclear} could not be judged",
        tally.missing, tally.stale, tally.orphaned
    );
    if repairs {
        let left = tally.found().saturating_sub(tally.repaired());
        text += &format!(
            "\nput on their way: {} by message, {} parked; {left} left",
            tally.repaired_messages, tally.repaired_parked
        );
    } else if tally.found() > 0 {
        text += "\nto put them on their way: the same with --repair";
    }
    text
}

/// `paused`: cancelled when it was a pause that stopped the run.
fn ending(ended: &Ended, paused: &CancellationToken, on: Option<String>, well: bool) -> u8 {
    let stopped = |why: &str| say(&format!("redrive: {why}; to go on: {}", on.as_deref().unwrap_or_default()));
    match ended {
        Ended::Complete if well => exit::EX_OK,
        Ended::Complete => exit::EX_PARTIAL,
        Ended::Interrupted if paused.is_cancelled() => {
            let on = on.as_deref().unwrap_or_default();
            say(&format!(
                "redrive: the fleet was paused meanwhile (redrive status); to go on: redrive resume, then {on}"
            ));
            exit::EX_PARTIAL
        }
        Ended::Interrupted => {
            stopped("interrupted");
            exit::EX_INTERRUPTED
        }
        Ended::Sick(why) => {
            stopped(&detail(why));
            exit::EX_TEMPFAIL
        }
    }
}

fn of_area(area: &Area) -> String {
    let prefix = if area.prefix.is_empty() { String::new() } else { format!(" --prefix {}", shell(&area.prefix)) };
    format!(" --bucket {}{prefix}", area.bucket)
}

async fn outbox(url: &str, rate: u32, aws: &SdkConfig) -> Result<Outbox, CannotStart> {
    let client = sqs::settling_client(aws);
    start::look_at_queue("SQS_QUEUE_URL", url, &client).await?;
    Ok(Outbox::new(Arc::new(SqsQueue::new(client, url)), rate))
}

impl reconcile::Sink for Page {
    fn found(&mut self, found: &Found) {
        let Found { finding, bucket, key, document_id } = found;
        let (kind, road) = (finding.kind(), finding.road());
        if self.json {
            let line = json!({ "kind": kind, "finding": finding, "bucket": bucket, "key": key,
                               "document_id": document_id, "road": road });
            out(&line.to_string());
        } else {
            self.line("");
            let kind = format!("{kind:?}").to_lowercase();
            out(&format!("{kind:9} s3://{bucket}/{}  ({})", printable(key, KEY_CHARS), finding.as_str()));
        }
    }

    fn unclear(&mut self, name: &str, why: &str) {
        self.trouble(name, why);
    }

    fn progress(&mut self, report: &reconcile::Report) {
        let tally = &report.tally;
        self.line(&format!("{} files, {} records, {} not in step", tally.objects, tally.records, tally.found()));
    }
}

impl reprocess::Sink for Page {
    fn unclear(&mut self, key: &str, why: &str) {
        self.trouble(key, why);
    }

    fn progress(&mut self, report: &reprocess::Report) {
        self.line(&format!("{} files, {} sent", report.tally.objects, report.tally.sent));
    }
}

impl purge::Sink for Page {
    fn unclear(&mut self, name: &str, why: &str) {
        self.trouble(name, why);
    }

    fn progress(&mut self, report: &purge::Report) {
        self.line(&format!("{} records, {} old tombstones", report.tally.records, report.tally.tombstones));
    }
}
