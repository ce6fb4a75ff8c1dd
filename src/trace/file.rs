//! One file, asked about everywhere at once: bucket, record, index, markers, attempts, archive.
//!
//! Promises that each source has its own time and its own answer: one that is sick, denied or silent hides no other.
//! Decides nothing.

use tokio::time::timeout;

use super::findings::{
    AttemptsSeen, BegunSeen, FileFindings, FileName, Indexed, Letters, Look, Marks, Object, RecordSeen,
};
use super::{Ground, PATIENCE, marks, no_answer};
use crate::attempts::Attempts;
use crate::clock::{date, rfc3339};
use crate::index::park::Lot;
use crate::message::detail::detail;
use crate::message::{DocumentId, MessageId};
use crate::process::record::{Record, Standing};
use crate::store::{ObjectHead, StoreError, layout, read_all};

/// A larger record is told by its metadata: its text would take seconds to come, and nobody reads it here.
const RECORD_LIMIT: usize = 4 * 1024 * 1024;
const ATTEMPTS_LIMIT: usize = 64 * 1024;
/// Letters of one file whose attempts are told, the newest of each place.
const MOST_LETTERS: usize = 3;
const SKIPPED: &str = "SKIP_OPENSEARCH is set";

/// An answer in time, or why there is none.
async fn ask<T, E: ToString>(call: impl Future<Output = Result<Option<T>, E>>) -> Look<T> {
    match timeout(PATIENCE, call).await {
        Ok(Ok(found)) => found.into(),
        Ok(Err(error)) => Look::Unheard(detail(&error.to_string())),
        Err(_) => Look::Unheard(no_answer()),
    }
}

/// `letters`: what was found of it in the archive and in the dead-letter queue, or how to find out.
pub(super) async fn trace(
    ground: &Ground,
    name: FileName,
    archive: impl Future<Output = Look<Letters>>,
    dead_letters: impl Future<Output = Look<Letters>>,
) -> FileFindings {
    let FileName { bucket, key } = name;
    let id = DocumentId::of(&ground.namespace, &bucket, &key);
    let recorded = async {
        let record = ask(record(ground, &id)).await;
        let messages = record.found().map(messages_of).unwrap_or_default();
        (record, attempts_of_all(ground, messages).await)
    };
    let (object, (record, mut attempts), index, shown, parked, errored, archive, dead_letters) = tokio::join!(
        ask(object(ground, &bucket, &key)),
        recorded,
        index(ground, &id),
        shown(ground, &id),
        ask(marks::of_document(ground, Lot::Retry, &id)),
        ask(marks::of_document(ground, Lot::Errored, &id)),
        archive,
        dead_letters,
    );
    let mut put_aside: Vec<String> = [&archive, &dead_letters].into_iter().flat_map(first_ids).collect();
    put_aside.retain(|id| !attempts.iter().any(|(known, _)| known == id));
    put_aside.truncate(MOST_LETTERS);
    attempts.extend(attempts_of_all(ground, put_aside).await);
    let day = record.found().map(|record| date(record.recorded_ms));
    let parked = on_its_day(ground, Lot::Retry, &id, day.as_deref(), parked).await;
    let errored = on_its_day(ground, Lot::Errored, &id, day.as_deref(), errored).await;
    let document_id = id;
    FileFindings {
        bucket,
        key,
        document_id,
        object,
        record,
        index,
        shown,
        parked,
        errored,
        attempts,
        archive,
        dead_letters,
    }
}

async fn on_its_day(ground: &Ground, lot: Lot, id: &DocumentId, day: Option<&str>, marks: Look<Marks>) -> Look<Marks> {
    match marks {
        Look::Found(marks) => match day {
            Some(day) => ask(marks::of_record_day(ground, lot, id, marks, day)).await,
            None => Look::Found(marks),
        },
        Look::Nothing | Look::Unheard(_) | Look::NotAsked(_) => marks,
    }
}

/// The ids under which letters were first sent: their failures are written down under those.
fn first_ids(letters: &Look<Letters>) -> Vec<String> {
    let found = letters.found().map(|letters| letters.found.iter().rev()).into_iter().flatten();
    found.filter_map(|letter| letter.original_message_id.clone()).collect()
}

async fn attempts_of_all(ground: &Ground, ids: Vec<String>) -> Vec<(String, Look<AttemptsSeen>)> {
    let asked = ids.into_iter().map(|id| async move {
        let found = attempts(ground, &MessageId(id.clone())).await;
        (id, found)
    });
    futures_util::future::join_all(asked).await
}

fn messages_of(record: &RecordSeen) -> Vec<String> {
    let mut ids: Vec<String> = record.message_id.iter().chain(&record.original_message_id).cloned().collect();
    ids.dedup();
    ids
}

async fn object(ground: &Ground, bucket: &str, key: &str) -> Result<Option<Object>, StoreError> {
    match ground.store.head(bucket, key).await? {
        Some(ObjectHead { etag, size, modified_ms, .. }) => Ok(Some(Object { etag, size, modified_ms })),
        None => match ground.store.probe(bucket).await {
            // HEAD does not tell a missing object from a missing bucket.
            Err(error @ StoreError::BucketMissing(_)) => Err(error),
            Ok(()) | Err(_) => Ok(None),
        },
    }
}

async fn record(ground: &Ground, id: &DocumentId) -> Result<Option<RecordSeen>, StoreError> {
    let key = layout::record(&ground.namespace, id);
    let Some(object) = ground.store.get(&ground.bucket, &key).await? else { return Ok(None) };
    let head = object.head.clone();
    let standing = Standing::of(&head);
    let mut seen = RecordSeen {
        revision: standing.revision,
        recorded_ms: head.modified_ms.unwrap_or(0),
        source_etag: standing.source_etag,
        sequencer: standing.sequencer.map(|sequencer| sequencer.as_str().to_owned()),
        message_id: standing.message_id.map(|id| id.0),
        original_message_id: None,
        extractor: None,
        extraction_error: None,
    };
    if head.size > RECORD_LIMIT as u64 {
        return Ok(Some(seen));
    }
    // What the metadata says stands, whatever becomes of the body.
    let body = timeout(PATIENCE / 2, read_all(object, RECORD_LIMIT)).await;
    if let Ok(Ok(body)) = body
        && let Ok(Record { recorded_ms, document, .. }) = serde_json::from_slice(&body)
    {
        seen.recorded_ms = recorded_ms;
        seen.original_message_id = document.original_message_id;
        seen.extractor = document.extractor;
        seen.extraction_error = document.extraction_error.as_deref().map(detail);
    }
    Ok(Some(seen))
}

async fn index(ground: &Ground, id: &DocumentId) -> Look<Indexed> {
    let Some(index) = &ground.index else { return Look::NotAsked(SKIPPED) };
    ask(async {
        let held = index.held(std::slice::from_ref(id)).await?.into_iter().next().flatten();
        Ok::<_, crate::index::SearchError>(held.map(|held| Indexed { revision: held.revision, deleted: held.deleted }))
    })
    .await
}

async fn shown(ground: &Ground, id: &DocumentId) -> Look<bool> {
    let Some(index) = &ground.index else { return Look::NotAsked(SKIPPED) };
    ask(async { index.shows(id).await.map(Some) }).await
}

/// The attempts of a message.
pub(super) async fn attempts(ground: &Ground, message: &MessageId) -> Look<AttemptsSeen> {
    ask(attempts_of(ground, message)).await
}

async fn attempts_of(ground: &Ground, message: &MessageId) -> Result<Option<AttemptsSeen>, StoreError> {
    let key = layout::attempts(&ground.namespace, message);
    let Some(object) = ground.store.get(&ground.bucket, &key).await? else { return Ok(None) };
    let body = read_all(object, ATTEMPTS_LIMIT).await?;
    let read: Attempts =
        serde_json::from_slice(&body).map_err(|error| StoreError::Refused(format!("{key} cannot be read: {error}")))?;
    let begun = read.begun.into_iter().map(|mark| BegunSeen { run: mark.run, at: mark.at });
    Ok(Some(AttemptsSeen {
        failed: read.failed,
        first_failed_at: read.first_failed_at,
        last_failed_at: read.last_failed_at,
        reasons: read.reasons.iter().map(|reason| detail(reason)).collect(),
        begun: begun.collect(),
    }))
}

/// Documents that name a message, at most `limit`.
pub(super) async fn documents(ground: &Ground, message: &MessageId, limit: usize) -> Look<Vec<FileName>> {
    let Some(index) = &ground.index else { return Look::NotAsked(SKIPPED) };
    ask(async {
        let written = index.written_by(&ground.namespace, message, limit).await?;
        let names = written.into_iter().map(|one| FileName { bucket: one.bucket, key: one.key });
        let names: Vec<FileName> = names.collect();
        Ok::<_, crate::index::SearchError>((!names.is_empty()).then_some(names))
    })
    .await
}

/// Now, RFC 3339.
pub(super) fn now(ground: &Ground) -> String {
    rfc3339(ground.clock.unix_ms())
}
