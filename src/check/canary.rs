//! `worker check --deep`: a canary through queue, record, park, replay and index, and away again.
//!
//! The canary is the removal of a file that was never there, a body that every worker knows: what comes of it is a
//! tombstone, without content, which the read alias hides. So it goes the whole way of a file, and nothing can show it.
//! Promises that it is taken away again whatever failed on its way, that a run which was killed is cleared up by the next
//! one on the same host, and that nothing of anybody else's is touched: its key is looked at before anything is sent.
//! Needs a worker that runs; takes no message from the queue itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Finding, Verdict, within};
use crate::clock::WallClock;
use crate::index::SearchError;
use crate::index::catalogue::{Catalogue, Held, Removal, Stretch};
use crate::index::park::{Lot, Parkable, Parking};
use crate::message::s3_event::Source;
use crate::message::{DocumentId, MessageId, Namespace};
use crate::process::record::{Record, Standing};
use crate::queue::{Outgoing, Queue, QueueError};
use crate::store::{DeleteReply, Shelves, StoreError, layout, read_all};
use crate::upkeep::bodies;

/// Until a worker has written the record: a poll of 20 s, and messages before it.
const RECORD_WITHIN: Duration = Duration::from_secs(60);
/// Until the index holds it: a bulk request, and one more after a blip.
const INDEX_WITHIN: Duration = Duration::from_secs(30);
/// Until replay has taken the marker: an idle replayer looks every two minutes at most, and another may hold the lease.
const REPLAY_WITHIN: Duration = Duration::from_secs(180);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A tombstone's record is small.
const RECORD_LIMIT: usize = 64 * 1024;

/// The names of its findings, in the order of its way.
const QUEUE: &str = "canary_queue";
const RECORD: &str = "canary_record";
const INDEX: &str = "canary_index";
const HIDDEN: &str = "canary_hidden";
const PARK: &str = "canary_park";
const REPLAY: &str = "canary_replay";
const GONE: &str = "canary_gone";

/// Whose rights it takes.
const RIGHTS: &str = "run it with the rights of deploy/iam-worker-policy.json and deploy/iam-upkeep-policy.json";

/// What it goes through.
pub struct Canary {
    /// The main queue.
    pub queue: Arc<dyn Queue>,
    /// Sources and results.
    pub store: Arc<dyn Shelves>,
    /// The index; `None` with `SKIP_OPENSEARCH`.
    pub catalogue: Option<Arc<dyn Catalogue>>,
    /// Below which its file would be.
    pub source: Source,
    /// Scope.
    pub namespace: Namespace,
    /// Results bucket.
    pub results_bucket: String,
    /// In its key: two hosts do not meet.
    pub host: String,
    /// For the marker.
    pub clock: Arc<dyn WallClock>,
    /// Ends it early: what is there of it is taken away.
    pub stop: CancellationToken,
}

/// Why it is not sent: after what was found, it would wait for nothing, or end in the dead-letter queue.
pub fn obstacle(findings: &[Finding]) -> Option<Finding> {
    if findings.iter().any(|finding| finding.verdict == Verdict::Fail) {
        return Some(Finding::skipped(QUEUE, "not sent: mend what failed first"));
    }
    let paused = findings.iter().any(|finding| finding.name == "pause" && finding.verdict != Verdict::Pass);
    paused.then(|| Finding::skipped(QUEUE, "not sent: the fleet is paused, and no worker would take it"))
}

/// Its traces, as far as they are known.
struct Traces {
    key: String,
    document: DocumentId,
    record: Option<Record>,
}

/// A step that failed, which ends the way.
struct Broken(Finding);

impl Canary {
    /// Sends it, follows it, takes it away. `tell` hears of each long wait.
    pub async fn fly(&self, tell: &(dyn Fn(&str) + Sync)) -> Vec<Finding> {
        let key = format!("{}quittance-canary-{}", self.source.prefix, self.host);
        let document = DocumentId::of(&self.namespace, &self.source.bucket, &key);
        let mut traces = Traces { key, document, record: None };
        let mut findings = Vec::new();
        if let Err(Broken(finding)) = self.way(&mut traces, &mut findings, tell).await {
            findings.push(finding);
        }
        // Nothing of it can be there before it was sent.
        if findings.first().is_some_and(|first| first.verdict == Verdict::Pass) {
            findings.push(self.gone(&traces).await);
        }
        findings
    }

    async fn way(
        &self,
        traces: &mut Traces,
        findings: &mut Vec<Finding>,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<(), Broken> {
        let (sent, id) = self.send(traces).await?;
        findings.push(sent);
        tell(&format!("canary: sent; waiting for a worker's record (at most {} s)", RECORD_WITHIN.as_secs()));
        findings.push(self.recorded(traces, &id).await?);
        let Some(catalogue) = &self.catalogue else {
            findings.push(Finding::skipped(INDEX, "SKIP_OPENSEARCH is set"));
            findings.push(self.parked_by_the_worker(traces).await?);
            return Ok(());
        };
        findings.push(self.indexed(traces, catalogue.as_ref()).await?);
        findings.push(self.hidden(traces, catalogue.as_ref()).await?);
        findings.push(self.park(traces).await?);
        tell(&format!("canary: parked; waiting for a worker's replay (at most {} s)", REPLAY_WITHIN.as_secs()));
        findings.push(self.replayed(traces).await?);
        Ok(())
    }

    async fn send(&self, traces: &mut Traces) -> Result<(Finding, MessageId), Broken> {
        let broken = |evidence: String, fix: &str| Broken(Finding::fail(QUEUE, &evidence, fix));
        let (bucket, key) = (&self.source.bucket, &traces.key);
        match within(self.store.head(bucket, key), StoreError::Unavailable).await {
            Ok(None) => {}
            Ok(Some(_)) => {
                let fix = "that name is kept for the canary: give the file another one";
                return Err(broken(format!("there is a file s3://{bucket}/{key}"), fix));
            }
            Err(error) => return Err(broken(format!("cannot look for s3://{bucket}/{key}: {error}"), RIGHTS)),
        }
        // What a run that was killed has left.
        if let Some(record) = self.record(traces).await.map_err(|why| broken(why, RIGHTS))? {
            traces.record = Some(record);
            let cleared = self.take_away(traces).await;
            traces.record = None;
            cleared.map_err(|why| broken(format!("an earlier canary cannot be taken away: {why}"), RIGHTS))?;
        }
        let body = bodies::removed(bucket, key);
        let outgoing = Outgoing { body, attributes: BTreeMap::new(), group_id: None };
        match within(self.queue.send(&outgoing), QueueError::Unavailable).await {
            Ok(id) => Ok((Finding::pass(QUEUE, &format!("sent, message {}", id.0)), id)),
            Err(error) => Err(broken(format!("cannot send to the main queue: {error}"), RIGHTS)),
        }
    }

    async fn recorded(&self, traces: &mut Traces, id: &MessageId) -> Result<Finding, Broken> {
        let key = layout::record(&self.namespace, &traces.document);
        let ours = async || {
            let Some(head) = self.store.head(&self.results_bucket, &key).await.map_err(told)? else { return Ok(None) };
            if Standing::of(&head).message_id.as_ref() != Some(id) {
                return Ok(None);
            }
            self.record(traces).await
        };
        match self.until(RECORD_WITHIN, ours).await {
            Ok((record, took)) => {
                traces.record = Some(record);
                Ok(Finding::pass(RECORD, &format!("a worker has written it after {took}")))
            }
            Err(why) => Err(Broken(Finding::fail(
                RECORD,
                &format!(
                    "no worker has written {key}: {why}; message {} is in the queue or its dead-letter queue",
                    id.0
                ),
                "is a worker of this queue and namespace running? its log lines name the message; whatever it still makes \
                 of it is a tombstone that no search shows, and the next check --deep on this host takes it away",
            ))),
        }
    }

    async fn indexed(&self, traces: &Traces, catalogue: &dyn Catalogue) -> Result<Finding, Broken> {
        let revision = traces.revision();
        let held = async || {
            let held = catalogue.held(std::slice::from_ref(&traces.document)).await.map_err(told)?;
            Ok(held.into_iter().next().flatten().filter(|held| *held == Held { revision, deleted: true }))
        };
        match self.until(INDEX_WITHIN, held).await {
            Ok((_, took)) => Ok(Finding::pass(INDEX, &format!("the index holds revision {revision} after {took}"))),
            Err(why) => Err(Broken(Finding::fail(
                INDEX,
                &format!("the index does not hold revision {revision}: {why}"),
                "the worker's log lines say why (document_parked, breaker_opened); see also: redrive parked --list",
            ))),
        }
    }

    /// A refresh has brought it before the searches, and the read alias hides it.
    async fn hidden(&self, traces: &Traces, catalogue: &dyn Catalogue) -> Result<Finding, Broken> {
        let stretch = Stretch {
            namespace: self.namespace.clone(),
            bucket: self.source.bucket.clone(),
            prefix: traces.key.clone(),
            after: None,
            up_to: None,
        };
        let shown = async || {
            let entries = catalogue.entries(&stretch, 10).await.map_err(told)?;
            if !entries.iter().any(|entry| entry.document_id == traces.document) {
                return Ok(None);
            }
            catalogue.shows(&traces.document).await.map_err(told).map(Some)
        };
        let fix = "run worker setup-index: it mends the filter of the read alias";
        match self.until(INDEX_WITHIN, shown).await {
            Ok((false, _)) => Ok(Finding::pass(HIDDEN, "the index has it, and a search does not show it")),
            Ok((true, _)) => Err(Broken(Finding::fail(HIDDEN, "a search shows it: deleted files are shown", fix))),
            Err(why) => {
                Err(Broken(Finding::fail(HIDDEN, &format!("cannot tell whether a search shows it: {why}"), fix)))
            }
        }
    }

    async fn park(&self, traces: &Traces) -> Result<Finding, Broken> {
        let parking = Parking {
            store: self.store.clone(),
            bucket: self.results_bucket.clone(),
            namespace: self.namespace.clone(),
            clock: Arc::clone(&self.clock),
            news: Arc::default(),
        };
        match parking.park(&self.parkable(traces), Lot::Retry, "worker check --deep").await {
            Ok(()) => Ok(Finding::pass(PARK, "parked under retry-index/")),
            Err(why) => Err(Broken(Finding::fail(PARK, &why, RIGHTS))),
        }
    }

    async fn parked_by_the_worker(&self, traces: &Traces) -> Result<Finding, Broken> {
        let marker = self.marker(traces, Lot::Retry);
        let there = async || self.store.head(&self.results_bucket, &marker).await.map_err(told);
        match self.until(INDEX_WITHIN, there).await {
            Ok((_, took)) => Ok(Finding::pass(PARK, &format!("parked by the worker after {took}"))),
            Err(why) => Err(Broken(Finding::fail(
                PARK,
                &format!("the worker has not parked it: {why}"),
                "does the worker run with SKIP_OPENSEARCH too? its line message_settled says what became of the document",
            ))),
        }
    }

    async fn replayed(&self, traces: &Traces) -> Result<Finding, Broken> {
        let (marker, errored) = (self.marker(traces, Lot::Retry), self.marker(traces, Lot::Errored));
        let gone = async || match self.store.head(&self.results_bucket, &marker).await.map_err(told)? {
            Some(_) => Ok(None),
            None => Ok(Some(self.store.head(&self.results_bucket, &errored).await.map_err(told)?.is_some())),
        };
        let fix = "is the fleet paused, or another replayer stuck? see control/replay.json, the lines replay_trouble, and: \
                   redrive parked --list";
        match self.until(REPLAY_WITHIN, gone).await {
            Ok((false, took)) => Ok(Finding::pass(REPLAY, &format!("replayed into the index after {took}"))),
            Ok((true, _)) => {
                Err(Broken(Finding::fail(REPLAY, &format!("given up: {errored}"), "redrive parked --errored")))
            }
            Err(why) => Err(Broken(Finding::fail(REPLAY, &format!("{marker} is still there: {why}"), fix))),
        }
    }

    async fn gone(&self, traces: &Traces) -> Finding {
        match self.take_away(traces).await {
            Ok(()) if traces.record.is_none() => Finding::skipped(GONE, "it has left nothing yet"),
            Ok(()) => Finding::pass(GONE, "index entry, markers and record are taken away"),
            Err(why) => Finding::fail(
                GONE,
                &format!("{why}; what stays is a tombstone that no search shows"),
                &format!("{RIGHTS}; the next check --deep on this host takes it away"),
            ),
        }
    }

    /// Markers first, or a replay would bring back the index entry; the record, by which the next run finds it, last.
    async fn take_away(&self, traces: &Traces) -> Result<(), String> {
        let Some(record) = &traces.record else { return Ok(()) };
        for lot in [Lot::Retry, Lot::Errored] {
            let marker = self.marker(traces, lot);
            within(self.store.delete(&self.results_bucket, &marker), StoreError::Unavailable).await.map_err(told)?;
        }
        if let Some(catalogue) = &self.catalogue {
            let entry = [(traces.document.clone(), record.revision)];
            match within(catalogue.remove(&entry), SearchError::Unavailable).await.map_err(told)?.first() {
                Some(Removal::Removed) => {}
                Some(Removal::Newer) => return Err("the index holds a newer revision: it was sent again".to_owned()),
                Some(Removal::Unclear(why)) => return Err(format!("OpenSearch: {why}")),
                None => return Err("OpenSearch did not say whether the entry is gone".to_owned()),
            }
        }
        let key = layout::record(&self.namespace, &traces.document);
        let Some(head) =
            within(self.store.head(&self.results_bucket, &key), StoreError::Unavailable).await.map_err(told)?
        else {
            return Ok(());
        };
        let delete = self.store.delete_if_match(&self.results_bucket, &key, &head.etag);
        match within(delete, StoreError::Unavailable).await.map_err(told)? {
            DeleteReply::Deleted => Ok(()),
            DeleteReply::Conflict => Err(format!("{key} was written again meanwhile")),
            // Nobody else has a file of this name: there is no newer state to be spared.
            DeleteReply::Unsupported(_) => {
                within(self.store.delete(&self.results_bucket, &key), StoreError::Unavailable).await.map_err(told)
            }
        }
    }

    async fn record(&self, traces: &Traces) -> Result<Option<Record>, String> {
        let key = layout::record(&self.namespace, &traces.document);
        let read = async {
            let Some(object) = self.store.get(&self.results_bucket, &key).await? else { return Ok(None) };
            Ok(Some(read_all(object, RECORD_LIMIT).await?))
        };
        let Some(bytes) = within(read, StoreError::Unavailable).await.map_err(told)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| format!("{key} is no record: {error}"))
    }

    fn parkable(&self, traces: &Traces) -> Parkable {
        Parkable {
            document_id: traces.document.clone(),
            bucket: self.source.bucket.clone(),
            key: traces.key.clone(),
            revision: traces.revision(),
            recorded_ms: traces.record.as_ref().map_or(0, |record| record.recorded_ms),
        }
    }

    /// Its key: the day is the record's, whoever parks.
    fn marker(&self, traces: &Traces, lot: Lot) -> String {
        let Parkable { document_id, revision, recorded_ms, .. } = self.parkable(traces);
        let day = crate::clock::date(recorded_ms);
        match lot {
            Lot::Retry => layout::parked(&day, &self.namespace, &document_id, revision),
            Lot::Errored => layout::errored(&day, &self.namespace, &document_id, revision),
        }
    }

    /// Looks until there is something, and says after how long; an error is looked past until the time is over.
    async fn until<T>(
        &self,
        limit: Duration,
        look: impl AsyncFn() -> Result<Option<T>, String>,
    ) -> Result<(T, String), String> {
        let began = Instant::now();
        loop {
            let looked = match tokio::time::timeout(super::CALL_TIMEOUT, look()).await {
                Ok(looked) => looked,
                Err(_) => Err(format!("no answer within {} s", super::CALL_TIMEOUT.as_secs())),
            };
            let why = match looked {
                Ok(Some(found)) => return Ok((found, format!("{:.1} s", began.elapsed().as_secs_f64()))),
                Ok(None) => "not seen".to_owned(),
                Err(why) => why,
            };
            if began.elapsed() >= limit {
                return Err(format!("{why} within {} s", limit.as_secs()));
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err("interrupted".to_owned()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

impl Traces {
    fn revision(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.revision)
    }
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
