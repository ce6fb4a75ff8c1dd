//! P4 to P8, A2.3: one message, one kill at one point; what is there at that moment, and what another worker makes of
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::armed::{killed_itself, sick_index};
use crate::process::Launch;
use crate::relay::{Fate, Head};
use crate::waiting::{LONG, eventually, holds};
use crate::world::World;

const KEY: &str = "steps/一.txt";

/// How the world stands: recorded, documents, markers, attempts charged, letters, messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Standing {
    recorded: bool,
    found: usize,
    parked: usize,
    charged: u64,
    letters: u32,
    messages: u32,
}

const UNTOUCHED: Standing = Standing { recorded: false, found: 0, parked: 0, charged: 0, letters: 0, messages: 1 };
const RECORDED: Standing = Standing { recorded: true, ..UNTOUCHED };
const INDEXED: Standing = Standing { found: 1, ..RECORDED };
const DONE: Standing = Standing { messages: 0, ..INDEXED };
const DEAD: Standing = Standing { letters: 1, messages: 0, ..UNTOUCHED };

impl Standing {
    async fn of(world: &World, message: &str) -> Self {
        let (letters, _, _) = world.depth(&world.dlq).await;
        let (visible, in_flight, delayed) = world.depth(&world.queue).await;
        let attempts = world.result(&format!("attempts/acceptance/{message}.json")).await;
        Self {
            recorded: world.record(KEY).await.is_some(),
            found: world.search.keys().await.len(),
            parked: world.results_under("retry-index/").await.len(),
            charged: attempts.map_or(0, |(attempts, _)| attempts["failed"].as_u64().unwrap()),
            letters,
            messages: visible + in_flight + delayed,
        }
    }
}

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Message {
    File,
    /// Comes in several chunks.
    LargeFile,
    /// A file that never comes.
    Missing,
    Malformed,
}

/// One kill, and what must be seen.
struct Case {
    point: &'static str,
    message: Message,
    /// The index takes nothing, for both workers.
    sick: bool,
    then: Standing,
    in_the_end: Standing,
    /// Of the second worker's line: outcome, settlement.
    settled: [&'static str; 2],
}

impl Case {
    fn file(point: &'static str, then: Standing) -> Self {
        let settled = ["done", "deleted"];
        Self { point, message: Message::File, sick: false, then, in_the_end: DONE, settled }
    }

    fn dead(point: &'static str, then: Standing, copies: u32) -> Self {
        let in_the_end = Standing { letters: copies, ..DEAD };
        Self {
            message: Message::Malformed,
            in_the_end,
            settled: ["rejected", "dead_lettered"],
            ..Self::file(point, then)
        }
    }

    fn sick(point: &'static str, then: Standing, in_the_end: Standing) -> Self {
        Self { sick: true, in_the_end, ..Self::file(point, then) }
    }

    async fn run(self) {
        let point = self.point;
        let world = World::silent().await;
        let index = sick_index();
        let launch = |launch: Launch| {
            // A second attempt soon, and a third that nobody waits for.
            let launch = launch.set("MAX_ATTEMPTS", 3).set("RETRY_BASE_SECONDS", 1);
            if self.sick { launch.set("OPENSEARCH_ENDPOINT", index.url()) } else { launch }
        };
        match self.message {
            Message::File => drop(world.put(KEY, "The text is heron.").await),
            Message::LargeFile => drop(world.put(KEY, "The text is heron.\n".repeat(20_000)).await),
            Message::Missing | Message::Malformed => {}
        }
        let body = match self.message {
            Message::Malformed => "{ no event".to_owned(),
            Message::File | Message::LargeFile | Message::Missing => created(&world).to_string(),
        };
        let id = world.send(&body).await;
        let mut first = launch(world.launch()).armed(&format!("{point}=kill")).spawn();
        killed_itself(&mut first).await;
        let then = Standing::of(&world, &id).await;
        assert_eq!(then, self.then, "killed at {point}");
        let recorded = world.record(KEY).await;

        let mut second = launch(world.launch()).unarmed().start().await;
        if self.message == Message::Missing {
            let charged = || second.facts("message_settled").len();
            eventually("the second attempt", LONG, async || holds(charged() >= 1, charged())).await;
            world.put(KEY, "The text is heron.").await;
        }
        world.emptied().await;
        let settled = eventually(&format!("{:?} after {point}", self.settled), LONG, async || {
            let last = second.facts("message_settled").pop().unwrap_or_default();
            let seen = ["outcome", "settlement"].map(|field| last[field].as_str().unwrap_or_default());
            if seen == self.settled { Ok(last) } else { Err(last) }
        })
        .await;
        assert!(settled["receive_count"].as_u64().unwrap() > 1, "killed at {point}: {settled}");
        assert_eq!(Standing::of(&world, &id).await, self.in_the_end, "in the end, killed at {point}");
        if recorded.is_some() {
            // What was durable is not written again: same revision, same bytes.
            assert_eq!(world.record(KEY).await, recorded, "killed at {point}");
        }
        if self.in_the_end.found == 1 {
            let stored = world.search.stored(&world.document_id(KEY)).await.unwrap();
            assert_eq!(stored, world.record(KEY).await.unwrap().0["document"], "killed at {point}");
        }
        second.stop().await;
    }
}

fn created(world: &World) -> Value {
    json!({ "bucket": world.source, "key": KEY })
}

async fn content(world: &World) -> Value {
    world.record(KEY).await.expect("a record").0["document"]["content"].clone()
}

async fn all(cases: impl IntoIterator<Item = Case>) {
    join_all(cases.into_iter().map(Case::run)).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn p4_killed_before_any_side_effect_a_worker_leaves_everything_to_the_next() {
    let large = |point| Case { message: Message::LargeFile, ..Case::file(point, UNTOUCHED) };
    let fresh = |point| Case::file(point, UNTOUCHED);
    all([fresh("after_receive"), fresh("before_get"), large("mid_body"), fresh("after_parse")]).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn p5_killed_with_the_record_or_the_document_written_a_worker_leaves_one_revision_and_one_document() {
    all([
        Case::file("before_index", RECORDED),
        Case::file("after_index_ack", INDEXED),
        Case::file("before_delete", INDEXED),
    ])
    .await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn p6_killed_round_parking_a_worker_leaves_one_marker_for_the_revision() {
    let parked = Standing { parked: 1, ..RECORDED };
    let in_the_end = Standing { messages: 0, ..parked };
    all([Case::sick("before_park", RECORDED, in_the_end), Case::sick("after_park_ack", parked, in_the_end)]).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn p7_killed_between_the_send_to_the_dlq_and_the_delete_a_worker_leaves_a_second_copy_at_most() {
    let sent = Standing { letters: 1, ..UNTOUCHED };
    all([
        Case::dead("before_dlq_send", UNTOUCHED, 1),
        Case::dead("after_dlq_ack", sent, 2),
        Case::dead("before_delete", sent, 2),
    ])
    .await;
}

/// The attempt is charged before the message goes back: the crash between the two costs no attempt twice, and none
/// is forgotten.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn killed_before_the_return_a_worker_has_charged_the_attempt_once() {
    let charged = Standing { charged: 1, ..UNTOUCHED };
    let case = Case::file("before_return", charged);
    let in_the_end = Standing { charged: 2, ..DONE };
    Case { message: Message::Missing, in_the_end, ..case }.run().await;
}

/// Carried out, and its answer unread: once with the answer in this process, once with the answer on the wire.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn p8_killed_with_a_delete_sent_and_its_answer_unread_a_worker_leaves_nothing_to_do_twice() {
    let heard = async {
        let world = World::silent().await;
        world.put(KEY, "The text is heron.").await;
        let id = world.send(&created(&world).to_string()).await;
        let mut first = world.launch().armed("after_delete_sent=kill").spawn();
        killed_itself(&mut first).await;
        assert_eq!(first.facts("message_settled"), Vec::<Value>::new());
        assert_eq!(Standing::of(&world, &id).await, DONE);
    };
    let unheard = async {
        let world = World::silent().await;
        world.put(KEY, "The text is heron.").await;
        let id = world.send(&created(&world).to_string()).await;
        let relay = world.aws_relay();
        let lost = Arc::new(AtomicBool::new(false));
        let lose = Arc::clone(&lost);
        relay.rule(move |head: &Head| match head.target.as_str() {
            "AmazonSQS.DeleteMessageBatch" => {
                lose.store(true, Ordering::SeqCst);
                Fate::LoseReply
            }
            _ => Fate::Pass,
        });
        let mut first = world.launch().unarmed().set("AWS_ENDPOINT_URL", relay.url()).start().await;
        eventually("the delete is carried out", LONG, async || {
            let depth = world.depth(&world.queue).await;
            holds(lost.load(Ordering::SeqCst) && depth == (0, 0, 0), depth)
        })
        .await;
        first.kill();
        assert_eq!(first.facts("message_settled"), Vec::<Value>::new());
        assert_eq!(Standing::of(&world, &id).await, DONE);
        // The very same message again, as SQS may deliver it: nothing changes.
        let before = content(&world).await;
        let again = world.send(&created(&world).to_string()).await;
        let mut second = world.launch().unarmed().start().await;
        second.settled_messages(&[again]).await;
        world.emptied().await;
        assert_eq!(world.search.keys().await, [KEY]);
        assert_eq!(world.results_under("processed/").await.len(), 1);
        assert_eq!(content(&world).await, before);
        second.stop().await;
    };
    tokio::join!(heard, unheard);
}

/// A2.3. The same event twice: the first is in a worker that is killed, the second arrives and is all there is.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a2_3_a_duplicate_that_arrives_while_its_twin_is_killed_is_not_taken_for_finished_work() {
    let world = World::silent().await;
    world.put(KEY, "The text is heron.").await;
    let first_id = world.send(&created(&world).to_string()).await;
    // In the middle: the record is there, the document is not.
    let mut first = world.launch().armed("before_index=hang").start().await;
    eventually("the first is at work", LONG, async || holds(world.record(KEY).await.is_some(), ())).await;
    let second_id = world.send(&created(&world).to_string()).await;
    first.kill();
    assert_eq!(world.search.keys().await, Vec::<String>::new());
    let mut second = world.launch().unarmed().start().await;
    let settled = second.settled_messages(&[first_id, second_id]).await;
    for line in &settled {
        assert_eq!(line["settlement"], "deleted", "{line}");
    }
    world.emptied().await;
    world.dlq_is_empty().await;
    assert_eq!(world.search.keys().await, [KEY]);
    assert_eq!(world.results_under("processed/").await.len(), 1);
    second.stop().await;
}
