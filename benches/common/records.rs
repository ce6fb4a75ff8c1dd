//! What the benchmarks lay out and read off: a record of so much text, a process's memory.

use quittance::clock::{SystemClock, WallClock as _};
use quittance::message::{Change, DocumentId, Namespace, Operation, WorkId};
use quittance::process::record::{Document, Record, Timings};

use crate::world::{NAMESPACE, World};

pub fn record(world: &World, n: usize, text: usize) -> Record {
    let key = format!("{n}.txt");
    let document_id = DocumentId::of(&namespace(), &world.source, &key);
    let change = Change {
        bucket: world.source.clone(),
        key: key.clone(),
        operation: Operation::Created,
        version_id: None,
        etag: Some("e".into()),
        size: None,
        sequencer: None,
        request_id: None,
        force: false,
    };
    Record {
        v: 1,
        work_id: WorkId::of(&document_id, &change),
        document_id,
        revision: 1,
        recorded_ms: SystemClock.unix_ms(),
        sequencer: None,
        timings: Timings::default(),
        document: Document {
            bucket: world.source.clone(),
            key,
            namespace: NAMESPACE.into(),
            content: Some("word beside ".repeat(text / 12)),
            source_etag: Some("e".into()),
            indexed_at: "2026-11-23T00:00:00.000Z".into(),
            revision: 1,
            ..Document::default()
        },
    }
}

pub fn namespace() -> Namespace {
    Namespace::parse(NAMESPACE).unwrap()
}

/// The most memory of a process so far, MiB; 0 where it cannot be told.
pub fn peak(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
