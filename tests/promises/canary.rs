//! `worker check --deep` (design §8): the canary goes the whole way of a file, is never shown, and nothing of it stays.

use std::sync::Arc;

use quittance::check::canary::{Canary, obstacle};
use quittance::check::{Finding, Verdict};
use quittance::index::catalogue::Catalogue;
use quittance::message::s3_event::Source;
use quittance::store::StoreError;
use tokio_util::sync::CancellationToken;

use crate::sim::worker::namespace;
use crate::sim::{RESULTS, Rule, SOURCE, Setup, Site, Verb};

const KEY: &str = "in/quittance-canary-here";

fn canary(site: &Site, search: bool) -> Canary {
    Canary {
        queue: Arc::new(site.world.queue.seen_by("doctor")),
        store: Arc::new(site.world.store.seen_by("doctor")),
        catalogue: search.then(|| Arc::new(site.world.search.seen_by("doctor")) as Arc<dyn Catalogue>),
        source: Source { bucket: SOURCE.into(), prefix: "in/".into() },
        namespace: namespace(),
        results_bucket: RESULTS.into(),
        host: "here".into(),
        clock: Arc::new(site.world.clock.clone()),
        stop: CancellationToken::new(),
    }
}

async fn fly(site: &Site, search: bool) -> Vec<(&'static str, Verdict)> {
    let findings = canary(site, search).fly(&|_| {}).await;
    findings.iter().for_each(|finding| println!("{finding:?}"));
    findings.iter().map(|Finding { name, verdict, .. }| (*name, *verdict)).collect()
}

/// In all buckets, the index, and both queues.
fn nothing_is_left(site: &Site) {
    for prefix in ["processed/", "retry-index/", "errored-index/", "attempts/"] {
        assert_eq!(site.world.store.keys(RESULTS, prefix), Vec::<String>::new());
    }
    assert_eq!(site.world.search.documents().len(), 0);
    assert_eq!((site.world.queue.live().len(), site.world.dead_letters.live().len()), (0, 0));
}

const ALL: [&str; 7] =
    ["canary_queue", "canary_record", "canary_index", "canary_hidden", "canary_park", "canary_replay", "canary_gone"];

#[tokio::test(start_paused = true)]
async fn a_canary_goes_the_whole_way_of_a_file_and_nothing_of_it_stays() {
    let site = Site::new(1);
    let worker = site.start("w", &Setup::default());
    for _ in 0..3 {
        assert_eq!(fly(&site, true).await, ALL.map(|name| (name, Verdict::Pass)));
        nothing_is_left(&site);
    }
    let line = worker.stop().await;
    assert_eq!((line.received, line.done, line.replayed), (3, 3, 3));
}

#[tokio::test(start_paused = true)]
async fn without_an_index_the_worker_parks_the_canary_and_the_marker_is_taken_away() {
    let site = Site::new(2);
    let worker = site.start("w", &Setup { search: false, ..Setup::default() });
    let expected = [
        ("canary_queue", Verdict::Pass),
        ("canary_record", Verdict::Pass),
        ("canary_index", Verdict::Skipped),
        ("canary_park", Verdict::Pass),
        ("canary_gone", Verdict::Pass),
    ];
    assert_eq!(fly(&site, false).await, expected);
    nothing_is_left(&site);
    worker.stop().await;
}

/// What breaks, where the canary's way ends, and whether all of it is gone.
type Break = (&'static str, fn(&Site), &'static str);

const BREAKS: [Break; 6] = [
    ("the index is down", |site| site.world.search.faults(|all| all.bulk.down = true), "canary_index"),
    ("deleted files are shown", |site| site.world.search.faults(|all| all.shows_deleted = true), "canary_hidden"),
    (
        "the index cannot be looked through",
        |site| site.world.search.faults(|all| all.catalogue.down = true),
        "canary_index",
    ),
    ("nothing can be parked", |site| site.world.store.inject(rule("retry-index/", Verb::Put)), "canary_park"),
    ("markers cannot be listed", |site| site.world.store.inject(rule("retry-index/", Verb::List)), "canary_replay"),
    ("records cannot be written", |site| site.world.store.inject(rule("processed/", Verb::Put)), "canary_record"),
];

fn rule(prefix: &str, verb: Verb) -> Rule {
    let error = StoreError::Unavailable("503".into());
    Rule { bucket: RESULTS.into(), prefix: prefix.into(), verb: Some(verb), error, times: None }
}

#[tokio::test(start_paused = true)]
async fn whatever_breaks_is_named_and_the_canary_is_taken_away_at_the_latest_by_the_next_one() {
    for (name, breaks, at) in BREAKS {
        let site = Site::new(3);
        let worker = site.start("w", &Setup::default());
        breaks(&site);
        let found = fly(&site, true).await;
        let failed: Vec<&str> =
            found.iter().filter(|(_, verdict)| *verdict == Verdict::Fail).map(|(name, _)| *name).collect();
        assert_eq!(failed.first(), Some(&at), "{name}: {found:?}");
        site.world.store.heal();
        site.world.search.faults(|all| *all = Default::default());
        site.until_empty().await;
        assert_eq!(fly(&site, true).await, ALL.map(|name| (name, Verdict::Pass)), "{name}: after healing");
        nothing_is_left(&site);
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_worker_the_canary_says_so_and_one_that_is_interrupted_is_cleared_up() {
    let site = Site::new(4);
    let found = fly(&site, true).await;
    assert_eq!(found[1], ("canary_record", Verdict::Fail), "{found:?}");
    assert_eq!(found[2], ("canary_gone", Verdict::Skipped), "{found:?}");
    let worker = site.start("w", &Setup::default());
    site.until_empty().await;
    // Interrupted while it waits for the replay.
    let canary = canary(&site, true);
    let stop = canary.stop.clone();
    let findings = canary
        .fly(&move |line| {
            if line.contains("parked") {
                stop.cancel()
            }
        })
        .await;
    let (name, verdict) = findings.last().map(|last| (last.name, last.verdict)).unwrap();
    assert_eq!((name, verdict), ("canary_gone", Verdict::Pass), "{findings:?}");
    nothing_is_left(&site);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_of_that_name_is_never_touched_and_no_canary_is_sent_where_it_could_not_come_back() {
    let site = Site::new(5);
    site.world.store.put_object(SOURCE, KEY, "somebody's");
    let findings = canary(&site, true).fly(&|_| {}).await;
    assert_eq!((findings.len(), findings[0].verdict), (1, Verdict::Fail), "{findings:?}");
    assert!(findings[0].evidence.contains(KEY), "{findings:?}");
    assert_eq!(site.world.queue.live().len(), 0);
    let finding = |name, verdict| Finding { name, verdict, evidence: String::new(), fix: None };
    for (findings, sent) in [
        (vec![finding("queue", Verdict::Pass), finding("pause", Verdict::Pass)], true),
        (vec![finding("queue", Verdict::Warn), finding("pause", Verdict::Pass)], true),
        (vec![finding("queue", Verdict::Fail), finding("pause", Verdict::Pass)], false),
        (vec![finding("queue", Verdict::Pass), finding("pause", Verdict::Warn)], false),
    ] {
        assert_eq!(obstacle(&findings).is_none(), sent, "{findings:?}");
    }
}
