//! The operator's side of the pause: pause, resume, status, each with a report for a person and for a script.
//!
//! Promises that a pause is never silently taken over: the first stands, whoever comes second is told by whom and why
//! (two incidents must not end with the first resume of one and the reason of the other), and a race of two is decided
//! by a conditional write. What cannot be read is replaced by `pause` and removed by `resume`. Knows no worker: they
//! look for themselves.

use std::time::Duration;

use serde::Serialize;

use super::{Pause, PauseFile, Standing};
use crate::message::detail::detail;
use crate::store::layout::PAUSE;
use crate::store::{PutReply, StoreError};

/// All calls of one command.
const LIMIT: Duration = Duration::from_secs(30);
/// Lost races before giving up: somebody pauses and resumes all the time.
const RACES: u32 = 5;

/// How things stand, and what was done about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// Whether workers of this bucket stand still now.
    pub paused: bool,
    /// Whether this command changed it.
    pub changed: bool,
    /// Results bucket.
    pub bucket: String,
    /// Key of the object.
    pub key: &'static str,
    /// Who paused; for a resume, who had.
    pub by: Option<String>,
    /// Since when, RFC 3339.
    pub at: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// The object is there and is no pause we know: workers take it for one.
    pub unreadable: Option<String>,
    #[serde(skip)]
    said: &'static str,
}

impl Report {
    /// For a person.
    pub fn text(&self) -> String {
        let Self { bucket, key, .. } = self;
        let mut page = format!("{} ({key} in {bucket}, for all namespaces)\n", self.said);
        let (had, at) = (self.by.as_deref().unwrap_or_default(), self.at.as_deref().unwrap_or_default());
        if let Some(reason) = &self.reason {
            page += &format!("  by {had} since {at}: {reason}\n");
        }
        if let Some(why) = &self.unreadable {
            page += &format!("  the object could not be read ({why}): workers take it for a pause\n");
        }
        if self.paused {
            page += "  to go on: redrive resume\n";
        }
        page
    }

    /// One JSON object on one line.
    pub fn json(&self) -> String {
        // Strings and booleans: there is nothing here that JSON cannot hold.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

impl PauseFile {
    /// Pauses the fleet. Where it is paused already, the first pause stands.
    pub async fn pause(&self, pause: &Pause) -> Result<Report, StoreError> {
        limited(async {
            for _ in 0..RACES {
                let standing = self.look().await?;
                let over = match &standing {
                    Standing::Running => None,
                    Standing::Paused(_) => {
                        return Ok(self.report("already paused; nothing was changed", true, false, standing));
                    }
                    Standing::Unreadable { etag, .. } => Some(etag.clone()),
                };
                let said = match &over {
                    None => "paused: workers stop receiving and replaying within 5 s",
                    Some(_) => "paused: what could not be read was replaced",
                };
                if let PutReply::Written { .. } = self.write(pause, over).await? {
                    return Ok(self.report(said, true, true, Standing::Paused(pause.clone())));
                }
            }
            Err(StoreError::Unavailable(format!("lost {RACES} races for {PAUSE}")))
        })
        .await
    }

    /// Takes the pause back, whoever made it. Where there is none, nothing happens.
    pub async fn resume(&self) -> Result<Report, StoreError> {
        limited(async {
            let standing = self.look().await?;
            if standing == Standing::Running {
                return Ok(self.report("not paused; nothing was changed", false, false, standing));
            }
            self.store.delete(&self.bucket, PAUSE).await?;
            Ok(self.report("resumed: workers go on within 5 s", false, true, standing))
        })
        .await
    }

    /// How things stand.
    pub async fn status(&self) -> Result<Report, StoreError> {
        limited(async {
            let standing = self.look().await?;
            let paused = standing != Standing::Running;
            Ok(self.report(if paused { "paused" } else { "not paused" }, paused, false, standing))
        })
        .await
    }

    fn report(&self, said: &'static str, paused: bool, changed: bool, standing: Standing) -> Report {
        let report = Report {
            paused,
            changed,
            bucket: self.bucket.clone(),
            key: PAUSE,
            by: None,
            at: None,
            reason: None,
            unreadable: None,
            said,
        };
        match standing {
            Standing::Running => report,
            Standing::Paused(Pause { reason, by, at, v: _ }) => {
                Report { by: Some(by), at: Some(at), reason: Some(detail(&reason)), ..report }
            }
            Standing::Unreadable { why, .. } => Report { unreadable: Some(why), ..report },
        }
    }
}

async fn limited<T>(command: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = || Err(StoreError::Unavailable(format!("no answer within {} s", LIMIT.as_secs())));
    tokio::time::timeout(LIMIT, command).await.unwrap_or_else(|_elapsed| late())
}
