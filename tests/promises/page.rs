//! The status page of a worker in a real browser, and what a survey sees of the model's parked markers.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quittance::admin::Admin;
use quittance::books::Books;
use quittance::clock::{LeaseClock, SystemClock, WallClock as _};
use quittance::config::Secret;
use quittance::events::{self, Event as _};
use quittance::gate::Gate;
use quittance::index::park::Lot;
use quittance::index::park::markers::Markers;
use quittance::lease::Intake;
use quittance::message::s3_event::{Source, Wanted};
use quittance::message::{Message, MessageId, ReceiptHandle};
use quittance::metrics::{Facts, Meters};
use quittance::retry::Jitter;
use quittance::settle::{Desk, Failures, Settler};
use quittance::store::{Condition, Store as _};
use quittance::survey::{Letters, Lot as SeenLot, Seen, Survey, Surveyor};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::browser::Browser;
use crate::inspect::HOSTILE_NAMES;
use crate::sim::{EPOCH_MS, World};

const TOKEN: &str = "0123456789abcdef";
const HOUR: u64 = 3_600;

fn message(id: &str, body: String, receive_count: u32) -> Message {
    Message {
        id: MessageId(id.to_owned()),
        handle: ReceiptHandle(format!("handle of {id}")),
        body,
        attributes: std::collections::BTreeMap::new(),
        receive_count,
        sent_at_ms: Some(SystemClock.unix_ms()),
        group_id: None,
        moved_from: None,
    }
}

/// A worker's page on a thread of its own, until it is dropped: a settler with messages in hand whose keys are hostile, and
/// failures whose every word is.
struct Shown {
    address: SocketAddr,
    end: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Shown {
    fn start(token: Option<&str>, names: Vec<String>) -> Self {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, token) = (CancellationToken::new(), token.map(|token| Secret::from(token.to_owned())));
        let over = end.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = over.cancelled() => {}
                    () = serve(token, names, &tell) => {}
                }
            });
        });
        Self { address: told.recv().unwrap(), end, thread: Some(thread) }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.end.cancel();
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}

async fn serve(token: Option<Secret>, names: Vec<String>, tell: &std::sync::mpsc::Sender<SocketAddr>) {
    let world = World::new(1);
    let books = Arc::new(Books::default());
    let meters = Meters::new(Arc::clone(&books), Arc::new(SystemClock));
    let _log = tracing::subscriber::set_default(tracing_subscriber::registry().with(meters.layer()));
    let (intake, words) = Intake::new(20);
    let settler = Settler::new(
        Desk {
            queue: Arc::new(world.queue.seen_by("page")),
            failures: Failures::Returned,
            books,
            jitter: Jitter::seeded(1),
            visibility: Duration::from_secs(600),
            lease_clock: LeaseClock::of_system(),
        },
        words,
    );
    tokio::spawn(settler.run());
    let now = SystemClock.unix_ms();
    let facts = Arc::new(Facts {
        meters,
        gate: Arc::new(Gate::new(Arc::new(Jitter::seeded(1)))),
        lane: None,
        survey: Arc::new(Survey::default()),
        clock: Arc::new(SystemClock),
        started_ms: now - HOUR * 1000,
        run_id: uuid::Uuid::now_v7().to_string(),
        namespace: "n".repeat(32),
        wanted: Wanted::new(vec![Source::parse("inbox").unwrap()], "results".into()),
        attached: OnceLock::new(),
    });
    facts.attach(intake.pulse(), CancellationToken::new());
    facts.survey.saw(Seen {
        parked: Some(SeenLot { markers: 1_234_567, more: true, oldest_ms: Some(now - 26 * HOUR * 1000) }),
        errored: Some(SeenLot { markers: 2, more: false, oldest_ms: Some(now) }),
        dead_letters: Some(Letters { visible: 8_158, hidden: 3, retention: Duration::from_secs(14 * 24 * HOUR) }),
    });
    let mut held = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let body = json!({ "bucket": "inbox", "key": name }).to_string();
        let seats = intake.seats(1, 1).await.unwrap();
        held.extend(intake.admit(vec![message(&format!("{at}-{name}"), body, 3)], seats, Instant::now()).await);
        let id = format!("6c1f7a52-{at}-{name}");
        events::MessageSettled {
            message_id: id.clone(),
            receive_count: 1,
            outcome: "rejected",
            settlement: "dead_lettered",
            reason: Some("malformed"),
            detail: Some(name.clone()),
            work_ids: vec![],
            keys: vec![name.clone()],
            held_ms: 40 + 700 * at as u64,
            index: "none",
            original_message_id: None,
        }
        .emit();
        events::DocumentErrored { document_id: id, key: name.clone(), revision: 1, reason: name.clone() }.emit();
    }
    let admin = Admin::open("127.0.0.1:0".parse().unwrap(), facts, token).await.unwrap();
    tell.send(admin.address().unwrap()).unwrap();
    admin.serve().await;
    drop(held);
}

/// Draws a quarter of an hour and says how many lines, points and pieces there are.
const DRAWN: &str = "fetch('status').then(answer => answer.json()).then(s => {
  const now = Date.parse(s.now), wave = i => Math.round(40 + 20 * Math.sin((i - 19) / 12));
  s.history = [...Array(90)].map((_, i) => ({ at_ms: now - (89 - i) * 10000, ms: 10000, received: 0,
    deleted: i === 45 ? 60 : wave(i), returned: i > 60 ? 6 : 0, dead_lettered: i === 70 ? 9 : 0, lease_lost: 0,
    work_p50_seconds: i % 15 ? 1 + i / 90 : null, work_p95_seconds: i % 15 ? (i === 89 ? 9 : 5 + i / 45) : null }));
  show(s);
  const d = id => document.querySelector(id).getAttribute('d');
  return [document.querySelectorAll('#rate path').length, d('#rate path').split(/[ML]/).length - 1,
    d('#work path').split('M').length, document.getElementById('rate-most').textContent,
    document.getElementById('work-most').textContent];
})";

fn pictures(browser: &mut Browser, name: &str) {
    let Some(folder) = std::env::var_os("QUITTANCE_PICTURES") else { return };
    for (scheme, width) in [("light", 360), ("light", 1100), ("dark", 360), ("dark", 1100)] {
        browser.scheme(scheme);
        browser.resize(width, 900);
        if name == "status" {
            browser.ask(DRAWN);
        }
        browser.picture(&std::path::Path::new(&folder).join(format!("{name}-{scheme}-{width}.png")));
    }
}

#[test]
#[ignore = "needs a browser: make test"]
fn in_a_real_browser_the_status_page_is_live_offline_readable_on_a_phone_and_runs_no_key() {
    let long = ["no-space-in-it/".repeat(60).replace('/', "_"), "日本語".repeat(90)];
    let names = long.into_iter().chain(HOSTILE_NAMES.iter().map(|(raw, _)| (*raw).to_owned())).collect();
    let shown = Shown::start(Some(TOKEN), names);
    let mut browser = Browser::start();
    browser.open(&shown.url(), &[]);
    browser.until("document.getElementById('state').textContent === 'Receiving'");
    // The second step of the history, so that there is something to draw.
    browser.until("document.getElementById('rate-most').textContent.startsWith('(at most')");
    let words = browser.words();
    for (at, (_, said)) in HOSTILE_NAMES.iter().enumerate() {
        // In hand; and of those that failed the last five are kept.
        let least = if at == 0 { 1 } else { 3 };
        assert!(words.matches(said).count() >= least, "{said} is not in {words}");
    }
    for said in
        ["8158", "at least 1234567", "the oldest 26 h", "malformed: 8", "document_errored: 8", "14 days", "Nobody"]
    {
        assert!(words.to_lowercase().contains(&said.to_lowercase()), "{said} is not in {words}");
    }
    browser.looks_well("status");
    pictures(&mut browser, "status");
    assert_eq!(browser.ask("document.querySelectorAll('#hands code').length"), json!(8));
    browser.click("#hands button");
    browser.until("['copied', 'selected'].includes(document.querySelector('#hands button').textContent)");
    let commands = browser.ask("[...document.querySelectorAll('#failures code')].map(code => code.textContent)");
    let commands: Vec<String> = serde_json::from_value(commands).unwrap();
    assert_eq!(commands.len(), 10);
    for command in commands {
        let is_quoted =
            ["redrive trace '6c1f7a52-", "redrive parked --errored"].iter().any(|own| command.starts_with(own));
        assert!(is_quoted, "{command}");
    }
    // A quarter of an hour, invented: three lines, one of them with a gap where nothing was settled.
    assert_eq!(browser.ask(DRAWN), json!([3, 90, 7, "(at most 360 a minute)", "(at most 9 s)"]));

    let fill = |browser: &mut Browser, token: &str| {
        browser.ask(&format!("document.getElementById('token').value = {}", json!(token)));
        browser.ask("document.getElementById('reason').value = '<b>rebuild</b>'");
    };
    fill(&mut browser, TOKEN);
    browser.click("#pause");
    browser.until("document.getElementById('state').textContent === 'Paused'");
    assert!(browser.words().contains("paused: by status page (page): <b>rebuild</b>"), "{}", browser.words());
    pictures(&mut browser, "status-paused");
    browser.click("#resume");
    browser.until("document.getElementById('state').textContent === 'Receiving'");
    assert_eq!(browser.ask("typeof window.ran"), "undefined", "a script ran");
    assert_eq!(browser.troubles(), [""; 0]);

    // From here on each step is trouble, and is to be.
    fill(&mut browser, "another-token-that-is-long");
    browser.click("#pause");
    browser.until("document.getElementById('told').textContent === 'not the token'");
    let inject = "(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1'; \
                  document.body.append(s); return typeof window.ran; })()";
    assert_eq!(browser.ask(inject), "undefined", "the policy lets nothing run but the page's own script");
    let inline = "(() => { const b = document.createElement('button'); b.setAttribute('onclick', 'window.ran = 1'); \
                  document.body.append(b); b.click(); return typeof window.ran; })()";
    assert_eq!(browser.ask(inline), "undefined", "nor a handler");
    let elsewhere = "fetch('http://192.0.2.1/').then(() => 'asked', () => 'refused')";
    assert_eq!(browser.ask(elsewhere), "refused");
    assert!(
        browser.troubles().iter().all(|told| !told.contains("a request to")),
        "the policy stops it before the network"
    );
    drop(shown);
    browser.until("document.getElementById('state').textContent === 'No answer from the worker'");
}

#[test]
#[ignore = "needs a browser: make test"]
fn in_a_real_browser_a_page_without_a_token_has_no_buttons() {
    let shown = Shown::start(None, Vec::new());
    let mut browser = Browser::start();
    browser.open(&shown.url(), &[]);
    browser.until("document.getElementById('state').textContent === 'Receiving'");
    assert_eq!(browser.ask("document.getElementById('control').getClientRects().length"), json!(0));
    assert!(browser.words().contains("None since it was started."));
    browser.looks_well("status-empty");
    pictures(&mut browser, "status-empty");
    assert_eq!(browser.troubles(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_survey_counts_what_lies_in_the_namespaces_lots_and_knows_the_oldest() {
    let world = World::new(1);
    let store = world.store.seen_by("survey");
    let put = async |key: String| {
        let body = bytes::Bytes::from_static(b"{}");
        store.put("results", &key, body, &std::collections::BTreeMap::new(), Condition::Absent).await.unwrap();
    };
    let document = |number: u64| format!("{number:064x}");
    let key = |lot: &str, day: &str, namespace: &str, number: u64, revision: u64| {
        format!("{lot}/{day}/{namespace}/{}/{revision:020}.json", document(number))
    };
    for number in 0..1_500 {
        put(key("retry-index", "2026-11-21", "default", number, EPOCH_MS + 2_000_000 - number)).await;
    }
    put(key("retry-index", "2026-11-22", "default", 1, EPOCH_MS)).await; // of another day: not looked at for its age
    put(key("retry-index", "2026-11-20", "other", 1, 7)).await;
    put(key("errored-index", "2026-11-20", "default", 1, EPOCH_MS)).await;
    let markers = |lot| Markers {
        store: Arc::new(world.store.seen_by("survey")),
        bucket: "results".into(),
        namespace: crate::sim::worker::namespace(),
        lot,
    };
    let surveyor = Surveyor {
        parked: markers(Lot::Retry),
        errored: markers(Lot::Errored),
        dead_letters: Arc::new(world.dead_letters.seen_by("survey")),
        jitter: Arc::new(Jitter::seeded(1)),
        survey: Arc::default(),
    };
    let seen = surveyor.look().await;
    let oldest_ms = Some(EPOCH_MS + 2_000_000 - 1_499);
    assert_eq!(seen.parked, Some(SeenLot { markers: 1_501, more: false, oldest_ms }));
    assert_eq!(seen.errored.map(|lot| lot.markers), Some(1));
    assert_eq!(seen.dead_letters.map(|letters| letters.visible), Some(0));
}
