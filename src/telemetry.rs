//! Log lines: one flat JSON object each, or one readable line on a terminal, to stderr.
//!
//! Promises that a line is one line whatever a key or an error body holds (T8), that every line has `run_id`,
//! `version` and `namespace`, and that a fact keeps the name and fields of `events`. Decides nothing.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::reload;

use crate::clock::{SystemClock, WallClock as _, rfc3339};
use crate::config::LogFormat;
use crate::message::detail::printable;
use crate::metrics::Meters;
use crate::terminal;

mod queue;

pub use queue::Queue;

/// Where lines of metrics go: logged whatever the level is, and always as JSON, for a machine reads them.
pub const METRICS: &str = "quittance::metrics";
/// Longest free text in a line.
const TEXT: usize = 2048;

/// What every line carries.
#[derive(Clone, Debug)]
pub struct Identity {
    /// New for every process; sorts by time.
    pub run_id: String,
    /// Scope of the ids.
    pub namespace: String,
}

/// Changes the least level that is logged, for this process; false: nothing was changed.
pub type Dial = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// `level` is one of tracing's names. The libraries only speak up when something is wrong; their warnings name no message.
fn wanted(level: &str) -> Targets {
    let level: LevelFilter = level.parse().unwrap_or(LevelFilter::INFO);
    let quittance = Targets::new().with_target("quittance", level).with_target(METRICS, LevelFilter::INFO);
    quittance.with_default(LevelFilter::ERROR)
}

/// Installs the log for this process, and a panic hook that keeps to it. `level` is one of tracing's names. Lines are written
/// by whoever says them, as an operator's command does: see [`install_queued`].
pub fn install(format: LogFormat, level: &str, identity: Identity) -> Dial {
    install_through(format, level, identity, terminal::log, None)
}

/// The same for a worker: nobody waits for who reads the log, and `meters` hear every fact beside it, whatever the level is.
/// Flush the queue before the end.
pub fn install_queued(
    format: LogFormat,
    level: &str,
    identity: Identity,
    meters: &Arc<Meters>,
) -> std::io::Result<(Dial, Queue)> {
    let lost = Lines { format, identity: identity.clone(), write: () };
    let queue = Queue::start(move |lines| {
        let fields = serde_json::json!({ "lines": lines }).to_string();
        let (fact, fields) = (Some("log_lost".to_owned()), Some(fields));
        lost.line(Level::ERROR, Parts { fact, fields, ..Parts::default() })
    })?;
    let writing = queue.clone();
    let write = move |line: &str| writing.line(line);
    Ok((install_through(format, level, identity, write, Some(meters)), queue))
}

fn install_through<W>(
    format: LogFormat,
    level: &str,
    identity: Identity,
    write: W,
    meters: Option<&Arc<Meters>>,
) -> Dial
where
    W: Fn(&str) + Send + Sync + 'static,
{
    let (wanted_now, dial) = reload::Layer::new(wanted(level));
    let lines = Lines { format, identity, write };
    let subscriber = tracing_subscriber::registry();
    let subscriber = subscriber.with(lines.with_filter(wanted_now)).with(meters.map(Meters::layer));
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let place =
                panic.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
            let text = panic.payload().downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.payload().downcast_ref::<String>().cloned()).unwrap_or_default();
            tracing::error!(target: "quittance", "panic{place}: {text}");
        }));
    }
    Box::new(move |level| dial.reload(wanted(level)).is_ok())
}

/// The layer; `write` takes whole lines.
struct Lines<W> {
    format: LogFormat,
    identity: Identity,
    write: W,
}

impl<S: Subscriber, W: Fn(&str) + 'static> Layer<S> for Lines<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let level = *event.metadata().level();
        let is_for_machines = event.metadata().target() == METRICS;
        let line = if is_for_machines { self.json(level, parts) } else { self.line(level, parts) };
        (self.write)(&line);
    }
}

impl<W> Lines<W> {
    fn line(&self, level: Level, parts: Parts) -> String {
        match self.format {
            LogFormat::Json => self.json(level, parts),
            LogFormat::Text => text(level, parts),
        }
    }

    fn json(&self, level: Level, parts: Parts) -> String {
        let mut line = Map::new();
        let mut put = |name: &str, value: &str| line.insert(name.to_owned(), Value::from(value));
        put("time", &now());
        put("level", level.as_str());
        put("event", parts.fact.as_deref().unwrap_or("log"));
        put("run_id", &self.identity.run_id);
        put("version", env!("CARGO_PKG_VERSION"));
        put("namespace", &self.identity.namespace);
        line.extend(parts.all());
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        text
    }
}

fn text(level: Level, parts: Parts) -> String {
    let mut line = format!("{} {:5} {}", now(), level.as_str(), parts.fact.as_deref().unwrap_or("log"));
    for (name, value) in parts.all() {
        let shown = match value {
            Value::Null => continue,
            Value::String(text) if text.is_empty() => continue,
            Value::Array(list) if list.is_empty() => continue,
            Value::String(text) => printable(&text, TEXT),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                printable(&value.to_string(), TEXT)
            }
        };
        let _ = write!(line, " {name}={shown}"); // writing to a String cannot fail
    }
    line.push('\n');
    line
}

fn now() -> String {
    rfc3339(SystemClock.unix_ms())
}

/// The fields of one event: a fact of `events` brings its own as JSON, anything else its message and fields.
#[derive(Default)]
struct Parts {
    fact: Option<String>,
    fields: Option<String>,
    rest: Map<String, Value>,
}

impl Parts {
    fn all(self) -> Map<String, Value> {
        let mut all = match self.fields.map(|fields| serde_json::from_str(&fields)) {
            Some(Ok(Value::Object(fields))) => fields,
            Some(_) | None => Map::new(),
        };
        all.extend(self.rest);
        all
    }
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "fact" => self.fact = Some(value.to_owned()),
            "fields" => self.fields = Some(value.to_owned()),
            name => drop(self.rest.insert(name.to_owned(), Value::from(printable(value, TEXT)))),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = printable(&format!("{value:?}"), TEXT);
        self.rest.insert(field.name().to_owned(), Value::from(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Event as _, MessageSettled};
    use std::sync::Mutex;

    fn settled(key: &str) -> MessageSettled {
        MessageSettled {
            message_id: "m".into(),
            receive_count: 1,
            outcome: "done",
            settlement: "deleted",
            reason: None,
            detail: None,
            work_ids: vec!["w".into()],
            keys: vec![key.into()],
            held_ms: 7,
            index: "indexed",
            original_message_id: None,
        }
    }

    fn logged(format: LogFormat, log: impl FnOnce()) -> String {
        let written = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&written);
        let identity = Identity { run_id: "r".into(), namespace: "n".into() };
        let lines = Lines { format, identity, write: move |line: &str| into.lock().unwrap().push_str(line) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        let written = written.lock().unwrap();
        written.clone()
    }

    #[test]
    fn a_fact_is_one_flat_json_object_with_its_contract_fields() {
        let text = logged(LogFormat::Json, || settled("b/a\n{\"level\":\"ERROR\"}\u{1b}[2J").emit());
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\u{1b}'));
        let line: Value = serde_json::from_str(&text).unwrap();
        for (name, value) in [
            ("event", "message_settled"),
            ("level", "INFO"),
            ("run_id", "r"),
            ("version", env!("CARGO_PKG_VERSION")),
            ("namespace", "n"),
            ("message_id", "m"),
            ("outcome", "done"),
            ("settlement", "deleted"),
            ("index", "indexed"),
        ] {
            assert_eq!(line[name], value, "{name}");
        }
        assert_eq!(line["receive_count"], 1);
        assert_eq!(line["keys"][0], "b/a\n{\"level\":\"ERROR\"}\u{1b}[2J", "the key itself is kept whole");
        assert!(line.get("reason").is_none(), "what is not there is left out");
    }

    #[test]
    fn a_readable_line_is_one_line_too() {
        let text = logged(LogFormat::Text, || settled("b/a\n\u{1b}[2Jx").emit());
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\u{1b}'));
        assert!(text.contains("message_settled") && text.contains("outcome=done"), "{text}");
    }

    #[test]
    fn metrics_are_json_of_a_line_with_its_namespace_whatever_form_and_level_the_log_has() {
        let reconciled: crate::events::Reconciled = crate::metrics::emf::nothing_reconciled();
        for (format, level) in [(LogFormat::Text, "error"), (LogFormat::Json, "info")] {
            let written = Arc::new(Mutex::new(String::new()));
            let into = Arc::clone(&written);
            let identity = Identity { run_id: "r".into(), namespace: "n".into() };
            let lines = Lines { format, identity, write: move |line: &str| into.lock().unwrap().push_str(line) };
            let log = tracing_subscriber::registry().with(lines.with_filter(wanted(level)));
            tracing::subscriber::with_default(log, || {
                crate::metrics::emf::MetricsLine::of_reconciliation(7, &reconciled).emit();
            });
            let line: Value = serde_json::from_str(&written.lock().unwrap()).unwrap();
            assert_eq!((line["event"].as_str(), line["namespace"].as_str()), (Some("metrics"), Some("n")));
            assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"][0][0], "namespace");
            assert_eq!((&line["_aws"]["Timestamp"], &line["ReconcileMissing"]), (&Value::from(7), &Value::from(0)));
        }
    }

    #[test]
    fn a_plain_log_call_keeps_its_words() {
        let text = logged(LogFormat::Json, || tracing::warn!(target: "quittance", count = 3, "two\nlines"));
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((line["event"].as_str(), line["message"].as_str()), (Some("log"), Some("two\\nlines")));
        assert_eq!(line["count"], "3");
    }
}
