//! The ledger as it looks from outside: what the proxy saw SQS hand out and acknowledge, receipt by receipt. It must
//! be the worker's own (P10): same receipts, same ends, same sums.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::process::{Books, Worker};
use crate::relay::{Exchange, Relay};

/// A receipt, as the proxy saw it.
#[derive(Clone, Default, Debug)]
struct Receipt {
    message_id: String,
    receive_count: u64,
    deleted: bool,
    returned: bool,
}

/// What one worker was handed and what was acknowledged to it.
#[derive(Default, Debug)]
pub struct Outside {
    /// By handle.
    receipts: BTreeMap<String, Receipt>,
    /// Message ids of acknowledged dead letters.
    dead_letters: BTreeSet<String>,
}

/// The extension of a lease asks for this; a return for anything else.
pub const LEASE_SECONDS: u64 = 10;

/// Whether a ChangeMessageVisibilityBatch extends leases. One batch holds one kind of call.
pub fn extends(body: &[u8]) -> bool {
    entries(body).iter().all(|entry| entry["VisibilityTimeout"] == LEASE_SECONDS)
}

pub fn entries(body: &[u8]) -> Vec<Value> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body["Entries"].as_array().cloned().unwrap_or_default()
}

impl Outside {
    pub fn of(relay: &Relay) -> Self {
        let mut outside = Self::default();
        let told = relay.exchanges(|head| !head.target.is_empty());
        let told = || told.iter().filter(|one| one.delivered && one.status == 200);
        let of = |target: &'static str| told().filter(move |one| one.head.target == format!("AmazonSQS.{target}"));
        for exchange in of("ReceiveMessage") {
            for message in json(&exchange.reply)["Messages"].as_array().into_iter().flatten() {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let receive_count = text(&message["Attributes"]["ApproximateReceiveCount"]).parse().unwrap();
                let message_id = text(&message["MessageId"]);
                let receipt = Receipt { message_id, receive_count, ..Receipt::default() };
                outside.receipts.insert(text(&message["ReceiptHandle"]), receipt);
            }
        }
        for exchange in of("DeleteMessageBatch") {
            outside.acknowledged(exchange, |receipt| receipt.deleted = true);
        }
        for exchange in of("ChangeMessageVisibilityBatch").filter(|one| !extends(&one.head.body)) {
            outside.acknowledged(exchange, |receipt| receipt.returned = true);
        }
        for exchange in of("SendMessage").filter(|one| json(&one.reply)["MessageId"].is_string()) {
            let note = json(&exchange.head.body)["MessageAttributes"]["Quittance"]["StringValue"].clone();
            let note = json(note.as_str().unwrap_or_default().as_bytes());
            outside.dead_letters.extend(note["message_id"].as_str().map(str::to_owned));
        }
        outside
    }

    fn acknowledged(&mut self, exchange: &Exchange, end: impl Fn(&mut Receipt)) {
        let reply = json(&exchange.reply);
        let good: Vec<&Value> = reply["Successful"].as_array().into_iter().flatten().map(|one| &one["Id"]).collect();
        for entry in entries(&exchange.head.body) {
            let receipt = self.receipts.get_mut(entry["ReceiptHandle"].as_str().unwrap_or_default());
            if let (true, Some(receipt)) = (good.contains(&&entry["Id"]), receipt) {
                end(receipt);
            }
        }
    }

    pub fn received(&self) -> usize {
        self.receipts.len()
    }

    pub fn deleted(&self) -> usize {
        self.receipts.values().filter(|receipt| receipt.deleted).count()
    }

    /// The worker's lines and books say what was seen from outside, ± 0.
    pub fn agrees_with(&self, worker: &Worker, books: &Books) {
        let mut lines = BTreeMap::new();
        for line in worker.facts("message_settled") {
            let id = (line["message_id"].as_str().unwrap().to_owned(), line["receive_count"].as_u64().unwrap());
            assert!(
                lines.insert(id, line["settlement"].as_str().unwrap().to_owned()).is_none(),
                "settled twice: {line}"
            );
        }
        let mut late = 0;
        for receipt in self.receipts.values() {
            let id = (receipt.message_id.clone(), receipt.receive_count);
            let said = lines.remove(&id).unwrap_or_else(|| panic!("no message_settled for {receipt:?}"));
            let sent = self.dead_letters.contains(&receipt.message_id);
            let fits = match said.as_str() {
                "deleted" => receipt.deleted && !receipt.returned,
                "dead_lettered" => receipt.deleted && !receipt.returned && sent,
                "returned" => receipt.returned && !receipt.deleted,
                "lease_lost" => !receipt.returned, // a late delete of finished work may have been acknowledged
                other => panic!("settlement {other:?}"),
            };
            assert!(fits, "the worker says {said}, and from outside it looks like {receipt:?}");
            late += u64::from(said == "lease_lost" && receipt.deleted);
        }
        assert!(lines.is_empty(), "receipts that were never handed out: {lines:?}");
        let count = |is: fn(&Receipt) -> bool| self.receipts.values().filter(|receipt| is(receipt)).count() as u64;
        let outside = (count(|_| true), count(|one| one.deleted), count(|one| one.returned));
        let inside =
            (books.of("received"), books.of("deleted") + books.of("dead_lettered") + late, books.of("returned"));
        assert_eq!(outside, inside, "received, deleted, returned: from outside, and in the books {}", books.0);
    }
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}
