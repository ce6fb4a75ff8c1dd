//! What a running worker shows of itself on real services: readiness, status, metrics in the log, a pause by its page.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::process::Worker;
use crate::waiting::{LONG, eventually, holds};
use crate::world::{World, text_files};

const TOKEN: &str = "0123456789abcdef";

async fn ask(worker: &Worker, request: &str) -> (u16, String) {
    let address = worker.fact("ready").await["admin"].as_str().expect("an address").to_owned();
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let text =
        format!("{request} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_worker_shows_what_it_does_obeys_its_page_and_tells_its_metrics_in_the_log() {
    let world = World::new().await;
    let launch = world.launch().set("ADMIN_LISTEN", "127.0.0.1:0").set("ADMIN_TOKEN", TOKEN);
    let mut worker = launch.set("METRICS_EMF", "true").start().await;
    assert_eq!(ask(&worker, "GET /readyz").await, (200, "ready\nopensearch: well\n".to_owned()));
    let files = text_files(5);
    world.put_all(&files).await;
    worker.settled(files.len()).await;
    let status = async || serde_json::from_str::<Value>(&ask(&worker, "GET /status").await.1).unwrap();
    let told = eventually("a survey", LONG, async || {
        let told = status().await;
        holds(told["parked"].is_object() && told["dead_letters"].is_object(), told.to_string()).map(|_| told)
    })
    .await;
    assert_eq!((&told["books"]["received"], &told["parked"]["documents"]), (&5.into(), &0.into()), "{told}");
    assert_eq!((&told["errored"]["documents"], &told["dead_letters"]["visible"]), (&0.into(), &0.into()));
    assert_eq!((&told["intake"], &told["may_pause"]), (&"open".into(), &true.into()));

    assert_eq!(ask(&worker, "POST /pause").await.0, 200);
    worker.fact("paused").await;
    let (code, ready) = ask(&worker, "GET /readyz").await;
    assert!(code == 200 && ready.contains("paused: by status page (page): no reason was given"), "{ready}");
    assert_eq!(ask(&worker, "POST /resume").await, (200, "resumed\n".to_owned()));
    worker.fact("resumed").await;
    let (code, page) = ask(&worker, "GET /").await;
    assert!(code == 200 && page.contains("<title>quittance worker</title>") && !page.contains("{script}"), "{page}");

    worker.stop().await;
    let lines = worker.facts("metrics");
    let sum = |name: &str| lines.iter().map(|line| line[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("MessagesReceived"), sum("MessagesDeleted"), sum("DocumentsIndexed")), (5, 5, 5));
    let last = lines.last().unwrap();
    assert_eq!((&last["MessagesInFlight"], &last["ParkedDocuments"], &last["Up"]), (&0.into(), &0.into(), &1.into()));
    assert_eq!(last["_aws"]["CloudWatchMetrics"][0]["Dimensions"][0][0], "namespace");
    assert!(
        last["namespace"].is_string() && last["WorkTime"].as_array().is_some_and(|times| times.len() == 5),
        "{last}"
    );
}
