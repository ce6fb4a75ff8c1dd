//! `redrive inspect` on the model: what it counts, and that looking changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quittance::config::TenantFrom;
use quittance::dead_letter::{ATTRIBUTE, Note};
use quittance::index::park::markers::Markers;
use quittance::index::park::{Lot, Marker};
use quittance::message::{Message, MessageId, ReceiptHandle};
use quittance::queue::Outgoing;
use quittance::redrive::archive::shelf::Shelf;
use quittance::redrive::archive::{Archive, Archived};
use quittance::redrive::hold::Hold;
use quittance::redrive::inspect::report::Report;
use quittance::redrive::inspect::{Inspect, NoReport, html, show};
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::drain::grip;
use crate::browser::{Browser, inspection};
use crate::sim::worker::namespace;
use crate::sim::{EPOCH_MS, QueueAsk, RESULTS, SOURCE, StoreAsk, World, document_id};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const HOUR_MS: u64 = 3_600_000;
const HOSTILE: &str = "acme/<script>alert(1)</script>\u{202e}\u{1b}[2J\"'&.txt";

fn note(reason: &str, detail: &str, key: &str, redrives: u32) -> Note {
    Note {
        v: 1,
        reason: reason.into(),
        detail: detail.into(),
        attempts: 5,
        first_failed_at: "2026-11-22T00:00:00.000Z".into(),
        last_failed_at: "2026-11-22T00:00:00.000Z".into(),
        work_ids: Vec::new(),
        keys: vec![key.into()],
        source_queue: "arn".into(),
        message_id: "first".into(),
        redrives,
        envelope: None,
        run: None,
    }
}

fn body(key: &str) -> String {
    serde_json::json!({ "bucket": SOURCE, "key": key }).to_string()
}

fn dead(world: &World, key: &str, note: Option<&Note>) -> MessageId {
    let attributes = note.map(|note| (ATTRIBUTE.to_owned(), note.attribute().unwrap()));
    let attributes = attributes.into_iter().collect::<BTreeMap<_, _>>();
    world.dead_letters.put_message(Outgoing { body: body(key), attributes, group_id: None })
}

async fn give_up_on(world: &World, id: &str, key: &str, note: Note) {
    let message = Message {
        id: MessageId(id.into()),
        handle: ReceiptHandle("h".into()),
        body: body(key),
        attributes: BTreeMap::new(),
        receive_count: 1,
        sent_at_ms: None,
        group_id: None,
        moved_from: None,
    };
    let store = Arc::new(world.store.clone());
    let archive = Archive { store, bucket: RESULTS.into(), clock: Arc::new(world.clock.clone()) };
    archive.keep(&message, Some(note.clone()), &note.reason, &note.detail, None).await.unwrap();
}

fn errored(world: &World, key: &str, reason: &str) {
    let place = format!("errored-index/2026-11-22/default/{}/{:020}.json", document_id(key), 7);
    let marker = Marker {
        v: 1,
        document_id: document_id(key),
        bucket: SOURCE.into(),
        key: key.into(),
        revision: 7,
        reason: reason.into(),
        failed_at: "2026-11-22T00:30:00.000Z".into(),
    };
    world.store.put_object(RESULTS, &place, serde_json::to_vec(&marker).unwrap());
}

fn hold(world: &World, most: usize) -> Hold {
    let queue = Arc::new(world.dead_letters.seen_by("redrive"));
    Hold::new(grip(world, queue, most, Duration::from_secs(120)))
}

fn inspect(world: &World, sample: Option<usize>) -> Inspect {
    let store = || Arc::new(world.store.seen_by("redrive"));
    Inspect {
        shelf: Shelf { store: store(), bucket: RESULTS.into() },
        errored: Markers { store: store(), bucket: RESULTS.into(), namespace: namespace(), lot: Lot::Errored },
        dlq: Arc::new(world.dead_letters.seen_by("redrive")),
        dlq_url: "https://sqs/files-dlq".into(),
        sample: sample.map(|most| (hold(world, most), most)),
        since_ms: None,
        until_ms: None,
        tenant_from: TenantFrom::Prefix(1),
        most: 10_000,
        clock: Arc::new(world.clock.clone()),
        stop: CancellationToken::new(),
    }
}

/// Three letters in the DLQ, an envelope, 23 letters archived over two days, two documents that errored.
async fn prepare() -> World {
    let world = World::new(1);
    for n in 0..20 {
        let note = note("denied", &format!("403 of request {n}"), &format!("acme/{n}.txt"), 3);
        give_up_on(&world, &format!("letter-{n:02}"), &format!("acme/{n}.txt"), note).await;
    }
    sleep(26 * HOUR).await;
    for n in 0..3 {
        let note = note("malformed", "no json", HOSTILE, 1);
        give_up_on(&world, &format!("other-{n}"), HOSTILE, note).await;
    }
    errored(&world, "globex/a.txt", "mapper_parsing_exception: field [meta.x] of 17");
    errored(&world, "plain.txt", "mapper_parsing_exception: field [meta.x] of 18");
    let envelope = Archived::envelope(
        &Message {
            id: MessageId("e".into()),
            handle: ReceiptHandle("h".into()),
            body: body("x"),
            attributes: BTreeMap::new(),
            receive_count: 1,
            sent_at_ms: None,
            group_id: None,
            moved_from: None,
        },
        None,
    );
    let place = "archive/dlq/2026-11-23/envelope.json";
    world.store.put_object(RESULTS, place, serde_json::to_vec(&envelope).unwrap());
    dead(&world, "acme/1.txt", Some(&note("denied", "403", "acme/1.txt", 2)));
    dead(&world, "globex/2.txt", None);
    dead(&world, HOSTILE, Some(&note("malformed", "no json", HOSTILE, 0)));
    world
}

/// As `redrive inspect --json` tells it.
async fn told(inspect: Inspect) -> (Value, Report) {
    let report = inspect.run(&|_| {}).await.unwrap();
    (serde_json::to_value(&report).unwrap(), report)
}

fn table(place: &Value, name: &str) -> BTreeMap<String, u64> {
    let rows = place[name].as_array().unwrap().iter();
    rows.map(|row| (row["name"].as_str().unwrap().to_owned(), row["number"].as_u64().unwrap())).collect()
}

fn rows<const N: usize>(rows: [(&str, u64); N]) -> BTreeMap<String, u64> {
    rows.map(|(name, number)| (name.to_owned(), number)).into()
}

#[tokio::test(start_paused = true)]
async fn without_a_sample_nothing_is_received_and_nothing_is_written() {
    let world = prepare().await;
    let (told, report) = told(inspect(&world, None)).await;
    assert!(world.dead_letters.calls().iter().all(|call| call.ask == QueueAsk::Facts), "no receive");
    let reads = |ask: &StoreAsk| matches!(ask, StoreAsk::Get { .. } | StoreAsk::Head { .. } | StoreAsk::List { .. });
    assert!(world.store.calls().iter().filter(|call| *call.who == *"redrive").all(|call| reads(&call.ask)));
    assert_eq!((&told["queue"]["visible"], &told["queue"]["retention_s"]), (&3.into(), &(14 * 86_400).into()));
    assert_eq!((&told["received"], &told["dlq"]["read"], &told["first_expires"]), (&0.into(), &0.into(), &Value::Null));
    assert!(report.text().contains("nothing was received: --sample N"), "{}", report.text());

    let archive = &told["archive"];
    assert_eq!((&archive["there"], &archive["read"], &archive["matching"]), (&24.into(), &24.into(), &23.into()));
    assert_eq!((&archive["envelopes"], &archive["files"], &archive["tenants"]), (&1.into(), &21.into(), &1.into()));
    assert_eq!(table(archive, "by_reason"), rows([("denied", 20), ("malformed", 3)]));
    assert_eq!(table(archive, "by_error"), rows([("403 of request #", 20), ("no json", 3)]));
    assert_eq!(table(archive, "by_redrives"), rows([("3", 20), ("1", 3)]));
    assert_eq!((table(archive, "by_age")["1 to 2 days"], table(archive, "by_age")["under 1 h"]), (20, 3));
    let inflow: u64 = archive["inflow"].as_array().unwrap().iter().map(|bar| bar["number"].as_u64().unwrap()).sum();
    assert_eq!((inflow, &told["inflow_scale"]["width_ms"]), (23, &HOUR_MS.into()));
    let errored = &told["errored"];
    assert_eq!(table(errored, "by_reason"), rows([("mapper_parsing_exception", 2)]));
    assert_eq!(table(errored, "by_error"), rows([("field [meta.x] of #", 2)]));
    assert_eq!(table(errored, "by_tenant"), rows([("globex", 1), ("(none)", 1)]));
    assert_eq!(table(errored, "by_prefix"), rows([("globex/", 1), ("(no folder)", 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_sample_is_returned_whole_and_tells_reasons_and_expiry() {
    let world = prepare().await;
    sleep(2 * HOUR).await;
    let (told, report) = told(inspect(&world, Some(100))).await;
    assert_eq!((&told["received"], &told["not_returned"], &told["dlq"]["matching"]), (&3.into(), &0.into(), &3.into()));
    assert_eq!(table(&told["dlq"], "by_reason"), rows([("denied", 1), ("malformed", 1), ("max_receives", 1)]));
    assert_eq!(table(&told["dlq"], "by_tenant"), rows([("acme", 2), ("globex", 1)]));
    let fortnight = 14 * 86_400_000;
    let sent = EPOCH_MS + 26 * HOUR_MS;
    assert_eq!(told["first_expires"]["at"], quittance::clock::rfc3339(sent + fortnight));
    assert_eq!(told["first_expires"]["in_s"], 14 * 86_400 - 2 * 3_600);
    assert!(report.text().contains("in 13 d 22 h"), "{}", report.text());
    assert_eq!(world.dead_letters.visible(), 3, "at once");
    assert!(world.dead_letters.live().iter().all(|(_, _, count)| *count == 1), "one receive each");
    // No more than it was asked for.
    for n in 0..100 {
        dead(&world, &format!("acme/{n}.txt"), None);
    }
    for most in [2, 11, 47, 99] {
        let (some, _) = self::told(inspect(&world, Some(most))).await;
        assert_eq!((some["received"].as_u64(), world.dead_letters.visible()), (Some(most as u64), 103));
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_came_in_the_time_that_was_asked_for_is_counted() {
    let world = prepare().await;
    let late = EPOCH_MS + 20 * HOUR_MS;
    let since = Inspect { since_ms: Some(late), ..inspect(&world, Some(10)) };
    let (told, _) = told(since).await;
    assert_eq!((&told["archive"]["there"], &told["archive"]["matching"]), (&24.into(), &3.into()));
    assert_eq!((&told["archive"]["unmatched"], &told["errored"]["matching"]), (&20.into(), &0.into()));
    assert_eq!(told["dlq"]["matching"], 3);
    let until = Inspect { until_ms: Some(late), ..inspect(&world, Some(10)) };
    let (told, _) = self::told(until).await;
    assert_eq!((&told["archive"]["there"], &told["archive"]["matching"]), (&20.into(), &20.into()), "by its days");
    assert_eq!((&told["errored"]["matching"], &told["dlq"]["matching"]), (&2.into(), &0.into()));
    // The newest, where there are more than are read.
    let few = Inspect { most: 4, ..inspect(&world, None) };
    let (told, _) = self::told(few).await;
    assert_eq!((&told["archive"]["there"], &told["archive"]["read"]), (&24.into(), &4.into()));
    assert_eq!(table(&told["archive"], "by_reason"), rows([("malformed", 3)]));
}

#[tokio::test(start_paused = true)]
async fn the_page_runs_nothing_and_loads_nothing_whatever_a_key_says() {
    let world = prepare().await;
    errored(&world, HOSTILE, "<img src=x onerror=alert(1)>: '\"><svg onload=alert(2)>");
    let tenants = Inspect { tenant_from: TenantFrom::Prefix(2), ..inspect(&world, Some(10)) };
    let (_, report) = told(tenants).await;
    let page = html::page(&report);
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;"), "{page}");
    for tag in [
        "<script",
        "<img",
        "onload=alert(2)>",
        "javascript:",
        "src=\"",
        "href=",
        "url(",
        "@import",
        "\u{202e}",
        "\u{1b}",
    ] {
        assert!(!page.contains(tag), "{tag}");
    }
    // Only tags of ours, and each rectangle well formed.
    let ours = [
        "!DOCTYPE", "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "span", "b", "svg",
        "rect",
    ];
    for tag in page.split('<').skip(1) {
        let name: String =
            tag.trim_start_matches('/').chars().take_while(|c| c.is_alphanumeric() || *c == '!').collect();
        assert!(ours.contains(&name.as_str()), "<{tag}");
    }
    assert!(
        page.contains("Content-Security-Policy\" content=\"default-src 'none'")
            && page.contains("prefers-color-scheme:dark")
    );
    assert!(page.contains("width=device-width") && page.matches("<rect").count() > 20);
}

/// Of the names that a reader sees on the page: letters of ours with text of theirs.
pub const HOSTILE_NAMES: [(&str, &str); 6] = [
    ("<img src=x onerror=\"window.ran=1;alert(1)\">", "<img src=x onerror=\"window.ran=1;alert(1)\">"),
    ("</span></div><script>window.ran=1<", "</span></div><script>window.ran=1<"),
    ("a\"'&amp;&lt;  two  spaces", "a\"'&amp;&lt;  two  spaces"),
    ("two\nlines\u{202e}txt.exe", "two\\nlines\\u{202e}txt.exe"),
    (
        "\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{645}\u{631}\u{62d}\u{628}\u{627}",
        "\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{645}\u{631}\u{62d}\u{628}\u{627}",
    ),
    ("{{constructor.constructor('window.ran=1')()}}", "{{constructor.constructor('window.ran=1')()}}"),
];

#[tokio::test(start_paused = true)]
#[ignore = "needs a browser: make test"]
async fn in_a_real_browser_the_page_shows_what_json_says_offline_on_a_phone_in_light_and_dark_and_runs_nothing() {
    let world = prepare().await;
    for (raw, _) in HOSTILE_NAMES {
        // Of any depth: the folder and the tenant are what comes before the first slash.
        let key = format!("{}/b.txt", raw.replace('/', "\u{2044}"));
        dead(&world, &key, Some(&note("limit", raw, &key, 1)));
        errored(&world, &key, &format!("{raw}: {raw}"));
    }
    give_up_on(&world, "long", "k", note("malformed", &"no-space-in-it".repeat(30), &"日本語".repeat(90), 2)).await;
    sleep(3 * HOUR).await;
    dead(&world, "late/1.txt", None);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    let mut browser = Browser::start();
    // Sampled or not, over hours or over days, and with nothing to show at all.
    let empty = World::new(2);
    for (name, inspect) in [
        ("inspect-sampled", inspect(&world, Some(100))),
        ("inspect-unsampled", inspect(&world, None)),
        ("inspect-since", Inspect { since_ms: Some(EPOCH_MS + 20 * HOUR_MS), ..inspect(&world, Some(100)) }),
        ("inspect-empty", inspect(&empty, Some(10))),
    ] {
        let (told, mut report) = told(inspect).await;
        // As long as they can be, and without a place to break.
        report.results_bucket = "b".repeat(63);
        report.queue.url = format!("https://sqs.ap-northeast-1.amazonaws.com/123456789012/{}", "q".repeat(80));
        std::fs::write(&file, html::page(&report)).unwrap();
        inspection::shows(&mut browser, &file, &told);
        if name == "inspect-sampled" {
            let words = browser.words();
            for (_, shown) in HOSTILE_NAMES {
                let shown = shown.replace('/', "\u{2044}");
                assert!(words.contains(&shown), "{shown} is not in {words}");
            }
        }
        browser.looks_well(name);
        if let Some(pictures) = std::env::var_os("QUITTANCE_PICTURES") {
            for (scheme, width) in [("light", 360), ("light", 1100), ("dark", 500), ("dark", 1100)] {
                browser.scheme(scheme);
                browser.resize(width, 900);
                browser.picture(&std::path::Path::new(&pictures).join(format!("{name}-{scheme}-{width}.png")));
            }
        }
        assert_eq!(browser.ask("typeof window.ran"), "undefined", "a script ran");
        assert_eq!(browser.troubles(), [""; 0]);
    }
}

#[test]
#[ignore = "needs a browser: make test"]
fn the_browser_tells_of_every_trouble_that_a_page_can_have_and_clicks() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    let mut browser = Browser::start();
    let mut open = |body: &str| {
        std::fs::write(&file, format!("<!DOCTYPE html><html style='background:#fff'>{body}</html>")).unwrap();
        browser.open_file(&file);
        (browser.troubles().join("\n"), browser.too_wide().join("\n"), browser.faint())
    };
    assert_eq!(open("<p>well</p>"), (String::new(), String::new(), (Vec::new(), 1)));
    for (body, says) in [
        ("<script>fetch('http://192.0.2.1/x').catch(() => 0)</script>", "a request to http://192.0.2.1/x"),
        ("<img src='https://example.com/a.png'>", "a request to https://example.com/a.png"),
        ("<img src='other.png'>", "a request to file://"),
        ("<script>alert('here')</script>", "a dialog: \"here\""),
        ("<script>null.x</script>", "a script failed"),
        ("<script>console.error('oh')</script>", "oh"),
        ("<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\"><script>1</script>", "violates"),
    ] {
        let (troubles, ..) = open(body);
        assert!(troubles.contains(says), "{body}: {troubles}");
    }
    assert!(open("<p style='width:3000px'>wide</p>").1.contains("px wide"));
    assert!(open("<p style='width:3em;overflow:hidden'>cutcutcutcutcut</p>").1.contains("cutcut"));
    let (faint, all) =
        open("<p style='color:#999'>pale</p><svg><rect fill='#eee' width=9 height=9 /></svg><p>well</p>").2;
    assert_eq!((faint.len(), all), (2, 3), "{faint:?}");
    open("<button onclick='this.textContent=\"clicked\"'>click</button>");
    browser.click("button");
    browser.until("document.querySelector('button').textContent === 'clicked'");
}

#[tokio::test(start_paused = true)]
async fn one_message_is_shown_from_the_archive_and_from_a_sample() {
    let world = prepare().await;
    let id = dead(&world, "acme/9.txt", None);
    let shelf = Shelf { store: Arc::new(world.store.clone()), bucket: RESULTS.into() };
    let stop = CancellationToken::new();
    let ask = async |id: &str, sample: Option<usize>| {
        let hold = sample.map(|most| (hold(&world, most), most));
        let answer = show(&shelf, id, hold, &stop, &|_| {}).await.unwrap();
        (serde_json::from_str::<Value>(&answer.json).unwrap(), answer.code, answer.text)
    };
    let (told, code, _) = ask("letter-03", None).await;
    assert_eq!((told["found"][0]["letter"]["body"].as_str(), code), (Some(body("acme/3.txt").as_str()), 0));
    let (told, code, text) = ask(&id.0, None).await;
    assert_eq!((told["found"].as_array().unwrap().len(), code), (0, 3));
    assert!(text.contains("was not looked at (--sample N)"), "{text}");
    let (told, code, text) = ask(&id.0, Some(50)).await;
    assert_eq!((&told["found"][0]["place"], &told["received"], code), (&"dead-letter queue".into(), &4.into(), 0));
    assert!(text.contains("acme/9.txt"), "{text}");
    assert_eq!(world.dead_letters.visible(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_sample_is_returned_and_a_sick_queue_is_said() {
    let world = prepare().await;
    let stopped = inspect(&world, Some(10));
    stopped.stop.cancel();
    assert_eq!(stopped.run(&|_| {}).await, Err(NoReport::Interrupted));
    assert_eq!(world.dead_letters.visible(), 3);
    world.dead_letters.faults(|faults| faults.receive.fail_before = 1.0);
    let sick = inspect(&world, Some(10)).run(&|_| {}).await;
    assert!(matches!(&sick, Err(NoReport::Sick(why)) if why.contains("SQS")), "{sick:?}");
    world.dead_letters.faults(|faults| faults.receive.fail_before = 0.0);
    sleep(SECOND).await;
    assert_eq!(world.dead_letters.visible(), 3);
}
