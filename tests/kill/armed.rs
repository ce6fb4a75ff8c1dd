//! Workers with failpoints armed.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::time::Duration;

use quittance::failpoint::VARIABLE;
use rustix::process::Signal;

use crate::process::{Launch, Worker};
use crate::relay::{Fate, Relay, answers};
use crate::search::endpoint;
use crate::waiting::{LONG, eventually};

impl Launch {
    /// With a plan like `before_get=kill@2`.
    pub fn armed(self, plan: &str) -> Self {
        Self { program: program(), ..self }.set(VARIABLE, plan)
    }

    /// Without a plan, but the same program.
    pub fn unarmed(self) -> Self {
        Self { program: program(), ..self }.unset(VARIABLE)
    }
}

/// A name of its own for the program: a build beside a long run may put another in its place.
fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let own = || {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(run) = name.strip_prefix("worker-")
                && !PathBuf::from("/proc").join(run).exists()
            {
                drop(std::fs::remove_file(entry.path())); // of a run that is over
            }
        }
        let path = folder.join(format!("worker-{}", std::process::id()));
        drop(std::fs::remove_file(&path));
        std::fs::hard_link(env!("CARGO_BIN_EXE_worker"), &path).unwrap();
        path
    };
    PROGRAM.get_or_init(own).clone()
}

/// OpenSearch that answers, but takes no document.
pub fn sick_index() -> Relay {
    let relay = Relay::before(&endpoint());
    let refused = || Fate::Answer(answers::search(503, "unavailable", "the test says so"));
    relay.rule(move |head| if head.path.contains("_bulk") { refused() } else { Fate::Pass });
    relay
}

/// Waits for its end.
pub async fn end_of(worker: &mut Worker, within: Duration) -> ExitStatus {
    eventually("the worker's end", within, async || worker.ended().ok_or("it runs")).await
}

/// Waits until it has killed itself.
pub async fn killed_itself(worker: &mut Worker) {
    let status = end_of(worker, LONG).await;
    assert!(died_of_kill(status), "{status}");
}

pub fn died_of_kill(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

/// A mistake in a plan is one clear line and exit 78, before anything is asked for.
#[test]
fn a_mistake_in_the_plan_is_told_at_start() {
    let told = Launch::bare().armed("before_get=kill,before_lunch=kill").run(&["check"]);
    assert_eq!(told.code, 78, "{told:?}");
    assert!(told.stderr.contains("QUITTANCE_FAILPOINTS") && told.stderr.contains("before_lunch"), "{told:?}");
    assert_eq!((told.stderr.lines().count(), told.stdout.as_str()), (1, ""), "{told:?}");
}
