//! `redrive archive` on the model: what is archived comes back whole, and nothing is lost wherever it is killed (P3, P9).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quittance::clock::WallClock as _;
use quittance::dead_letter::{ATTRIBUTE, Note};
use quittance::message::{AttributeValue, Message, MessageAttribute, MessageId, ReceiptHandle};
use quittance::queue::{Outgoing, Queue};
use quittance::redrive::archive::restore::{self, Restore};
use quittance::redrive::archive::save::{self, Save};
use quittance::redrive::archive::shelf::{Selection, Shelf};
use quittance::redrive::archive::{Archive, Archived, Source};
use quittance::redrive::hold::{Hold, LEASE};
use quittance::spawn::{Turns, given_by, tied};
use quittance::store::Store;
use quittance::upkeep::Ended;
use quittance::upkeep::outbox::Outbox;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::drain::grip;
use crate::sim::life::Life;
use crate::sim::wires::{Wired, Wires};
use crate::sim::{ModelQueue, RESULTS, Setup, Site, World, until};

mod beside;
mod hostile;
mod listed;
mod restore_cut;
mod returned;
mod save_queue;
mod whole;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// One process of `redrive`, which can be killed at any of its calls.
struct Process {
    wires: Arc<Wires>,
    life: Arc<Life>,
}

impl Process {
    fn new(site: &Site) -> Self {
        let run = site.next_run("redrive");
        let life = Life::new(&run, site.world.ticks.clone(), site.world.seed, 0.0);
        Self { wires: Wires::of(Arc::default(), run, Some(Arc::clone(&life))), life }
    }

    fn store(&self, world: &World) -> Arc<dyn Store> {
        Arc::new(Wired { wires: Arc::clone(&self.wires), port: world.store.seen_by("redrive") })
    }

    fn queue(&self, queue: &ModelQueue) -> Arc<dyn Queue> {
        Arc::new(Wired { wires: Arc::clone(&self.wires), port: queue.seen_by("redrive") })
    }

    /// Runs it until it ends or is killed.
    async fn run<T: Send + 'static>(&self, command: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let turns: Arc<dyn Turns> = self.life.clone();
        let task = tokio::spawn(given_by(turns, tied(command)));
        until("it ends or is killed", 24 * HOUR, || task.is_finished() || self.wires.is_cut()).await;
        if task.is_finished() { Some(task.await.unwrap()) } else { None }
    }

    fn restore(&self, world: &World, selection: Selection) -> Restore {
        Restore {
            shelf: Shelf { store: self.store(world), bucket: RESULTS.into() },
            outbox: Some(Outbox::new(self.queue(&world.queue), 1_000)),
            selection,
            most: None,
            began_ms: world.clock.unix_ms(),
            stop: CancellationToken::new(),
        }
    }

    /// Saves the main queue; `None`: it was killed.
    async fn save(&self, site: &Site, typed: impl FnOnce(&mut Save) + Send + 'static) -> Option<save::Report> {
        let world = site.world.clone();
        let (queue, store) = (self.queue(&world.queue), self.store(&world));
        let run = async move {
            let mut save = Save {
                hold: Hold::new(grip(&world, Arc::clone(&queue), save::MOST_MESSAGES, LEASE)),
                queue,
                archive: Archive { store, ..archive(&world) },
                source: Source::Main,
                remove: false,
                most: None,
                run_id: "run".into(),
                stop: CancellationToken::new(),
            };
            typed(&mut save);
            save.run(&Ears::default()).await.unwrap()
        };
        self.run(run).await
    }
}

/// Listens to a run.
#[derive(Clone, Default)]
struct Ears(Arc<Mutex<(Vec<String>, Vec<String>)>>);

impl Ears {
    fn troubles(&self) -> Vec<String> {
        self.0.lock().unwrap().1.clone()
    }
}

impl restore::Sink for Ears {
    fn restored(&mut self, _object: &str, letter: &Archived) {
        self.0.lock().unwrap().0.push(letter.message_id.clone());
    }
    fn trouble(&mut self, object: &str, why: &str) {
        self.0.lock().unwrap().1.push(format!("{object}: {why}"));
    }
    fn progress(&mut self, _: &restore::Tally) {}
}

impl save::Sink for Ears {
    fn trouble(&self, message_id: &str, why: &str) {
        self.0.lock().unwrap().1.push(format!("{message_id}: {why}"));
    }
    fn progress(&self, _: &save::Tally) {}
}

fn archive(world: &World) -> Archive {
    Archive { store: Arc::new(world.store.clone()), bucket: RESULTS.into(), clock: Arc::new(world.clock.clone()) }
}

fn note(message_id: &str, redrives: u32) -> Note {
    Note {
        v: 1,
        reason: "denied".into(),
        detail: "403".into(),
        attempts: 5,
        first_failed_at: "2026-11-21T00:00:00.000Z".into(),
        last_failed_at: "2026-11-21T01:00:00.000Z".into(),
        work_ids: vec!["w".into()],
        keys: vec![format!("tenant/{message_id}")],
        source_queue: "arn".into(),
        message_id: message_id.into(),
        redrives,
        envelope: None,
        run: Some("run".into()),
    }
}

fn text(text: &str) -> MessageAttribute {
    MessageAttribute { data_type: "String.x".into(), value: AttributeValue::Text(text.into()) }
}

/// A letter as it is received from the DLQ.
fn letter(n: usize, note: Option<&Note>) -> Message {
    let bytes = AttributeValue::Binary((0..=255).collect());
    let mut attributes = BTreeMap::from([
        ("bytes".to_owned(), MessageAttribute { data_type: "Binary.y".into(), value: bytes }),
        ("text".to_owned(), text("日本 <b>\n")),
    ]);
    attributes.extend(note.map(|note| (ATTRIBUTE.to_owned(), note.attribute().unwrap())));
    Message {
        id: MessageId(format!("letter-{n:04}")),
        handle: ReceiptHandle("h".into()),
        body: format!("body\t{n} 日本"),
        attributes,
        receive_count: 1,
        sent_at_ms: Some(1_795_305_600_000),
        group_id: Some("tenant".into()),
        moved_from: None,
    }
}

/// Archives so many letters.
async fn give_up_on(world: &World, number: usize) {
    for n in 0..number {
        let note = note(&format!("first-{n:04}"), 3);
        archive(world).keep(&letter(n, Some(&note)), Some(note), "denied", "403", None).await.unwrap();
    }
}

/// Bodies in the queue, and how often each.
fn sent(world: &World) -> BTreeMap<String, usize> {
    let mut sent = BTreeMap::new();
    for (_, message, _) in world.queue.live() {
        *sent.entry(message.body).or_insert(0) += 1;
    }
    sent
}

fn archived(world: &World) -> Vec<String> {
    world.store.keys(RESULTS, "archive/")
}

async fn restore_all(site: &Site) -> (restore::Report, Ears) {
    let (process, mut ears) = (Process::new(site), Ears::default());
    let run = process.restore(&site.world, Selection::default());
    let heard = ears.clone();
    let report = process.run(async move { run.run(&mut ears).await }).await.unwrap();
    (report, heard)
}

fn fill(world: &World, number: usize) {
    for n in 0..number {
        let Message { body, attributes, group_id, .. } = letter(n, None);
        world.queue.put_message(Outgoing { body, attributes, group_id });
    }
}

/// Bodies of the archive of the main queue.
fn saved(world: &World) -> BTreeMap<String, usize> {
    let mut saved = BTreeMap::new();
    for key in world.store.keys(RESULTS, "archive/main/") {
        let letter: Archived = serde_json::from_slice(&world.store.object(RESULTS, &key).unwrap().body).unwrap();
        assert!(letter.saved && letter.archived_at.is_some() && letter.source == Source::Main);
        *saved.entry(letter.body).or_insert(0) += 1;
    }
    saved
}
