//! SIGUSR1 pauses the intake of a process, SIGUSR2 resumes it.

use std::time::Duration;

use rustix::process::Signal;

use crate::relay::Head;
use crate::waiting::{LONG, eventually, holds};
use crate::world::{World, text_files};

fn is_poll(head: &Head) -> bool {
    head.target == "AmazonSQS.ReceiveMessage"
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_paused_worker_asks_for_nothing_until_it_is_resumed() {
    let world = World::new().await;
    let relay = world.aws_relay();
    let mut worker = world.launch().set("AWS_ENDPOINT_URL", relay.url()).start().await;
    eventually("a poll", LONG, async || holds(relay.open(is_poll) > 0, "none")).await;

    worker.signal(Signal::USR1);
    worker.fact("paused").await;
    // A poll that is open is not cancelled: SQS would hide what it was about to hand out.
    eventually("the open polls end", LONG, async || {
        let open = relay.open(is_poll);
        holds(open == 0, open)
    })
    .await;
    let polls = relay.seen(is_poll).len();
    let files = text_files(5);
    world.put_all(&files).await;
    eventually("all messages are in the queue", LONG, async || {
        let depth = world.depth(&world.queue).await;
        holds(depth == (5, 0, 0), depth)
    })
    .await;
    // Nothing follows a poll that is not made: only time can tell. Longer than a worker would wait between two.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(relay.seen(is_poll).len(), polls, "polls while paused");
    assert_eq!((world.depth(&world.queue).await, worker.facts("message_received").len()), ((5, 0, 0), 0));

    worker.signal(Signal::USR2);
    worker.fact("resumed").await;
    worker.settled(files.len()).await;
    world.finds_exactly(files.keys().map(String::as_str)).await;
    worker.stop().await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_paused_worker_still_ends_on_sigterm() {
    let world = World::silent().await;
    let mut worker = world.launch().start().await;
    worker.signal(Signal::USR1);
    worker.fact("paused").await;
    assert_eq!(worker.stop().await.of("received"), 0);
}
