//! What systemd is told: ready, how it stands, that it is alive, reloading, stopping.
//!
//! Promises that the watchdog is fed from what a worker lives by, and not by a timer: the ledger lets itself be read, and
//! the settler, on its own thread, answers (P16). A worker whose settler stands still is killed and started again, and its
//! leases end by themselves. Says nothing to anybody where there is no systemd.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::books::{Books, BooksLine};
use crate::config::{Mistakes, WorkerConfig};
use crate::events::{self, Event};
use crate::gate::Gate;
use crate::lease::Pulse;
use crate::limits::{Limits, Live};
use crate::shutdown::Hangups;
use crate::telemetry::Dial;

/// Between two status lines, where no watchdog asks for more.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Tells systemd; where there is none, nobody.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states); // not under systemd, or it is gone: nobody listens
}

/// Intake starts.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says that it stops, once it does.
pub async fn tell_of_the_stop(stop: CancellationToken) {
    stop.cancelled().await;
    tell(&[NotifyState::Stopping]);
}

/// One worker, as its supervisor sees it.
pub struct Alive {
    /// To ask the settler.
    pub pulse: Pulse,
    /// The ledger.
    pub books: Arc<Books>,
    /// Whether intake is held, and by what.
    pub gate: Arc<Gate>,
}

impl Alive {
    /// Feeds the watchdog (`WatchdogSec`, at a quarter of it) and tells the status, until the process ends.
    pub async fn run(self) {
        let watchdog = sd_notify::watchdog_enabled();
        let every = watchdog.map_or(STATUS_EVERY, |limit| (limit / 4).min(STATUS_EVERY));
        let mut stalled = false;
        loop {
            tokio::time::sleep(every).await;
            let answered = tokio::time::timeout(every, self.pulse.beat()).await;
            let status = status(&self.books.snapshot(false), self.gate.is_open());
            match answered {
                Ok(true) => {
                    stalled = false;
                    tell(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
                }
                // Nobody can speak to the settler any more: it settles what it holds, within a time of its own.
                Ok(false) => tell(&[NotifyState::Watchdog, NotifyState::Status("settling")]),
                Err(_) => {
                    tell(&[NotifyState::Status("STALLED: the settler does not answer")]);
                    if !stalled {
                        let detail = format!("the settler has not answered for {every:?}; the watchdog is not fed");
                        events::Stalled { detail }.emit();
                    }
                    stalled = true;
                }
            }
        }
    }
}

/// One line of `systemctl status`.
fn status(books: &BooksLine, open: bool) -> String {
    let BooksLine { in_flight, deleted, dead_lettered, returned, lease_lost, .. } = books;
    let intake = if open { "intake open" } else { "intake held (paused, or a dependency is sick: see the log)" };
    format!(
        "{in_flight} in flight; {deleted} deleted, {dead_lettered} dead-lettered, {returned} returned, {lease_lost} \
         leases lost; {intake}"
    )
}

/// What a SIGHUP may change.
pub struct Reload {
    /// Reads the configuration again.
    pub read: Box<dyn Fn() -> Result<WorkerConfig, Mistakes> + Send + Sync>,
    /// The worker's limits.
    pub limits: Live,
    /// The level of the log.
    pub dial: Dial,
}

impl Reload {
    /// Reads again at each SIGHUP. What cannot be read changes nothing.
    pub async fn run(self, mut hangups: Hangups) {
        let most = self.limits.now().concurrency;
        while hangups.next().await {
            match NotifyState::monotonic_usec_now() {
                Ok(now) => tell(&[NotifyState::Reloading, now]),
                Err(_) => tell(&[NotifyState::Reloading]),
            }
            match (self.read)() {
                Ok(config) => self.take(&config, most),
                Err(mistakes) => {
                    let detail = mistakes.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    events::ReloadFailed { detail }.emit();
                }
            }
            tell(&[NotifyState::Ready]);
        }
    }

    fn take(&self, config: &WorkerConfig, most: usize) {
        let wanted = config.limits();
        let limits = Limits { concurrency: wanted.concurrency.min(most), ..wanted };
        let detail = match &config.reload_file {
            None => Some("RELOAD_FILE is not set: there is nothing to read again".to_owned()),
            Some(_) if wanted.concurrency > most => Some(format!(
                "WORKER_CONCURRENCY {} is more than it was started with: {most}; a restart brings more",
                wanted.concurrency
            )),
            Some(_) => None,
        };
        self.limits.set(limits);
        (self.dial)("info"); // this line is told whatever the level was, and will be
        let Limits { concurrency, drain, max_attempts, backoff } = limits;
        events::Reloaded {
            log_level: config.log_level.clone(),
            concurrency,
            drain_seconds: drain.as_secs(),
            max_attempts,
            retry_base_seconds: backoff.base.as_secs(),
            retry_max_seconds: backoff.cap.as_secs(),
            detail,
        }
        .emit();
        (self.dial)(&config.log_level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_what_is_in_hand_what_became_of_the_rest_and_whether_more_is_asked_for() {
        let books = BooksLine { in_flight: 3, deleted: 40, dead_lettered: 1, returned: 2, ..BooksLine::default() };
        let told = "3 in flight; 40 deleted, 1 dead-lettered, 2 returned, 0 leases lost; intake open";
        assert_eq!(status(&books, true), told);
        assert!(status(&books, false).contains("intake held"));
    }
}
