use std::future::pending;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use bytes::Bytes;
use flate2::read::GzDecoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::index::ItemVerdict;
use crate::index::bulk::{Class, Lane};
use crate::index::catalogue::{Catalogue as _, Stretch};
use crate::message::{DocumentId, Namespace};
use crate::retry::Jitter;

fn settings(endpoint: &str) -> OpenSearchSettings {
    OpenSearchSettings {
        endpoint: endpoint.to_owned(),
        index: "files".to_owned(),
        auth: Auth::None,
        request_timeout: Duration::from_millis(400),
        connect_timeout: Duration::from_millis(200),
    }
}

fn item(key: &str) -> IndexItem {
    let document_id = DocumentId::of(&Namespace::parse("n").unwrap(), "b", key);
    IndexItem { document_id, revision: 7, source: Bytes::from_static(b"{\"content\":\"x\"}") }
}

fn created(item: &IndexItem) -> String {
    let action = serde_json::json!({"index": {"_id": item.document_id, "status": 201}});
    serde_json::json!({"errors": false, "items": [action]}).to_string()
}

/// What a request looked like on the wire.
struct Heard {
    head: String,
    body: Vec<u8>,
}

/// A server that answers each request with these bytes, or never with `None`; it reports what it heard.
async fn server(answer: Option<Vec<u8>>) -> (String, mpsc::UnboundedReceiver<Heard>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (tell, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, answer.clone(), tell.clone()));
        }
    });
    (endpoint, heard)
}

async fn serve(mut stream: TcpStream, answer: Option<Vec<u8>>, tell: mpsc::UnboundedSender<Heard>) {
    let Some(heard) = hear(&mut stream).await else { return };
    tell.send(heard).ok();
    match answer {
        Some(answer) => stream.write_all(&answer).await.unwrap(),
        None => tokio::time::sleep(Duration::from_secs(60)).await,
    }
}

/// One request; `None` is a knock: connected, and gone again.
async fn hear(stream: &mut TcpStream) -> Option<Heard> {
    let mut raw = Vec::new();
    let end = loop {
        if stream.read_buf(&mut raw).await.unwrap_or(0) == 0 {
            return None;
        }
        if let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8(raw[..end].to_vec()).unwrap().to_ascii_lowercase();
    let length: usize =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    while raw.len() < end + length {
        stream.read_buf(&mut raw).await.unwrap();
    }
    Some(Heard { head, body: raw[end..].to_vec() })
}

/// What a script says to a request, from its number and the items that would be the reply if all went well.
type Script = fn(usize, Vec<serde_json::Value>) -> (&'static str, String);

/// A server that answers by a script, and counts the requests.
async fn scripted(script: Script) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let requests = Arc::clone(&counted);
            tokio::spawn(async move {
                let Some(heard) = hear(&mut stream).await else { return };
                let mut body = String::new();
                GzDecoder::new(&heard.body[..]).read_to_string(&mut body).unwrap();
                let actions = body.lines().step_by(2).map(|line| serde_json::from_str(line).unwrap());
                let well = |action: serde_json::Value| serde_json::json!({"index": {"_id": action["index"]["_id"], "status": 201}});
                let (status, reply) = script(requests.fetch_add(1, Ordering::SeqCst), actions.map(well).collect());
                stream.write_all(&http(status, "", &reply).unwrap()).await.ok();
            });
        }
    });
    (endpoint, requests)
}

fn items_reply(items: &[serde_json::Value]) -> String {
    serde_json::json!({"took": 1, "errors": false, "items": items}).to_string()
}

/// Client and lane together, twelve documents, and replies as servers and proxies give them.
#[tokio::test]
async fn over_the_wire_each_document_has_its_verdict_whatever_the_replies_are_like() {
    // The script, the requests that it takes at most, and how many documents are durable, refused and systemic.
    let cases: [(&str, Script, usize, [usize; 3]); 8] = [
        ("well", |_, items| ("200 OK", items_reply(&items)), 1, [12, 0, 0]),
        (
            "two items rejected in the first reply",
            |number, mut items| {
                if number == 0 {
                    for place in [3, 7] {
                        let error = serde_json::json!({"type": "rejected_execution_exception", "reason": "full"});
                        items[place]["index"]["status"] = 429.into();
                        items[place]["index"]["error"] = error;
                    }
                }
                ("200 OK", items_reply(&items))
            },
            2,
            [12, 0, 0],
        ),
        (
            "the first request rejected",
            |number, items| match number {
                0 => ("429 Too Many Requests", "<html>later</html>".into()),
                _ => ("200 OK", items_reply(&items)),
            },
            2,
            [12, 0, 0],
        ),
        (
            "a mapping conflict",
            |_, mut items| {
                let error = serde_json::json!({"type": "mapper_parsing_exception", "reason": "failed to parse"});
                items[5]["index"]["status"] = 400.into();
                items[5]["index"]["error"] = error;
                ("200 OK", items_reply(&items))
            },
            1,
            [11, 1, 0],
        ),
        (
            "one item missing in the first reply",
            |number, items| ("200 OK", items_reply(if number == 0 { &items[1..] } else { &items })),
            2,
            [12, 0, 0],
        ),
        (
            "reordered at first, then truncated, then well",
            |number, mut items| {
                if number == 0 {
                    items.reverse();
                }
                let reply = items_reply(&items);
                let end = if number == 1 { reply.len() / 2 } else { reply.len() };
                ("200 OK", reply[..end].to_owned())
            },
            3,
            [12, 0, 0],
        ),
        ("never readable", |_, _| ("200 OK", "<html>Please sign in</html>".into()), 3, [0, 0, 12]),
        (
            "no more than three at once",
            |_, items| match items.len() {
                0..=3 => ("200 OK", items_reply(&items)),
                _ => ("413 Payload Too Large", String::new()),
            },
            7,
            [12, 0, 0],
        ),
    ];
    for (name, script, most, expected) in cases {
        let (endpoint, requests) = scripted(script).await;
        let slow = OpenSearchSettings { request_timeout: Duration::from_secs(20), ..settings(&endpoint) };
        let index = Arc::new(OpenSearchIndex::new(slow).unwrap());
        let (lane, drive) = Lane::new(index, Arc::new(Jitter::seeded(1)));
        tokio::spawn(drive);
        let documents = (0..12).map(|number| lane.submit(item(&number.to_string()), Class::Fresh));
        let mut counts = [0; 3];
        for verdict in futures_util::future::join_all(documents).await {
            let place = match verdict {
                ItemVerdict::Durable => 0,
                ItemVerdict::Refused(_) => 1,
                ItemVerdict::Unclear(_) | ItemVerdict::Systemic(_) => 2,
            };
            counts[place] += 1;
        }
        let requests = requests.load(Ordering::SeqCst);
        assert_eq!(counts, expected, "{name}");
        assert!(requests <= most, "{name}: {requests} requests");
    }
}

fn http(status: &str, headers: &str, body: &str) -> Option<Vec<u8>> {
    let length = body.len();
    Some(
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}")
            .into_bytes(),
    )
}

fn unavailable(result: Result<Vec<ItemAnswer>, SearchError>) -> String {
    match result {
        Err(SearchError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_bulk_goes_gzipped_to_the_alias_and_may_not_create_an_index() {
    let (endpoint, mut heard) = server(http("200 OK", "", &created(&item("k")))).await;
    let index = OpenSearchIndex::new(settings(&endpoint)).unwrap();
    assert_eq!(index.bulk(&[item("k")]).await, Ok(vec![ItemAnswer::Durable]));
    let heard = heard.recv().await.unwrap();
    assert!(
        heard.head.starts_with("post /files/_bulk?require_alias=true&timeout=200ms http/1.1\r\n"),
        "{}",
        heard.head
    );
    assert!(
        heard.head.contains("content-encoding: gzip\r\n") && heard.head.contains("content-type: application/x-ndjson")
    );
    let mut body = String::new();
    GzDecoder::new(&heard.body[..]).read_to_string(&mut body).unwrap();
    assert_eq!(body.lines().count(), 2, "{body}");
}

#[tokio::test]
async fn an_alias_is_one_encoded_segment_of_the_path() {
    let (endpoint, mut heard) = server(http("200 OK", "", &created(&item("k")))).await;
    let named = OpenSearchSettings { index: "書類%2f".to_owned(), ..settings(&format!("{endpoint}/behind/a/proxy")) };
    OpenSearchIndex::new(named).unwrap().bulk(&[item("k")]).await.unwrap();
    let head = heard.recv().await.unwrap().head;
    assert!(head.starts_with("post /behind/a/proxy/%e6%9b%b8%e9%a1%9e%252f/_bulk?"), "{head}");
}

#[tokio::test]
async fn nothing_to_write_is_no_request() {
    let (endpoint, mut heard) = server(http("200 OK", "", "{}")).await;
    let index = OpenSearchIndex::new(settings(&endpoint)).unwrap();
    assert_eq!(index.bulk(&[]).await, Ok(vec![]));
    let empty = IndexItem { source: Bytes::new(), ..item("k") };
    assert!(matches!(&index.bulk(&[empty]).await.unwrap()[..], [ItemAnswer::Refused(_)]));
    assert!(heard.try_recv().is_err());
}

#[tokio::test]
async fn an_unfit_document_is_refused_in_its_place_and_the_others_are_sent() {
    let (endpoint, _heard) = server(http("200 OK", "", &created(&item("k")))).await;
    let index = OpenSearchIndex::new(settings(&endpoint)).unwrap();
    let unfit = IndexItem { source: Bytes::from_static(b"null"), ..item("u") };
    let verdicts = index.bulk(&[unfit.clone(), item("k"), unfit]).await.unwrap();
    assert!(
        matches!(&verdicts[..], [ItemAnswer::Refused(_), ItemAnswer::Durable, ItemAnswer::Refused(_)]),
        "{verdicts:?}"
    );
}

/// What `_analyze` says of a plugin, what is taken then, and how the refusal of a choice reads.
#[tokio::test]
async fn a_plugin_that_is_not_there_is_told_with_what_mends_it_and_auto_does_without() {
    use AnalyzerChoice::{Auto, Only};
    let absent = r#"{"error":{"type":"illegal_argument_exception","reason":"failed to find global tokenizer under [kuromoji_tokenizer]"},"status":400}"#;
    let denied = r#"{"Message":"User is not authorized to perform: es:ESHttpPost"}"#;
    let auto_absent = "auto: plugin analysis-kuromoji is not installed, plugin analysis-icu is not installed";
    let cases = [
        ("200 OK", r#"{"tokens":[]}"#, Auto, Ok((Analyzer::Kuromoji, "auto: plugin analysis-kuromoji is installed"))),
        ("200 OK", r#"{"tokens":[]}"#, Only(Analyzer::Icu), Ok((Analyzer::Icu, "OPENSEARCH_ANALYZER=icu"))),
        ("400 Bad Request", absent, Auto, Ok((Analyzer::Cjk, auto_absent))),
        ("400 Bad Request", absent, Only(Analyzer::Cjk), Ok((Analyzer::Cjk, "OPENSEARCH_ANALYZER=cjk"))),
        ("400 Bad Request", absent, Only(Analyzer::Kuromoji), Err("opensearch-plugin install analysis-kuromoji")),
        ("400 Bad Request", absent, Only(Analyzer::Icu), Err("opensearch-plugin install analysis-icu")),
        // Who may not ask takes what needs no plugin, and says so; a choice is tried.
        ("403 Forbidden", denied, Auto, Ok((Analyzer::Cjk, "was not told (status 403"))),
        ("403 Forbidden", denied, Only(Analyzer::Kuromoji), Ok((Analyzer::Kuromoji, "OPENSEARCH_ANALYZER=kuromoji"))),
        ("503 Service Unavailable", "", Auto, Err("search unavailable: status 503")),
    ];
    for (status, body, choice, expected) in cases {
        let (endpoint, _heard) = server(http(status, "", body)).await;
        let taken = OpenSearchIndex::new(settings(&endpoint)).unwrap().choose(choice).await;
        match (&taken, expected) {
            (Ok(taken), Ok((analyzer, why))) => {
                assert!(taken.analyzer == analyzer && taken.why.contains(why), "{choice:?}: {taken:?}");
            }
            (Err(error), Err(why)) => assert!(error.to_string().contains(why), "{choice:?}: {error}"),
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => panic!("{choice:?}: {taken:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_never_answers_costs_one_request_timeout_and_no_more() {
    let (endpoint, mut heard) = server(None).await;
    let index = OpenSearchIndex::new(settings(&endpoint)).unwrap();
    let begun = Instant::now();
    unavailable(index.bulk(&[item("k")]).await);
    assert!(index.probe().await.is_err());
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(800) && took < Duration::from_millis(1500), "{took:?}");
    assert!(heard.recv().await.is_some());
}

#[tokio::test]
async fn a_reply_that_stops_in_the_middle_is_over_at_the_timeout_too() {
    let stalls = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"items\":[".to_vec();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&stalls).await.ok();
            open.push(stream);
        }
    });
    let begun = Instant::now();
    unavailable(OpenSearchIndex::new(settings(&endpoint)).unwrap().bulk(&[item("k")]).await);
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_truncated_reply_is_unavailable() {
    let body = created(&item("k"));
    let cut = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{}", body.len(), &body[..30]);
    let (endpoint, _heard) = server(Some(cut.into_bytes())).await;
    unavailable(OpenSearchIndex::new(settings(&endpoint)).unwrap().bulk(&[item("k")]).await);
}

#[tokio::test]
async fn a_redirect_is_unavailable_and_what_comes_from_there_is_not_believed() {
    for status in ["302 Found", "307 Temporary Redirect"] {
        let (elsewhere, _led) = server(http("200 OK", "", &created(&item("k")))).await;
        let (endpoint, _heard) = server(http(status, &format!("location: {elsewhere}/files/_bulk\r\n"), "")).await;
        let why = unavailable(OpenSearchIndex::new(settings(&endpoint)).unwrap().bulk(&[item("k")]).await);
        assert!(why.contains("redirected"), "{why}");
    }
}

#[tokio::test]
async fn a_refused_connection_is_told_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let slow = OpenSearchSettings { request_timeout: Duration::from_secs(30), ..settings(&endpoint) };
    let begun = Instant::now();
    let why = unavailable(OpenSearchIndex::new(slow).unwrap().bulk(&[item("k")]).await);
    assert!(why.contains("cannot connect"), "{why}");
    // Far below the request's timeout, and far above what a busy machine needs.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_host_that_swallows_packets_costs_the_connect_timeout_and_not_the_request_timeout() {
    // A listener whose queue is full answers no connection attempt: what a dropped packet looks like.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let filler: Vec<_> = (0..8).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let slow =
        OpenSearchSettings { request_timeout: Duration::from_secs(30), ..settings(&format!("http://{address}")) };
    let begun = Instant::now();
    let why = unavailable(OpenSearchIndex::new(slow).unwrap().bulk(&[item("k")]).await);
    assert!(why.contains("silent"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop((filler, listener));
}

#[tokio::test]
async fn a_name_that_cannot_be_found_is_told_apart_from_a_host_that_is_not_there() {
    let nowhere =
        OpenSearchSettings { request_timeout: Duration::from_secs(5), ..settings("http://no-such-host.invalid:9200") };
    let why = unavailable(OpenSearchIndex::new(nowhere).unwrap().bulk(&[item("k")]).await);
    assert!(why.contains("no-such-host.invalid"), "{why}");
}

#[tokio::test]
async fn a_user_and_a_password_are_sent_and_never_shown() {
    let (endpoint, mut heard) = server(http("200 OK", "", &created(&item("k")))).await;
    let auth = Auth::Basic { username: "ann".into(), password: "hunter2".into() };
    let with = OpenSearchSettings { auth, ..settings(&endpoint) };
    assert!(!format!("{with:?}").contains("hunter2"));
    let index = OpenSearchIndex::new(with).unwrap();
    assert!(!format!("{index:?}").contains("hunter2"), "{index:?}");
    index.bulk(&[item("k")]).await.unwrap();
    assert!(heard.recv().await.unwrap().head.contains("authorization: basic yw5uomh1bnrlcji="));
}

#[tokio::test]
async fn a_signed_request_names_region_and_service() {
    let (endpoint, mut heard) = server(http("200 OK", "", &created(&item("k")))).await;
    let sdk_config = SdkConfig::builder()
        .region(aws_config::Region::new("eu-central-1"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new("AKID", "secret", None, None, "test")))
        .build();
    let auth = Auth::SigV4 { sdk_config: Box::new(sdk_config) };
    OpenSearchIndex::new(OpenSearchSettings { auth, ..settings(&endpoint) }).unwrap().bulk(&[item("k")]).await.unwrap();
    let head = heard.recv().await.unwrap().head;
    assert!(head.contains("authorization: aws4-hmac-sha256 credential=akid/"), "{head}");
    assert!(head.contains("/eu-central-1/es/aws4_request, signedheaders="), "{head}");
    let without = SdkConfig::builder().build();
    let auth = Auth::SigV4 { sdk_config: Box::new(without) };
    assert!(OpenSearchIndex::new(OpenSearchSettings { auth, ..settings(&endpoint) }).is_err());
}

#[test]
fn an_index_name_is_one_that_opensearch_takes_and_that_names_one_index() {
    for good in ["files", "files-2024", "書類", "a", &"x".repeat(248)] {
        assert_eq!(check_index_name(good), Ok(()), "{good}");
    }
    for bad in
        ["", "Files", "a,b", "a*", "a/b", "a b", "_all", "-a", "+a", ".", "..", "a:b", "a#b", "a\n", &"x".repeat(249)]
    {
        assert!(check_index_name(bad).is_err(), "{bad:?}");
    }
}

/// Counts how often it is asked; without credentials it never answers.
#[derive(Debug)]
struct Provider {
    asked: Arc<AtomicUsize>,
    answers: bool,
}

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        self.asked.fetch_add(1, Ordering::SeqCst);
        future::ProvideCredentials::new(async {
            if !self.answers {
                pending::<()>().await;
            }
            Ok(Credentials::new("AKID", "secret", None, None, "test"))
        })
    }
}

fn signing(endpoint: &str, answers: bool) -> (OpenSearchIndex, Arc<AtomicUsize>) {
    let asked = Arc::default();
    let provider = Provider { asked: Arc::clone(&asked), answers };
    let sdk_config = SdkConfig::builder()
        .region(aws_config::Region::new("eu-central-1"))
        .credentials_provider(SharedCredentialsProvider::new(provider))
        .build();
    let auth = Auth::SigV4 { sdk_config: Box::new(sdk_config) };
    (OpenSearchIndex::new(OpenSearchSettings { auth, ..settings(endpoint) }).unwrap(), asked)
}

#[tokio::test]
async fn credentials_that_never_come_cost_one_request_timeout_too() {
    let (endpoint, _heard) = server(http("200 OK", "", "{}")).await;
    let (index, _) = signing(&endpoint, false);
    let begun = Instant::now();
    unavailable(index.bulk(&[item("k")]).await);
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn credentials_are_kept_between_requests_and_asked_for_anew_after_a_403() {
    for (status, questions) in [("200 OK", 1), ("403 Forbidden", 3)] {
        let (endpoint, _heard) = server(http(status, "", &created(&item("k")))).await;
        let (index, asked) = signing(&endpoint, true);
        for _ in 0..3 {
            index.bulk(&[item("k")]).await.ok();
        }
        assert_eq!(asked.load(Ordering::SeqCst), questions, "{status}");
    }
}

/// Half an index would make the other half look missing.
#[tokio::test]
async fn a_look_that_only_a_part_of_the_index_answered_is_an_error() {
    for (timed_out, failed, whole) in [(false, 0, true), (true, 0, false), (false, 1, false)] {
        let reply = serde_json::json!({ "timed_out": timed_out, "_shards": { "total": 2, "failed": failed },
            "hits": { "hits": [] } });
        let (endpoint, _heard) = server(http("200 OK", "", &reply.to_string())).await;
        let index = OpenSearchIndex::new(settings(&endpoint)).unwrap();
        let namespace = Namespace::parse("n").unwrap();
        let stretch = Stretch { namespace, bucket: "b".into(), prefix: String::new(), after: None, up_to: None };
        assert_eq!(index.entries(&stretch, 10).await.is_ok(), whole, "timed out: {timed_out}, {failed} shards failed");
    }
}
