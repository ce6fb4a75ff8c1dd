use std::sync::OnceLock;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::books::Books;
use crate::clock::SystemClock;
use crate::gate::Gate;
use crate::index::bulk::{Class, Lane};
use crate::index::{IndexItem, ItemAnswer, Search, SearchError};
use crate::lease::{Intake, Word};
use crate::message::s3_event::{Source, Wanted};
use crate::message::{DocumentId, Namespace};
use crate::metrics::Meters;
use crate::outcome::{Dependency, Outcome, RetryReason};
use crate::retry::Jitter;
use crate::survey::{Letters, Lot, Seen, Survey};

const TOKEN: &str = "0123456789abcdef";

fn facts() -> Arc<Facts> {
    facts_with(None)
}

fn facts_with(lane: Option<Lane>) -> Arc<Facts> {
    let sources = vec![Source::parse("inbox").unwrap()];
    Arc::new(Facts {
        meters: Meters::new(Arc::new(Books::default()), Arc::new(SystemClock)),
        gate: Arc::new(Gate::new(Arc::new(Jitter::seeded(1)))),
        lane,
        survey: Arc::new(Survey::default()),
        clock: Arc::new(SystemClock),
        started_ms: 1_795_305_600_000,
        run_id: "run".into(),
        namespace: "default".into(),
        wanted: Wanted::new(sources, "results".into()),
        attached: OnceLock::new(),
    })
}

fn office(token: Option<&str>) -> Office {
    let token = token.map(|token| Secret::from(token.to_owned()));
    Office { facts: facts(), token, history: History::default(), hands: Hands::default() }
}

/// What a settler would answer that holds these.
fn attach(office: &Office, stop: CancellationToken) -> Intake {
    let (intake, mut words) = Intake::new(10);
    office.facts.attach(intake.pulse(), stop);
    tokio::spawn(async move {
        while let Some(word) = words.recv().await {
            match word {
                Word::Look(_, tell) => drop(tell.send(Vec::new())),
                Word::Admit(_) | Word::Settled(_) | Word::Pulse(_) => {}
            }
        }
    });
    intake
}

async fn ask(
    office: &Office,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (StatusCode, String) {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "127.0.0.1:9464");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let response = office.respond(request).await;
    assert_eq!(response.headers().get("access-control-allow-origin"), None, "nobody else's page may read it");
    assert!(
        response.headers().get(CONTENT_SECURITY_POLICY).unwrap().to_str().unwrap().starts_with("default-src 'none';")
    );
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn get(office: &Office, path: &str) -> (StatusCode, String) {
    ask(office, Method::GET, path, &[], "").await
}

#[tokio::test]
async fn only_what_is_there_is_answered_and_only_as_it_may_be_asked() {
    let office = office(None);
    assert_eq!(get(&office, "/healthz").await, (StatusCode::OK, "ok\n".to_owned()));
    assert_eq!(get(&office, "/x").await.0, StatusCode::NOT_FOUND);
    assert!(get(&office, "/metrics").await.1.contains("quittance_books_balanced 1\n"));
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::HEAD, Method::OPTIONS] {
        for path in ["/metrics", "/", "/status", "/healthz", "/readyz"] {
            assert_eq!(ask(&office, method.clone(), path, &[], "").await.0, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        }
    }
    for path in ["/pause", "/resume"] {
        assert_eq!(get(&office, path).await.0, StatusCode::METHOD_NOT_ALLOWED);
    }
}

#[tokio::test]
async fn what_names_keys_is_not_told_to_a_page_that_turned_its_name_to_our_address() {
    let office = office(Some(TOKEN));
    let (host, bearer) = (("host", "evil.example:9464"), ("authorization", "Bearer 0123456789abcdef"));
    for path in ["/", "/status"] {
        assert_eq!(ask(&office, Method::GET, path, &[host], "").await.0, StatusCode::MISDIRECTED_REQUEST);
        assert_eq!(get(&office, path).await.0, StatusCode::OK);
    }
    assert_eq!(ask(&office, Method::POST, "/pause", &[host, bearer], "").await.0, StatusCode::MISDIRECTED_REQUEST);
    assert!(!office.facts.gate.seen().is_paused());
    assert_eq!(ask(&office, Method::GET, "/metrics", &[host], "").await.0, StatusCode::OK, "no key is in there");
}

#[tokio::test(start_paused = true)]
async fn only_the_token_pauses_and_another_hands_pause_stands() {
    let bearer = ("authorization", "Bearer 0123456789abcdef");
    let without = office(None);
    assert_eq!(ask(&without, Method::POST, "/pause", &[bearer], "").await.0, StatusCode::FORBIDDEN);
    let office = office(Some(TOKEN));
    let wrong = ("authorization", "Bearer 0123456789abcdeX");
    for headers in [&[][..], &[wrong], &[bearer, ("origin", "http://evil.example")]] {
        assert_eq!(ask(&office, Method::POST, "/pause", headers, "").await.0, StatusCode::FORBIDDEN);
    }
    assert!(!without.facts.gate.seen().is_paused() && office.facts.gate.is_open());

    let (code, _) = ask(&office, Method::POST, "/pause", &[bearer], " index\u{1b}[2J rebuild\n").await;
    assert_eq!((code, office.facts.gate.is_open()), (StatusCode::OK, false));
    let holds = office.facts.gate.seen().holds;
    assert_eq!((holds[0].hand, &*holds[0].by, &*holds[0].reason), ("page", "status page", "index\\u{1b}[2J rebuild"));
    office.facts.gate.pause("signal", "signal", "SIGUSR1");
    let (_, said) = ask(&office, Method::POST, "/resume", &[bearer], "").await;
    assert_eq!(said, "taken back; still paused by signal\n");
    assert!(!office.facts.gate.is_open());
    office.facts.gate.resume("signal", "signal");
    assert!(office.facts.gate.is_open());
    let (code, _) = ask(&office, Method::POST, "/pause", &[bearer], &"x".repeat(REASON_BYTES + 1)).await;
    assert_eq!((code, office.facts.gate.is_open()), (StatusCode::PAYLOAD_TOO_LARGE, true));
}

#[tokio::test]
async fn it_is_ready_while_sqs_and_s3_answer_its_own_calls_and_a_pause_is_told() {
    let (office, stop) = (office(None), CancellationToken::new());
    let gate = Arc::clone(&office.facts.gate);
    assert_eq!(get(&office, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE, "it has not begun");
    let _intake = attach(&office, stop.clone());
    let ready = async |wanted: StatusCode, words: &str| {
        let (code, text) = get(&office, "/readyz").await;
        assert!(code == wanted && text.contains(words), "{words}: {code} {text}");
    };
    ready(StatusCode::OK, "ready\nopensearch: skipped").await;
    for _ in 0..3 {
        gate.queue_answered(Err("no route to sqs"));
    }
    ready(StatusCode::SERVICE_UNAVAILABLE, "not ready\nsqs: polls fail: no route to sqs\n").await;
    gate.queue_answered(Ok(()));
    ready(StatusCode::OK, "ready\n").await;
    for _ in 0..3 {
        gate.store_answered(Err("no route to s3"));
    }
    ready(StatusCode::SERVICE_UNAVAILABLE, "s3: the results bucket does not answer: no route to s3\n").await;
    gate.store_answered(Ok(()));
    for key in ["a", "b", "c"] {
        gate.weigh(key, Outcome::Retry(RetryReason::Systemic(Dependency::Source, "down".into())));
    }
    ready(StatusCode::SERVICE_UNAVAILABLE, "s3: the critical breaker is open").await;
    assert!(get(&office, "/metrics").await.1.contains("quittance_breaker_open{which=\"critical\"} 1\n"));
    gate.weigh("d", Outcome::Done);
    assert!(get(&office, "/metrics").await.1.contains("quittance_breaker_open{which=\"critical\"} 0\n"));
    ready(StatusCode::OK, "ready\n").await;
    gate.pause("signal", "signal", "SIGUSR1");
    stop.cancel();
    ready(StatusCode::OK, "paused: by signal (signal): SIGUSR1\ndraining: it was asked to stop\n").await;
}

struct Down;

#[async_trait::async_trait]
impl Search for Down {
    async fn bulk(&self, _: &[IndexItem]) -> Result<Vec<ItemAnswer>, SearchError> {
        Err(SearchError::Unavailable("no route".into()))
    }

    async fn probe(&self) -> Result<(), SearchError> {
        Err(SearchError::Unavailable("no route".into()))
    }
}

#[tokio::test(start_paused = true)]
async fn an_index_that_is_down_is_told_and_the_worker_is_ready() {
    let (lane, driver) = Lane::new(Arc::new(Down), Arc::new(Jitter::seeded(1)));
    tokio::spawn(driver);
    let office = Office { facts: facts_with(Some(lane.clone())), ..office(None) };
    let _intake = attach(&office, CancellationToken::new());
    assert_eq!(get(&office, "/readyz").await, (StatusCode::OK, "ready\nopensearch: well\n".to_owned()));
    while !lane.is_open() {
        let document_id = DocumentId::of(&Namespace::parse("default").unwrap(), "inbox", "a");
        let item = IndexItem { document_id, revision: 1, source: Bytes::from_static(b"{}") };
        lane.submit(item, Class::Fresh).await;
    }
    let (code, text) = get(&office, "/readyz").await;
    assert_eq!((code, &*text), (StatusCode::OK, "ready\nopensearch: its breaker is open: documents are parked\n"));
    assert!(get(&office, "/metrics").await.1.contains("quittance_breaker_open{which=\"index\"} 1\n"));
}

#[tokio::test]
async fn the_status_says_what_is_known_and_what_is_not() {
    let office = office(Some(TOKEN));
    let _intake = attach(&office, CancellationToken::new());
    let status = async || serde_json::from_str::<Value>(&get(&office, "/status").await.1).unwrap();
    let unknown = status().await;
    for name in ["parked", "errored", "dead_letters"] {
        assert_eq!(unknown[name], Value::Null, "{name}");
    }
    assert_eq!((&unknown["ready"], &unknown["may_pause"]), (&json!(true), &json!(true)));
    assert_eq!((&unknown["breakers"]["critical"], &unknown["breakers"]["index"]), (&json!(false), &Value::Null));

    let now = office.facts.clock.unix_ms();
    office.facts.survey.saw(Seen {
        parked: Some(Lot { markers: 2, more: true, oldest_ms: Some(now - 90_000) }),
        errored: Some(Lot::default()),
        dead_letters: Some(Letters { visible: 4, hidden: 1, retention: Duration::from_secs(1_209_600) }),
    });
    office.history.note(office.facts.reading());
    office.facts.meters.books.received();
    office.history.note(office.facts.reading());
    let known = status().await;
    assert_eq!((&known["parked"]["documents"], &known["parked"]["at_least"]), (&json!(2), &json!(true)));
    assert!((90..95).contains(&known["parked"]["oldest_age_seconds"].as_u64().unwrap()), "{known}");
    assert_eq!(known["errored"], json!({ "documents": 0, "at_least": false, "oldest_age_seconds": null }));
    assert_eq!(known["dead_letters"]["own_first_expires_at"], Value::Null);
    assert_eq!((known["history"].as_array().unwrap().len(), &known["history"][0]["received"]), (1, &json!(1)));
    assert_eq!(known["books"]["in_flight"], 1);
}

#[tokio::test]
async fn a_settler_that_does_not_answer_is_told_and_not_waited_for() {
    let office = office(None);
    let (intake, _words) = Intake::new(1);
    office.facts.attach(intake.pulse(), CancellationToken::new());
    let status: Value = serde_json::from_str(&get(&office, "/status").await.1).unwrap();
    assert_eq!(status["in_flight"], json!({ "answered": false, "shown": [] }));
}

#[tokio::test]
async fn a_taken_port_is_told_and_the_worker_goes_on() {
    let first = Admin::open("127.0.0.1:0".parse().unwrap(), facts(), None).await.unwrap();
    let taken = first.address().unwrap();
    assert!(Admin::open(taken, facts(), None).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_history_is_a_quarter_of_an_hour_and_no_more() {
    let office = office(None);
    for _ in 0..1_000 {
        office.history.note(office.facts.reading());
    }
    assert_eq!(office.history.steps().len(), 90);
}
