//! `redrive archive` killed with -9 again and again on the real services, and a restore beside a drain: nothing is lost,
//! and the end is that of one clean run (P9).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::process::Child;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::relay::Head;
use crate::waiting::{LONG, eventually, holds};
use crate::world::{World, text_files};

/// `QUITTANCE_LETTERS=2000` for more, `QUITTANCE_SEED` for other instants.
fn number() -> usize {
    std::env::var("QUITTANCE_LETTERS").map_or(120, |text| text.parse().unwrap())
}

fn dice() -> Rng {
    Rng::with_seed(std::env::var("QUITTANCE_SEED").map_or(1, |text| text.parse().unwrap()))
}

/// Peak resident memory of a process that has not been waited for, in KiB.
fn peak_kib(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What became of the kills.
#[derive(Debug, Default)]
struct Killed {
    kills: usize,
    peak_kib: u64,
    /// Of the last run, which nobody killed.
    last: Duration,
}

/// Runs the command again and again: killed after a drawn number of such calls, so many times at most; until a run ends
/// by itself and is complete.
async fn until_it_ends(
    world: &World,
    arguments: &[&str],
    is_step: fn(&Head) -> bool,
    steps: Range<usize>,
    most_kills: usize,
) -> Killed {
    let (mut dice, mut killed) = (dice(), Killed::default());
    for _ in 0..=most_kills {
        let relay = world.aws_relay();
        let after = if killed.kills < most_kills { dice.usize(steps.clone()) } else { usize::MAX };
        // Between two steps as well.
        let later = Duration::from_micros(dice.u64(0..30_000));
        let began = Instant::now();
        let mut child = world.launch().set("AWS_ENDPOINT_URL", relay.url()).spawn_redrive_unheard(arguments);
        let ended = eventually("it has done so much, or is at its end", 20 * LONG, async || {
            killed.peak_kib = killed.peak_kib.max(peak_kib(&child));
            let ended = child.try_wait().unwrap();
            holds(ended.is_some() || relay.seen(is_step).len() >= after, relay.seen(is_step).len())?;
            Ok::<_, usize>(ended)
        })
        .await;
        match ended.map(|status| status.code()) {
            Some(Some(0)) => {
                killed.last = began.elapsed();
                return killed;
            }
            Some(code) => panic!("exit {code:?}"),
            None => {
                tokio::time::sleep(later).await;
                kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
                child.wait().unwrap();
                killed.kills += 1;
                // What it held is hidden until its leases end (10 s), and not seen by the next.
                eventually("nothing is in flight", LONG, async || {
                    let depth = world.depth(&world.queue).await;
                    holds(depth.1 == 0, depth)
                })
                .await;
            }
        }
    }
    panic!("it never ends: {killed:?}")
}

/// Bodies of the main queue, and how often each; all of them are held for some minutes.
async fn bodies(world: &World, at_least: usize) -> BTreeMap<String, usize> {
    let (mut bodies, mut seen) = (BTreeMap::new(), 0);
    eventually("all messages of the queue", 5 * LONG, async || {
        let receive = world.sqs.receive_message().queue_url(&world.queue).max_number_of_messages(10);
        for message in receive.visibility_timeout(600).send().await.unwrap().messages.unwrap_or_default() {
            seen += 1;
            *bodies.entry(message.body.unwrap()).or_insert(0) += 1;
        }
        let visible = world.depth(&world.queue).await.0;
        holds(seen >= at_least && visible == 0, (seen, visible))
    })
    .await;
    bodies
}

/// As the drain writes it.
fn letter(n: usize, body: &str) -> Value {
    json!({ "v": 1, "message_id": format!("letter-{n:05}"), "note": null, "body": body, "attributes": {},
            "group_id": null, "archived_at": "2026-01-01T00:00:00.000Z", "reason": "denied", "source": "dlq" })
}

async fn give_up_on(world: &World, bodies: &[String]) {
    let puts = bodies.iter().enumerate().map(async |(n, body)| {
        let key = format!("archive/dlq/2026-01-01/letter-{n:05}.json");
        world.put_into(&world.results, &key, letter(n, body).to_string()).await
    });
    futures_util::stream::iter(puts).buffer_unordered(16).for_each(async |_| {}).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_restore_killed_again_and_again_sends_every_letter_and_leaves_none_behind() {
    let (world, number) = (World::silent().await, number());
    let all: BTreeSet<String> = (0..number).map(|n| format!("letter {n}")).collect();
    give_up_on(&world, &all.iter().cloned().collect::<Vec<_>>()).await;
    let is_send = |head: &Head| head.target == "AmazonSQS.SendMessageBatch";
    let began = Instant::now();
    // A call is ten letters: killed about every fortieth to hundredth, or some hundreds.
    let most = (number / 50).clamp(4, 60);
    let arguments = ["archive", "restore", "--all", "--rate", "10000", "--json"];
    let killed = until_it_ends(&world, &arguments, is_send, 1..most, number).await;
    let took = began.elapsed();
    assert!(world.results_under("archive/").await.is_empty(), "each object went after its message was taken");
    let sent = bodies(&world, number).await;
    assert_eq!(sent.keys().cloned().collect::<BTreeSet<_>>(), all, "each was sent at least once");
    let twice: usize = sent.values().map(|times| times - 1).sum();
    assert!(killed.kills > 0 && twice <= 10 * killed.kills, "one batch a kill, {twice} sent again: {killed:?}");
    println!("restored {number}: {took:.1?}, {killed:?}, {twice} sent again");
    let again = world.launch().redrive(&["archive", "restore", "--all"]);
    assert!(again.code == 0 && again.stdout.starts_with("0 letters"), "none is restored for ever: {again:?}");
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_save_killed_again_and_again_saves_every_message_and_takes_none_away() {
    let (world, number) = (World::silent().await, number());
    let all: Vec<String> = (0..number).map(|n| format!("message {n}")).collect();
    let ids: BTreeSet<String> = world.send_all(&all).await.into_iter().collect();
    let is_put = |head: &Head| head.method == "PUT";
    let began = Instant::now();
    // Each run saves all of it again: killed early and late, and then not any more.
    let arguments = ["archive", "save", "--queue", "main"];
    let killed = until_it_ends(&world, &arguments, is_put, 10..number, if number < 1_000 { 1 } else { 8 }).await;
    println!("saved {number}: {:.1?}, {killed:?}", began.elapsed());
    let saved = world.results_under("archive/main/").await;
    let saved: BTreeSet<String> =
        saved.iter().filter_map(|key| Some(key.rsplit_once('/')?.1.strip_suffix(".json")?.to_owned())).collect();
    assert_eq!((saved, world.depth(&world.queue).await), (ids, (number as u32, 0, 0)), "all saved, all visible");
    world.dlq_is_empty().await;
    let began = Instant::now();
    let back = world.launch().redrive(&["archive", "restore", "--queue", "main", "--all", "--rate", "10000"]);
    assert!(back.code == 0 && back.stdout.contains(&format!("{number} sent back")), "{back:?}");
    println!("restored {number} without a kill: {:.1?}", began.elapsed());
}

/// Two restores at once, a drain beside them again and again, and a worker that takes what they send.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the local stack: make test"]
async fn restores_and_drains_side_by_side_lose_no_message_and_none_goes_round() {
    let (world, number) = (World::silent().await, number() / 4);
    let files = text_files(2 * number);
    world.put_all(&files).await;
    let event = |key: &String| json!({ "bucket": world.source, "key": key }).to_string();
    let hopeless = |place: &str| (0..number / 3).map(|n| format!("{{{place} {n}")).collect::<Vec<_>>();
    let (archived, dead): (Vec<_>, Vec<_>) = files.keys().enumerate().partition(|(n, _)| n % 2 == 0);
    let bodies = |keys: &[(usize, &String)], place| {
        keys.iter().map(|(_, key)| event(key)).chain(hopeless(place)).collect::<Vec<_>>()
    };
    give_up_on(&world, &bodies(&archived, "archived")).await;
    world.send_all_to(&world.dlq, &bodies(&dead, "dead")).await;
    let mut worker = world.launch().start().await;
    let restore = || world.launch().spawn_redrive_unheard(&["archive", "restore", "--all", "--rate", "20"]);
    let mut restores = [restore(), restore()];
    let drain = || {
        let drained = world.launch().redrive(&["--batch-size", "10", "--canary-timeout", "0", "--json"]);
        let report: Value = serde_json::from_str(drained.stdout.lines().last().unwrap_or_default()).unwrap();
        assert_eq!((drained.code, &report["adds_up"]), (0, &json!(true)), "{drained:?}");
    };
    eventually("both restores are at their end", 5 * LONG, async || {
        tokio::task::block_in_place(drain);
        let ended: Vec<_> = restores.iter_mut().map(|child| child.try_wait().unwrap()).collect();
        holds(ended.iter().all(|ended| ended.is_some_and(|status| status.success())), ended)
    })
    .await;
    world.emptied().await;
    drain();
    world.dlq_is_empty().await;
    world.finds_exactly(files.keys()).await;
    let mut kept: BTreeMap<String, usize> = BTreeMap::new();
    for key in world.results_under("archive/dlq/").await {
        let (letter, _) = world.result(&key).await.unwrap();
        *kept.entry(letter["body"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let expected: BTreeSet<String> = hopeless("archived").into_iter().chain(hopeless("dead")).collect();
    assert_eq!(kept.keys().cloned().collect::<BTreeSet<_>>(), expected, "what no worker can read is archived again");
    assert!(kept.values().all(|times| *times <= 2), "at most by both restores: {kept:?}");
    worker.stop().await;
}
