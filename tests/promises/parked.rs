//! `redrive parked` on the model: replay now, lists, and errored markers that go back and are never lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quittance::books::Books;
use quittance::gate::Gate;
use quittance::index::parked::{Answer, Now, refused_by};
use quittance::pause::{Pause, PauseFile};
use quittance::retry::Jitter;
use quittance::store::{Store, layout};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::replay::{budget, hold, indexed, lease, marker, park, record, under};
use crate::sim::wires::Wires;
use crate::sim::{Cut, Faults, RESULTS, Setup, Site, document_id, for_seeds, record_key, until};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

struct Operator {
    stop: CancellationToken,
    gate: Arc<Gate>,
    run: tokio::task::JoinHandle<Answer>,
}

/// `redrive parked`, as `start::parked` puts it together.
fn replay_now(site: &Site, setup: &Setup) -> Operator {
    let books = Arc::new(Books::default());
    let wires = Wires::new(Arc::clone(&books), site.next_run("operator"));
    let jitter = Arc::new(Jitter::seeded(site.world.seed));
    let (replayer, drive) = site.replayer("operator", setup, &wires, &books, &jitter);
    tokio::spawn(drive);
    let (stop, gate) = (CancellationToken::new(), Arc::new(Gate::new(jitter)));
    let now = Now { replayer, pauses: gate.pauses(), stop: stop.clone() };
    Operator { stop, gate, run: tokio::spawn(async move { now.run(&|_| {}).await }) }
}

fn parsed(answer: &Answer) -> Value {
    assert_eq!(answer.json.lines().count(), 1);
    serde_json::from_str(&answer.json).unwrap()
}

fn fields<const N: usize>(answer: &Answer, names: [&str; N]) -> [Value; N] {
    names.map(|name| parsed(answer)[name].clone())
}

async fn reset(site: &Site, key_prefix: Option<&str>) -> Answer {
    let wires = Wires::new(Arc::default(), site.next_run("operator"));
    site.lots("operator", &wires).reset(key_prefix, &CancellationToken::new(), &|_| {}).await
}

#[tokio::test(start_paused = true)]
async fn it_replays_until_nothing_is_left_and_says_so() {
    let site = Site::new(1);
    let keys = park(&site, 2_500);
    let answer = replay_now(&site, &Setup::default()).run.await.unwrap();
    assert_eq!((answer.code, indexed(&site, &keys), under(&site, "retry-index/")), (0, 2_500, 0), "{answer:?}");
    assert_eq!(
        fields(&answer, ["ended", "replayed", "errored", "left"]),
        [json!("done"), json!(2_500), json!(0), json!(0)]
    );
    assert_eq!(answer.text, "2500 replayed, 0 errored, 0 left (namespace default)\n");
    assert_eq!(lease(&site)["holder"], Value::Null);
    // And where there is nothing.
    let answer = replay_now(&site, &Setup::default()).run.await.unwrap();
    assert_eq!((answer.code, &parsed(&answer)["replayed"]), (0, &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_errs_and_is_told_with_exit_3() {
    let site = Site::new(2);
    let keys = park(&site, 20);
    site.world.search.faults(|all| {
        all.refuse.insert(document_id(&keys[3]), "400 mapper_parsing_exception: no".into());
        all.unclear.insert(document_id(&keys[5]), "500 npe".into());
    });
    let setup = Setup { replay_budget: budget(3), ..Setup::default() };
    let answer = replay_now(&site, &setup).run.await.unwrap();
    assert_eq!((answer.code, indexed(&site, &keys), under(&site, "errored-index/")), (3, 18, 2), "{answer:?}");
    assert_eq!(fields(&answer, ["ended", "errored", "left"]), [json!("done"), json!(2), json!(0)]);
    assert!(answer.text.contains("redrive parked --errored"), "{answer:?}");
}

/// It holds the lease: nobody else replays what comes meanwhile.
#[tokio::test(start_paused = true)]
async fn what_is_parked_while_it_waits_for_a_sick_document_does_not_wait_as_long() {
    let site = Site::new(11);
    let keys = park(&site, 3);
    site.world.search.faults(|all| drop(all.unclear.insert(document_id(&keys[0]), "500 npe".into())));
    let mut setup = Setup { replay_budget: budget(2), ..Setup::default() };
    setup.replay_budget.backoff.base = HOUR;
    let operator = replay_now(&site, &setup);
    until("the well ones are replayed", HOUR / 60, || indexed(&site, &keys) == 2).await;
    marker(&site, &record(&site, "late.txt", 0, 7, false), 7, "retry-index");
    until("the late one too", HOUR / 60, || indexed(&site, &["late.txt".to_owned()]) == 1).await;
    let answer = operator.run.await.unwrap();
    assert_eq!((answer.code, fields(&answer, ["replayed", "errored"])), (3, [json!(3), json!(1)]), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn another_replayer_that_lives_refuses_it_with_his_name_and_one_that_is_dead_does_not() {
    let site = Site::new(3);
    let keys = park(&site, 3_000);
    let time = 2 * SECOND;
    site.world.search.faults(|all| all.bulk.latency = (time, time));
    let worker = site.start("w", &Setup::default());
    until("the worker replays", HOUR, || indexed(&site, &keys) > 100).await;
    let began = Instant::now();
    let answer = replay_now(&site, &Setup::default()).run.await.unwrap();
    assert!(began.elapsed() < 25 * SECOND, "{:?}", began.elapsed());
    assert_eq!(answer.code, 4, "{answer:?}");
    assert_eq!(
        fields(&answer, ["ended", "by", "holder_namespace"]),
        [json!("refused"), json!("worker w"), json!("default")]
    );
    assert!(answer.text.contains("worker w") && answer.text.contains("2026-11-22T"), "{answer:?}");
    worker.crash();
    let began = Instant::now();
    let answer = replay_now(&site, &Setup::default()).run.await.unwrap();
    assert!(began.elapsed() > 45 * SECOND);
    assert_eq!((answer.code, indexed(&site, &keys)), (0, 3_000), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn it_can_be_interrupted_and_goes_on_where_it_was() {
    let site = Site::new(4);
    let keys = park(&site, 3_000);
    site.world.search.faults(|all| all.bulk.latency = (2 * SECOND, 2 * SECOND));
    let operator = replay_now(&site, &Setup::default());
    until("it replays", HOUR, || indexed(&site, &keys) > 100).await;
    operator.stop.cancel();
    let asked = Instant::now();
    let answer = operator.run.await.unwrap();
    assert!(asked.elapsed() < 10 * SECOND);
    assert_eq!((answer.code, lease(&site)["holder"].clone()), (130, Value::Null), "{answer:?}");
    assert!(answer.text.contains("to go on: redrive parked"), "{answer:?}");
    assert_eq!(parsed(&answer)["left"], under(&site, "retry-index/"));
    let answer = replay_now(&site, &Setup::default()).run.await.unwrap();
    assert_eq!((answer.code, indexed(&site, &keys)), (0, 3_000), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn it_obeys_a_pause_before_it_begins_and_while_it_runs() {
    let site = Site::new(5);
    let keys = park(&site, 3_000);
    site.world.search.faults(|all| all.bulk.latency = (2 * SECOND, 2 * SECOND));
    let operator = replay_now(&site, &Setup::default());
    until("it replays", HOUR, || indexed(&site, &keys) > 100).await;
    operator.gate.pause("test", "ada", "incident 7");
    let answer = operator.run.await.unwrap();
    assert_eq!((answer.code, &parsed(&answer)["ended"]), (3, &json!("paused")), "{answer:?}");
    assert!(answer.text.contains("redrive resume"));

    let file = PauseFile { store: Arc::new(site.world.store.clone()), bucket: RESULTS.into() };
    assert_eq!(refused_by(file.look().await.unwrap()), None);
    let pause = Pause { v: 1, reason: "incident 7".into(), by: "ada".into(), at: "2026-11-22T00:00:00Z".into() };
    file.pause(&pause).await.unwrap();
    let refused = refused_by(file.look().await.unwrap()).unwrap();
    assert_eq!(refused.code, 4);
    assert!(refused.text.contains("ada since 2026-11-22T00:00:00Z: incident 7"), "{refused:?}");
    site.world.store.put_object(RESULTS, layout::PAUSE, "{");
    assert_eq!(refused_by(file.look().await.unwrap()).unwrap().code, 4, "what cannot be read is a pause");
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_or_a_sick_index_ends_it_in_part() {
    let site = Site::new(6);
    let keys = park(&site, 3_000);
    site.world.search.faults(|all| all.bulk.latency = (2 * SECOND, 2 * SECOND));
    let operator = replay_now(&site, &Setup::default());
    until("it replays", HOUR, || indexed(&site, &keys) > 100).await;
    hold(&site, 1);
    let answer = operator.run.await.unwrap();
    assert_eq!((answer.code, &parsed(&answer)["ended"]), (3, &json!("lease_lost")), "{answer:?}");
    assert_eq!(lease(&site)["holder"], "x", "another's lease is not let go");

    let site = Site::new(7);
    park(&site, 30);
    site.world.search.down_for(5 * 60 * SECOND);
    let began = Instant::now();
    let answer = replay_now(&site, &Setup::default()).run.await.unwrap();
    assert_eq!((answer.code, began.elapsed() > 5 * 60 * SECOND), (0, true), "it waits for ten minutes: {answer:?}");
    park(&site, 30);
    site.world.search.down_for(HOUR);
    let began = Instant::now();
    let answer = replay_now(&site, &Setup::default()).run.await.unwrap();
    assert!(began.elapsed() >= 600 * SECOND && began.elapsed() < 700 * SECOND, "{:?}", began.elapsed());
    assert_eq!((answer.code, fields(&answer, ["ended", "left"])), (3, [json!("sick"), json!(30)]), "{answer:?}");
    assert_eq!(under(&site, "errored-index/"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_list_counts_by_day_and_by_reason_and_is_bounded() {
    let site = Site::new(8);
    for (days_ago, number) in [(0, 3), (2, 1_500)] {
        for n in 0..number {
            marker(&site, &record(&site, &format!("{days_ago}/{n}.txt"), days_ago, 7, false), 7, "retry-index");
        }
    }
    marker(&site, &record(&site, "bad.txt", 1, 7, false), 7, "errored-index");
    let wires = Wires::new(Arc::default(), site.next_run("operator"));
    let answer = site.lots("operator", &wires).list().await.unwrap();
    let report = parsed(&answer);
    assert_eq!((&report["parked"], &report["errored"], &report["read"]), (&json!(1_503), &json!(1), &json!(1_000)));
    assert_eq!(report["days"], json!({ "2026-11-20": 1_500, "2026-11-22": 3 }));
    assert_eq!(report["reasons"], json!({ "the index breaker is open": 1_000 }));
    assert_eq!(report["oldest_failed_at"], "2026-11-21T23:00:00.000Z");
    assert!(answer.text.starts_with("1503 parked, 1 errored (namespace default)\n"), "{}", answer.text);
    assert!(answer.text.lines().count() < 15);
}

#[tokio::test(start_paused = true)]
async fn errored_ones_are_listed_by_key_and_moved_back_by_prefix() {
    let site = Site::new(9);
    for n in 0..150 {
        for folder in ["a", "b"] {
            let bad = record(&site, &format!("{folder}/日本 {n:03}.txt"), 1, 7, false);
            marker(&site, &bad, 7, "errored-index");
        }
    }
    let wires = Wires::new(Arc::default(), site.next_run("operator"));
    let lots = site.lots("operator", &wires);
    let answer = lots.errored(None, 20).await.unwrap();
    let report = parsed(&answer);
    assert_eq!((&report["errored"], report["documents"].as_array().unwrap().len()), (&json!(300), 20));
    assert!(answer.text.contains("and 280 more") && answer.text.contains("--reset"), "{}", answer.text);
    let asked = site.world.store.asked();
    let answer = lots.errored(Some("a/日本 00"), 5).await.unwrap();
    assert!(site.world.store.asked() - asked <= 301);
    let report = parsed(&answer);
    assert_eq!((&report["matching"], report["documents"].as_array().unwrap().len()), (&json!(10), 5));
    let first = &report["documents"][0];
    assert!(first["key"].as_str().unwrap().starts_with("a/日本 00") && first["reason"].is_string(), "{first}");

    let answer = reset(&site, Some("a/")).await;
    assert_eq!((answer.code, fields(&answer, ["reset", "not_matching"])), (0, [json!(150), json!(150)]));
    assert_eq!((under(&site, "errored-index/"), under(&site, "retry-index/")), (150, 150));
    assert_eq!(parsed(&reset(&site, Some("a/")).await)["reset"], 0, "once more changes nothing");
    let answer = replay_now(&site, &Setup::default()).run.await.unwrap();
    assert_eq!((answer.code, &parsed(&answer)["replayed"]), (0, &json!(150)));
    assert_eq!(parsed(&reset(&site, None).await)["reset"], 150);
}

#[tokio::test(start_paused = true)]
async fn a_marker_that_cannot_be_read_hides_no_other_and_is_told() {
    let site = Site::new(11);
    for lot in ["retry-index", "errored-index"] {
        for n in 0..3 {
            marker(&site, &record(&site, &format!("{n}.txt"), 0, 7, false), 7, lot);
        }
        let odd = record(&site, "odd.txt", 0, 7, false).document_id;
        site.world.store.put_object(RESULTS, &format!("{lot}/2026-11-22/default/{odd}/{:020}.json", 7), "{");
    }
    let wires = Wires::new(Arc::default(), site.next_run("operator"));
    let lots = site.lots("operator", &wires);
    let answer = lots.list().await.unwrap();
    assert_eq!(fields(&answer, ["parked", "read", "unreadable"]), [json!(4), json!(3), json!(1)]);
    assert!(answer.text.contains("1 cannot be read, the first: retry-index/2026-11-22/default/"), "{}", answer.text);
    for prefix in [None, Some("")] {
        let answer = lots.errored(prefix, 20).await.unwrap();
        assert_eq!(fields(&answer, ["errored", "unreadable"]), [json!(4), json!(1)]);
        assert_eq!(parsed(&answer)["documents"].as_array().unwrap().len(), 3);
        assert!(answer.text.contains("1 cannot be read, the first: errored-index/"), "{}", answer.text);
    }
    site.world.store.faults(|faults| faults.get.down = true);
    assert!(lots.list().await.is_err() && lots.errored(None, 20).await.is_err(), "a sick store is not an odd marker");
}

#[tokio::test(start_paused = true)]
async fn a_reset_takes_markers_away_whose_records_are_gone() {
    let site = Site::new(12);
    for key in ["here.txt", "gone.txt"] {
        marker(&site, &record(&site, key, 0, 7, false), 7, "errored-index");
    }
    let gone = record_key("gone.txt");
    Store::delete(&site.world.store, RESULTS, &gone).await.unwrap();
    let answer = reset(&site, Some("g")).await;
    assert_eq!((answer.code, fields(&answer, ["reset", "no_record"])), (0, [json!(0), json!(1)]), "{answer:?}");
    assert!(answer.text.contains("1 taken away: their records are gone"), "{}", answer.text);
    assert_eq!((under(&site, "errored-index/"), under(&site, "retry-index/")), (1, 0));
    site.world.store.faults(|faults| faults.head.down = true);
    let answer = reset(&site, None).await;
    assert_eq!((answer.code, fields(&answer, ["reset", "no_record", "failed"])), (3, [json!(0), json!(0), json!(1)]));
    site.world.store.heal();
    assert_eq!(fields(&reset(&site, None).await, ["reset", "no_record"]), [json!(1), json!(0)]);
}

/// Every document that is not in the index must have a marker in one of the two places.
fn nobody_is_lost(site: &Site, keys: &[String]) {
    let markers: Vec<String> =
        ["retry-index/", "errored-index/"].iter().flat_map(|lot| site.world.store.keys(RESULTS, lot)).collect();
    for key in keys {
        let id = document_id(key);
        let marked = markers.iter().any(|marker| marker.contains(id.as_str()));
        assert!(marked || site.world.search.document(&id).is_some(), "{key} is lost");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_that_is_killed_at_any_call_loses_nothing_and_goes_on() {
    let mut ends = BTreeSet::new();
    for cut in [Cut::Before, Cut::After] {
        for call in 0..40 {
            let site = Site::new(10);
            let keys: Vec<String> = (0..10).map(|n| format!("{n}.txt")).collect();
            for key in &keys {
                marker(&site, &record(&site, key, 0, 7, false), 7, "errored-index");
            }
            let wires = Wires::new(Arc::default(), site.next_run("operator"));
            wires.cut_at(move |asking| (asking.number == call).then_some(cut));
            let (stop, lots) = (CancellationToken::new(), site.lots("operator", &wires));
            let dead = tokio::spawn(async move { lots.reset(None, &stop, &|_| {}).await });
            sleep(60 * SECOND).await;
            ends.insert(dead.is_finished());
            dead.abort();
            nobody_is_lost(&site, &keys);
            // Those in both places are left by the second reset, and go with the third, when they have been replayed.
            for _ in 0..2 {
                assert_eq!(reset(&site, None).await.code, 0);
                assert_eq!(replay_now(&site, &Setup::default()).run.await.unwrap().code, 0);
            }
            assert_eq!(
                (indexed(&site, &keys), under(&site, "errored-index/"), under(&site, "retry-index/")),
                (10, 0, 0)
            );
        }
    }
    assert_eq!(ends, BTreeSet::from([false, true]), "some were killed, and some had ended");
}

/// The race that would lose a marker: a reset moves it back while replay gives it up again.
#[test]
fn a_reset_beside_a_replay_that_gives_up_again_loses_nobody() {
    for_seeds(0..80, |seed| async move {
        let site = Site::new(seed);
        let keys: Vec<String> = (0..30).map(|n| format!("{n}.txt")).collect();
        for (n, key) in keys.iter().enumerate() {
            let bad = record(&site, key, 0, 7, false);
            match n % 3 {
                0 => drop(marker(&site, &bad, 7, "errored-index")),
                1 => drop(marker(&site, &bad, 7, "retry-index")),
                _ => ["errored-index", "retry-index"].iter().for_each(|lot| drop(marker(&site, &bad, 7, lot))),
            }
            site.world.search.faults(|all| drop(all.refuse.insert(bad.document_id, "400 mapping".into())));
        }
        let slow = Faults { latency: (Duration::ZERO, 5 * SECOND), lose_reply: 0.05, ..Faults::default() };
        site.world.store.faults(|faults| faults.all(&slow));
        let workers = ["a", "b"].map(|who| site.start(who, &Setup::default()));
        for _ in 0..30 {
            reset(&site, None).await;
            nobody_is_lost(&site, &keys);
            sleep(7 * SECOND).await;
            nobody_is_lost(&site, &keys);
        }
        site.world.store.heal();
        until("all are given up", 2 * HOUR, || under(&site, "retry-index/") == 0).await;
        nobody_is_lost(&site, &keys);
        assert_eq!(under(&site, "errored-index/"), 30);
        site.world.search.faults(|all| all.refuse.clear());
        reset(&site, None).await;
        until("all are replayed", 2 * HOUR, || indexed(&site, &keys) == 30).await;
        for worker in workers {
            worker.stop().await;
        }
    });
}
