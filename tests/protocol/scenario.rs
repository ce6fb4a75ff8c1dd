//! What happens to the file, how it is told, and what may go wrong meanwhile.
//!
//! A scenario fixes the changes of one key and the messages that tell them; every order of everything else is searched.

use crate::rules::Content;
use Content::Gone;

/// What an event says happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Created,
    Removed,
    /// A minimal body: `{"bucket", "key"}`.
    Unstated,
}

/// One change of the bucket, and the event that tells it.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// What the bucket holds from then on.
    pub content: Content,
    pub operation: Operation,
    /// 0: the event has none.
    pub sequencer: u8,
}

/// How events are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Telling {
    /// With the sequencers of S3.
    Ordered,
    /// With one sequencer for all, as LocalStack does.
    Constant,
    /// By operation, without a sequencer.
    Without,
    /// As minimal bodies.
    Minimal,
    /// Ordered where the bit is set, minimal where it is not.
    Mixed(u8),
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: String,
    /// Of the bucket, in order.
    pub changes: Vec<Change>,
    /// First change and the one after the last of each message. A message comes once all its changes have happened.
    pub messages: Vec<(u8, u8)>,
}

impl Scenario {
    /// A message for each change.
    pub fn told(telling: Telling, contents: &[Content]) -> Self {
        let changes: Vec<Change> =
            contents.iter().zip(1..).map(|(content, turn)| told(telling, *content, turn)).collect();
        let messages = (1..).take(changes.len()).map(|end| (end - 1, end)).collect();
        Self { name: format!("{contents:?} told {telling:?}"), changes, messages }
    }

    /// The first change is told twice, under two message ids: S3 may, and so does a redrive that resends.
    pub fn with_a_twin(telling: Telling, contents: &[Content]) -> Self {
        let mut scenario = Self::told(telling, contents);
        let end = scenario.messages.len() as u8 + 1;
        scenario.changes.insert(1, scenario.changes[0]);
        scenario.messages.push((end - 1, end));
        Self { name: format!("{} with a twin of the first", scenario.name), ..scenario }
    }

    /// An old version expires while the object stands, or somebody forged the event.
    pub fn with_a_false_removal(telling: Telling, contents: &[Content]) -> Self {
        let mut scenario = Self::told(telling, contents);
        for at in 1..scenario.changes.len() {
            if scenario.changes[at].content == Gone {
                scenario.changes[at].content = scenario.changes[at - 1].content;
            }
        }
        Self { name: format!("{} with a false removal", scenario.name), ..scenario }
    }

    /// The first two changes come in one message.
    pub fn with_a_pair(telling: Telling, contents: &[Content]) -> Self {
        let mut scenario = Self::told(telling, contents);
        scenario.messages[1].0 = 0;
        scenario.messages.remove(0);
        Self { name: format!("{} with the first two in one message", scenario.name), ..scenario }
    }

    pub fn of_message(&self, message: u8) -> &[Change] {
        let (first, end) = self.messages[usize::from(message)];
        &self.changes[usize::from(first)..usize::from(end)]
    }

    /// What the bucket holds after this many changes.
    pub fn bucket(&self, happened: u8) -> Content {
        match happened.checked_sub(1) {
            None => Gone,
            Some(last) => self.changes[usize::from(last)].content,
        }
    }
}

fn told(telling: Telling, content: Content, turn: u8) -> Change {
    let operation = if content == Gone { Operation::Removed } else { Operation::Created };
    match telling {
        Telling::Ordered => Change { content, operation, sequencer: turn },
        Telling::Constant => Change { content, operation, sequencer: 1 },
        Telling::Without => Change { content, operation, sequencer: 0 },
        Telling::Minimal => Change { content, operation: Operation::Unstated, sequencer: 0 },
        Telling::Mixed(ordered) if ordered & (1 << (turn - 1)) != 0 => Change { content, operation, sequencer: turn },
        Telling::Mixed(_) => Change { content, operation: Operation::Unstated, sequencer: 0 },
    }
}

/// How much may go wrong.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Changes of the file; a history has three, or four with `changes=4`.
    pub changes: usize,
    /// Crashes, calls without an answer, ended leases, spurious 409s, refused markers, and deliveries of a message that
    /// is in somebody's hands or was deleted: all together.
    pub faults: u8,
    /// Calls whose caller has given them up and that may still land, at one time (at most 2).
    pub in_flight: usize,
    /// Workers with one message each (at most 3).
    pub workers: usize,
    /// Replayers (at most 2).
    pub replayers: usize,
    /// States after which a search gives up; some 100 bytes each.
    pub states: usize,
    /// Whether the way to a quiet end is open everywhere (`ends=0` saves half of the memory).
    pub ends: bool,
}

impl Bounds {
    /// What `make test` searches.
    pub const USUAL: Self =
        Self { changes: 3, faults: 1, in_flight: 1, workers: 2, replayers: 1, states: 30_000_000, ends: true };

    /// `faults=2,workers=3,…`: what is not named keeps its place. The error is a sentence.
    pub fn parse(self, text: &str) -> Result<Self, String> {
        let mut bounds = self;
        for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
            let (name, number) = part.split_once('=').ok_or_else(|| format!("{part:?} is not name=number"))?;
            let number: usize = number.parse().map_err(|_| format!("{part:?} has no number"))?;
            let small = || u8::try_from(number).map_err(|_| format!("{part:?} is too large"));
            let at_most = |most| if number <= most { Ok(number) } else { Err(format!("{part:?}: at most {most}")) };
            match name {
                "changes" => bounds.changes = at_most(4)?,
                "faults" => bounds.faults = small()?,
                "in_flight" => bounds.in_flight = at_most(2)?,
                "workers" => bounds.workers = at_most(3)?,
                "replayers" => bounds.replayers = at_most(2)?,
                "states" => bounds.states = number,
                "ends" => bounds.ends = number != 0,
                _ => return Err(format!("{name:?} is no bound: see scenario.rs")),
            }
        }
        Ok(bounds)
    }
}

#[test]
fn bounds_that_nobody_knows_are_refused() {
    let bounds = Bounds::USUAL.parse("faults=2, ends=0").unwrap();
    assert_eq!((bounds.faults, bounds.ends, bounds.changes), (2, false, Bounds::USUAL.changes));
    for wrong in ["faults", "faults=many", "faults=256", "workers=4", "crashes=2"] {
        assert!(Bounds::USUAL.parse(wrong).is_err(), "{wrong}");
    }
}
