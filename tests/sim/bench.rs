//! A settler on a bench: leases are handed to the test, which ends their scopes as it likes, and every word that
//! reaches the settler is counted on its way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quittance::books::{Books, BooksLine};
use quittance::lease::{Intake, Lease, Word};
use quittance::message::Message;
use quittance::outcome::{Judgement, Outcome, Verdict};
use quittance::queue::{BatchSize, Queue as _};
use quittance::settle::{Settler, SettlerBroken};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::ModelQueue;
use super::wires::Wires;
use super::worker::{Setup, Site};

/// The name of the bench in histories.
pub const BENCH: &str = "bench";

pub struct Bench {
    pub site: Site,
    pub setup: Setup,
    pub books: Arc<Books>,
    pub wires: Arc<Wires>,
    intake: Option<Intake>,
    settled: Arc<Mutex<Vec<String>>>,
    settler: JoinHandle<Result<(), SettlerBroken>>,
}

impl Bench {
    pub fn new(site: Site, setup: Setup) -> Self {
        let (books, settled) = (Arc::new(Books::default()), Arc::<Mutex<Vec<String>>>::default());
        let wires = Wires::new(Arc::clone(&books), site.next_run(BENCH));
        let (intake, mut spoken) = Intake::new(setup.concurrency);
        let (relay, words) = mpsc::channel(4_096);
        tokio::spawn({
            let settled = Arc::clone(&settled);
            async move {
                while let Some(word) = spoken.recv().await {
                    if let Word::Settled(end) = &word {
                        settled.lock().unwrap().push(format!("{:?}", end.number));
                    }
                    relay.send(word).await.ok().unwrap();
                }
            }
        });
        let settler = Settler::new(site.desk(BENCH, &setup, &wires, &books), words);
        Self { site, setup, books, wires, intake: Some(intake), settled, settler: tokio::spawn(settler.run()) }
    }

    fn queue(&self) -> ModelQueue {
        self.site.world.queue.seen_by(BENCH)
    }

    /// One poll for up to `most` messages, and their leases.
    pub async fn receive(&self, most: usize) -> Vec<Lease> {
        let (messages, sent) = self.poll(most).await;
        self.admit(messages, sent).await
    }

    /// One poll, and when it was sent; nobody has heard of its messages yet.
    pub async fn poll(&self, most: usize) -> (Vec<Message>, Instant) {
        let sent = self.site.world.clock.lease_clock().now();
        let wait = Duration::from_secs(60);
        let messages = self.queue().receive(BatchSize::clamped(most), wait, self.setup.visibility).await;
        (messages.unwrap(), sent)
    }

    /// Hands received messages to the settler.
    pub async fn admit(&self, messages: Vec<Message>, sent: Instant) -> Vec<Lease> {
        let intake = self.intake.as_ref().unwrap();
        let seats = intake.seats(1, messages.len()).await.unwrap();
        intake.admit(messages, seats, sent).await
    }

    /// The only message there is.
    pub async fn receive_one(&self) -> Lease {
        let mut leases = self.receive(10).await;
        assert_eq!(leases.len(), 1);
        leases.remove(0)
    }

    /// Seats that are free at this instant.
    pub fn free_seats(&self) -> usize {
        let intake = self.intake.as_ref().unwrap();
        let seats = std::pin::pin!(intake.seats(1, self.setup.concurrency));
        match futures_util::FutureExt::now_or_never(seats) {
            Some(seats) => seats.unwrap().len(),
            None => 0,
        }
    }

    /// Settlement words that have reached the settler.
    pub fn words(&self) -> usize {
        self.settled.lock().unwrap().len()
    }

    /// Until nothing is in flight.
    pub async fn until_settled(&self) {
        super::until("everything is settled", Duration::from_secs(300), || self.books.snapshot(false).in_flight == 0)
            .await;
    }

    /// Closes the road, waits for the settler and checks: one word per lease, balanced books.
    pub async fn finish(mut self) -> (Site, BooksLine) {
        self.intake.take();
        self.settler.await.unwrap().unwrap();
        let line = self.books.snapshot(true);
        assert_eq!(self.wires.complaint(), None);
        assert!(line.balanced && line.in_flight == 0, "{line:?}");
        let mut numbers = self.settled.lock().unwrap().clone();
        let words = numbers.len();
        numbers.sort();
        numbers.dedup();
        assert_eq!(numbers.len(), words, "a lease spoke twice");
        assert_eq!(self.site.lines("message_settled").len() as u64, line.received, "one line for each receipt");
        (self.site, line)
    }
}

/// The work ended with this outcome.
pub fn judged(outcome: Outcome) -> Judgement {
    Judgement::without_work(Verdict::Judged(outcome))
}
