//! The adapters against a peer that misbehaves on the wire: a socket with canned answers.
//!
//! Promises what neither LocalStack nor the model can show: cut bodies, silent peers, answers without reasons,
//! and how often each client asks.

// All of this is test code, though clippy only sees the functions marked as tests as such.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use quittance::message::ReceiptHandle;
use quittance::queue::sqs::{self, SqsQueue};
use quittance::queue::{BatchSize, Queue as _, QueueError};
use quittance::store::s3::{self, S3Store};
use quittance::store::{Page, Store as _, StoreError, read_all};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What the peer does with the n-th request: an answer, after which it closes; `None` is silence.
type Script = fn(usize, &str) -> Option<String>;

struct Peer {
    shared: SdkConfig,
    url: String,
    requests: Arc<AtomicUsize>,
    asked: Arc<Notify>,
}

async fn peer(script: Script) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (requests, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, notify) = (requests.clone(), asked.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, script, count.clone(), notify.clone()));
        }
    });
    let keys = SharedCredentialsProvider::new(Credentials::new("k", "s", None, None, "test"));
    // Not `aws::load`: an AWS_ENDPOINT_URL in the environment goes before an endpoint set in code.
    let shared = SdkConfig::builder().behavior_version(BehaviorVersion::v2026_01_12()).endpoint_url(&url);
    let shared = shared.region(Region::new("us-east-1")).credentials_provider(keys).build();
    Peer { shared, url, requests, asked }
}

async fn answer(mut stream: TcpStream, script: Script, count: Arc<AtomicUsize>, notify: Arc<Notify>) {
    let mut request = Vec::new();
    let mut chunk = [0; 4_096];
    // Enough of a parser for requests with a content length, or none.
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let length =
                text.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if request.len() >= end + 4 + length.unwrap_or(0) {
                break;
            }
        }
        match stream.read(&mut chunk).await.unwrap() {
            0 => return,
            read => request.extend_from_slice(&chunk[..read]),
        }
    }
    let number = count.fetch_add(1, Ordering::SeqCst);
    notify.notify_one();
    match script(number, &String::from_utf8_lossy(&request)) {
        Some(reply) => stream.write_all(reply.as_bytes()).await.unwrap(),
        None => std::future::pending().await,
    }
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}", body.len())
}

fn s3_error(status: &str, code: &str) -> String {
    http(
        status,
        "content-type: application/xml\r\n",
        &format!("<Error><Code>{code}</Code><Message>why</Message></Error>"),
    )
}

impl Peer {
    fn store(&self) -> S3Store {
        S3Store::new(s3::client(&self.shared))
    }

    fn polling(&self, wait: Duration) -> SqsQueue {
        SqsQueue::new(sqs::polling_client(&self.shared, wait), format!("{}/000000000000/q", self.url))
    }

    fn settling(&self) -> SqsQueue {
        SqsQueue::new(sqs::settling_client(&self.shared), format!("{}/000000000000/q", self.url))
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn nobody_at_the_other_end_is_unavailable_with_its_cause() {
    let mut peer = peer(|_, _| None).await;
    peer.shared = peer.shared.into_builder().endpoint_url("http://127.0.0.1:9").build();
    let error = peer.settling().facts().await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
    assert!(error.to_string().to_lowercase().contains("connection refused"), "{error}");
    let error = peer.store().probe("b").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn a_body_cut_off_is_interrupted_and_never_an_end() {
    let peer = peer(|_, _| Some("HTTP/1.1 200 OK\r\ncontent-length: 100\r\netag: \"e\"\r\n\r\nhalf".into())).await;
    let object = peer.store().get("b", "k").await.unwrap().unwrap();
    assert_eq!((object.head.size, object.head.etag.as_str()), (100, "e"));
    let error = read_all(object, 1_000).await.unwrap_err();
    assert!(matches!(error, StoreError::Interrupted(_)), "{error}");
}

#[tokio::test]
async fn a_refused_head_is_explained_by_a_get() {
    let script: Script = |_, request| {
        let refusal = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        Some(if request.starts_with("HEAD") { refusal.into() } else { s3_error("400 Bad Request", "ExpiredToken") })
    };
    let peer = peer(script).await;
    let error = peer.store().head("b", "k").await.unwrap_err();
    assert_eq!(error, StoreError::Unavailable("ExpiredToken: why".into()));
}

#[tokio::test]
async fn a_head_that_is_refused_where_nothing_is_blames_no_object() {
    let script: Script = |_, request| {
        let refusal = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        Some(if request.starts_with("HEAD") { refusal.into() } else { s3_error("404 Not Found", "NoSuchKey") })
    };
    let error = peer(script).await.store().head("b", "k").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn a_get_is_judged_by_the_code_in_the_body() {
    let cases: [(Script, StoreError); 3] = [
        (
            |_, _| Some(s3_error("403 Forbidden", "InvalidObjectState")),
            StoreError::Archived("InvalidObjectState: why".into()),
        ),
        (|_, _| Some(s3_error("403 Forbidden", "AccessDenied")), StoreError::Denied("AccessDenied: why".into())),
        (
            |_, _| Some(s3_error("400 Bad", "KMS.DisabledException")),
            StoreError::Denied("KMS.DisabledException: why".into()),
        ),
    ];
    for (script, expected) in cases {
        let found = peer(script).await.store().get("b", "k").await.map(|_| ());
        assert_eq!(found, Err(expected));
    }
}

#[tokio::test]
async fn a_failed_poll_is_not_tried_again_inside_the_sdk_and_a_failed_delete_once() {
    let script: Script = |_, _| Some(http("500 Oops", "", "{}"));
    let (polled, settled) = (peer(script).await, peer(script).await);
    let queue = polled.polling(Duration::from_secs(1));
    let error =
        queue.receive(BatchSize::clamped(1), Duration::from_secs(1), Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
    assert_eq!(polled.requests(), 1);
    let error = settled.settling().delete(&[ReceiptHandle("h".into())]).await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
    assert_eq!(settled.requests(), 2);
}

#[tokio::test]
async fn a_poll_that_hangs_is_given_up_ten_seconds_after_its_wait() {
    let peer = peer(|_, _| None).await;
    let queue = peer.polling(Duration::from_secs(20));
    let poll = tokio::spawn(async move {
        let began = tokio::time::Instant::now();
        let wait = Duration::from_secs(20);
        (queue.receive(BatchSize::clamped(1), wait, Duration::from_secs(80)).await, began)
    });
    peer.asked.notified().await;
    tokio::time::pause(); // only now: connecting needs real time
    let (reply, began) = poll.await.unwrap();
    assert!(matches!(reply, Err(QueueError::Unavailable(_))), "{reply:?}");
    let took = began.elapsed().as_secs();
    assert!((29..=31).contains(&took), "{took} s");
}

#[tokio::test]
async fn a_batch_reply_is_joined_by_position_and_silence_about_an_entry_is_a_refusal() {
    let script: Script = |_, _| {
        let body = r#"{"Successful":[{"Id":"2"},{"Id":"9"}],"Failed":[{"Id":"0","Code":"ReceiptHandleIsInvalid","SenderFault":true}]}"#;
        Some(http("200 OK", "content-type: application/x-amz-json-1.0\r\n", body))
    };
    let handles = ["a", "b", "c"].map(|handle| ReceiptHandle(handle.into()));
    let replies = peer(script).await.settling().delete(&handles).await.unwrap();
    let codes = replies.iter().map(|reply| reply.as_ref().map_err(|refusal| refusal.code.as_str()).copied());
    assert_eq!(codes.collect::<Vec<_>>(), [Err("ReceiptHandleIsInvalid"), Err("NoReply"), Ok(())]);
}

#[tokio::test]
async fn a_received_message_without_a_handle_is_dropped_and_the_others_kept() {
    let script: Script = |_, _| {
        let body = r#"{"Messages":[{"MessageId":"1","Body":"x"},{"MessageId":"2","ReceiptHandle":"h","Body":"y"}]}"#;
        Some(http("200 OK", "content-type: application/x-amz-json-1.0\r\n", body))
    };
    let queue = peer(script).await.polling(Duration::ZERO);
    let messages = queue.receive(BatchSize::clamped(10), Duration::ZERO, Duration::from_secs(60)).await.unwrap();
    assert_eq!(messages.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), ["y"]);
}

#[tokio::test]
async fn an_error_of_the_queue_never_quotes_a_receipt_handle() {
    let script: Script = |_, _| {
        let handle = "AQEB".repeat(60);
        let body = format!(
            r#"{{"__type":"com.amazonaws.sqs#ReceiptHandleIsInvalid","message":"The handle \"{handle}\" is bad"}}"#
        );
        Some(http("400 Bad Request", "content-type: application/x-amz-json-1.0\r\n", &body))
    };
    let error = peer(script).await.settling().delete(&[ReceiptHandle("h".into())]).await.unwrap_err();
    assert_eq!(error, QueueError::Refused("ReceiptHandleIsInvalid: The handle … is bad".into()));
}

#[tokio::test]
async fn an_empty_page_of_a_listing_that_is_not_the_last_is_no_end() {
    fn page(keys: &str, more: &str) -> Option<String> {
        let body = format!(
            r#"<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>b</Name><Prefix></Prefix>
            <IsTruncated>{}</IsTruncated>{more}{keys}</ListBucketResult>"#,
            !more.is_empty()
        );
        Some(http("200 OK", "content-type: application/xml\r\n", &body))
    }
    const MORE: &str = "<NextContinuationToken>next</NextContinuationToken>";
    let peer = peer(|number, request| {
        let first = request.lines().next().unwrap_or_default();
        assert_eq!(first.contains("continuation-token=next"), number > 0, "{first}");
        match number {
            0 | 1 => page("", MORE),
            _ => page("<Contents><Key>k</Key><Size>1</Size></Contents>", ""),
        }
    })
    .await;
    let store = S3Store::new(s3::client(&peer.shared));
    let listed = store.list("b", "", Some("a"), 10).await;
    assert_eq!(listed, Ok(Page { keys: vec!["k".into()], more: false }));
    let nowhere = self::peer(|_, _| page("", " ")).await;
    let listed = S3Store::new(s3::client(&nowhere.shared)).list("b", "", None, 10).await;
    assert!(matches!(listed, Err(StoreError::Unavailable(_))), "{listed:?}");
}
