//! `worker migrate-index`: from a configuration to a migration, its progress in the log, its end on stdout.
//!
//! Promises that a bucket or index which is not there is one clear line and exit 75 before anything is created, and that
//! SIGTERM and Ctrl-C end it between two records. Decides nothing about a record.

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use serde_json::json;
use tokio::time::Instant;

use super::{CannotStart, index_client, look_at_bucket, look_at_index, stop_on_interrupt};
use crate::clock::SystemClock;
use crate::config::{WorkerConfig, exit};
use crate::events::{self, Event as _};
use crate::index::bulk::Lane;
use crate::index::opensearch::{OpenSearchIndex, OpenSearchSuccession};
use crate::message::detail::{detail, printable};
use crate::retry::Jitter;
use crate::store::s3::{self, S3Store};
use crate::upkeep::migrate::{Memory, Migrate, Phase, Report, Sink, Way};

/// Between two lines of progress.
const LINES: Duration = Duration::from_secs(10);
/// Of these troubles each has a line; the rest is counted.
const TOLD: u64 = 1_000;

/// What was typed behind the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wishes {
    /// Also where the index in use is as it should be.
    pub anew: bool,
    /// Moves also where searches lose something by it.
    pub leave_behind: bool,
    /// The report is JSON.
    pub json: bool,
}

/// The line on stdout, and the exit code.
pub async fn migrate(config: &WorkerConfig, aws: &SdkConfig, wishes: Wishes) -> Result<(String, u8), CannotStart> {
    let Some(search) = &config.opensearch else {
        let line = "SKIP_OPENSEARCH is set: there is no index to migrate".into();
        return Err(CannotStart { line, code: exit::EX_CONFIG });
    };
    let stop = stop_on_interrupt()?;
    let store = Arc::new(S3Store::new(s3::client(aws)));
    look_at_bucket("S3_BUCKET", &config.results_bucket, store.as_ref()).await?;
    let index = Arc::new(index_client(search, aws)?);
    look_at_index(&index).await?;
    let mut of_next = search.clone();
    of_next.index = index.next_alias();
    let next = Arc::new(index_client(&of_next, aws)?);
    let run = Migrate {
        store,
        results_bucket: config.results_bucket.clone(),
        succession: Arc::new(OpenSearchSuccession { index: Arc::clone(&index), analyzer: config.analyzer }),
        in_use: way(index),
        next: way(next),
        clock: Arc::new(SystemClock),
        anew: wishes.anew,
        leave_behind: wishes.leave_behind,
        memory: Memory::default(),
        stop,
    };
    let report = run.run(&mut Lines { last: None, told: 0 }).await;
    let text = if wishes.json {
        json!({ "report": report, "index": search.index }).to_string() + "\n"
    } else {
        report.text(&search.index)
    };
    Ok((text, report.code()))
}

fn way(index: Arc<OpenSearchIndex>) -> Way {
    let (lane, drive) =
        Lane::new(Arc::clone(&index) as Arc<dyn crate::index::Search>, Arc::new(Jitter::from_entropy()));
    tokio::spawn(drive);
    Way { lane, catalogue: index }
}

/// Progress and troubles, as lines of the log.
struct Lines {
    last: Option<(Phase, Instant)>,
    told: u64,
}

impl Sink for Lines {
    fn unclear(&mut self, name: &str, why: &str) {
        self.told += 1;
        if self.told <= TOLD {
            events::MigrationTrouble { name: printable(name, 2_048), detail: detail(why) }.emit();
        }
    }

    fn progress(&mut self, phase: Phase, report: &Report) {
        let now = Instant::now();
        if self.last.is_some_and(|(of, at)| of == phase && now.duration_since(at) < LINES) {
            return;
        }
        self.last = Some((phase, now));
        let tally = &report.tally;
        events::IndexMigration {
            phase: phase.as_str(),
            from: report.old.clone(),
            to: report.new.clone(),
            listed: tally.listed,
            brought: tally.brought,
            compared: tally.compared,
            refused: tally.refused,
            unclear: tally.unclear,
            without_record: tally.without_record,
        }
        .emit();
    }
}
