//! A0.2: kills at every failpoint and at random instants, several workers at a time, and nothing is lost.
//!
//! Several cells run side by side, for most of a message's time after a kill is the rest of its lease. Each cell has
//! two workers that are started again as soon as they are dead. `KILLS` says how many kills (three quarters of them at
//! failpoints, in equal shares), `CELLS` how many cells, `SEED` which choices.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fastrand::Rng;
use quittance::failpoint::POINTS;

use crate::armed::sick_index;
use crate::cell::{Cell, Kind};
use crate::lives::{Death, Life, Plan, live, name, worst_redeliveries};
use crate::outside::Found;
use crate::waiting::LONG;

/// Workers of a cell.
const WORKERS: usize = 2;
/// Each point at least twice, and some at random.
const KILLS: usize = 42;
const CELLS: usize = 4;
pub fn number(variable: &str, otherwise: usize) -> usize {
    let set = std::env::var(variable).ok().filter(|text| !text.is_empty());
    set.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the local stack: make test"]
async fn a0_2_kills_at_every_failpoint_and_at_random_instants_lose_nothing() {
    let kills = number("KILLS", KILLS);
    let seed = number("SEED", usize::try_from(fastrand::u32(..)).unwrap()) as u64;
    eprintln!("kill: {kills} kills, SEED={seed}");
    let each = (kills * 3 / 4 / POINTS.len()).max(2);
    let mut deaths: Vec<Death> =
        POINTS.iter().flat_map(|(point, _)| std::iter::repeat_n(Death::At(*point), each)).collect();
    deaths.resize(kills.max(deaths.len()), Death::Random);
    let mut rng = Rng::with_seed(seed);
    rng.shuffle(&mut deaths);
    let storm = Storm { planned: deaths.len(), left: Mutex::new(deaths), began: Instant::now() };
    let cells = (0..number("CELLS", CELLS)).map(|_| {
        let rng = rng.fork();
        storm.cell(rng)
    });
    let results = futures_util::future::join_all(cells).await;
    report(&results, storm.began.elapsed());
}

struct Storm {
    planned: usize,
    left: Mutex<Vec<Death>>,
    began: Instant,
}

pub struct Judged {
    pub found: Found,
    pub lives: Vec<Life>,
    pub redelivered: Vec<Option<u64>>,
}

impl Storm {
    async fn cell(&self, mut rng: Rng) -> Judged {
        let cell = Cell::new(4).await;
        for kind in [Kind::Fresh, Kind::Fresh, Kind::Fresh] {
            cell.send(kind, &mut rng).await; // something to overwrite
        }
        let sick_index = sick_index();
        let workers = (0..WORKERS).map(|_| self.lives(&cell, &sick_index, rng.fork()));
        let workers: Vec<_> = workers.collect();
        let lives = futures_util::future::join_all(workers).await.into_iter().flatten().collect();
        judged(&cell, lives).await
    }

    async fn lives(&self, cell: &Cell, sick_index: &crate::relay::Relay, mut rng: Rng) -> Vec<Life> {
        let mut lives = Vec::new();
        while let Some(death) = self.next() {
            let life = live(cell, &Plan { death, hits: 4, sick_index, feed: true }, &mut rng).await;
            if life.death != death {
                eprintln!("kill: {death:?} was not reached; again");
                self.left.lock().unwrap().push(death);
            }
            lives.push(life); // a kill all the same
        }
        lives
    }

    fn next(&self) -> Option<Death> {
        let mut left = self.left.lock().unwrap();
        let next = left.pop();
        let (done, seconds) = (self.planned - left.len(), self.began.elapsed().as_secs_f64());
        if done % (self.planned / 28).max(20) == 0 {
            eprintln!("kill: {done} of {} in {seconds:.0} s, {:.2}/s", self.planned, done as f64 / seconds);
        }
        next
    }
}

/// Two workers without failpoints finish what is left; then the checker.
pub async fn judged(cell: &Cell, lives: Vec<Life>) -> Judged {
    let launch = cell.launch().set("WORKER_CONCURRENCY", 20);
    let (mut one, mut two) = (launch.start().await, launch.start().await);
    let found = cell.judge().await;
    one.stop().await;
    two.stop().await;
    let redelivered = worst_redeliveries(&lives, &[&one, &two]);
    Judged { found, lives, redelivered }
}

/// Receipts that were in hand at kills.
fn held(lives: &[Life]) -> usize {
    lives.iter().map(|life| life.in_hand.len()).sum()
}

/// The table; fails where anything was lost.
pub fn report(results: &[Judged], took: Duration) {
    #[derive(Default)]
    struct Row {
        kills: u64,
        lost: usize,
        held: usize,
        worst: u64,
    }
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for judged in results {
        for (life, redelivered) in judged.lives.iter().zip(&judged.redelivered) {
            let row = rows.entry(match life.death {
                Death::At(point) => name(point),
                Death::Random => "(random instant)",
            });
            let row = row.or_default();
            row.kills += 1;
            row.held += life.in_hand.len();
            row.lost +=
                judged.found.lost.iter().filter(|(id, _)| life.in_hand.iter().any(|(held, _)| held == id)).count();
            row.worst = row.worst.max(redelivered.unwrap_or(0));
        }
    }
    let held_in_all: usize = results.iter().map(|judged| held(&judged.lives)).sum();
    let sum = |of: fn(&Found) -> usize| results.iter().map(|judged| of(&judged.found)).sum::<usize>();
    let kills: u64 = rows.values().map(|row| row.kills).sum();
    eprintln!("\n{:<20}{:>7}{:>10}{:>7}{:>22}", "killed at", "kills", "held then", "lost", "worst redelivery, s");
    for (point, Row { kills, lost, held, worst }) in &rows {
        eprintln!("{point:<20}{kills:>7}{held:>10}{lost:>7}{:>22.1}", *worst as f64 / 1e3);
    }
    eprintln!(
        "{kills} kills in {:.0} s, {:.2}/s, {held_in_all} receipts cut short; {} messages, {} keys; {} letters for {} messages; {} parked at the end, {} \
         overtaken by a removal, {} crash loops",
        took.as_secs_f64(),
        kills as f64 / took.as_secs_f64(),
        sum(|found| found.messages),
        sum(|found| found.keys),
        sum(|found| found.letters),
        sum(|found| found.distinct),
        sum(|found| found.parked),
        sum(|found| found.overtaken),
        sum(|found| found.crash_loops.len()),
    );
    let lost = sum(|found| found.lost.len());
    eprintln!("lost: {lost}; 95 % upper bound on loss per crash (rule of three): {:.2e}", 3.0 / kills as f64);
    for judged in results {
        assert_eq!(judged.found.lost, [], "lost");
        assert_eq!(judged.found.wrong, Vec::<String>::new(), "wrong");
        // Condemned for killing workers: its letter names two runs at least, and we killed them with it in hand.
        for (id, detail) in &judged.found.crash_loops {
            let held = |life: &&Life| life.in_hand.iter().any(|(held, _)| held == id);
            let named = |life: &&Life| life.run.as_ref().is_some_and(|run| detail.contains(run));
            let guilty = judged.lives.iter().filter(held).filter(named).count();
            assert!(guilty >= 2, "{id} was condemned for what {guilty} of our kills explain: {detail}");
        }
        // Each receipt that a kill cut short may leave one.
        let (copies, cut) = (judged.found.letters - judged.found.distinct, held(&judged.lives));
        assert!(copies <= cut, "{copies} copies of letters, {cut} receipts cut short");
    }
    // The lease is 10 s. What comes on top is LocalStack's tick of a second and the time until a worker polls, and both
    // workers of the cell may be dead or starting, on a machine with other work.
    for (point, row) in &rows {
        assert!(u128::from(row.worst) <= LONG.as_millis(), "redelivery after {point} took {} ms", row.worst);
    }
}
