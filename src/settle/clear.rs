//! Taking a `begun` mark back before the receipt's last call, so that an acknowledged end implies that no mark is left.
//!
//! Promises that a mark is not lost to one failed call, and that nothing waits for it for ever: while a message is to
//! come back its lease is held meanwhile, so that nobody else sees the mark; what is finished waits but briefly.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::held::{Phase, end_term};
use super::{Counted, Desk, Ended, Settler};
use crate::crash_loop::Owed;
use crate::dead_letter::Origin;
use crate::events::{self, Event};
use crate::lease::{LeaseNumber, Term};
use crate::message::Message;
use crate::retry::Backoff;
use crate::spawn::tied;

/// Of a message that comes back. A store that is away for longer leaves the mark there.
const HOLD: Duration = Duration::from_secs(300);
/// Of a receipt that is deleted, or lost: whoever gets it again is told by the record of the file.
const BRIEFLY: Duration = Duration::from_secs(10);
/// When the process is ending: the last call itself needs the rest of [`crate::shutdown::SETTLE_MARGIN`].
const AT_THE_END: Duration = Duration::from_secs(5);
const AGAIN: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(15) };
/// A record that is denied or archived stays so; who comes back waits all the same, for its mark would count against it.
const TRIES_OF_ITS_OWN_TROUBLE: u32 = 3;

/// How long a receipt waits for its mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Patience {
    /// While its lease can be held.
    Hold,
    /// For a moment.
    Briefly,
}

impl Settler {
    /// The mark first, then the verdict that needs no preparation.
    pub(super) fn clear_first(&mut self, number: LeaseNumber, counted: Arc<Counted>, owed: Box<Owed>, lost: bool) {
        let Some(held) = self.held.get_mut(&number) else { return };
        if lost && held.term.why_ended().is_none() {
            end_term(held, "the lease ended"); // a later delivery is not to be adopted by what is over
        }
        held.phase = Phase::Preparing;
        let finished = held.judgement.verdict.is_finished();
        let patience = if lost || finished { Patience::Briefly } else { Patience::Hold };
        let (desk, closing) = (Arc::clone(&self.desk), self.closing.clone());
        let (message, term) = (Arc::clone(&held.message), Arc::clone(&held.term));
        self.calls.spawn(tied(async move {
            clear(&desk, &counted, &message, owed, patience, &term, &closing).await;
            Ended::Cleared(number)
        }));
    }
}

pub(super) async fn clear(
    desk: &Desk,
    counted: &Counted,
    message: &Message,
    owed: Box<Owed>,
    patience: Patience,
    term: &Term,
    closing: &CancellationToken,
) {
    let Owed { mut seen, company } = *owed;
    let mut last_trouble = "no answer".to_owned();
    let cleared = {
        let tries = async {
            for n in 0.. {
                let Err(trouble) = counted.attempts.clear(message, seen.take()).await else { return true };
                last_trouble = trouble.detail;
                let denied = trouble.of_this_record && n + 1 >= TRIES_OF_ITS_OWN_TROUBLE;
                if denied && patience == Patience::Briefly {
                    break;
                }
                tokio::time::sleep(AGAIN.wait(n, &desk.jitter)).await;
            }
            false
        };
        let over = async {
            tokio::select! {
                biased;
                () = async { closing.cancelled().await; tokio::time::sleep(AT_THE_END).await } => {}
                () = wait(patience, term) => {}
            }
        };
        tokio::select! { biased; cleared = tries => cleared, () = over => false }
    };
    if !cleared {
        let (message_id, original_message_id) = (message.id.0.clone(), Origin::id_of(message));
        events::MarkFailed { message_id, step: "clear", detail: last_trouble, original_message_id }.emit();
    }
    drop(company); // alone until now
}

async fn wait(patience: Patience, term: &Term) {
    match patience {
        Patience::Hold => tokio::select! {
            biased;
            () = term.ended() => {}
            () = tokio::time::sleep(HOLD) => {}
        },
        Patience::Briefly => tokio::time::sleep(BRIEFLY).await,
    }
}
