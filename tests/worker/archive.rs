//! `redrive archive` as an operator runs it, on the real services.

use std::collections::BTreeMap;

use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::MessageAttributeValue;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::Output;
use crate::waiting::{LONG, eventually, holds};
use crate::world::World;

/// The last line of stdout, and those before it.
fn report(output: &Output) -> (Value, Vec<Value>) {
    let mut lines: Vec<Value> =
        output.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{output:?}"))).collect();
    let last = lines.pop().unwrap_or_else(|| panic!("{output:?}"));
    (last, lines)
}

async fn bodies(world: &World) -> BTreeMap<String, usize> {
    let mut bodies = BTreeMap::new();
    let mut seen = 0;
    let (visible, ..) = world.depth(&world.queue).await;
    eventually("all messages of the queue", LONG, async || {
        let receive = world.sqs.receive_message().queue_url(&world.queue).max_number_of_messages(10);
        for message in receive.visibility_timeout(300).send().await.unwrap().messages.unwrap_or_default() {
            seen += 1;
            *bodies.entry(message.body.unwrap()).or_insert(0) += 1;
        }
        holds(seen >= visible, seen)
    })
    .await;
    bodies
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn dead_letters_are_saved_listed_shown_and_come_back_whole() {
    let world = World::silent().await;
    let launch = world.launch().set("MAX_ATTEMPTS", 1);
    let mut worker = launch.start().await;
    let attribute = |kind: &str| MessageAttributeValue::builder().data_type(kind);
    let binary = attribute("Binary.x").binary_value(Blob::new((0..=255).collect::<Vec<u8>>())).build().unwrap();
    let text = attribute("String.y").string_value("日本 <b>").build().unwrap();
    let body = "no event\t日本 <script>";
    let send = world.sqs.send_message().queue_url(&world.queue).message_body(body);
    let sent = send.message_attributes("binary", binary).message_attributes("text", text).send().await.unwrap();
    let first = sent.message_id.unwrap();
    for n in 0..24 {
        world.send(&format!("no event either {n}")).await;
    }
    eventually("25 dead letters", LONG, async || {
        let depth = world.depth(&world.dlq).await;
        holds(depth.0 == 25, depth)
    })
    .await;
    worker.stop().await;

    let redrive = |arguments: &[&str]| world.launch().redrive(arguments);
    let saved = redrive(&["archive", "save", "--queue", "dlq", "--remove", "--json"]);
    let (told, _) = report(&saved);
    assert_eq!(
        (saved.code, &told["report"]["saved"], &told["report"]["removed"]),
        (0, &25.into(), &25.into()),
        "{saved:?}"
    );
    world.dlq_is_empty().await;

    let listed = redrive(&["archive", "list", "--json", "--limit", "3"]);
    let list: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(
        (listed.code, &list["objects"], list["letters"].as_array().unwrap().len()),
        (0, &25.into(), 3),
        "{list}"
    );
    let some = redrive(&["archive", "list", "--reason", "malformed", "--since", "1h"]);
    assert!(some.code == 0 && some.stdout.starts_with("25 match of 25 archived"), "{some:?}");
    let shown = redrive(&["archive", "show", &first, "--json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["found"][0]["letter"]["body"], body, "by its first id: {shown}");
    let text = redrive(&["archive", "show", &first]);
    assert!(text.code == 0 && text.stdout.contains("no event\\t日本 <script>"), "{text:?}");
    assert_eq!(redrive(&["archive", "show", "nobody"]).code, 3);

    // A pause refuses what sends, and not what looks.
    assert_eq!(redrive(&["pause", "--reason", "incident 7", "--by", "ada"]).code, 0);
    let refused = redrive(&["archive", "restore", "--all"]);
    assert!(refused.code == 4 && refused.stdout.contains("paused by ada"), "{refused:?}");
    let dry = redrive(&["archive", "restore", "--all", "--dry-run", "--json"]);
    let (told, lines) = report(&dry);
    assert_eq!((dry.code, &told["report"]["sent"], lines.len()), (0, &25.into(), 25), "{dry:?}");
    assert_eq!(world.results_under("archive/dlq/").await.len(), 25);
    redrive(&["resume"]);

    let one = redrive(&["archive", "restore", "--message-id", &first, "--json"]);
    assert_eq!((one.code, &report(&one).0["report"]["sent"]), (0, &1.into()), "{one:?}");
    assert_eq!(world.results_under("archive/dlq/").await.len(), 24);
    let receive = world.sqs.receive_message().queue_url(&world.queue).message_attribute_names("All");
    let back = receive.visibility_timeout(0).wait_time_seconds(5).send().await.unwrap().messages.unwrap().remove(0);
    let attributes = back.message_attributes.unwrap();
    assert_eq!(back.body.as_deref(), Some(body));
    assert_eq!(attributes["binary"].binary_value.as_ref().unwrap().as_ref(), (0..=255).collect::<Vec<u8>>());
    assert_eq!(
        (attributes["binary"].data_type.as_str(), attributes["text"].data_type.as_str()),
        ("Binary.x", "String.y")
    );
    assert_eq!(attributes["text"].string_value.as_deref(), Some("日本 <b>"));
    let note: Value = serde_json::from_str(attributes["Quittance"].string_value.as_deref().unwrap()).unwrap();
    assert_eq!((note["message_id"].as_str(), &note["redrives"]), (Some(first.as_str()), &0.into()));

    let rest = redrive(&["archive", "restore", "--all", "--rate", "1000"]);
    assert!(rest.code == 0 && rest.stdout.contains("24 letters looked at: 24 sent back"), "{rest:?}");
    assert!(world.results_under("archive/").await.is_empty());
    // The first id is in the worker's lines, and the letter that it becomes again still knows it.
    let mut worker = launch.start().await;
    world.emptied().await;
    worker.stop().await;
    let letters = world.dead_letters(25).await;
    assert!(letters.iter().any(|letter| letter.note["message_id"] == first.as_str() && letter.body == body));
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_saved_queue_is_still_there_and_can_be_brought_back_after_a_purge() {
    let world = World::silent().await;
    let sent: Vec<String> = (0..137).map(|n| format!("message {n}")).collect();
    world.send_all(&sent).await;
    let redrive = |arguments: &[&str]| world.launch().redrive(arguments);
    // Under a pause as well: it works on nothing.
    redrive(&["pause", "--reason", "before a purge"]);
    let saved = redrive(&["archive", "--queue", "main"]);
    assert!(saved.code == 0 && saved.stdout.contains("137 messages received, 137 saved"), "{saved:?}");
    assert_eq!(world.depth(&world.queue).await, (137, 0, 0), "all returned");
    assert_eq!(world.results_under("archive/main/").await.len(), 137);
    redrive(&["resume"]);

    world.sqs.purge_queue().queue_url(&world.queue).send().await.unwrap();
    world.emptied().await;
    let back = redrive(&["archive", "restore", "--queue", "main", "--all", "--rate", "1000", "--json"]);
    assert_eq!((back.code, &report(&back).0["report"]["sent"]), (0, &137.into()), "{back:?}");
    let found = bodies(&world).await;
    assert!(found.len() == 137 && found.values().all(|times| *times == 1), "each once");

    // Its own queue is no dead-letter queue, and would be emptied.
    let itself =
        world.launch().set("SQS_DLQ_URL", &world.queue).redrive(&["archive", "save", "--queue", "dlq", "--remove"]);
    assert_eq!((itself.code, itself.stderr.lines().count()), (4, 1), "{itself:?}");
    assert_eq!(world.depth(&world.queue).await, (0, 137, 0), "not touched: all are still hidden from that look");

    let nowhere =
        world.launch().set("SQS_QUEUE_URL", format!("{}x", world.queue)).redrive(&["archive", "--queue", "main"]);
    assert_eq!((nowhere.code, nowhere.stderr.lines().count()), (75, 1), "{nowhere:?}");
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn an_interrupted_save_gives_everything_back_and_says_how_to_go_on() {
    let world = World::silent().await;
    let sent: Vec<String> = (0..60).map(|n| format!("message {n}")).collect();
    world.send_all(&sent).await;
    let child = world.launch().spawn_redrive(&["archive", "--queue", "main"]);
    eventually("some objects", LONG, async || {
        let keys = world.results_under("archive/main/").await.len();
        holds(keys >= 10, keys)
    })
    .await;
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::HUP).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("the same command"), "{stderr}");
    assert_eq!(world.depth(&world.queue).await, (60, 0, 0), "all returned");
}
