//! The port to a queue: receive, delete, change visibility, send, describe.
//!
//! Promises that a batch reply is never one `Ok`: every entry has its own answer, in the order asked.
//! Knows no settlement rules and retries nothing; `queue::sqs` is the only file naming the SDK.

use std::time::Duration;

use async_trait::async_trait;

use crate::message::{AttributeValue, Message, MessageAttribute, MessageId, ReceiptHandle};
use std::collections::BTreeMap;

pub mod sqs;

/// SQS's limit of entries in one batch call, and of messages in one receive.
pub const SQS_MAX_BATCH: usize = 10;
/// SQS's limit of a visibility timeout, counted from the receive: 12 hours.
pub const SQS_MAX_VISIBILITY: Duration = Duration::from_secs(43_200);
/// SQS's limit of one message with its attributes: 1 MiB.
pub const SQS_MAX_MESSAGE_BYTES: usize = 1_048_576;
/// SQS's limit of attributes on one message.
pub const SQS_MAX_ATTRIBUTES: usize = 10;

/// How many messages to ask for: 1 to 10 by construction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchSize(usize);

impl BatchSize {
    /// Clamps to SQS's 1–10.
    pub fn clamped(wanted: usize) -> Self {
        Self(wanted.clamp(1, SQS_MAX_BATCH))
    }

    /// The number.
    pub fn get(self) -> usize {
        self.0
    }
}

/// Why one entry of a batch was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// SQS's code, e.g. `ReceiptHandleIsInvalid`.
    pub code: String,
    /// SQS says the fault is ours: sending the same again cannot help.
    pub sender_fault: bool,
}

impl Refusal {
    /// The receipt is not ours any more: no time will bring it back. By name, for `sender_fault` alone is also said of
    /// what passes (throttling, keys of KMS).
    pub fn is_final(&self) -> bool {
        let name = self.code.rsplit('.').next().unwrap_or(&self.code);
        self.sender_fault && matches!(name, "ReceiptHandleIsInvalid" | "MessageNotInflight" | "InvalidParameterValue")
    }
}

/// The answer to one entry of a batch.
pub type EntryReply = Result<(), Refusal>;
/// The answer to one message of a batch that was sent; the id is the acknowledgement.
pub type SendReply = Result<MessageId, Refusal>;

/// A call that did not happen, or whose end is not known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QueueError {
    /// The queue is not there (`QueueDoesNotExist`).
    #[error("queue does not exist: {0}")]
    Missing(String),
    /// 403 and KMS: what this program may do, not what it asked for. Says nothing about a message.
    #[error("access denied: {0}")]
    Denied(String),
    /// The service refused this request; the same again cannot help.
    #[error("refused: {0}")]
    Refused(String),
    /// Timeout, connection, 5xx, throttling, credentials: says nothing about a message.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// A message to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// Body, byte for byte.
    pub body: String,
    /// Attributes.
    pub attributes: BTreeMap<String, MessageAttribute>,
    /// Group, kept where there was one.
    pub group_id: Option<String>,
}

impl Outgoing {
    /// As SQS counts it: the body, and name, type and value of each attribute (SQS quotas, "Message size").
    pub fn bytes(&self) -> usize {
        bytes(&self.body, &self.attributes)
    }

    /// SQS takes it: at most 10 attributes and 1 MiB.
    pub fn fits(&self) -> bool {
        self.attributes.len() <= SQS_MAX_ATTRIBUTES && self.bytes() <= SQS_MAX_MESSAGE_BYTES
    }
}

/// As SQS counts a message: up to 1 MiB, all of which may be in its attributes.
pub fn bytes(body: &str, attributes: &BTreeMap<String, MessageAttribute>) -> usize {
    let attribute = |(name, attribute): (&String, &MessageAttribute)| {
        let value = match &attribute.value {
            AttributeValue::Text(text) => text.len(),
            AttributeValue::Binary(bytes) => bytes.len(),
        };
        name.len() + attribute.data_type.len() + value
    };
    body.len() + attributes.iter().map(attribute).sum::<usize>()
}

/// What a queue says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QueueFacts {
    /// ARN of the queue.
    pub arn: String,
    /// The queue's own visibility timeout.
    pub visibility: Duration,
    /// `maxReceiveCount` of the redrive policy.
    pub max_receive_count: Option<u32>,
    /// `deadLetterTargetArn` of the redrive policy.
    pub dead_letter_arn: Option<String>,
    /// `MessageRetentionPeriod`.
    pub retention: Duration,
    /// `ApproximateNumberOfMessages`.
    pub visible: u64,
    /// `ApproximateNumberOfMessagesNotVisible`.
    pub in_flight: u64,
    /// `ApproximateNumberOfMessagesDelayed`.
    pub delayed: u64,
    /// `RedriveAllowPolicy`: who may use it as a dead-letter queue.
    pub redrive_allow: RedriveAllow,
}

/// Who may use a queue as their dead-letter queue.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum RedriveAllow {
    /// Any queue of the account and region; SQS's default.
    #[default]
    All,
    /// No queue.
    Nobody,
    /// Queues with these ARNs.
    These(Vec<String>),
}

/// One queue.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Long poll: up to `max` messages, waiting up to `wait`, hidden for `visibility`.
    async fn receive(&self, max: BatchSize, wait: Duration, visibility: Duration) -> Result<Vec<Message>, QueueError>;

    /// Deletes up to ten receipts. The replies are positional: one per handle, in order.
    /// An entry that the service's reply does not mention is an error reply, never a success.
    async fn delete(&self, handles: &[ReceiptHandle]) -> Result<Vec<EntryReply>, QueueError>;

    /// Sets the visibility of up to ten receipts, counted from now; zero returns the message at once.
    async fn change_visibility(&self, entries: &[(ReceiptHandle, Duration)]) -> Result<Vec<EntryReply>, QueueError>;

    /// Sends one message; the id is the acknowledgement.
    async fn send(&self, message: &Outgoing) -> Result<MessageId, QueueError>;

    /// Sends up to ten messages, 1 MiB together. The replies are positional, as those of [`Queue::delete`]; a message
    /// whose entry is not mentioned may have been sent.
    async fn send_batch(&self, messages: &[Outgoing]) -> Result<Vec<SendReply>, QueueError>;

    /// Attributes of the queue.
    async fn facts(&self) -> Result<QueueFacts, QueueError>;
}
