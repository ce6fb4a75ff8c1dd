//! The settler's calls: which are due, in which batches, and each with its timeout.
//!
//! Promises that a receipt has at most one call under way (`busy`), that a batch holds one kind of call, and that a
//! refused entry goes alone from then on. Reads no reply: the task in [`super`] does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::held::{CAPPED, Held, Last, Phase, end_term};
use super::{Desk, Ended, Replies, Settler};
use crate::heartbeat::Beat;
use crate::lease::LeaseNumber;
use crate::message::ReceiptHandle;
use crate::queue::{QueueError, SQS_MAX_BATCH, SQS_MAX_VISIBILITY};
use crate::spawn::tied;

/// How long a delete waits for nine others before it goes alone.
const LINGER: Duration = Duration::from_millis(5);

impl Settler {
    /// Starts every call that is due and says when to look again.
    pub(super) fn act(&mut self, now: Instant) -> Instant {
        let mut wake = self.last_call.unwrap_or(now + Duration::from_secs(3600));
        if self.last_call.is_some_and(|last_call| now >= last_call) {
            let late: Vec<LeaseNumber> = self.held.keys().copied().collect();
            late.into_iter().for_each(|number| self.give_up(number));
            return now;
        }
        let mut extend = Vec::new();
        let mut finals = Vec::new();
        let mut over = Vec::new();
        let nearly = self.desk.visibility / 12; // leases due soon ride along in the same batch
        for (number, held) in &mut self.held {
            match &held.phase {
                Phase::Working | Phase::Preparing => {
                    if held.term.why_ended().is_some() {
                        continue; // the work is on its way out; its word will come
                    }
                    match held.span.beat(now, self.desk.visibility) {
                        Beat::Lost => end_term(held, "the lease ended"),
                        Beat::Capped => end_term(held, CAPPED),
                        Beat::Wait(until) => {
                            wake = wake.min(until);
                            if !held.busy
                                && let Beat::Extend(granted) = held.span.beat(now + nearly, self.desk.visibility)
                            {
                                extend.push((*number, granted, false));
                            }
                        }
                        Beat::Extend(_) if held.busy => wake = wake.min(held.span.deadline),
                        Beat::Extend(granted) => {
                            // The lease may end while the call is under way.
                            wake = wake.min(held.span.deadline);
                            extend.push((*number, granted, true));
                        }
                    }
                }
                Phase::Final(last) => {
                    if held.busy {
                        continue;
                    }
                    // A delete goes out once whatever the time: it follows finished work or an acknowledged dead letter.
                    let untried = last.last == Last::Delete && last.tries == 0;
                    // One that SQS does not take goes on under its lease: were it to lapse, the finished message would
                    // come back until SQS dead-letters it. The seat stays taken, so that intake ends by itself.
                    if last.last == Last::Delete && last.tries > 0 && !last.late {
                        match held.span.beat(now, self.desk.visibility) {
                            Beat::Extend(granted) => {
                                extend.push((*number, granted, true));
                                wake = wake.min(held.span.deadline);
                                continue;
                            }
                            Beat::Wait(until) => wake = wake.min(until),
                            Beat::Capped | Beat::Lost => {}
                        }
                    }
                    if now >= held.span.deadline && !untried {
                        over.push(*number);
                    } else if now >= last.ready_at {
                        finals.push(*number);
                    } else {
                        wake = wake.min(last.ready_at).min(held.span.deadline);
                    }
                }
            }
        }
        for number in over {
            self.give_up(number);
        }
        if extend.iter().any(|(_, _, due)| *due) {
            self.extend(extend, now);
        }
        self.finish(finals, now).map_or(wake, |later| wake.min(later))
    }

    fn extend(&mut self, due: Vec<(LeaseNumber, Duration, bool)>, now: Instant) {
        for chunk in due.chunks(SQS_MAX_BATCH) {
            let mut changes = Changes::default();
            let mut numbers = Vec::with_capacity(chunk.len());
            for (number, granted, _) in chunk {
                if let Some(held) = self.held.get_mut(number) {
                    held.busy = true;
                    changes.add(held, *granted);
                    numbers.push((*number, held.receipt, *granted));
                }
            }
            let desk = Arc::clone(&self.desk);
            self.calls.spawn(tied(async move {
                let replies = changes.send(&desk).await;
                Ended::Extended { numbers, sent: now, replies }
            }));
        }
    }

    /// Sends deletes and returns in batches; says when the first waiting batch is due.
    fn finish(&mut self, ready: Vec<LeaseNumber>, now: Instant) -> Option<Instant> {
        let (mut deletes, mut returns, mut alone) = (VecDeque::new(), VecDeque::new(), Vec::new());
        let mut later = None;
        for number in ready {
            let Some(Phase::Final(last)) = self.held.get(&number).map(|held| &held.phase) else { continue };
            match last.last {
                _ if last.alone => alone.push(number),
                Last::Delete => deletes.push_back((number, last.ready_at)),
                Last::Return(_) => returns.push_back((number, last.ready_at)),
            }
        }
        for mut waiting in [deletes, returns] {
            while let Some((_, oldest)) = waiting.front() {
                let full = waiting.len() >= SQS_MAX_BATCH;
                if !full && self.listening && now < *oldest + LINGER {
                    let due = *oldest + LINGER;
                    later = Some(later.map_or(due, |other: Instant| other.min(due)));
                    break;
                }
                let batch = waiting.drain(..waiting.len().min(SQS_MAX_BATCH)).map(|(number, _)| number).collect();
                self.send_final(batch, now);
            }
        }
        for number in alone {
            self.send_final(vec![number], now);
        }
        later
    }

    /// One call; all of `numbers` are deletes, or all are returns.
    fn send_final(&mut self, numbers: Vec<LeaseNumber>, now: Instant) {
        let (mut deletes, mut returns) = (Vec::new(), Changes::default());
        for number in &numbers {
            let Some(held) = self.held.get_mut(number) else { continue };
            let Phase::Final(last) = &mut held.phase else { continue };
            last.tries += 1;
            last.late |= now >= held.span.deadline;
            held.busy = true;
            match last.last {
                Last::Delete => deletes.push(held.handle.clone()),
                Last::Return(delay) => {
                    let room = SQS_MAX_VISIBILITY.saturating_sub(now.saturating_duration_since(held.span.first));
                    returns.add(held, delay.min(room.saturating_sub(Duration::from_secs(1))));
                }
            }
        }
        failpoint!(BeforeDelete if !deletes.is_empty());
        failpoint!(BeforeReturn if deletes.is_empty());
        let desk = Arc::clone(&self.desk);
        self.calls.spawn(tied(async move {
            let replies = if deletes.is_empty() {
                returns.send(&desk).await
            } else {
                let replies = within(desk.call_limit(), desk.queue.delete(&deletes)).await;
                failpoint!(AfterDeleteSent);
                replies
            };
            Ended::Finished { numbers, replies }
        }));
    }
}

/// Extensions or returns of one call, and when the first of their leases ends.
#[derive(Default)]
struct Changes {
    entries: Vec<(ReceiptHandle, Duration)>,
    until: Option<Instant>,
}

impl Changes {
    fn add(&mut self, held: &Held, visibility: Duration) {
        self.entries.push((held.handle.clone(), visibility));
        self.until = Some(self.until.map_or(held.span.deadline, |other| other.min(held.span.deadline)));
    }

    /// Between the decision and this turn the process may have stood still (SIGSTOP, a VM pause), and a receipt that is
    /// over must not be touched: SQS would hide a message that nobody works on. Those that still live are asked again.
    async fn send(self, desk: &Desk) -> Replies {
        if self.until.is_some_and(|until| desk.lease_clock.now() >= until) {
            return Err(QueueError::Unavailable("not sent: a lease of this batch ended first".to_owned()));
        }
        within(desk.call_limit(), desk.queue.change_visibility(&self.entries)).await
    }
}

async fn within(limit: Duration, call: impl Future<Output = Replies>) -> Replies {
    match tokio::time::timeout(limit, call).await {
        Ok(replies) => replies,
        Err(_) => Err(QueueError::Unavailable(format!("no answer within {limit:?}"))),
    }
}
