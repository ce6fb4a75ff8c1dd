//! `redrive archive`: clients, what is said, exit codes.
//!
//! Promises that a pause refuses a restore before it begins and stops it between two batches, that saving a queue works on
//! nothing and so goes on under a pause, and that a run which did not end says how to go on. Decides nothing about a
//! letter.

use std::sync::Arc;

use serde_json::json;

use super::begin::{Begin, begin};
use super::{CannotStart, find_queues, look_at_bucket, look_at_queue, stop_on_interrupt};
use crate::clock::{LeaseClock, SystemClock, WallClock as _};
use crate::config::{ArchiveOrder, exit};
use crate::message::detail::{detail, printable};
use crate::pause::PauseFile;
use crate::pipeline::Seat;
use crate::queue::sqs::{self, SqsQueue};
use crate::redrive::archive::list::Line;
use crate::redrive::archive::restore::{self, Restore};
use crate::redrive::archive::save::{self, MOST_MESSAGES, Save};
use crate::redrive::archive::shelf::Shelf;
use crate::redrive::archive::{Archive, Archived, Source};
use crate::redrive::hold::{self, Grip, Hold};
use crate::retry::Jitter;
use crate::store::s3::{self, S3Store};
use crate::terminal::{KEY_CHARS, Page, out, page, say};
use crate::upkeep::command::Place;
use crate::upkeep::outbox::Outbox;
use crate::upkeep::{Ended, Trouble};

/// Does it.
pub async fn archive(order: ArchiveOrder, place: Place, run_id: &str) -> Result<u8, CannotStart> {
    let aws = super::aws().await?;
    let store = Arc::new(S3Store::new(s3::client(&aws)));
    look_at_bucket("S3_BUCKET", &place.results_bucket, store.as_ref()).await?;
    let shelf = Shelf { store: store.clone(), bucket: place.results_bucket.clone() };
    let sick = |trouble: Trouble| CannotStart::missing(format!("S3_BUCKET: {trouble}"));
    let now = SystemClock.unix_ms();
    match order {
        ArchiveOrder::List { wanted, limit } => {
            let answer = shelf.list(&wanted.selection(now), limit).await.map_err(sick)?;
            page(if place.json { &answer.json } else { &answer.text });
            Ok(answer.code)
        }
        ArchiveOrder::Show { message_id } => {
            let looked = Page::new(place.json);
            let tell = |seen| looked.line(&format!("{seen} letters read"));
            let answer = shelf.show(&message_id, &tell).await.map_err(sick)?;
            looked.close();
            page(if place.json { &answer.json } else { &answer.text });
            Ok(answer.code)
        }
        ArchiveOrder::Restore { wanted, send, most } => {
            let stop = stop_on_interrupt()?;
            let file = PauseFile { store, bucket: place.results_bucket.clone() };
            let paused = match begin(file, send.is_some(), place.json, &stop).await? {
                Begin::Go(paused) => paused,
                Begin::Refused(code) => return Ok(code),
            };
            let dry = send.is_none();
            let outbox = match &send {
                None => None,
                Some((url, rate)) => {
                    let client = sqs::settling_client(&aws);
                    look_at_queue("SQS_QUEUE_URL", url, &client).await?;
                    Some(Outbox::new(Arc::new(SqsQueue::new(client, url)), *rate))
                }
            };
            let run = Restore { shelf, outbox, selection: wanted.selection(now), most, began_ms: now, stop };
            let mut listener = Restored { page: Page::new(place.json), dry };
            let restore::Report { tally, ended } = run.run(&mut listener).await;
            listener.page.close();
            let complete = ended == Ended::Complete;
            if place.json {
                out(&json!({ "report": tally, "complete": complete, "dry_run": dry }).to_string());
            } else {
                out(&restored(&tally, dry));
            }
            Ok(ending(&ended, paused.is_cancelled(), tally.is_well()))
        }
        ArchiveOrder::Save { source, queue_url, dlq_url, remove, visibility, most } => {
            let stop = stop_on_interrupt()?;
            let client = sqs::settling_client(&aws);
            let url = match source {
                Source::Main => {
                    look_at_queue("SQS_QUEUE_URL", &queue_url, &client).await?;
                    queue_url
                }
                Source::Dlq => {
                    let queues = find_queues(&queue_url, dlq_url.as_deref(), &client).await?;
                    // With --remove it would empty the workers' own queue.
                    if queues.dlq.arn == queues.facts.arn {
                        say(&format!(
                            "redrive: refused: SQS_DLQ_URL is the workers' queue itself ({})",
                            queues.dlq.arn
                        ));
                        return Ok(exit::EX_REFUSED);
                    }
                    queues.dlq_url
                }
            };
            let archive = Archive { store, bucket: place.results_bucket.clone(), clock: Arc::new(SystemClock) };
            let queue = |client| Arc::new(SqsQueue::new(client, &url));
            let hold = Hold::new(Grip {
                polling: queue(sqs::polling_client(&aws, hold::WAIT)),
                settling: queue(sqs::settling_client(&aws)),
                most: MOST_MESSAGES,
                visibility,
                jitter: Jitter::from_entropy(),
                clock: LeaseClock::of_system(),
                seat: Seat::OwnThread,
            });
            let (queue, run_id) = (queue(client), run_id.to_owned());
            let run = Save { hold, queue, archive, source, remove, most, run_id, stop };
            let listener = Saved { page: Page::new(place.json) };
            let report = run.run(&listener).await;
            listener.page.close();
            let report = report.map_err(|broken| CannotStart { line: broken.to_string(), code: exit::EX_BOOKS })?;
            let complete = report.ended == Ended::Complete;
            if place.json {
                let save::Report { tally, unseen, at_limit, .. } = &report;
                let line = json!({ "report": tally, "unseen": unseen, "at_limit": at_limit, "complete": complete,
                                   "queue": source.as_str() });
                out(&line.to_string());
            } else {
                out(&saved(&report, source, remove));
            }
            if !report.books.balanced {
                return Ok(exit::EX_BOOKS);
            }
            Ok(ending(&report.ended, false, report.is_well()))
        }
    }
}

struct Restored {
    page: Page,
    dry: bool,
}

impl restore::Sink for Restored {
    fn restored(&mut self, object: &str, letter: &Archived) {
        if self.page.json {
            out(&json!({ "restored": Line::of(object, letter), "dry_run": self.dry }).to_string());
        } else if self.dry {
            out(&Line::of(object, letter).text());
        }
    }

    fn trouble(&mut self, object: &str, why: &str) {
        self.page.trouble(object, why);
    }

    fn progress(&mut self, tally: &restore::Tally) {
        self.page.line(&format!("{} sent", tally.sent));
    }
}

struct Saved {
    page: Page,
}

impl save::Sink for Saved {
    fn trouble(&self, message_id: &str, why: &str) {
        self.page.trouble(message_id, why);
    }

    fn progress(&self, tally: &save::Tally) {
        self.page.line(&format!("{} saved", tally.saved));
    }
}

fn restored(tally: &restore::Tally, dry: bool) -> String {
    let restore::Tally { looked_at, sent, twice, refused, envelopes, unwanted, later, unreadable, gone, .. } = tally;
    let verb = if dry { "would be sent back" } else { "sent back" };
    let mut text = format!("{looked_at} letters looked at: {sent} {verb}, {unwanted} not selected");
    for (number, what) in [
        (*twice, "were archived twice and sent once"),
        (*envelopes, "are envelopes of letters in the dead-letter queue"),
        (*later, "were archived since it began: for another run"),
        (*gone, "were restored by somebody else meanwhile"),
        (*unreadable, "could not be read"),
        (*refused, "were refused by the queue and stay"),
        (tally.left_behind, "were sent but stay: the next restore sends them again"),
        (tally.without_note, "had no room for a note: workers' lines do not name their first id"),
    ] {
        if number > 0 {
            text += &format!(", {number} {what}");
        }
    }
    text
}

fn saved(report: &save::Report, source: Source, remove: bool) -> String {
    let save::Tally { received, saved, unsaved, body_bytes, removed, returned, lease_lost } = &report.tally;
    let mut text = format!(
        "{received} messages received, {saved} saved under archive/{}/ ({body_bytes} bytes of bodies), {unsaved} could \
         not be saved; {removed} removed, {returned} returned, {lease_lost} leases lost",
        source.as_str()
    );
    if report.at_limit {
        text += "\nstopped at its limit";
        if !remove {
            text += " of what it can hold: --remove saves queues of any length";
        }
    }
    if report.unseen > 0 {
        text += &format!(
            "\n{} more by the queue's own (approximate) count were not seen: held by others, delayed, or new",
            report.unseen
        );
    }
    text
}

fn ending(ended: &Ended, paused: bool, well: bool) -> u8 {
    match ended {
        Ended::Complete if well => exit::EX_OK,
        Ended::Complete => exit::EX_PARTIAL,
        Ended::Interrupted if paused => {
            say(
                "redrive: the fleet was paused meanwhile (redrive status); to go on: redrive resume, then the same command",
            );
            exit::EX_PARTIAL
        }
        Ended::Interrupted => {
            say("redrive: interrupted; to go on: the same command, what is done is done");
            exit::EX_INTERRUPTED
        }
        Ended::Sick(why) => {
            say(&format!(
                "redrive: {}; to go on: the same command, what is done is done",
                printable(&detail(why), KEY_CHARS)
            ));
            exit::EX_TEMPFAIL
        }
    }
}
