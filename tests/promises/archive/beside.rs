//! A restore beside a drain, and beside another restore, while workers work: no message is lost, none goes round, the
//! books add up (P9, P10).

use std::collections::BTreeSet;

use super::*;
use crate::drain::{Operator, Typed, event, is_indexed, moved};
use crate::sim::queue::QueueFaults;
use crate::sim::{Faults, QueueAsk, for_seeds};

/// What is archived and in the DLQ when it begins.
struct Letters {
    /// Files whose events were given up on, or moved by SQS.
    files: BTreeSet<String>,
    /// Bodies that no worker will ever read: they come back to the DLQ, and from there into the archive.
    hopeless: BTreeSet<String>,
}

async fn letters(site: &Site, of_each: usize) -> Letters {
    let (mut files, mut hopeless) = (BTreeSet::new(), BTreeSet::new());
    for n in 0..of_each {
        let (key, body) = (format!("archived/{n}.txt"), format!("{{archived {n}."));
        // Ids that come before those of the model's queues: a letter that is archived anew is still ahead of the walk.
        for (kind, body) in [("file", event(site, &key)), ("hopeless", body.clone())] {
            let message = Message { id: MessageId(format!("00-{kind}-{n:03}")), body, ..letter(n, None) };
            archive(&site.world).keep(&message, None, "max_receives", "", None).await.unwrap();
        }
        files.insert(key);
        hopeless.insert(body);
        let (key, body) = (format!("dead/{n}.txt"), format!("{{dead {n}."));
        moved(site, event(site, &key));
        moved(site, body.clone());
        files.insert(key);
        hopeless.insert(body);
    }
    Letters { files, hopeless }
}

/// Bodies in the archive, and how often each.
fn kept(world: &World) -> BTreeMap<String, usize> {
    let mut kept = BTreeMap::new();
    for key in world.store.keys(RESULTS, "archive/dlq/") {
        let letter: Archived = serde_json::from_slice(&world.store.object(RESULTS, &key).unwrap().body).unwrap();
        if letter.archived_at.is_none() {
            continue;
        }
        *kept.entry(letter.body).or_insert(0) += 1;
    }
    kept
}

/// How often each body was handed to the main queue.
fn handed_over(world: &World) -> BTreeMap<String, usize> {
    let mut sent = BTreeMap::new();
    for call in world.queue.calls() {
        if let QueueAsk::SendBatch(messages) = call.ask {
            messages.into_iter().for_each(|message| *sent.entry(message.body).or_insert(0) += 1);
        }
    }
    sent
}

impl Letters {
    fn none_is_lost(&self, site: &Site, when: &str) {
        let world = &site.world;
        let mut bodies: Vec<String> = kept(world).into_keys().collect();
        for queue in [&world.queue, &world.dead_letters] {
            bodies.extend(queue.live().into_iter().map(|(_, outgoing, _)| outgoing.body));
        }
        for key in &self.files {
            assert!(is_indexed(site, key) || bodies.iter().any(|body| body.contains(key)), "{when}: {key} is lost");
        }
        for body in &self.hopeless {
            assert!(bodies.contains(body), "{when}: {body} is lost");
        }
    }

    fn ended_as_a_clean_run(&self, site: &Site, when: &str) {
        assert!(site.world.dead_letters.is_empty() && site.world.queue.is_empty(), "{when}");
        assert_eq!(kept(&site.world).into_keys().collect::<BTreeSet<_>>(), self.hopeless, "{when}");
        assert!(self.files.iter().all(|key| is_indexed(site, key)), "{when}");
    }
}

async fn restored(site: &Site, rate: u32) -> restore::Report {
    let process = Process::new(site);
    let outbox = Some(Outbox::new(process.queue(&site.world.queue), rate));
    let run = Restore { outbox, ..process.restore(&site.world, Selection::default()) };
    let report = process.run(async move { run.run(&mut Ears::default()).await }).await.unwrap();
    let restore::Tally { looked_at, sent, twice, refused, envelopes, unwanted, later, unreadable, gone, .. } =
        report.tally;
    let ends = sent + twice + refused + envelopes + unwanted + later + unreadable + gone;
    // What was pending when a dependency fell sick is looked at and nothing else.
    assert!(ends == looked_at || (report.ended != Ended::Complete && ends <= looked_at), "{report:?}");
    report
}

/// So many restores at once, and drains, one after the other, until all of them are at their end and the DLQ is empty.
async fn at_once(site: &Site, restores: usize) -> Vec<restore::Report> {
    let typed = Typed {
        limits: quittance::redrive::drain::Limits { batch_size: 7, ..Typed::default().limits },
        ..Typed::default()
    };
    let over = std::cell::Cell::new(false);
    let restoring = async {
        let reports = futures_util::future::join_all((0..restores).map(|n| restored(site, 3 + n as u32))).await;
        over.set(true);
        reports
    };
    let draining = async {
        while !over.get() {
            Operator::new(site, "drain", &typed).run().await;
        }
    };
    tokio::join!(restoring, draining).0
}

#[test]
fn a_restore_beside_drains_and_workers_ends_and_sends_each_letter_once() {
    for_seeds(0..10, |seed| async move {
        for restores in [1, 2] {
            let site = Site::new(seed);
            let letters = letters(&site, 12).await;
            // A page of them, between what is restored and what is archived anew: the walk lists once more behind it.
            for n in 0..1_000 {
                let envelope = serde_json::to_vec(&Archived::envelope(&letter(n, None), None)).unwrap();
                site.world.store.put_object(RESULTS, &format!("archive/dlq/2026-11-22/00-x-{n:04}.json"), envelope);
            }
            let slow = Faults { latency: (Duration::ZERO, SECOND), ..Faults::default() };
            site.world.store.faults(|faults| faults.all(&slow));
            let worker = site.start("worker", &Setup::default());
            let reports = at_once(&site, restores).await;
            letters.none_is_lost(&site, "both are over");
            let when = format!("seed {seed}, {restores} at once: {reports:?}");
            assert!(reports.iter().all(|report| report.ended == Ended::Complete && report.tally.is_well()), "{when}");
            assert!(restores > 1 || reports.iter().all(|report| report.tally.sent == 24), "{when}");
            site.until_empty().await;
            worker.stop().await;
            assert_eq!(crate::drain::redrive(&site, &Typed::default()).await.code(), 0, "{when}");
            letters.ended_as_a_clean_run(&site, &when);
            let archived = |body: &str| body.contains("archived");
            let sent = handed_over(&site.world);
            let most = sent.iter().filter(|(body, _)| archived(body)).map(|(_, times)| *times).max();
            assert!(most.is_some_and(|most| most <= restores), "{when}: none goes round: {sent:?}");
            // What was sent twice comes back twice, and each is a letter of its own.
            assert!(kept(&site.world).values().all(|times| *times <= restores), "{when}");
        }
    });
}

#[test]
fn two_restores_beside_drains_under_faults_lose_nothing_and_end_as_one_clean_run() {
    for_seeds(0..20, |seed| async move {
        let site = Site::new(seed);
        let world = &site.world;
        let letters = letters(&site, 12).await;
        let bad =
            Faults { latency: (Duration::ZERO, SECOND), lose_reply: 0.05, fail_before: 0.05, ..Faults::default() };
        for queue in [&world.queue, &world.dead_letters] {
            queue.faults(|faults| {
                faults.all(&bad);
                (faults.refuse_entry, faults.forget_entry, faults.redeliver_early) = (0.05, 0.05, 0.02);
            });
        }
        world.store.faults(|faults| faults.all(&bad));
        let worker = site.start("worker", &Setup::default());
        at_once(&site, 2).await;
        letters.none_is_lost(&site, "under faults");
        world.store.heal();
        for queue in [&world.queue, &world.dead_letters] {
            queue.faults(|faults| *faults = QueueFaults::default());
        }
        // What is left of the files; the hopeless come back from their second journey.
        let reports = at_once(&site, 1).await;
        assert!(reports[0].ended == Ended::Complete && reports[0].tally.is_well(), "seed {seed}: {reports:?}");
        site.until_empty().await;
        worker.stop().await;
        assert_eq!(crate::drain::redrive(&site, &Typed::default()).await.code(), 0, "seed {seed}");
        letters.ended_as_a_clean_run(&site, &format!("seed {seed}"));
    });
}
