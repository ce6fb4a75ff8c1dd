//! A message at which workers die, on real services. Extraction runs in a child, so that no file of ours ends a worker:
//! the test does it with SIGKILL, each time it sees the worker fetch that file.

use serde_json::Value;

use crate::process::Worker;
use crate::relay::Relay;
use crate::waiting::{LONG, eventually, holds};
use crate::world::{World, text_files};

const KILLER: &str = "loop/killer.txt";

/// A worker, up to the moment in which it is about to fetch the file, and has done all else that it could.
async fn about_to_die(world: &World) -> (Worker, Relay) {
    let (relay, source) = (world.aws_relay(), world.source.clone());
    relay.hold(move |head| head.downloads_from(&source) && head.path.contains("killer"));
    let worker = world.launch().set("AWS_ENDPOINT_URL", relay.url()).start().await;
    eventually("it fetches the file", LONG, async || holds(relay.held() == 1, worker.all_facts())).await;
    (worker, relay)
}

/// Deliveries that end nowhere, as peeks and lost polls leave them.
async fn delivered_before(world: &World, times: usize) {
    for _ in 0..times {
        eventually("a delivery", LONG, async || {
            let receive = world.sqs.receive_message().queue_url(&world.queue).wait_time_seconds(1);
            let got = receive.visibility_timeout(0).send().await.unwrap().messages.unwrap_or_default();
            holds(got.len() == 1, got.len())
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_file_at_which_workers_die_is_alone_the_second_time_and_dead_lettered_at_the_third() {
    let world = World::new().await;
    world.put(KILLER, "Whoever reads this dies.").await;
    delivered_before(&world, 4).await;
    let files = text_files(6);
    world.put_all(&files).await;

    let (mut first, relay) = about_to_die(&world).await;
    assert_eq!(first.facts("taken_alone"), Vec::<Value>::new());
    first.kill();
    drop(relay);

    let (mut second, relay) = about_to_die(&world).await;
    let told = second.facts("taken_alone");
    assert_eq!((told.len(), &told[0]["receive_count"]), (1, &Value::from(6)), "{told:?}");
    assert_eq!(second.in_hand(), 1, "alone: {:?}", second.all_facts());
    second.kill();
    drop(relay);

    let relay = world.aws_relay();
    let mut third = world.launch().set("AWS_ENDPOINT_URL", relay.url()).start().await;
    let letter = world.dead_letters(1).await.remove(0);
    assert_eq!((&letter.note["reason"], &letter.note["attempts"]), (&"crash_loop".into(), &2.into()));
    assert!(letter.body.contains("killer.txt"));
    for time in ["first_failed_at", "last_failed_at"] {
        assert!(
            letter.note["detail"].as_str().unwrap().contains(letter.note[time].as_str().unwrap()),
            "{}",
            letter.note
        );
    }
    assert!(relay.seen(|head| head.path.contains("killer") && head.downloads_from(&world.source)).is_empty());
    world.emptied().await;
    world.finds_exactly(files.into_keys()).await;
    assert_eq!(third.fact("crash_loop").await["message_id"], letter.note["message_id"]);
    third.stop().await;
}
