//! How an operator's command begins, and what ends it early: signals, and the pause of the fleet.
//!
//! Promises that Ctrl-C, SIGTERM and a dropped terminal let what is in hand be finished, and that what writes obeys the
//! pause, as the replay does: it does not begin, or it stops between two steps.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{CannotStart, no_pause_file};
use crate::index::parked::{Answer, refused_by};
use crate::pause::{PauseFile, Watch};
use crate::retry::Jitter;
use crate::terminal::page;

/// Cancelled by what ends an operator's command: Ctrl-C, SIGTERM, or a terminal that is gone (SIGHUP). From now on none
/// of them ends the process by itself, the second no more than the first.
pub fn stop_on_interrupt() -> Result<CancellationToken, CannotStart> {
    let cannot = |error: std::io::Error| CannotStart::missing(format!("cannot listen to signals: {error}"));
    let stop = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let (mut signals, stop) = (signal(kind).map_err(cannot)?, stop.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                stop.cancel();
            }
        });
    }
    Ok(stop)
}

/// Whether a run may begin.
pub enum Begin {
    /// It may; cancelled where a pause stopped it.
    Go(CancellationToken),
    /// The fleet is paused: with this exit code.
    Refused(u8),
}

/// Looks, and watches from then on; a run that writes nothing is no work, and goes on. `stop`: the run's, cancelled by a
/// pause too.
pub async fn begin(
    file: PauseFile,
    writes: bool,
    json_wanted: bool,
    stop: &CancellationToken,
) -> Result<Begin, CannotStart> {
    let paused = CancellationToken::new();
    if !writes {
        return Ok(Begin::Go(paused));
    }
    let standing = file.look().await.map_err(|error| no_pause_file(&file.bucket, &error))?;
    if let Some(Answer { text, json, code }) = refused_by(standing) {
        page(if json_wanted { &json } else { &text });
        return Ok(Begin::Refused(code));
    }
    let watch = Watch { file, jitter: Arc::new(Jitter::from_entropy()) };
    let (told, stop) = (paused.clone(), stop.clone());
    tokio::spawn(async move {
        watch.until_paused().await;
        told.cancel();
        stop.cancel();
    });
    Ok(Begin::Go(paused))
}
