//! P1 and P3: a message with several changes settles by the worst of them, and what is done stays done (design §4; Q18).

use std::time::Duration;

use quittance::config::OnMissingObject;
use quittance::message::s3_event;
use quittance::outcome::{Dependency, Outcome, RejectReason, RetryReason, Rules, Settlement, SkipReason, Verdict};
use quittance::process::extract::ExtractFailure;
use quittance::retry::{Backoff, Jitter};
use quittance::store::StoreError;

use crate::dead_letter::note;
use crate::sim::reader::Act;
use crate::sim::{RESULTS, Record, Rule, SOURCE, Setup, Site, Verb, history, s3_event as event_of, until};

/// The ends that a change can have, the mildest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Change {
    Skip,
    Superseded,
    Done,
    Reject,
    Retry,
    Systemic,
}

use Change::{Done, Reject, Retry, Skip, Superseded, Systemic};

const ALL: [Change; 6] = [Skip, Superseded, Done, Reject, Retry, Systemic];

/// All singles, pairs and triples.
fn messages() -> Vec<Vec<Change>> {
    let mut all = vec![Vec::new()];
    for length in 1..=3 {
        let shorter: Vec<Vec<Change>> = all.iter().filter(|changes| changes.len() == length - 1).cloned().collect();
        for changes in shorter {
            all.extend(ALL.map(|change| [changes.as_slice(), &[change]].concat()));
        }
    }
    all.retain(|changes| !changes.is_empty());
    assert_eq!(all.len(), 6 + 36 + 216);
    all
}

/// `outcome/settlement` of the message, as design §4 says it.
fn expected(changes: &[Change]) -> &'static str {
    match changes.iter().max().unwrap() {
        Systemic | Retry => "retried/returned",
        Reject => "rejected/dead_lettered",
        Done => "done/deleted",
        Superseded => "superseded/deleted",
        Skip => "skipped/deleted",
    }
}

#[test]
fn the_table_settles_every_message_of_up_to_three_changes_by_the_worst() {
    let outcome = |change: Change| match change {
        Skip => Outcome::Skip(SkipReason::Event(s3_event::SkipReason::EventNotWanted)),
        Superseded => Outcome::Superseded,
        Done => Outcome::Done,
        Reject => Outcome::Reject(RejectReason::NotAllowed("bucket".into())),
        Retry => Outcome::Retry(RetryReason::ChildCrashed("signal 11".into())),
        Systemic => Outcome::Retry(RetryReason::Systemic(Dependency::Source, "503".into())),
    };
    let backoff = Backoff { base: Duration::from_secs(30), cap: Duration::from_secs(900) };
    let (on_missing, max_receive_count) = (OnMissingObject::DeadLetter, None);
    let rules = Rules { max_attempts: 5, backoff, on_missing, max_receive_count };
    for changes in messages() {
        let worst = changes.iter().copied().map(outcome).reduce(Outcome::worse).unwrap();
        let plan = rules.plan(&Verdict::Judged(worst), 0, 1, &Jitter::seeded(1));
        let settlement = match plan.settlement {
            Settlement::Delete => "deleted",
            Settlement::DeadLetter(..) => "dead_lettered",
            Settlement::Return(_) => "returned",
        };
        assert_eq!(format!("{}/{settlement}", plan.account.outcome.as_str()), expected(&changes), "{changes:?}");
        assert_eq!(plan.charged, changes.iter().max() == Some(&Retry), "{changes:?}: systemic ones are never charged");
    }
}

/// The record of an event whose change ends so, under a key of its own.
fn record(site: &Site, change: Change, key: &str) -> Record {
    let head = site.world.store.put_object(SOURCE, key, format!("text of {key}"));
    let record = Record::created(SOURCE, key, &head, 4);
    match change {
        Done | Superseded => record,
        Skip => Record { event: "ObjectTagging:Put", ..record },
        Reject => Record { bucket: "elsewhere".into(), ..record },
        Retry => {
            site.reader.plan(key, [Act::Fails(ExtractFailure::Crashed { detail: "signal 11".into() })]);
            record
        }
        Systemic => {
            let error = StoreError::Unavailable("503".into());
            let (bucket, prefix, verb) = (SOURCE.to_owned(), key.to_owned(), Some(Verb::Get));
            site.world.store.inject(Rule { bucket, prefix, verb, error, times: None });
            record
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_pipeline_settles_every_message_of_up_to_three_changes_by_the_worst_and_what_is_done_stays_done() {
    for changes in messages() {
        let site = Site::new(1);
        let keys: Vec<String> = (0..changes.len()).map(|n| format!("{n}.txt")).collect();
        // What is to be superseded is there already, in a newer state.
        for (key, _) in keys.iter().zip(&changes).filter(|(_, change)| **change == Superseded) {
            site.world.upload(key, format!("text of {key}"), 5);
        }
        let before = site.drain_as("before", &Setup::default()).await.received as usize;
        let records: Vec<Record> = keys.iter().zip(&changes).map(|(key, change)| record(&site, *change, key)).collect();
        site.world.queue.put(event_of(&records));
        let worker = site.start("w", &Setup::default());
        until("it is settled", Duration::from_secs(60), || site.settlements().len() > before).await;
        let line = worker.stop().await;
        assert_eq!(site.settlements()[before], expected(&changes), "{changes:?}");
        assert_eq!((line.received, line.changes_parsed), (1, changes.len() as u64), "{changes:?}");
        let tally = [line.changes_done, line.changes_superseded, line.changes_skipped, line.changes_rejected];
        let count = |kind| changes.iter().filter(|change| **change == kind).count() as u64;
        assert_eq!(tally, [Done, Superseded, Skip, Reject].map(count), "{changes:?}");
        assert_eq!(line.changes_retried, count(Retry) + count(Systemic), "{changes:?}");

        let of =
            |kind| keys.iter().zip(&changes).filter(move |(_, change)| **change == kind).map(|(key, _)| key.as_str());
        let durable: Vec<&str> = of(Done).chain(of(Superseded)).collect();
        assert_eq!(history::in_step(&site.world, &durable), Ok(()), "{changes:?}");
        assert_eq!(site.world.search.documents().len(), durable.len(), "{changes:?}");
        let attempts = site.world.store.keys(RESULTS, "attempts/").len();
        assert_eq!(attempts, usize::from(changes.iter().max() == Some(&Retry)), "{changes:?}");
        // The copy names the changes that failed, and no other.
        let letters = site.world.dead_letters.live();
        assert_eq!(letters.len(), usize::from(changes.iter().max() == Some(&Reject)), "{changes:?}");
        for (_, letter, _) in letters {
            assert_eq!(note(&letter)["keys"], serde_json::json!(of(Reject).collect::<Vec<_>>()), "{changes:?}");
        }
    }
}
