//! A breadth-first search through every world that can be reached: the first broken promise is told on a shortest way.
//!
//! Worlds that differ only in which worker is called the first are one. Each is kept once, by value (a hash alone could
//! take two for one and miss what lies behind).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::ends;
use crate::judge::Broken;
use crate::model::{Model, Step};
use crate::world::World;

#[derive(Default)]
pub struct Found {
    /// In the order in which they were found.
    pub worlds: Vec<World>,
    pub steps: u64,
    /// Worlds in which all was over: where P8 was judged.
    pub quiet: usize,
    pub depth: u16,
    pub took: Duration,
    /// More worlds than the bounds allow: nothing is proved.
    pub cut_short: bool,
    pub broken: Option<Counterexample>,
}

pub struct Counterexample {
    pub broken: Broken,
    /// Each step with the world after it, from the first world on.
    pub steps: Vec<(Step, World)>,
}

pub fn search(model: &Model) -> Found {
    let began = Instant::now();
    let mut search =
        Search { model, seen: Seen::default(), later: vec![0], queue: VecDeque::new(), ways_on: Vec::new() };
    search.seen.add(World::default(), Way::default());
    let mut found = Found::default();
    let broken = search.all(&mut found).err().or_else(|| search.dead_end(&found));
    found.broken = broken.map(|(broken, path)| Counterexample { broken, steps: walk(model, &path) });
    Found { worlds: search.seen.worlds, took: began.elapsed(), ..found }
}

/// What is broken, and the worlds on the way there.
type Wrong = (Broken, Vec<World>);

struct Search<'m> {
    model: &'m Model,
    seen: Seen,
    /// Found by as many faults as are in work; in order of depth, as `later` is.
    queue: VecDeque<u32>,
    /// Found by one fault more.
    later: Vec<u32>,
    /// Steps that are no faults, for the dead ends.
    ways_on: Vec<(u32, u32)>,
}

impl Search<'_> {
    /// What needs the fewest faults first, and of that what is nearest: so the first that is broken is told simply, and
    /// how many faults are left need not be part of a world.
    fn all(&mut self, found: &mut Found) -> Result<(), Wrong> {
        let (mut next, most) = (Vec::new(), self.model.bounds.states);
        for faults in 0..=self.model.bounds.faults {
            let mut sources = std::mem::take(&mut self.later).into_iter().peekable();
            loop {
                let nearer = match (sources.peek(), self.queue.front()) {
                    (Some(source), Some(waiting)) => self.seen.depth(*source) <= self.seen.depth(*waiting),
                    (source, _) => source.is_some(),
                };
                let Some(at) = (if nearer { sources.next() } else { self.queue.pop_front() }) else { break };
                // Else it was found again by fewer faults, and has been looked at.
                if self.seen.ways[at as usize].faults == faults {
                    self.look(at, &mut next, found)?;
                }
                found.cut_short = self.seen.worlds.len() > most;
                if found.cut_short {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes every step from a world, and judges.
    fn look(&mut self, at: u32, next: &mut Vec<(Step, World)>, found: &mut Found) -> Result<(), Wrong> {
        let (world, way) = (self.seen.worlds[at as usize], self.seen.ways[at as usize]);
        found.depth = found.depth.max(way.depth);
        self.model.next(&world, next);
        for (step, after) in next {
            let is_fault = step.is_fault();
            let faults = way.faults + u8::from(is_fault);
            if faults > self.model.bounds.faults {
                continue;
            }
            found.steps += 1;
            let sorted = after.sorted();
            let (place, novelty) = self.seen.add(sorted, Way { from: at, depth: way.depth + 1, faults });
            if self.model.bounds.ends && !is_fault {
                self.ways_on.push((at, place));
            }
            let mut judged = self.model.judge_step(&world, after);
            if novelty == Novelty::New {
                judged = judged.and_then(|()| self.model.judge_world(&sorted));
                found.quiet += usize::from(self.model.is_quiet(&sorted));
            }
            if let Err(broken) = judged {
                let mut path = self.seen.path(at);
                path.push(sorted);
                return Err((broken, path));
            }
            match novelty {
                Novelty::Known => {}
                Novelty::New | Novelty::FewerFaults if is_fault => self.later.push(place),
                Novelty::New | Novelty::FewerFaults => self.queue.push_back(place),
            }
        }
        Ok(())
    }

    fn dead_end(&self, found: &Found) -> Option<Wrong> {
        if !self.model.bounds.ends || found.cut_short {
            return None;
        }
        let is_end = |place: u32| self.model.is_end(&self.seen.worlds[place as usize]);
        let place = ends::dead_end(self.seen.worlds.len(), &self.ways_on, is_end)?;
        let what = "without another fault no way leads from here to a quiet end".to_owned();
        Some((Broken { rule: "end", what }, self.seen.path(place)))
    }
}

/// The same way once more, with workers keeping their names.
fn walk(model: &Model, path: &[World]) -> Vec<(Step, World)> {
    let (mut world, mut next, mut walked) = (World::default(), Vec::new(), Vec::new());
    for place in &path[1..] {
        model.next(&world, &mut next);
        let here = next.iter().filter(|(_, after)| after.sorted() == *place);
        let Some(step) = here.min_by_key(|(step, _)| step.is_fault()) else { break };
        walked.push(*step);
        world = step.1;
    }
    walked
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Novelty {
    New,
    FewerFaults,
    Known,
}

/// How a world was found.
#[derive(Clone, Copy, Default)]
struct Way {
    from: u32,
    depth: u16,
    faults: u8,
}

/// All worlds that were found, with the way to each.
#[derive(Default)]
struct Seen {
    worlds: Vec<World>,
    ways: Vec<Way>,
    /// Open addressing: the hash above, place in `worlds` plus one below.
    table: Vec<u64>,
}

impl Seen {
    fn depth(&self, place: u32) -> u16 {
        self.ways[place as usize].depth
    }

    /// The place of a world, and whether it is to be looked at: it is new, or was not yet found by so few faults.
    fn add(&mut self, world: World, way: Way) -> (u32, Novelty) {
        if self.worlds.len() * 4 >= self.table.len() * 3 {
            self.grow();
        }
        let hash = hash_of(&world);
        let mask = self.table.len() - 1;
        let mut slot = hash as usize & mask;
        while self.table[slot] != 0 {
            let entry = self.table[slot];
            let place = (entry as u32).wrapping_sub(1);
            if (entry >> 32) as u32 == hash && self.worlds[place as usize] == world {
                let known = &mut self.ways[place as usize];
                if way.faults >= known.faults {
                    return (place, Novelty::Known);
                }
                *known = way;
                return (place, Novelty::FewerFaults);
            }
            slot = (slot + 1) & mask;
        }
        let place = self.worlds.len() as u32;
        self.worlds.push(world);
        self.ways.push(way);
        self.table[slot] = u64::from(hash) << 32 | u64::from(place + 1);
        (place, Novelty::New)
    }

    fn grow(&mut self) {
        let mut table = vec![0; (self.table.len() * 2).max(1 << 12)];
        let mask = table.len() - 1;
        for entry in self.table.iter().filter(|entry| **entry != 0) {
            let mut slot = (*entry >> 32) as usize & mask;
            while table[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            table[slot] = *entry;
        }
        self.table = table;
    }

    fn path(&self, mut at: u32) -> Vec<World> {
        let mut path = vec![self.worlds[at as usize]];
        while at != 0 {
            at = self.ways[at as usize].from;
            path.push(self.worlds[at as usize]);
        }
        path.reverse();
        path
    }
}

/// Multiply and rotate. Written out, for this is half of the time where nothing is optimised.
fn hash_of(world: &World) -> u32 {
    let [a, b, c, d, e, f, g] = world.words();
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    let hash = mix(mix(mix(mix(mix(mix(mix(0, a), b), c), d), e), f), g);
    ((hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}
