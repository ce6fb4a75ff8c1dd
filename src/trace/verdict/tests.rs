use super::*;
use crate::message::{DocumentId, Namespace};
use crate::trace::findings::{AttemptsSeen, BegunSeen, Object};

/// 2026-11-22T00:00:00Z.
const T: u64 = 1_795_305_600_000;
const HOUR: u64 = 3_600_000;

/// A file that nobody knows of.
fn file() -> FileFindings {
    FileFindings {
        bucket: "incoming".into(),
        key: "a b.txt".into(),
        document_id: DocumentId::of(&Namespace::parse("default").unwrap(), "incoming", "a b.txt"),
        object: Look::Nothing,
        record: Look::Nothing,
        index: Look::Nothing,
        shown: Look::Found(false),
        parked: Look::Nothing,
        errored: Look::Nothing,
        attempts: Vec::new(),
        archive: Look::Nothing,
        dead_letters: Look::NotAsked("--dlq was not given"),
    }
}

fn object(etag: &str) -> Look<Object> {
    Look::Found(Object { etag: etag.into(), size: 7, modified_ms: Some(T) })
}

/// Revision 7; `None` is a tombstone.
fn record(etag: Option<&str>) -> Look<RecordSeen> {
    Look::Found(RecordSeen {
        revision: 7,
        recorded_ms: T,
        source_etag: etag.map(str::to_owned),
        sequencer: None,
        message_id: Some("m".into()),
        original_message_id: None,
        extractor: None,
        extraction_error: None,
    })
}

fn held(revision: u64, deleted: bool) -> Look<Indexed> {
    Look::Found(Indexed { revision, deleted })
}

fn marks(reason: &str) -> Look<Marks> {
    let mark = Mark {
        marker: "retry-index/…".into(),
        revision: 7,
        failed_at: Some("2026-11-22T01:00:00.000Z".into()),
        reason: Some(reason.into()),
    };
    Look::Found(Marks { marks: vec![mark], not_from: None })
}

fn letters(place: Place, at: &str) -> Look<Letters> {
    let letter = Letter {
        place,
        message_id: "d".into(),
        original_message_id: Some("m".into()),
        reason: "source_missing".into(),
        detail: "GET says 404".into(),
        at: Some(at.into()),
        attempts: Some(5),
        redrives: 3,
        files: Default::default(),
    };
    Look::Found(Letters { found: vec![letter], read: 1, ..Letters::default() })
}

fn archived(at: &str) -> Look<Letters> {
    letters(Place::GivenUp { key: "archive/dlq/2026-11-22/d.json".into() }, at)
}

fn unheard<T>() -> Look<T> {
    Look::Unheard("no answer within 5s".into())
}

const LATER: &str = "2026-11-22T02:00:00.000Z";
const BEFORE: &str = "2026-11-21T02:00:00.000Z";

#[test]
fn a_file_has_one_verdict_for_all_that_is_known_of_it() {
    use State::*;
    let live = || FileFindings {
        object: object("e"),
        record: record(Some("e")),
        index: held(7, false),
        shown: Look::Found(true),
        ..file()
    };
    let gone = || FileFindings { record: record(None), index: held(7, true), ..file() };
    let behind = || FileFindings { index: held(6, false), ..live() };
    let changed = || FileFindings { object: object("f"), ..live() };
    // findings · state · what the line says · what to do
    let table = [
        (live(), InStep, "recorded at revision 7, the index holds it and a search shows it", ""),
        (FileFindings { shown: unheard(), ..live() }, InStep, "the index holds it", ""),
        (FileFindings { parked: marks("late"), ..live() }, InStep, "the index holds it and", ""),
        (FileFindings { archive: archived(LATER), ..live() }, InStep, "the index holds it and", ""),
        (FileFindings { object: unheard(), ..live() }, InStep, "has changed since could not be asked", ""),
        (
            FileFindings { shown: Look::Found(false), ..live() },
            NotShown,
            "a search does not show it",
            "in a few seconds",
        ),
        (gone(), Removed, "removed: a tombstone at revision 7", ""),
        (FileFindings { index: Look::Nothing, ..gone() }, Removed, "removed: a tombstone", ""),
        (FileFindings { shown: Look::Found(true), ..gone() }, NotShown, "a search still shows it", "in a few seconds"),
        (
            FileFindings { parked: marks("down"), ..behind() },
            Parked,
            "parked since 2026-11-22T01:00:00.000Z: down",
            "redrive parked",
        ),
        (
            FileFindings { errored: marks("mapping"), ..behind() },
            Errored,
            "errored since 2026-11-22T01:00:00.000Z: mapping",
            "--reset --key-prefix 'a b.txt'",
        ),
        (
            FileFindings { parked: marks("again"), errored: marks("mapping"), ..behind() },
            Parked,
            "again",
            "redrive parked",
        ),
        (FileFindings { parked: marks("down"), index: unheard(), ..live() }, Parked, "down", "redrive parked"),
        (FileFindings { parked: marks("down"), index: held(7, false), ..gone() }, Parked, "down", "redrive parked"),
        (
            FileFindings { index: unheard(), ..live() },
            Recorded,
            "recorded at revision 7; the index could not be asked: no answer",
            "worker check",
        ),
        (FileFindings { index: Look::NotAsked("skipped"), ..live() }, Recorded, "the index was not asked: skipped", ""),
        (
            behind(),
            OutOfStep,
            "an older revision is in the index: nothing is parked",
            "redrive reconcile --bucket 'incoming' --prefix 'a b.txt' --repair",
        ),
        (FileFindings { index: Look::Nothing, ..live() }, OutOfStep, "not in the index", "--repair"),
        (FileFindings { index: held(8, false), ..live() }, OutOfStep, "the index is ahead of the record", "--repair"),
        (changed(), OutOfStep, "the file has changed since it was recorded", "--repair"),
        (
            FileFindings { archive: archived(LATER), ..changed() },
            GivenUp,
            "given up on at 2026-11-22T02",
            "redrive archive restore",
        ),
        (FileFindings { archive: archived(BEFORE), ..changed() }, OutOfStep, "the file has changed", "--repair"),
        (FileFindings { object: object("e"), ..gone() }, OutOfStep, "the file is there again", "--repair"),
        (
            FileFindings { object: Look::Nothing, ..live() },
            OutOfStep,
            "the file is gone, and its record says it is there",
            "--repair",
        ),
        (
            FileFindings { object: object("e"), ..file() },
            Unrecorded,
            "the file is there since 2026-11-22T00:00:00.000Z and has no record: its message is waiting, in flight, dead-lettered or lost",
            "--repair",
        ),
        (
            FileFindings { object: object("e"), archive: archived(BEFORE), ..file() },
            GivenUp,
            "source_missing (GET says 404), 5 attempts, redriven 3 times; archived as archive/dlq/2026-11-22/d.json",
            "redrive archive restore",
        ),
        (
            FileFindings {
                object: object("e"),
                archive: archived(LATER),
                dead_letters: letters(Place::DeadLetterQueue, BEFORE),
                ..file()
            },
            DeadLettered,
            "it is in the dead-letter queue",
            "redrive --message-id 'd'",
        ),
        (
            FileFindings { archive: letters(Place::Envelope { key: "k".into() }, LATER), ..file() },
            DeadLettered,
            "its envelope is k",
            "redrive inspect",
        ),
        (
            FileFindings { archive: letters(Place::Saved { key: "k".into() }, LATER), ..file() },
            Unclear,
            "a copy of a message of",
            "redrive archive show",
        ),
        (FileFindings { index: held(7, false), ..file() }, OutOfStep, "it has no record", "--repair"),
        (FileFindings { index: held(7, true), ..file() }, NoTrace, "nothing is known of it", ""),
        (file(), NoTrace, "nothing is known of it", ""),
        (FileFindings { object: unheard(), ..file() }, Unclear, "whether the file is there could not be asked", ""),
        (FileFindings { record: unheard(), ..live() }, Unclear, "its record could not be asked: no answer", ""),
    ];
    for (file, state, says, next) in table {
        let told = of_file(&file, T + HOUR);
        assert_eq!(told.state, state, "{says}: {told:?}");
        assert!(told.line.contains(says), "{says}: {told:?}");
        assert_eq!(told.next.is_empty(), next.is_empty(), "{says}: {told:?}");
        assert!(told.next.join("\n").contains(next), "{next}: {told:?}");
    }
}

#[test]
fn what_is_young_is_looked_at_again_before_it_is_repaired() {
    let there = FileFindings { object: object("e"), ..file() };
    let behind = FileFindings { record: record(Some("e")), ..there.clone() };
    for file in [there, behind] {
        assert_eq!(of_file(&file, T + 1_000).next[0], AGAIN);
        assert!(of_file(&file, T + HOUR).next[0].starts_with("redrive reconcile"));
    }
}

#[test]
fn a_message_has_one_verdict_for_all_that_is_known_of_it() {
    use State::*;
    let none = || MessageFindings {
        message_id: "m".into(),
        attempts: Look::Nothing,
        archive: Look::Nothing,
        dead_letters: Look::NotAsked("--dlq was not given"),
        documents: Look::Nothing,
        files: Vec::new(),
    };
    let well = || FileFindings {
        object: object("e"),
        record: record(Some("e")),
        index: held(7, false),
        shown: Look::Found(true),
        ..file()
    };
    let parked = || FileFindings { index: Look::Nothing, parked: marks("down"), ..well() };
    let attempts = |failed, begun: bool| {
        let begun = begun.then(|| BegunSeen { run: "r".into(), at: LATER.into() });
        Look::Found(AttemptsSeen {
            failed,
            first_failed_at: Some(BEFORE.into()),
            last_failed_at: Some(LATER.into()),
            reasons: vec!["older".into(), "the child hung".into()],
            begun: begun.into_iter().collect(),
        })
    };
    let done = || MessageFindings { documents: Look::Found(2), files: vec![well(), parked()], ..none() };
    let table = [
        (
            MessageFindings { documents: Look::Found(1), files: vec![well()], ..none() },
            InStep,
            "its work is recorded: s3://incoming/a b.txt: in step",
        ),
        (done(), Parked, "the worst of 2 files: s3://incoming/a b.txt: recorded at revision 7, parked since"),
        (MessageFindings { attempts: attempts(2, false), ..done() }, Parked, "its work is recorded"),
        (
            MessageFindings { attempts: attempts(2, false), ..none() },
            Failing,
            "failed 2 times, last at 2026-11-22T02:00:00.000Z: the child hung; it waits",
        ),
        (MessageFindings { attempts: attempts(0, false), ..none() }, Failing, "nothing is held against it"),
        (
            MessageFindings { attempts: attempts(1, true), ..none() },
            InWork,
            "begun at 2026-11-22T02:00:00.000Z by run r, which is at work or died at it",
        ),
        (MessageFindings { archive: archived(LATER), ..none() }, GivenUp, "given up on at 2026-11-22T02"),
        (
            MessageFindings { archive: archived(LATER), documents: Look::Found(1), files: vec![well()], ..none() },
            GivenUp,
            "given up on",
        ),
        (
            MessageFindings { archive: archived(BEFORE), documents: Look::Found(1), files: vec![well()], ..none() },
            InStep,
            "its work is recorded",
        ),
        (
            MessageFindings { archive: archived(BEFORE), documents: Look::Found(1), files: vec![parked()], ..none() },
            GivenUp,
            "given up on",
        ),
        (MessageFindings { archive: archived(BEFORE), files: vec![well()], ..none() }, GivenUp, "given up on"),
        (
            MessageFindings { dead_letters: letters(Place::DeadLetterQueue, LATER), ..none() },
            DeadLettered,
            "it is in the dead-letter queue",
        ),
        (MessageFindings { archive: letters(Place::Saved { key: "k".into() }, LATER), ..none() }, Unclear, "was saved"),
        (none(), NoTrace, "no trace of it"),
        (MessageFindings { documents: unheard(), ..none() }, Unclear, "the index could not be asked: no answer"),
        (
            MessageFindings { documents: Look::NotAsked("skipped"), ..none() },
            Unclear,
            "the index was not asked: skipped",
        ),
        (MessageFindings { attempts: unheard(), ..none() }, Unclear, "its attempts could not be asked"),
    ];
    for (message, state, says) in table {
        let told = of_message(&message, T + HOUR);
        assert_eq!(told.state, state, "{says}: {told:?}");
        assert!(told.line.contains(says), "{says}: {told:?}");
    }
}
