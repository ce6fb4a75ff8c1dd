//! The words of the model queue: what can go wrong with it, what was asked and answered, what really happened.

use std::collections::VecDeque;
use std::time::Duration;

use quittance::message::{Message, MessageId, ReceiptHandle};
use quittance::queue::{EntryReply, Outgoing, QueueError, QueueFacts, Refusal, SendReply};
use tokio::time::Instant;

use crate::sim::faults::{Call, Faults, Stamp};

/// What a delete with an old handle does, when the message has been delivered again since. SQS promises nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StaleDelete {
    /// Says yes, and deletes nothing.
    #[default]
    Ignored,
    /// Says yes, and deletes, under the newer receipt's feet.
    Deletes,
    /// Now this, now that.
    Either,
}

/// What can go wrong with a queue.
#[derive(Clone, Debug)]
pub struct QueueFaults {
    pub receive: Faults,
    pub delete: Faults,
    pub change: Faults,
    pub send: Faults,
    pub facts: Faults,
    /// Share of batch entries that are refused (`InternalError`, not the sender's fault), without effect.
    pub refuse_entry: f64,
    /// Share of batch entries that take effect and are left out of the reply (the port says `NoReply`).
    pub forget_entry: f64,
    /// Refusals of the next batch entries, in order (`None`: proceed).
    pub next_entries: VecDeque<Option<Refusal>>,
    /// Any visible message may come first.
    pub reorder: bool,
    /// A receive may hand out fewer messages than there are.
    pub short_receives: bool,
    /// A receive that finds nothing says so at once, whatever its wait.
    pub impatient: bool,
    /// Share of deliveries that are in the same reply a second time.
    pub twice_in_reply: f64,
    /// Share of deliveries that are delivered again while the first receipt still holds the message.
    pub redeliver_early: f64,
    /// Share of deleted messages that are delivered once more.
    pub rise_after_delete: f64,
    /// Share of deliveries before which the receive count was raised by somebody else's (a peek, a reply that got lost).
    pub miscount: f64,
    pub stale_delete: StaleDelete,
    /// The code of a visibility change with an old handle.
    pub stale_change: &'static str,
    /// A call goes on at the service when its caller went away.
    pub outlive_callers: bool,
}

impl Default for QueueFaults {
    fn default() -> Self {
        Self {
            receive: Faults::default(),
            delete: Faults::default(),
            change: Faults::default(),
            send: Faults::default(),
            facts: Faults::default(),
            refuse_entry: 0.0,
            forget_entry: 0.0,
            next_entries: VecDeque::new(),
            reorder: false,
            short_receives: false,
            impatient: false,
            twice_in_reply: 0.0,
            redeliver_early: 0.0,
            rise_after_delete: 0.0,
            miscount: 0.0,
            stale_delete: StaleDelete::default(),
            stale_change: "ReceiptHandleIsInvalid",
            outlive_callers: false,
        }
    }
}

impl QueueFaults {
    /// Sets the faults of all operations alike.
    pub fn all(&mut self, faults: &Faults) {
        for operation in [&mut self.receive, &mut self.delete, &mut self.change, &mut self.send, &mut self.facts] {
            *operation = faults.clone();
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub enum QueueAsk {
    Receive { max: usize, wait: Duration, visibility: Duration },
    Delete(Vec<ReceiptHandle>),
    Change(Vec<(ReceiptHandle, Duration)>),
    Send(Outgoing),
    SendBatch(Vec<Outgoing>),
    Facts,
}

#[derive(Clone, PartialEq, Debug)]
pub enum QueueAnswer {
    Received(Vec<Message>),
    Entries(Vec<EntryReply>),
    Sent(MessageId),
    SentBatch(Vec<SendReply>),
    Facts(QueueFacts),
    Failed(QueueError),
}

/// What really happened to a message, whatever was answered.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    Arrived(MessageId),
    Delivered {
        id: MessageId,
        handle: ReceiptHandle,
        count: u32,
        until: Instant,
    },
    Hidden {
        id: MessageId,
        handle: ReceiptHandle,
        until: Instant,
    },
    Deleted {
        id: MessageId,
        handle: ReceiptHandle,
    },
    /// By the redrive policy.
    MovedToDeadLetters(MessageId),
    /// By the queue's retention, which counts from the first send.
    Expired(MessageId),
}

/// What a queue remembers.
pub struct QueueMemory<'a> {
    pub calls: &'a [Call<QueueAsk, QueueAnswer>],
    pub effects: &'a [(Stamp, Effect)],
    /// The messages that are there and not deleted, oldest first.
    pub live: Vec<(&'a MessageId, &'a Outgoing)>,
}
