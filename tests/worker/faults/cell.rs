//! A cell: queues, buckets and a worker of its own, with a proxy before each service. Meets one row of the table after
//! the other, and after each of them checks E0 with the services' own word, not with the worker's.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ledger::{LEASE_SECONDS, Outside, extends};
use super::plan::Plan;
use super::table::{Class, Op, Row, Service};
use crate::converged::{Records, in_step, quiet};
use crate::process::Worker;
use crate::relay::{Fate, Head, Relay, answers};
use crate::search::{Search, endpoint};
use crate::waiting::{eventually_every, holds};
use crate::world::World;

/// Until a fault strikes; a worker that is busy with a stalled body of the row before is slow to come.
const STRIKES_WITHIN: Duration = Duration::from_secs(90);
/// Until all is well again: the longest is a lease, then a dripping record's own deadline (60 s), then a replay.
const HEALS_WITHIN: Duration = Duration::from_secs(150);
/// Many cells ask the same two servers: asking is most of what a row costs.
const LOOK_EVERY: Duration = Duration::from_millis(400);

/// A message of a row, and the files that it must bring in.
struct Sent {
    id: String,
    files: Vec<File>,
}

#[derive(Clone)]
struct File {
    key: String,
    text: String,
}

pub struct Cell {
    pub world: World,
    sqs: Relay,
    s3: Relay,
    search: Relay,
    worker: Worker,
    serial: u64,
    dead_letters: usize,
    /// Of the rows met: the most calls into a fault within a second.
    busiest: (usize, String),
}

/// A return's long delay is what the worker asks for (and what the ledger keeps), and not what the test waits for.
fn shorter(head: &Head) -> Option<Vec<u8>> {
    if head.target != "AmazonSQS.ChangeMessageVisibilityBatch" {
        return None;
    }
    let mut body: Value = serde_json::from_slice(&head.body).ok()?;
    for entry in body["Entries"].as_array_mut()? {
        if entry["VisibilityTimeout"].as_u64()? > LEASE_SECONDS {
            entry["VisibilityTimeout"] = json!(1);
        }
    }
    Some(body.to_string().into_bytes())
}

impl Cell {
    pub async fn start(index: &Search) -> Self {
        let world = World::sharing(index).await;
        let (sqs, s3, search) = (world.aws_relay(), world.aws_relay(), Relay::before(&endpoint()));
        sqs.rewrite(shorter);
        let launch = world
            .launch()
            .set("AWS_ENDPOINT_URL", sqs.url())
            .set("AWS_ENDPOINT_URL_S3", s3.url())
            .set("OPENSEARCH_ENDPOINT", search.url())
            .set("SQS_VISIBILITY_TIMEOUT", LEASE_SECONDS)
            .set("MAX_ATTEMPTS", 40)
            .set("RETRY_BASE_SECONDS", 1)
            .set("RETRY_MAX_SECONDS", 2)
            .set("EXTRACTORS", 1);
        let worker = launch.start().await;
        Self { world, sqs, s3, search, worker, serial: 0, dead_letters: 0, busiest: (0, String::new()) }
    }

    fn relay(&self, service: Service) -> &Relay {
        match service {
            Service::Sqs => &self.sqs,
            Service::S3 => &self.s3,
            Service::Search => &self.search,
        }
    }

    /// Meets a row; afterwards nothing is left of it, and the worker is as it was.
    pub async fn meet(mut self, row: Row) -> Self {
        let fate = row.fate().expect("a fault that can be");
        match row.op {
            Op::PutMarker | Op::ListMarkers | Op::GetParked | Op::DeleteMarker => self.search_is_down(),
            // Work in hand for as long as it takes to extend its lease.
            Op::Extend => self.s3.hold(self.is_meant(Op::GetSource)),
            _ => {}
        }
        let mut sent = Vec::new();
        let replays = matches!(row.op, Op::ListMarkers | Op::GetParked | Op::DeleteMarker);
        if replays {
            self.send_some(&row, &mut sent, 3).await;
            self.all_are_parked(&sent).await;
        }
        let is_meant = self.is_meant(row.op);
        let plan = match row.op {
            // What shuts the gate is another fault, which lasts until the probe is hit.
            Op::ProbeBucket => {
                let is_download = self.is_meant(Op::GetSource);
                let sick = Fate::Answer(answers::s3(500, "InternalError"));
                let others = move |head: &Head| if is_download(head) { sick.clone() } else { Fate::Pass };
                Plan::beside(&self.s3, is_meant, fate, row.position, others)
            }
            _ => Plan::lay(self.relay(row.op.service()), is_meant, fate, row.position),
        };
        let lines_before = row.told().iter().map(|line| self.lines(line)).collect::<Vec<_>>();
        if replays {
            self.search.release();
        } else {
            self.send_some(&row, &mut sent, 3).await;
        }
        self.fault_strikes(&row, &plan, &mut sent).await;
        if let Some(lasts) = row.position.lasts() {
            let over = plan.first_hit().map_or(lasts, |at| lasts.saturating_sub(at.elapsed()));
            tokio::time::sleep(over).await;
            plan.heal(self.relay(row.op.service()));
        }
        match row.op {
            Op::PutMarker => self.search.release(),
            Op::Extend => {
                eventually_every(LOOK_EVERY, "a lease is extended after all, or given up", HEALS_WITHIN, async || {
                    let lost = self.worker.count(|fact| fact["event"] == "lease_lost");
                    holds(plan.seen() > plan.hits() || row.position.lasts().is_some() || lost > 0, plan.seen())
                })
                .await;
                self.s3.release();
            }
            // What was missing comes after all.
            Op::Return | Op::GetAttempts | Op::PutAttempts | Op::GetRecord => {
                for file in sent.iter().flat_map(|sent| &sent.files) {
                    self.world.put(&file.key, file.text.clone()).await;
                }
            }
            _ => {}
        }
        self.e0(&row, &sent).await;
        plan.heal(self.relay(row.op.service()));
        self.own_expectations(&row, &plan, &sent).await;
        for (line, before) in row.told().iter().zip(lines_before) {
            assert!(self.lines(line) > before, "no line {line}");
        }
        for relay in [&self.sqs, &self.s3, &self.search] {
            relay.release();
        }
        self
    }

    fn lines(&self, event: &str) -> usize {
        self.worker.count(|fact| fact["event"] == event)
    }

    fn search_is_down(&self) {
        let sick = answers::search(503, "unavailable_shards_exception", "the fault proxy says so");
        self.search.rule(move |head| if head.path.contains("_bulk") { Fate::Answer(sick.clone()) } else { Fate::Pass });
    }

    /// The calls of an operation.
    fn is_meant(&self, op: Op) -> impl Fn(&Head) -> bool + Send + 'static + use<> {
        let (source, results) = (format!("/{}/", self.world.source), format!("/{}", self.world.results));
        move |head| {
            let s3 = |method: &str, under: &str| head.method == method && head.path.starts_with(under);
            let sqs = |target: &str| head.target.strip_prefix("AmazonSQS.") == Some(target);
            let result = |method: &str, prefix: &str| s3(method, &format!("{results}/{prefix}/"));
            match op {
                Op::Receive => sqs("ReceiveMessage"),
                Op::Delete => sqs("DeleteMessageBatch"),
                Op::Extend => sqs("ChangeMessageVisibilityBatch") && extends(&head.body),
                Op::Return => sqs("ChangeMessageVisibilityBatch") && !extends(&head.body),
                Op::SendToDlq => sqs("SendMessage"),
                Op::GetSource => s3("GET", &source) && head.path.contains("x-id=GetObject"),
                Op::HeadSource => s3("HEAD", &source),
                Op::HeadRecord => result("HEAD", "processed"),
                Op::GetRecord => result("GET", "processed"),
                Op::PutRecord => result("PUT", "processed"),
                Op::PutMarker => result("PUT", "retry-index"),
                Op::GetAttempts => result("GET", "attempts"),
                Op::PutAttempts => result("PUT", "attempts"),
                Op::ListMarkers => s3("GET", &results) && head.path.contains("prefix=retry-index"),
                Op::GetParked => result("GET", "processed"),
                Op::DeleteMarker => result("DELETE", "retry-index"),
                Op::ProbeBucket => {
                    head.method == "GET" && head.path.contains("list-type=2") && !head.path.contains("prefix=")
                }
                Op::Bulk => head.path.contains("_bulk"),
            }
        }
    }

    fn file(&mut self, row: &Row) -> File {
        self.serial += 1;
        let (op, serial) = (row.op, self.serial);
        let text = format!("A file of {op:?}.\nIts word is n{serial:05}x.\n{}\n", "More and more text. ".repeat(15));
        File { key: format!("{op:?}/日本 {serial:05}.txt"), text }
    }

    fn event(&self, name: &str, file: &File, serial: u64) -> Value {
        let key = percent_encoding::utf8_percent_encode(&file.key, percent_encoding::NON_ALPHANUMERIC).to_string();
        let mut record = crate::body_shapes::record(name, &self.world.source, &key);
        record["s3"]["object"]["sequencer"] = json!(format!("{serial:016X}"));
        record
    }

    /// The message that brings the worker to this operation; the file is there, unless it must not be yet.
    async fn send(&mut self, row: &Row) -> Sent {
        let file = self.file(row);
        let created = self.event("ObjectCreated:Put", &file, self.serial);
        let (body, files, present) = match row.op {
            Op::SendToDlq => (format!("no event, and number {}", self.serial), vec![], vec![]),
            Op::HeadSource => {
                let removed = self.event("ObjectRemoved:Delete", &file, self.serial);
                (json!({ "Records": [removed] }).to_string(), vec![file.clone()], vec![file])
            }
            Op::HeadRecord => {
                let minimal = json!({ "bucket": self.world.source, "key": file.key });
                (minimal.to_string(), vec![file.clone()], vec![file])
            }
            // The record of the first is there at the second delivery, which the other one makes necessary.
            Op::GetRecord => {
                let late = self.file(row);
                let other = self.event("ObjectCreated:Put", &late, self.serial);
                (json!({ "Records": [created, other] }).to_string(), vec![file.clone(), late], vec![file])
            }
            Op::Return | Op::GetAttempts | Op::PutAttempts => {
                (json!({ "Records": [created] }).to_string(), vec![file], vec![])
            }
            _ => (json!({ "Records": [created] }).to_string(), vec![file.clone()], vec![file]),
        };
        for file in present {
            self.world.put(&file.key, file.text).await;
        }
        Sent { id: self.world.send(&body).await, files }
    }

    async fn send_some(&mut self, row: &Row, sent: &mut Vec<Sent>, number: usize) {
        for _ in 0..number {
            sent.push(self.send(row).await);
        }
        self.dead_letters += if row.op == Op::SendToDlq { number } else { 0 };
    }

    /// Waits for the first hit; where the calls so far were too few for it, more messages come.
    async fn fault_strikes(&mut self, row: &Row, plan: &Plan, sent: &mut Vec<Sent>) {
        let began = Instant::now();
        while plan.hits() == 0 {
            assert!(began.elapsed() < STRIKES_WITHIN, "no {:?} to hit; {} seen", row.op, plan.seen());
            tokio::time::sleep(LOOK_EVERY).await;
            if sent.len() < 12 && sent.iter().all(|sent| self.is_settled(&sent.id)) && plan.hits() == 0 {
                self.send_some(row, sent, 1).await;
            }
        }
    }

    fn is_settled(&self, id: &str) -> bool {
        self.worker.count(|fact| fact["event"] == "message_settled" && fact["message_id"] == id) > 0
    }

    async fn all_are_parked(&self, sent: &[Sent]) {
        eventually_every(LOOK_EVERY, "all are settled, and parked", HEALS_WITHIN, async || {
            let parked = self.world.results_under("retry-index/").await.len();
            holds(sent.iter().all(|sent| self.is_settled(&sent.id)) && parked == sent.len(), parked)
        })
        .await;
    }

    /// E0: nothing is lost, the index is the source, nothing stays parked, and nothing is in the DLQ that need not be.
    async fn e0(&self, row: &Row, sent: &[Sent]) {
        let world = &self.world;
        eventually_every(LOOK_EVERY, "nothing in hand, and an empty queue", HEALS_WITHIN, async || {
            let in_hand = self.worker.in_hand();
            holds(in_hand == 0, (in_hand, (0, 0, 0)))?;
            let depth = world.depth(&world.queue).await;
            holds(depth == (0, 0, 0) && sent.iter().all(|sent| self.is_settled(&sent.id)), (in_hand, depth))
        })
        .await;
        eventually_every(LOOK_EVERY, "nothing is parked any more", HEALS_WITHIN, async || {
            let parked = world.results_under("retry-index/").await;
            holds(parked.is_empty(), parked)
        })
        .await;
        for file in sent.iter().flat_map(|sent| &sent.files) {
            let (record, _) = world.record(&file.key).await.unwrap_or_else(|| panic!("no record of {}", file.key));
            let document = &record["document"];
            assert_eq!(document["content"].as_str().map(str::trim), Some(file.text.trim()), "{}", file.key);
            let found = world.search.stored(&world.document_id(&file.key)).await;
            let found = found.unwrap_or_else(|| panic!("{} is not in the index", file.key));
            assert_eq!(&found, document, "the index is not the record");
        }
        assert_eq!(world.results_under("errored-index/").await, Vec::<String>::new());
        let (visible, in_flight, delayed) = world.depth(&world.dlq).await;
        let dead = (visible + in_flight + delayed) as usize;
        if row.op == Op::SendToDlq {
            assert!(dead >= self.dead_letters, "{dead} dead letters of {}", self.dead_letters);
        } else {
            assert_eq!(dead, 0, "a fault is no verdict");
        }
    }

    /// What the row says beside E0.
    async fn own_expectations(&mut self, row: &Row, plan: &Plan, sent: &[Sent]) {
        if row.op == Op::SendToDlq {
            self.dead_letters_have_their_reason(sent).await;
        }
        if !row.may_be_charged() {
            let mut charged = Vec::new();
            for key in self.world.results_under("attempts/").await {
                let of_this_row = sent.iter().any(|sent| key.contains(&sent.id));
                // A `begun` mark of a message that came often is there too, and charges nothing.
                if of_this_row
                    && let Some((record, _)) = self.world.result(&key).await
                    && record["failed"] != 0
                {
                    charged.push(key);
                }
            }
            assert!(charged.is_empty(), "an outage was charged to {charged:?} (P6)");
        }
        // Polls once a second at most (Q14); the others have the SDK's quick retries, for each of a handful of files.
        let most = if row.op == Op::Receive { 1 } else { 12 };
        let hits = plan.most_in_a_second();
        assert!(hits <= most || row.class == Class::Refused, "{hits} calls in one second: a busy loop");
        if hits > self.busiest.0 {
            self.busiest = (hits, row.name());
        }
    }

    /// Every one at least once (a lost reply may make two), byte for byte, with a reason.
    async fn dead_letters_have_their_reason(&mut self, sent: &[Sent]) {
        let mut reasons = std::collections::BTreeMap::new();
        eventually_every(LOOK_EVERY, "all dead letters, each with its reason", HEALS_WITHIN, async || {
            let receive = self.world.sqs.receive_message().queue_url(&self.world.dlq).message_attribute_names("All");
            let received = receive.max_number_of_messages(10).send().await.unwrap();
            for message in received.messages.unwrap_or_default() {
                let note = message.message_attributes.unwrap_or_default().remove("Quittance").expect("a reason");
                let note: Value = serde_json::from_str(&note.string_value.unwrap()).unwrap();
                let (id, reason) = (note["message_id"].as_str().unwrap(), note["reason"].as_str().unwrap());
                assert!(note["envelope"].is_null(), "a letter that could not be sent is not one too large: {note}");
                assert!(message.body.unwrap().starts_with("no event, and number"), "byte for byte");
                reasons.insert(id.to_owned(), reason.to_owned());
                let handle = message.receipt_handle.unwrap();
                self.world.sqs.delete_message().queue_url(&self.world.dlq).receipt_handle(handle).send().await.unwrap();
            }
            let missing = sent.iter().filter(|sent| !reasons.contains_key(&sent.id)).count();
            let left = self.world.depth(&self.world.dlq).await;
            holds((missing, left) == (0, (0, 0, 0)), (missing, left))
        })
        .await;
        assert!(reasons.values().all(|reason| reason == "malformed"), "{reasons:?}");
        self.dead_letters = 0;
    }

    /// The end of the cell: exit 0, books that balance, and the same ledger from outside.
    pub async fn end(mut self) -> (usize, String) {
        let books = self.worker.stop().await;
        let outside = Outside::of(&self.sqs);
        outside.agrees_with(&self.worker, &books);
        // A twin of a file, or a file of another row that has suffered, would show here.
        quiet(&self.world).await;
        in_step(&self.world, Records::Kept).await;
        self.busiest
    }
}
