//! `redrive` against the loop that everybody writes: receive ten, send ten, delete ten. Time, CPU, memory and SQS calls for
//! the 8,158 letters of the incident.
//!
//! `localstack/stack exec -- cargo bench --bench redrive`; `QUITTANCE_LETTERS=1000` for fewer. One machine, one run, meant
//! as ratios. The loop neither looks at what it moves nor writes anything down: it is what a look costs that is shown.

#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)] // a measuring tool, and parts of the tests' own

#[path = "../common/records.rs"]
mod records;

#[path = "../../tests/worker/process.rs"]
mod process;
#[path = "../../tests/worker/relay/mod.rs"]
mod relay;
#[path = "../../tests/worker/search.rs"]
mod search;
#[path = "../../tests/worker/waiting.rs"]
mod waiting;
#[path = "../../tests/worker/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, SendMessageBatchRequestEntry};
use futures_util::StreamExt as _;
use futures_util::stream;
use quittance::message::MessageId;
use quittance::process::record::Standing;
use quittance::store::s3::{self, S3Store};
use quittance::store::{Condition, Store as _, layout};
use serde_json::json;

use records::{namespace, peak, record};
use relay::{Head, Relay};
use world::World;

/// What the letters are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Resend,
    Index,
    Archive,
    Mixed,
}

fn main() {
    if !std::env::args().any(|word| word == "--bench") {
        return println!("measures only by `cargo bench`");
    }
    let number: usize = std::env::var("QUITTANCE_LETTERS").map_or(8_158, |text| text.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        println!("\n## {number} letters out of the DLQ (LocalStack; SQS calls counted on 500)\n");
        println!("| what | seconds | letters/s | against the loop | CPU, s | most memory, MiB | SQS calls a letter |");
        println!("|---|---|---|---|---|---|---|");
        let plain = plain_loop(number).await;
        println!("| plain loop | {plain:.1} | {:.0} | 1.0 × | | | 0.30 |", number as f64 / plain);
        for (kind, name) in [
            (Kind::Resend, "redrive, all sent back"),
            (Kind::Index, "redrive, all indexed from records"),
            (Kind::Archive, "redrive, all archived"),
            (Kind::Mixed, "redrive, a third of each"),
        ] {
            let (took, cpu, memory, _) = redrive(kind, number, false).await;
            let (.., calls) = redrive(kind, 500, true).await;
            println!(
                "| {name} | {took:.1} | {:.0} | {:.1} × | {cpu:.1} | {memory:.0} | {:.2} |",
                number as f64 / took,
                took / plain,
                calls as f64 / 500.0
            );
        }
    });
}

async fn dead(world: &World, bodies: Vec<String>) -> Vec<String> {
    let batches: Vec<Vec<String>> = bodies.chunks(10).map(<[String]>::to_vec).collect();
    let send = async |some: Vec<String>| {
        let entry = |(n, body): (usize, String)| {
            SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(body).build().unwrap()
        };
        let entries = some.into_iter().enumerate().map(entry).collect();
        let sent =
            world.sqs.send_message_batch().queue_url(&world.dlq).set_entries(Some(entries)).send().await.unwrap();
        sent.successful.into_iter().map(|entry| entry.message_id).collect::<Vec<_>>()
    };
    stream::iter(batches).map(send).buffered(4).collect::<Vec<_>>().await.concat()
}

async fn plain_loop(number: usize) -> f64 {
    let world = World::silent().await;
    dead(
        &world,
        (0..number).map(|n| json!({ "bucket": world.source, "key": format!("{n}.txt") }).to_string()).collect(),
    )
    .await;
    let began = Instant::now();
    let mut moved = 0;
    while moved < number {
        let receive = world.sqs.receive_message().queue_url(&world.dlq).max_number_of_messages(10);
        let messages = receive.send().await.unwrap().messages.unwrap_or_default();
        if messages.is_empty() {
            continue;
        }
        let sends = messages.iter().enumerate().map(|(n, message)| {
            let entry = SendMessageBatchRequestEntry::builder().id(n.to_string());
            entry.message_body(message.body.clone().unwrap()).build().unwrap()
        });
        world.sqs.send_message_batch().queue_url(&world.queue).set_entries(Some(sends.collect())).send().await.unwrap();
        let deletes = messages.iter().enumerate().map(|(n, message)| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(n.to_string());
            entry.receipt_handle(message.receipt_handle.clone().unwrap()).build().unwrap()
        });
        world
            .sqs
            .delete_message_batch()
            .queue_url(&world.dlq)
            .set_entries(Some(deletes.collect()))
            .send()
            .await
            .unwrap();
        moved += messages.len();
    }
    began.elapsed().as_secs_f64()
}

/// Seconds, CPU seconds, MiB, SQS calls (0 where nobody counted).
async fn redrive(kind: Kind, number: usize, counted: bool) -> (f64, f64, f64, usize) {
    let world = World::silent().await;
    let of = |n: usize| match kind {
        Kind::Mixed => [Kind::Resend, Kind::Index, Kind::Archive][n % 3],
        Kind::Resend | Kind::Index | Kind::Archive => kind,
    };
    let body = |n: usize| match of(n) {
        Kind::Archive => "{".to_owned(),
        Kind::Resend | Kind::Index | Kind::Mixed => {
            json!({ "bucket": world.source, "key": format!("{n}.txt") }).to_string()
        }
    };
    let ids = dead(&world, (0..number).map(body).collect()).await;
    let store = Arc::new(S3Store::new(s3::client(&quittance::aws::load().await)));
    stream::iter(ids.into_iter().enumerate())
        .for_each_concurrent(32, async |(n, id)| match of(n) {
            Kind::Resend => {
                let body = bytes::Bytes::from_static(b"text");
                store.put(&world.source, &format!("{n}.txt"), body, &BTreeMap::new(), Condition::None).await.unwrap();
            }
            Kind::Index => {
                let record = record(&world, n, 2_048);
                let key = layout::record(&namespace(), &record.document_id);
                let metadata = Standing::metadata(1, None, Some("e"), &MessageId(id));
                let body = serde_json::to_vec(&record).unwrap().into();
                store.put(&world.results, &key, body, &metadata, Condition::None).await.unwrap();
            }
            Kind::Archive | Kind::Mixed => {}
        })
        .await;
    let relay = counted.then(|| world.aws_relay());
    let mut operator = world.launch().set("SQS_VISIBILITY_TIMEOUT", 120);
    if let Some(relay) = &relay {
        operator = operator.set("AWS_ENDPOINT_URL", relay.url());
    }
    let began = Instant::now();
    let arguments = ["--batch-size", "50", "--rate", "10000", "--canary-timeout", "0", "--max-backlog", "1000000"];
    let mut child = operator.spawn_redrive_unheard(&arguments);
    // The end of the DLQ has to be believed (three empty rounds): what is measured is until nothing is left.
    let (mut most, mut cpu) = (0.0, 0.0);
    let mut emptied = None;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        most = f64::max(most, peak(child.id()));
        cpu = f64::max(cpu, cpu_seconds(child.id()));
        if emptied.is_none() && world.depth(&world.dlq).await == (0, 0, 0) {
            emptied = Some(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(status.success(), "{status}");
    let sqs = |head: &Head| head.target.starts_with("AmazonSQS");
    let calls = relay.map_or(0, |relay: Relay| relay.seen(sqs).len());
    (emptied.unwrap_or(began.elapsed()).as_secs_f64(), cpu, most, calls)
}

/// User and system time so far (proc(5), fields 14 and 15, in hundredths).
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
