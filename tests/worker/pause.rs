//! `redrive pause` pauses every worker of a results bucket, `redrive resume` lets them go on; SIGUSR1 and SIGUSR2 do so
//! for one process.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use rustix::process::Signal;

use crate::process::{Launch, Output};
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
async fn a_reader_who_goes_away_is_no_failure_of_the_command() {
    let world = World::silent().await;
    let mut child = world.launch().spawn_redrive(&["status"]);
    drop(child.stdout.take()); // as `| head` does
    assert_eq!(child.wait().unwrap().code(), Some(0));
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

fn report(output: &Output) -> Value {
    assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{output:?}");
    assert_eq!(output.stdout.lines().count(), 1, "{output:?}");
    serde_json::from_str(&output.stdout).expect("JSON on stdout")
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn redrive_pauses_all_workers_across_restarts_until_it_resumes_them() {
    let world = World::new().await;
    let relay = world.aws_relay();
    let launch = world.launch().set("AWS_ENDPOINT_URL", relay.url());
    // An operator has the bucket and AWS, and no more.
    let operator = Launch::bare().set("S3_BUCKET", &world.results);
    let mut workers = [launch.start().await, launch.clone().set("NAMESPACE", "other").start().await];
    assert_eq!(report(&operator.redrive(&["status", "--json"]))["paused"], false);

    let asked = Instant::now();
    let paused = report(&operator.redrive(&["pause", "--reason", "incident 7", "--by", "ada", "--json"]));
    assert_eq!((&paused["paused"], &paused["changed"]), (&json!(true), &json!(true)), "{paused}");
    for worker in &workers {
        let fact = worker.fact("paused").await;
        assert_eq!(fact["by"], "ada");
        assert!(fact["reason"].as_str().unwrap().contains("incident 7"), "{fact}");
    }
    // 5 s on a machine with time to spare; the simulation holds them to it.
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    let (file, _) = world.result("control/pause.json").await.expect("the object");
    assert_eq!((&file["v"], &file["reason"], &file["by"]), (&json!(1), &json!("incident 7"), &json!("ada")));
    let check = launch.run(&["check"]);
    assert!(
        check.code == 0 && check.stdout.contains("WARN  pause") && check.stdout.contains("ada"),
        "{}",
        check.stdout
    );

    // The first pause stands.
    let again = operator.redrive(&["pause", "--reason", "incident 8"]);
    assert!(again.code == 0 && again.stdout.contains("already paused") && again.stdout.contains("ada"), "{again:?}");

    eventually("the open polls end", LONG, async || {
        let open = relay.open(is_poll);
        holds(open == 0, open)
    })
    .await;
    let polls = relay.seen(is_poll).len();
    let files = text_files(5);
    world.put_all(&files).await;
    workers[0].stop().await;
    let mut late = launch.start().await;
    late.fact("paused").await;
    // Nothing follows a poll that is not made: only time can tell. Longer than from one look to the next.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(relay.seen(is_poll).len(), polls, "polls while paused");
    assert_eq!(late.facts("paused").len(), 1, "one line, not one a look");

    let resumed = operator.redrive(&["resume"]);
    assert!(resumed.code == 0 && resumed.stdout.contains("resumed") && resumed.stdout.contains("ada"), "{resumed:?}");
    let asked = Instant::now();
    for worker in [&late, &workers[1]] {
        worker.fact("resumed").await;
    }
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    world.emptied().await;
    let done = late.stop().await.of("done") + workers[1].stop().await.of("done");
    assert_eq!(done, files.len() as u64);
    let nothing = report(&operator.redrive(&["resume", "--json"]));
    assert_eq!((&nothing["paused"], &nothing["changed"]), (&json!(false), &json!(false)));
}

#[test]
fn redrive_says_what_it_cannot_do_and_exits_as_the_contract_has_it() {
    let bare = Launch::bare().unset("AWS_ENDPOINT_URL").set("S3_BUCKET", "results").set("AWS_REGION", "eu-central-1");
    for (arguments, says) in [
        (&[][..], "no command was given"),
        (&["pause"], "--reason"),
        (&["pause", "--reason", " "], "empty"),
        (&["drain"], "drain"),
        (&["pause", "--status", "--reason", "r"], "cannot be used with"),
    ] {
        let output = bare.redrive(arguments);
        assert_eq!((output.code, output.stdout.as_str()), (64, ""), "{output:?}");
        assert!(output.stderr.contains(says), "{output:?}");
    }
    let output = bare.clone().unset("S3_BUCKET").set("AWS_ENDPOINT_URL", "nonsense").redrive(&["status"]);
    assert_eq!((output.code, output.stderr.lines().count()), (78, 3), "{output:?}");
    assert!(output.stderr.contains("S3_BUCKET (--results-bucket): is required"), "{output:?}");
    for arguments in [&["--help"][..], &["pause", "--help"], &["--version"]] {
        assert_eq!(bare.redrive(arguments).code, 0);
    }
    let help = bare.redrive(&["--help"]).stdout;
    for text in ["Examples:", "Exit codes:", "[env: S3_BUCKET]", "redrive resume", "  64  ", "  75  ", "  78  "] {
        assert!(help.contains(text), "{text}: {help}");
    }
    for command in ["redrive --batch-size 50", "  plan  ", "  inspect  ", "  archive  ", "  trace  "] {
        assert!(help.contains(command), "{command}: {help}");
    }
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn redrive_without_its_bucket_exits_75_with_one_line() {
    for arguments in [&["status"][..], &["pause", "--reason", "r"], &["resume"]] {
        let output = Launch::bare().set("S3_BUCKET", "gone-results").redrive(arguments);
        assert_eq!((output.code, output.stdout.as_str()), (75, ""), "{output:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
        assert!(output.stderr.contains("gone-results") && output.stderr.contains("create"), "{output:?}");
    }
}
