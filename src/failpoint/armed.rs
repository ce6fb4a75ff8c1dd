//! What the points do when they are armed: read from the environment once, before anything else runs.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

/// Where the plan is read from: `point=action` or `point=action@n`, several joined by commas.
pub const VARIABLE: &str = "QUITTANCE_FAILPOINTS";

/// The places of faults.md, in the order in which a message meets them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// A poll has brought messages; nobody has been told of them yet.
    AfterReceive,
    /// A record was found and compared with the change: newer, equal (unfinished work) or older.
    AfterVerify,
    /// Nothing of the source has been read.
    BeforeGet,
    /// Some of the body is in the temp file, and some is not.
    MidBody,
    /// The file is read and its text is here; nothing is written.
    AfterParse,
    /// The record is durable, or was found equal; the index has not been asked.
    BeforeIndex,
    /// The index has acknowledged.
    AfterIndexAck,
    /// The index did not take it; no marker yet.
    BeforePark,
    /// The marker is durable.
    AfterParkAck,
    /// A dead letter is about to be sent.
    BeforeDlqSend,
    /// The DLQ has acknowledged; the message is still in the queue.
    AfterDlqAck,
    /// A batch of deletes is about to be sent, by the settler's own task.
    BeforeDelete,
    /// The deletes are carried out; nobody here has heard of it.
    AfterDeleteSent,
    /// A batch of returns is about to be sent, by the settler's own task.
    BeforeReturn,
}

/// The points and their names.
pub const POINTS: [(Point, &str); 14] = [
    (Point::AfterReceive, "after_receive"),
    (Point::AfterVerify, "after_verify"),
    (Point::BeforeGet, "before_get"),
    (Point::MidBody, "mid_body"),
    (Point::AfterParse, "after_parse"),
    (Point::BeforeIndex, "before_index"),
    (Point::AfterIndexAck, "after_index_ack"),
    (Point::BeforePark, "before_park"),
    (Point::AfterParkAck, "after_park_ack"),
    (Point::BeforeDlqSend, "before_dlq_send"),
    (Point::AfterDlqAck, "after_dlq_ack"),
    (Point::BeforeDelete, "before_delete"),
    (Point::AfterDeleteSent, "after_delete_sent"),
    (Point::BeforeReturn, "before_return"),
];

/// What is wrong with the plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("QUITTANCE_FAILPOINTS: {0}; fix: point=kill|panic|hang|block:MILLISECONDS, with @N for the Nth hit alone")]
pub struct Mistake(String);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    /// SIGKILL to this very process.
    Kill,
    Panic,
    /// The thread stands still for ever.
    Hang,
    /// The thread stands still, as if it were busy.
    Block(Duration),
}

#[derive(Debug)]
struct Armed {
    point: Point,
    action: Action,
    /// At this hit and no other; at every hit if absent.
    at: Option<u32>,
    hits: AtomicU32,
}

static PLAN: OnceLock<Vec<Armed>> = OnceLock::new();

/// Reads the plan. To be called once, at the start.
pub fn arm() -> Result<(), Mistake> {
    let text = match std::env::var(VARIABLE) {
        Ok(text) => text,
        Err(std::env::VarError::NotPresent) => return Ok(()),
        Err(error @ std::env::VarError::NotUnicode(_)) => return Err(Mistake(error.to_string())),
    };
    PLAN.set(parse(&text)?).map_err(|_| Mistake("armed twice".to_owned()))
}

/// A point is reached.
pub fn hit(point: Point) {
    let Some(plan) = PLAN.get() else { return };
    // Counted by all before any acts: an action may not come back.
    let due = |armed: &&Armed| {
        let nth = armed.hits.fetch_add(1, Ordering::SeqCst) + 1;
        armed.at.is_none_or(|at| at == nth)
    };
    let due: Vec<&Armed> = plan.iter().filter(|armed| armed.point == point).filter(due).collect();
    for armed in due {
        act(point, armed.action);
    }
}

fn act(point: Point, action: Action) {
    match action {
        Action::Kill => {
            // To itself it always may; and if it may not, standing still is as near as it gets.
            let _ = kill_process(getpid(), Signal::KILL);
            stand_still();
        }
        #[expect(clippy::panic, reason = "it was asked for")]
        Action::Panic => panic!("failpoint {}", name(point)),
        Action::Hang => stand_still(),
        Action::Block(time) => std::thread::sleep(time),
    }
}

fn stand_still() {
    loop {
        std::thread::park();
    }
}

fn name(point: Point) -> &'static str {
    POINTS.iter().find(|(known, _)| *known == point).map_or("?", |(_, name)| name)
}

fn parse(text: &str) -> Result<Vec<Armed>, Mistake> {
    text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(parse_one).collect()
}

fn parse_one(one: &str) -> Result<Armed, Mistake> {
    let mistake = |what: &str| Mistake(format!("{one:?} {what}"));
    let (point, rest) = one.split_once('=').ok_or_else(|| mistake("has no action"))?;
    let known = POINTS.iter().find(|(_, name)| *name == point);
    let Some((point, _)) = known else {
        let names: Vec<&str> = POINTS.iter().map(|(_, name)| *name).collect();
        return Err(mistake(&format!("names no failpoint; they are {}", names.join(", "))));
    };
    let (action, at) = match rest.split_once('@') {
        None => (rest, None),
        Some((action, nth)) => match nth.parse::<u32>() {
            Ok(nth @ 1..) => (action, Some(nth)),
            Ok(0) | Err(_) => return Err(mistake("does not count from 1 after its @")),
        },
    };
    let action = match action.split_once(':') {
        None => match action {
            "kill" => Action::Kill,
            "panic" => Action::Panic,
            "hang" => Action::Hang,
            _ => return Err(mistake("has an unknown action")),
        },
        Some(("block", ms)) => {
            let ms = ms.parse().map_err(|_| mistake("blocks for no number of milliseconds"))?;
            Action::Block(Duration::from_millis(ms))
        }
        Some(_) => return Err(mistake("has an unknown action")),
    };
    Ok(Armed { point: *point, action, at, hits: AtomicU32::new(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_is_written() {
        let read = |text: &str| {
            let plan = parse(text).unwrap();
            plan.into_iter().map(|armed| (armed.point, armed.action, armed.at)).collect::<Vec<_>>()
        };
        assert_eq!(read(""), []);
        assert_eq!(read("before_get=kill"), [(Point::BeforeGet, Action::Kill, None)]);
        assert_eq!(
            read("mid_body=block:1500, before_delete=panic@3,after_parse=hang"),
            [
                (Point::MidBody, Action::Block(Duration::from_millis(1500)), None),
                (Point::BeforeDelete, Action::Panic, Some(3)),
                (Point::AfterParse, Action::Hang, None),
            ]
        );
        for (point, name) in POINTS {
            assert_eq!(read(&format!("{name}=kill@1")), [(point, Action::Kill, Some(1))]);
        }
    }

    #[test]
    fn a_mistake_in_a_plan_names_the_part_and_the_fix() {
        for (text, why) in [
            ("before_get", "has no action"),
            ("before_got=kill", "names no failpoint"),
            ("before_get=explode", "unknown action"),
            ("before_get=kill@0", "count from 1"),
            ("before_get=kill@soon", "count from 1"),
            ("before_get=block:long", "milliseconds"),
            ("before_get=kill:9", "unknown action"),
        ] {
            let line = parse(&format!("after_parse=panic,{text}")).unwrap_err().to_string();
            assert!(line.contains(text) && line.contains(why) && line.contains("fix: "), "{line}");
        }
    }
}
