//! P4, P5 and P6 at length: an outage of three hours, ten thousand messages, twenty workers. Nothing is dead-lettered,
//! nobody asks for messages that cannot be worked on, and all is done after healing.

use std::collections::BTreeMap;
use std::time::Duration;

use quittance::store::StoreError;
use tokio::time::{Instant, sleep};

use crate::sim::{Faults, RESULTS, Rule, SOURCE, Setup, Site, Verb, Worker, history, until};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const MESSAGES: usize = 10_000;
const WORKERS: usize = 20;
const MOST_RECEIVES: u32 = 4;

/// A site with this many messages in its queue; SQS picks any of them, or (`reorder` off) always the oldest.
fn site(messages: usize, reorder: bool) -> (Site, Vec<String>) {
    let site = Site::new(7);
    site.world.queue.faults(|faults| faults.reorder = reorder);
    let keys: Vec<String> = (0..messages).map(|n| format!("{}/{n}.txt", n % 40)).collect();
    keys.iter().for_each(|key| drop(site.world.upload(key, format!("text of {key}"), 1)));
    (site, keys)
}

fn workers(site: &Site) -> Vec<Worker> {
    let setup = Setup { replay: false, ..Setup::default() };
    (0..WORKERS).map(|n| site.start(&format!("w{n}"), &setup)).collect()
}

/// Messages by how often they were received.
fn receives(site: &Site) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for count in history::receives(&site.world.queue).into_values() {
        *counts.entry(count).or_default() += 1;
    }
    counts
}

async fn all_done(site: &Site, keys: &[String], workers: Vec<Worker>) {
    assert_eq!(history::in_step(&site.world, &keys.iter().map(String::as_str).collect::<Vec<_>>()), Ok(()));
    assert_eq!(site.world.dead_letters.live().len(), 0);
    assert_eq!(site.troubles(), Vec::<String>::new(), "an outage is nobody's failure");
    let mut done = 0;
    for worker in workers {
        let line = worker.stop().await;
        assert_eq!((line.dead_lettered, line.lease_lost), (0, 0), "{line:?}");
        done += line.done;
    }
    assert_eq!(done, keys.len() as u64);
}

async fn three_hours_without(name: &str, rules: &[(&str, Option<Verb>)]) {
    for (messages, reorder) in [(MESSAGES, true), (MESSAGES / 5, false)] {
        let (site, keys) = site(messages, reorder);
        for (bucket, verb) in rules {
            let error = StoreError::Unavailable("503".into());
            site.world.store.inject(Rule {
                bucket: (*bucket).into(),
                prefix: String::new(),
                verb: *verb,
                error,
                times: None,
            });
        }
        let workers = workers(&site);
        sleep(3 * HOUR).await;
        let name = format!("{name}, in order: {}", !reorder);
        assert_eq!((site.world.queue.live().len(), site.world.dead_letters.live().len()), (messages, 0), "{name}");
        assert!(workers.iter().all(|worker| !worker.gate.is_open()), "{name}: intake is open");
        let during = receives(&site);
        site.world.store.heal();
        let healed = Instant::now();
        site.until_empty().await;
        // A return delay is 300 s at most, and a probe's distance 60 s.
        assert!(healed.elapsed() < 600 * SECOND, "{name}: {:?}", healed.elapsed());
        let most = receives(&site).last_key_value().map(|(count, _)| *count);
        assert!(most <= Some(MOST_RECEIVES), "{name}: {:?}", receives(&site));
        // The probe sees it, whatever it is: after the first few, nobody asks.
        let asked: usize = during.values().sum();
        assert!(asked <= WORKERS * 20, "{name}: {during:?}");
        all_done(&site, &keys, workers).await;
    }
}

#[tokio::test(start_paused = true)]
async fn three_hours_without_s3_cost_no_message_more_than_four_receives() {
    three_hours_without("all of S3", &[(SOURCE, None), (RESULTS, None)]).await;
}

#[tokio::test(start_paused = true)]
async fn three_hours_without_writes_to_s3_cost_no_message_more_than_four_receives() {
    three_hours_without("PUT alone", &[(RESULTS, Some(Verb::Put))]).await;
}

#[tokio::test(start_paused = true)]
async fn three_hours_without_reads_from_s3_cost_no_message_more_than_four_receives() {
    three_hours_without("GET alone", &[(SOURCE, Some(Verb::Get))]).await;
}

#[tokio::test(start_paused = true)]
async fn three_hours_without_opensearch_never_close_intake() {
    let (site, keys) = site(MESSAGES, true);
    site.world.search.down_for(3 * HOUR);
    let began = Instant::now();
    let workers = workers(&site);
    site.until_empty().await;
    assert!(began.elapsed() < 300 * SECOND, "{:?}", began.elapsed());
    sleep(3 * HOUR).await;
    assert!(workers.iter().all(|worker| worker.gate.is_open()));
    assert!(site.lines("breaker_opened").iter().all(|line| line["which"] == "index"));
    assert_eq!(receives(&site), BTreeMap::from([(1, MESSAGES)]), "each is received once");
    assert_eq!(site.world.store.keys(RESULTS, "retry-index/").len(), MESSAGES);
    let replayer = site.start("replayer", &Setup::default());
    until("nothing is parked", HOUR, || site.world.store.keys(RESULTS, "retry-index/").is_empty()).await;
    assert_eq!(replayer.stop().await.replayed, MESSAGES as u64);
    all_done(&site, &keys, workers).await;
}

#[tokio::test(start_paused = true)]
async fn a3_1_four_hours_without_s3_while_two_thousand_messages_arrive_dead_letter_none() {
    let site = Site::new(3);
    site.world.queue.faults(|faults| faults.reorder = true);
    let down = Faults { down: true, ..Faults::default() };
    site.world.store.faults(|faults| faults.all(&down));
    let workers: Vec<Worker> = (0..4).map(|n| site.start(&format!("w{n}"), &Setup::default())).collect();
    let mut keys = Vec::new();
    for n in 0..2_000 {
        let key = format!("{n}.txt");
        site.world.upload(&key, format!("text of {key}"), 1);
        keys.push(key);
        sleep(4 * HOUR / 2_000).await;
    }
    assert_eq!((site.world.queue.live().len(), site.world.dead_letters.live().len()), (2_000, 0));
    site.world.store.heal();
    site.until_empty().await;
    let most = receives(&site).last_key_value().map(|(count, _)| *count);
    assert!(most <= Some(12), "{:?}", receives(&site));
    assert_eq!(history::in_step(&site.world, &keys.iter().map(String::as_str).collect::<Vec<_>>()), Ok(()));
    let mut done = 0;
    for worker in workers {
        done += worker.stop().await.done;
    }
    assert_eq!((done, site.world.dead_letters.live().len()), (2_000, 0));
}
