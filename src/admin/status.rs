//! `/status`: what a worker is doing, as JSON for scripts and for the page.
//!
//! Promises bounded answers (so many messages, keys and failures), text that can be shown as it is (control characters and
//! changes of direction are escaped), and that a settler which does not answer is told, not waited for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::history::History;
use super::ready::Readiness;
use crate::clock::rfc3339;
use crate::lease::InHand;
use crate::message::detail::{detail, printable};
use crate::message::s3_event::{self, Judged, Parsed, Wanted};
use crate::metrics::{Facts, Failure, Reading};
use crate::survey::{Letters, Lot};
use crate::terminal::shell;

/// Messages in hand that are shown: the oldest.
const SHOWN: usize = 50;
/// Keys of one message.
const KEYS: usize = 3;
/// Longest key shown: any fits.
const KEY_CHARS: usize = 1_100;
/// A larger body is not read for its keys.
const BODY: usize = 16 * 1024;
/// The settler answers within this, or not at all.
const PATIENCE: Duration = Duration::from_secs(1);
/// It is not asked more often, however many ask us.
const FRESH: Duration = Duration::from_millis(500);

/// What was last seen in the settler's hands.
#[derive(Default)]
pub(super) struct Hands(Mutex<Option<(Instant, Value)>>);

impl Hands {
    async fn look(&self, facts: &Facts) -> Value {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, seen)) = last
            && at.elapsed() < FRESH
        {
            return seen;
        }
        let Some(attached) = facts.attached.get() else { return json!({ "answered": true, "shown": [] }) };
        let seen = match tokio::time::timeout(PATIENCE, attached.pulse.look(SHOWN)).await {
            Ok(Some(held)) => {
                let shown: Vec<Value> = held.iter().map(|held| in_hand(held, &facts.wanted)).collect();
                json!({ "answered": true, "shown": shown })
            }
            Ok(None) => json!({ "answered": true, "shown": [] }), // nobody can speak to it any more: it ends
            Err(_) => json!({ "answered": false, "shown": [] }),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), seen.clone()));
        seen
    }
}

fn in_hand(held: &InHand, wanted: &Wanted) -> Value {
    let (keys, more_keys) = keys(&held.message.body, wanted);
    json!({
        "message_id": printable(&held.message.id.0, 200),
        "receive_count": held.receive_count,
        "age_seconds": held.held.as_secs_f64(),
        "phase": held.phase,
        "keys": keys,
        "more_keys": more_keys,
        "trace": trace(&held.message.id.0),
    })
}

/// The first keys that a body names, and how many more there are.
fn keys(body: &str, wanted: &Wanted) -> (Vec<String>, usize) {
    if body.len() > BODY {
        return (Vec::new(), 0);
    }
    let changes = match s3_event::parse(body, wanted) {
        Ok(Parsed::Changes(changes)) => changes,
        Ok(Parsed::Skip(_)) | Err(_) => return (Vec::new(), 0),
    };
    let named: Vec<(&str, &str)> = changes
        .iter()
        .filter_map(|judged| match judged {
            Judged::Process(change) | Judged::NotAllowed { change, .. } => Some((&*change.bucket, &*change.key)),
            Judged::Skip { bucket, key, .. } => Some((&**bucket, &**key)),
            Judged::Malformed { .. } => None,
        })
        .collect();
    let shown = named.iter().take(KEYS).map(|(bucket, key)| printable(&format!("s3://{bucket}/{key}"), KEY_CHARS));
    (shown.collect(), named.len().saturating_sub(KEYS))
}

/// The command that tells the life of a message.
fn trace(message_id: &str) -> String {
    let plain = !message_id.is_empty() && message_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let word = if plain { message_id.to_owned() } else { shell(&printable(message_id, 200)) };
    format!("redrive trace {word}")
}

fn failure(failure: &Failure) -> Value {
    let Failure { at_ms, message_id, end, detail: said, key } = failure;
    let command = match (message_id, end.as_str()) {
        (Some(id), _) => Some(trace(id)),
        (None, "document_errored") => Some("redrive parked --errored".to_owned()),
        (None, _) => None,
    };
    json!({
        "at": rfc3339(*at_ms),
        "message_id": message_id.as_ref().map(|id| printable(id, 200)),
        "end": end,
        "detail": said.as_deref().map(detail),
        "key": key.as_ref().map(|key| printable(key, KEY_CHARS)),
        "trace": command,
    })
}

fn lot(lot: Lot, now_ms: u64) -> Value {
    let age = lot.oldest_ms.map(|_| lot.oldest_age(now_ms).as_secs());
    json!({ "documents": lot.markers, "at_least": lot.more, "oldest_age_seconds": age })
}

fn letters(letters: Letters, first_ms: Option<u64>) -> Value {
    let retention_ms = u64::try_from(letters.retention.as_millis()).unwrap_or(u64::MAX);
    json!({
        "visible": letters.visible,
        "hidden": letters.hidden,
        "retention_seconds": letters.retention.as_secs(),
        // SQS tells nobody the age of the oldest letter (CloudWatch does): only of our own it is known.
        "own_first_expires_at": first_ms.map(|first| rfc3339(first.saturating_add(retention_ms))),
    })
}

/// All of it.
pub(super) async fn status(facts: &Arc<Facts>, history: &History, hands: &Hands, may_pause: bool) -> Value {
    let hands = hands.look(facts).await;
    let now: Reading = facts.reading();
    let (gate, ready) = (facts.gate.seen(), Readiness::of(facts, &now));
    let draining = facts.attached.get().is_some_and(|attached| attached.stop.is_cancelled());
    let work = history.work(&now);
    let holds: Vec<Value> = gate
        .holds
        .iter()
        .map(|hold| json!({ "hand": hold.hand, "by": detail(&hold.by), "reason": detail(&hold.reason) }))
        .collect();
    let failures: Vec<Value> = facts
        .meters
        .failures()
        .iter()
        .map(|(reason, number, last)| {
            json!({ "reason": reason, "number": number, "last": last.iter().map(failure).collect::<Vec<_>>() })
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "run_id": facts.run_id,
        "namespace": facts.namespace,
        "now": rfc3339(now.now_ms),
        "started_at": rfc3339(now.started_ms),
        "uptime_seconds": now.now_ms.saturating_sub(now.started_ms) / 1000,
        "ready": ready.is_ready(),
        "reasons": ready.reasons,
        "notes": ready.notes,
        "intake": if gate.is_open() { "open" } else { "held" },
        "draining": draining,
        "paused": gate.is_paused(),
        "paused_by": holds,
        "may_pause": may_pause,
        "breakers": {
            "critical": now.critical_open,
            "index": facts.lane.is_some().then_some(now.index_open),
        },
        "books": now.books,
        "progress_age_seconds": now.progress_age.as_secs_f64(),
        "in_flight": hands,
        "latency": {
            "work_p50_seconds": work.quantile(0.5),
            "work_p95_seconds": work.quantile(0.95),
            "work_p99_seconds": work.quantile(0.99),
            "messages": work.count(),
        },
        "history": history.steps(),
        "parked": now.seen.parked.map(|parked| lot(parked, now.now_ms)),
        "errored": now.seen.errored.map(|errored| lot(errored, now.now_ms)),
        "dead_letters": now.seen.dead_letters.map(|seen| letters(seen, facts.meters.first_dead_letter_ms())),
        "failures": failures,
    })
}
