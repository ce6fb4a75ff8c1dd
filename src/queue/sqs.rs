//! The queue port on SQS: the only file naming `aws_sdk_sqs`.
//!
//! Promises that a batch reply is joined to its request by position and never read as one `Ok`, and that
//! an error says whether the queue, the request or the service is the problem. Knows no lease and no
//! settlement rule, and (but for the SDK's few quick retries of the settling client) tries nothing twice.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    Message as SqsMessage, MessageAttributeValue, MessageSystemAttributeName as System, QueueAttributeName as Fact,
    SendMessageBatchRequestEntry, SendMessageBatchResultEntry,
};
use serde::Deserialize;

use super::{
    BatchSize, EntryReply, Outgoing, Queue, QueueError, QueueFacts, RedriveAllow, Refusal, SQS_MAX_BATCH,
    SQS_MAX_VISIBILITY, SendReply,
};
use crate::aws::{Fault, blames_credentials};
use crate::message::{AttributeValue, Message, MessageAttribute, MessageId, ReceiptHandle};

/// ReceiveMessage can hang past its wait (aws-sdk-rust#1094): after this much more it is given up.
const POLL_GRACE: Duration = Duration::from_secs(10);
/// A settlement is small; one that takes longer is better asked again inside the lease.
const SETTLE_ATTEMPT: Duration = Duration::from_secs(5);
/// One quick second try for a connection that died idle; the settler does the rest.
const SETTLE_ATTEMPTS: u32 = 2;

/// The client for long polls of up to `wait`.
///
/// No SDK retries: a lease counts from when the receive was *sent*, so a poll tried again inside the SDK
/// would hand out leases that are nearly dead.
pub fn polling_client(shared: &SdkConfig, wait: Duration) -> Client {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(wait + POLL_GRACE).build();
    client(shared, "quittance-polling", RetryConfig::disabled(), timeouts)
}

/// The client for deletes, visibility changes, sends and queue attributes.
pub fn settling_client(shared: &SdkConfig) -> Client {
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(SETTLE_ATTEMPT)
        .operation_timeout(SETTLE_ATTEMPT * SETTLE_ATTEMPTS + Duration::from_secs(1))
        .build();
    client(shared, "quittance-settling", RetryConfig::standard().with_max_attempts(SETTLE_ATTEMPTS), timeouts)
}

/// A client of its own has a connection pool of its own (whose connections live on the runtime that opened
/// them, so the settler's must not be the poller's), and a named partition has retry tokens of its own.
fn client(shared: &SdkConfig, partition: &'static str, retries: RetryConfig, timeouts: TimeoutConfig) -> Client {
    let timeouts = shared.timeout_config().map_or(timeouts.clone(), |base| {
        let mut merged = timeouts;
        merged.take_defaults_from(base); // keeps the shared connect timeout
        merged
    });
    let config = aws_sdk_sqs::config::Builder::from(shared)
        .retry_partition(RetryPartition::new(partition))
        .retry_config(retries)
        .timeout_config(timeouts)
        .build();
    Client::from_conf(config)
}

/// The URL of the queue an ARN names: a redrive policy knows its target by ARN only.
pub async fn url_of_arn(client: &Client, arn: &str) -> Result<String, QueueError> {
    let parts: Vec<&str> = arn.split(':').collect();
    let ["arn", _, "sqs", _, owner, name] = parts[..] else {
        return Err(QueueError::Refused(format!("not the ARN of a queue: {arn}")));
    };
    let reply = client.get_queue_url().queue_name(name).queue_owner_aws_account_id(owner).send().await;
    reply.map_err(judge)?.queue_url.ok_or_else(|| QueueError::Unavailable("reply without a queue URL".into()))
}

/// Names of the queues that use this one as their dead-letter queue; all pages.
pub async fn sources_of(client: &Client, url: &str) -> Result<Vec<String>, QueueError> {
    let (mut names, mut token) = (Vec::new(), None);
    loop {
        let request = client.list_dead_letter_source_queues().queue_url(url).max_results(1_000).set_next_token(token);
        let reply = request.send().await.map_err(judge)?;
        names.extend(reply.queue_urls.iter().filter_map(|url| url.rsplit('/').next()).map(str::to_owned));
        token = reply.next_token;
        if token.is_none() {
            return Ok(names);
        }
    }
}

/// One queue, through one client.
#[derive(Clone, Debug)]
pub struct SqsQueue {
    client: Client,
    url: String,
}

impl SqsQueue {
    /// The queue at `url`; take the client made for what this value is used for.
    pub fn new(client: Client, url: impl Into<String>) -> Self {
        Self { client, url: url.into() }
    }
}

#[async_trait]
impl Queue for SqsQueue {
    async fn receive(&self, max: BatchSize, wait: Duration, visibility: Duration) -> Result<Vec<Message>, QueueError> {
        let reply = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(max.get()).unwrap_or(1))
            .wait_time_seconds(whole_seconds(wait).min(20))
            .visibility_timeout(whole_seconds(visibility))
            .message_attribute_names("All")
            .message_system_attribute_names(System::ApproximateReceiveCount)
            .message_system_attribute_names(System::SentTimestamp)
            .message_system_attribute_names(System::MessageGroupId)
            .message_system_attribute_names(System::DeadLetterQueueSourceArn)
            .send()
            .await
            .map_err(judge)?;
        let received = reply.messages.unwrap_or_default();
        let asked = received.len();
        let messages: Vec<Message> = received.into_iter().filter_map(message).collect();
        if messages.len() < asked {
            // Nothing can be done for these: without a handle they cannot be returned either.
            tracing::warn!(dropped = asked - messages.len(), "received messages without id or handle; left to expire");
        }
        Ok(messages)
    }

    async fn delete(&self, handles: &[ReceiptHandle]) -> Result<Vec<EntryReply>, QueueError> {
        if handles.is_empty() {
            return Ok(Vec::new()); // SQS refuses an empty batch
        }
        let entries = handles
            .iter()
            .enumerate()
            .map(|(position, handle)| {
                DeleteMessageBatchRequestEntry::builder().id(position.to_string()).receipt_handle(&handle.0).build()
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| QueueError::Refused(error.to_string()))?;
        let request = self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let reply = request.send().await.map_err(judge)?;
        Ok(by_position(handles.len(), reply.successful.iter().map(|entry| entry.id.as_str()), &reply.failed))
    }

    async fn change_visibility(&self, changes: &[(ReceiptHandle, Duration)]) -> Result<Vec<EntryReply>, QueueError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let entries = changes
            .iter()
            .enumerate()
            .map(|(position, (handle, visibility))| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(position.to_string())
                    .receipt_handle(&handle.0)
                    .visibility_timeout(whole_seconds(*visibility))
                    .build()
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| QueueError::Refused(error.to_string()))?;
        let request = self.client.change_message_visibility_batch().queue_url(&self.url).set_entries(Some(entries));
        let reply = request.send().await.map_err(judge)?;
        Ok(by_position(changes.len(), reply.successful.iter().map(|entry| entry.id.as_str()), &reply.failed))
    }

    async fn send(&self, message: &Outgoing) -> Result<MessageId, QueueError> {
        let mut request = self.client.send_message().queue_url(&self.url).message_body(&message.body);
        for (name, attribute) in &message.attributes {
            request = request.message_attributes(name, attribute_value(attribute)?);
        }
        let reply = request.set_message_group_id(message.group_id.clone()).send().await.map_err(judge)?;
        // Without an id there is no acknowledgement: the caller must not delete on the strength of it.
        reply.message_id.map(MessageId).ok_or_else(|| QueueError::Unavailable("send reply without a message id".into()))
    }

    async fn send_batch(&self, messages: &[Outgoing]) -> Result<Vec<SendReply>, QueueError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let mut entries = Vec::with_capacity(messages.len());
        for (position, message) in messages.iter().enumerate() {
            let mut entry =
                SendMessageBatchRequestEntry::builder().id(position.to_string()).message_body(&message.body);
            for (name, attribute) in &message.attributes {
                entry = entry.message_attributes(name, attribute_value(attribute)?);
            }
            let entry = entry.set_message_group_id(message.group_id.clone()).build();
            entries.push(entry.map_err(|error| QueueError::Refused(error.to_string()))?);
        }
        let request = self.client.send_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let reply = request.send().await.map_err(judge)?;
        Ok(sent_by_position(messages.len(), &reply.successful, &reply.failed))
    }

    async fn facts(&self) -> Result<QueueFacts, QueueError> {
        let request = self.client.get_queue_attributes().queue_url(&self.url).attribute_names(Fact::All);
        let attributes = request.send().await.map_err(judge)?.attributes.unwrap_or_default();
        let number = |fact: Fact| attributes.get(&fact).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let policy = match attributes.get(&Fact::RedrivePolicy).filter(|text| !text.is_empty()) {
            Some(text) => serde_json::from_str::<RedrivePolicy>(text)
                .map_err(|error| QueueError::Refused(format!("redrive policy of the queue: {error}")))?,
            None => RedrivePolicy::default(),
        };
        Ok(QueueFacts {
            arn: attributes.get(&Fact::QueueArn).cloned().unwrap_or_default(),
            visibility: Duration::from_secs(number(Fact::VisibilityTimeout)),
            max_receive_count: policy.max_receive_count.and_then(Count::number),
            dead_letter_arn: policy.dead_letter_target_arn,
            retention: Duration::from_secs(number(Fact::MessageRetentionPeriod)),
            visible: number(Fact::ApproximateNumberOfMessages),
            in_flight: number(Fact::ApproximateNumberOfMessagesNotVisible),
            delayed: number(Fact::ApproximateNumberOfMessagesDelayed),
            redrive_allow: match attributes.get(&Fact::RedriveAllowPolicy).filter(|text| !text.is_empty()) {
                Some(text) => serde_json::from_str::<AllowPolicy>(text)
                    .map_err(|error| QueueError::Refused(format!("redrive allow policy of the queue: {error}")))?
                    .into(),
                None => RedriveAllow::All,
            },
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RedrivePolicy {
    dead_letter_target_arn: Option<String>,
    max_receive_count: Option<Count>,
}

/// The forms that SQS documents ("RedriveAllowPolicy").
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AllowPolicy {
    redrive_permission: Permission,
    #[serde(default)]
    source_queue_arns: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Permission {
    AllowAll,
    DenyAll,
    ByQueue,
}

impl From<AllowPolicy> for RedriveAllow {
    fn from(policy: AllowPolicy) -> Self {
        match policy.redrive_permission {
            Permission::AllowAll => RedriveAllow::All,
            Permission::DenyAll => RedriveAllow::Nobody,
            Permission::ByQueue => RedriveAllow::These(policy.source_queue_arns),
        }
    }
}

/// SQS gives `maxReceiveCount` back as it was set: a number, or (from many templates) a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Count {
    Number(u32),
    Text(String),
}

impl Count {
    fn number(self) -> Option<u32> {
        match self {
            Count::Number(number) => Some(number),
            Count::Text(text) => text.parse().ok(),
        }
    }
}

/// Rounded up: what we believe to be ours must never end later than what SQS was asked for.
fn whole_seconds(time: Duration) -> i32 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i32::try_from(seconds.min(SQS_MAX_VISIBILITY.as_secs())).unwrap_or(i32::MAX)
}

fn message(received: SqsMessage) -> Option<Message> {
    let system = received.attributes.unwrap_or_default();
    let number = |name: System| system.get(&name).and_then(|text| text.parse::<u64>().ok());
    Some(Message {
        id: MessageId(received.message_id?),
        handle: ReceiptHandle(received.receipt_handle?),
        body: received.body.unwrap_or_default(),
        attributes: received
            .message_attributes
            .unwrap_or_default()
            .into_iter()
            .map(attribute)
            .collect::<BTreeMap<_, _>>(),
        receive_count: number(System::ApproximateReceiveCount)
            .map_or(1, |count| u32::try_from(count.max(1)).unwrap_or(u32::MAX)),
        sent_at_ms: number(System::SentTimestamp),
        group_id: system.get(&System::MessageGroupId).cloned(),
        moved_from: system.get(&System::DeadLetterQueueSourceArn).cloned(),
    })
}

fn attribute_value(attribute: &MessageAttribute) -> Result<MessageAttributeValue, QueueError> {
    let value = MessageAttributeValue::builder().data_type(&attribute.data_type);
    let value = match &attribute.value {
        AttributeValue::Text(text) => value.string_value(text),
        AttributeValue::Binary(bytes) => value.binary_value(Blob::new(bytes.clone())),
    };
    value.build().map_err(|error| QueueError::Refused(error.to_string()))
}

fn attribute((name, received): (String, MessageAttributeValue)) -> (String, MessageAttribute) {
    let value = match received.binary_value {
        Some(bytes) => AttributeValue::Binary(bytes.into_inner()),
        None => AttributeValue::Text(received.string_value.unwrap_or_default()),
    };
    (name, MessageAttribute { data_type: received.data_type, value })
}

/// Joins a batch reply to its request: ids are positions. What the reply does not mention is unknown, so it is an
/// error; what was not asked is ignored; what is both successful and failed failed.
fn by_position<'a>(
    asked: usize,
    successful: impl Iterator<Item = &'a str>,
    failed: &[BatchResultErrorEntry],
) -> Vec<EntryReply> {
    let unmentioned = Err(Refusal { code: "NoReply".into(), sender_fault: false });
    let mut replies = vec![unmentioned; asked.min(SQS_MAX_BATCH)];
    for id in successful {
        if let Some(reply) = position(id).and_then(|at| replies.get_mut(at)) {
            *reply = Ok(());
        }
    }
    for entry in failed {
        if let Some(reply) = position(&entry.id).and_then(|at| replies.get_mut(at)) {
            *reply = Err(Refusal { code: entry.code.clone(), sender_fault: entry.sender_fault });
        }
    }
    replies
}

/// The same for messages that were sent: without an id there is no acknowledgement.
fn sent_by_position(
    asked: usize,
    successful: &[SendMessageBatchResultEntry],
    failed: &[BatchResultErrorEntry],
) -> Vec<SendReply> {
    let replies = by_position(asked, successful.iter().map(|entry| entry.id.as_str()), failed);
    let id = |at: usize| successful.iter().find(|entry| position(&entry.id) == Some(at)).map(|entry| &entry.message_id);
    let named = |(at, reply): (usize, EntryReply)| {
        reply.and_then(|()| match id(at).filter(|id| !id.is_empty()) {
            Some(id) => Ok(MessageId(id.clone())),
            None => Err(Refusal { code: "NoReply".into(), sender_fault: false }),
        })
    };
    replies.into_iter().enumerate().map(named).collect()
}

fn position(id: &str) -> Option<usize> {
    // "+1" and "01" parse as numbers, but we never asked for them.
    id.parse().ok().filter(|at: &usize| at.to_string() == id)
}

/// The one place that says what an SDK error means.
fn judge<E: ProvideErrorMetadata + std::error::Error + 'static>(error: SdkError<E>) -> QueueError {
    judge_fault(match &error {
        SdkError::ConstructionFailure(_) => Fault::unsendable(&error),
        SdkError::ServiceError(answer) => {
            Fault::answered(answer.raw().status().as_u16(), answer.err().code(), answer.err().message())
        }
        _ => Fault::silent(&error),
    })
}

fn judge_fault(fault: Fault) -> QueueError {
    let (status, code, text) = match fault {
        Fault::Unsendable { text } => return QueueError::Refused(text),
        Fault::Silent { text } => return QueueError::Unavailable(text),
        Fault::Answered { status, code, text } => (status, code.unwrap_or_default(), text),
    };
    // `AWS.SimpleQueueService.X` is the older protocol's name of X.
    let code = code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(&code);
    match code {
        "QueueDoesNotExist" | "NonExistentQueue" => QueueError::Missing(text),
        "RequestThrottled" | "KmsThrottled" | "OverLimit" => QueueError::Unavailable(text),
        _ if code.contains("Throttling") || blames_credentials(code) => QueueError::Unavailable(text),
        // An error without a code is not SQS's: a proxy, a captive portal, half an answer.
        "" => QueueError::Unavailable(text),
        _ if status >= 500 || status == 429 || status == 408 => QueueError::Unavailable(text),
        // `KmsAccessDenied` and `KMS.AccessDeniedException`: the newer and the older protocol's name; all are 400.
        _ if code.starts_with("Kms") || code.starts_with("KMS.") => QueueError::Denied(text),
        "AccessDenied" | "AccessDeniedException" => QueueError::Denied(text),
        _ if status == 401 || status == 403 => QueueError::Denied(text),
        _ => QueueError::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(id: &str, code: &str, sender_fault: bool) -> BatchResultErrorEntry {
        BatchResultErrorEntry::builder().id(id).code(code).sender_fault(sender_fault).build().unwrap()
    }

    #[test]
    fn an_entry_the_reply_does_not_mention_is_refused_and_one_not_asked_is_ignored() {
        let stale = failed("1", "ReceiptHandleIsInvalid", true);
        let foreign = failed("7", "InternalError", false);
        let replies = by_position(4, ["3", "0", "01", "+2", "x", "9"].into_iter(), &[foreign, stale]);
        let refusal = |code: &str, sender_fault| Err(Refusal { code: code.into(), sender_fault });
        assert_eq!(replies, [Ok(()), refusal("ReceiptHandleIsInvalid", true), refusal("NoReply", false), Ok(())]);
    }

    #[test]
    fn an_entry_named_twice_counts_as_failed() {
        let replies = by_position(1, ["0"].into_iter(), &[failed("0", "InternalError", false)]);
        assert_eq!(replies, [Err(Refusal { code: "InternalError".into(), sender_fault: false })]);
    }

    #[test]
    fn a_sent_message_is_acknowledged_by_its_own_id_and_nothing_else() {
        let sent = |id: &str, message: &str| {
            let entry = SendMessageBatchResultEntry::builder().id(id).message_id(message).md5_of_message_body("m");
            entry.build().unwrap()
        };
        let replies = sent_by_position(
            4,
            &[sent("2", "c"), sent("0", "a"), sent("3", "")],
            &[failed("2", "InternalError", false)],
        );
        let refusal = |code: &str| Err(Refusal { code: code.into(), sender_fault: false });
        assert_eq!(
            replies,
            [Ok(MessageId("a".into())), refusal("NoReply"), refusal("InternalError"), refusal("NoReply")]
        );
    }

    #[test]
    fn errors_say_whose_fault_they_are() {
        let judged = |status, code: &str| judge_fault(Fault::answered(status, Some(code), Some("why")));
        for code in ["QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"] {
            assert_eq!(judged(400, code), QueueError::Missing(format!("{code}: why")));
        }
        let systemic = [
            (400, "RequestThrottled"),
            (400, "ThrottlingException"),
            (400, "KMS.ThrottlingException"),
            (400, "KmsThrottled"),
            (403, "OverLimit"),
            (403, "ExpiredToken"),
            (403, "InvalidClientTokenId"),
            (403, "SignatureDoesNotMatch"),
            (403, "RequestTimeTooSkewed"),
            (500, "InternalFailure"),
            (503, "ServiceUnavailable"),
            (429, "TooManyRequests"),
        ];
        for (status, code) in systemic {
            assert_eq!(judged(status, code), QueueError::Unavailable(format!("{code}: why")), "{status}");
        }
        let denied = [
            (403, "AccessDenied"),
            (400, "AccessDeniedException"),
            (403, "InvalidSecurity"),
            (400, "KmsAccessDenied"),
            (400, "KMS.DisabledException"),
        ];
        for (status, code) in denied {
            assert_eq!(judged(status, code), QueueError::Denied(format!("{code}: why")), "{status}");
        }
        for (status, code) in [(400, "InvalidParameterValue"), (400, "InvalidMessageContents")] {
            assert_eq!(judged(status, code), QueueError::Refused(format!("{code}: why")), "{status}");
        }
        assert_eq!(judge_fault(Fault::answered(403, None, None)), QueueError::Unavailable("status 403".into()));
        let timeout = Fault::Silent { text: "timeout".into() };
        assert_eq!(judge_fault(timeout), QueueError::Unavailable("timeout".into()));
    }

    #[test]
    fn times_are_rounded_up_to_what_sqs_takes() {
        let cases = [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (99_999_999_000, 43_200)];
        for (milliseconds, seconds) in cases {
            assert_eq!(whole_seconds(Duration::from_millis(milliseconds)), seconds, "{milliseconds} ms");
        }
    }

    #[test]
    fn a_redrive_policy_may_hold_its_count_as_text() {
        for count in ["\"5\"", "5"] {
            let text = format!(r#"{{"deadLetterTargetArn":"arn:aws:sqs:r:1:d","maxReceiveCount":{count},"other":1}}"#);
            let policy: RedrivePolicy = serde_json::from_str(&text).unwrap();
            assert_eq!(policy.max_receive_count.and_then(Count::number), Some(5));
            assert_eq!(policy.dead_letter_target_arn.as_deref(), Some("arn:aws:sqs:r:1:d"));
        }
    }

    #[test]
    fn a_message_without_id_or_handle_is_dropped() {
        let whole = SqsMessage::builder().message_id("m").receipt_handle("h");
        assert_eq!(message(whole.build()).unwrap().receive_count, 1);
        assert_eq!(message(SqsMessage::builder().message_id("m").build()), None);
        assert_eq!(message(SqsMessage::builder().receipt_handle("h").build()), None);
    }
}
