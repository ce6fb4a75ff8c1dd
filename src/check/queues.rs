//! The queue, its dead-letter queue, and the policy that joins them.
//!
//! Promises that every fault here comes with the command that mends it. Reads attributes only.

use std::time::Duration;

use super::{Finding, QueueAt, Subject, within};
use crate::queue::{QueueError, QueueFacts};

/// Below this, deploys and lost polls alone can send a sound message to the DLQ without a reason.
const LOWEST_MAX_RECEIVES: u32 = 5;
/// What we advise: our own attempt budget ends long before.
const ADVISED_MAX_RECEIVES: u32 = 20;
/// SQS's longest retention: 14 days.
const SQS_MAX_RETENTION: Duration = Duration::from_secs(1_209_600);
/// Below this no lease can be extended in time.
const SHORTEST_LEASE: Duration = Duration::from_secs(10);
/// Above this a crash delays its messages for longer than anybody expects.
const LONG_LEASE: Duration = Duration::from_secs(300);

type Facts = Result<QueueFacts, QueueError>;

/// The findings, and the ARN of the main queue where it said one.
pub(super) async fn check(subject: &Subject<'_>) -> (Vec<Finding>, Option<String>) {
    let ask = async |at: QueueAt<'_>| within(at.queue.facts(), QueueError::Unavailable).await;
    let (main, dlq) = tokio::join!(ask(subject.queue), async {
        match subject.dlq {
            Some(at) => Some(ask(at).await),
            None => None,
        }
    });
    let mut findings = vec![queue(&main), kind(subject, &main), dead_letter_queue(subject, &main, dlq.as_ref())];
    let Ok(main) = &main else {
        for name in ["dlq_pairing", "max_receives", "retention", "lease"] {
            findings.push(Finding::skipped(name, "needs the attributes of the queue"));
        }
        return (findings, None);
    };
    let dlq = dlq.and_then(Result::ok);
    findings.push(match &dlq {
        Some(dlq) => pairing(subject, main, dlq),
        None => Finding::skipped("dlq_pairing", "needs the attributes of the dead-letter queue"),
    });
    findings.push(max_receives(subject, main, dlq.as_ref()));
    findings.push(match &dlq {
        Some(dlq) => retention(subject, main, dlq),
        None => Finding::skipped("retention", "needs the attributes of the dead-letter queue"),
    });
    findings.push(lease(subject, main));
    (findings, Some(main.arn.clone()))
}

fn queue(main: &Facts) -> Finding {
    match main {
        Ok(facts) => Finding::pass("queue", &seen(facts)),
        Err(error) => Finding::fail("queue", &error.to_string(), unreachable("SQS_QUEUE_URL", error)),
    }
}

fn seen(facts: &QueueFacts) -> String {
    let QueueFacts { arn, visible, in_flight, delayed, .. } = facts;
    format!("{arn}: {visible} visible, {in_flight} in flight, {delayed} delayed")
}

fn unreachable(variable: &'static str, error: &QueueError) -> &'static str {
    match (error, variable) {
        (QueueError::Missing(_), "SQS_DLQ_URL") => "check SQS_DLQ_URL and AWS_REGION; create the queue if it is new",
        (QueueError::Missing(_), _) => "check SQS_QUEUE_URL and AWS_REGION; create the queue if it is new",
        (QueueError::Denied(_) | QueueError::Refused(_), _) => {
            "grant the worker sqs:GetQueueAttributes on this queue; check its credentials"
        }
        (QueueError::Unavailable(_), _) => {
            "check the network to sqs (endpoint, dns, proxy, AWS_ENDPOINT_URL) and that the credentials have not expired"
        }
    }
}

fn kind(subject: &Subject<'_>, main: &Facts) -> Finding {
    // The URL tells it too, when the queue itself does not answer.
    let fifo = subject.queue.url.ends_with(".fifo") || main.as_ref().is_ok_and(|facts| facts.arn.ends_with(".fifo"));
    if fifo {
        Finding::fail("queue_type", "the queue is a fifo queue", "use a standard queue: s3 cannot notify a fifo queue")
    } else {
        Finding::pass("queue_type", "standard queue")
    }
}

fn dead_letter_queue(subject: &Subject<'_>, main: &Facts, dlq: Option<&Facts>) -> Finding {
    let name = "dlq";
    let policy = main.as_ref().ok().and_then(|facts| facts.dead_letter_arn.as_deref());
    match (dlq, policy) {
        (Some(Ok(facts)), _) => Finding::pass(name, &seen(facts)),
        (Some(Err(error)), _) => Finding::fail(name, &error.to_string(), unreachable("SQS_DLQ_URL", error)),
        (None, Some(arn)) => Finding::fail(
            name,
            &format!("the redrive policy names {arn}, which was not opened"),
            "create that queue, or set SQS_DLQ_URL to its url",
        ),
        (None, None) if main.is_err() => Finding::skipped(name, "needs the attributes of the queue"),
        (None, None) => Finding::fail(
            name,
            "the queue has no redrive policy and SQS_DLQ_URL is not set: a message that cannot be done has nowhere to go",
            &format!(
                "create a queue, then: {}",
                set_attributes(subject.queue.url, "RedrivePolicy", &policy_text("DLQ_ARN", ADVISED_MAX_RECEIVES))
            ),
        ),
    }
}

fn pairing(subject: &Subject<'_>, main: &QueueFacts, dlq: &QueueFacts) -> Finding {
    let name = "dlq_pairing";
    let join = set_attributes(
        subject.queue.url,
        "RedrivePolicy",
        &policy_text(&dlq.arn, main.max_receive_count.unwrap_or(0).max(ADVISED_MAX_RECEIVES)),
    );
    if main.arn == dlq.arn {
        return Finding::fail(
            name,
            "the queue is its own dead-letter queue: a dead letter would come back for ever",
            "set SQS_DLQ_URL to another queue",
        );
    }
    match &main.dead_letter_arn {
        Some(arn) if *arn == dlq.arn => Finding::pass(name, "the redrive policy of the queue names this dlq"),
        Some(arn) => Finding::fail(
            name,
            &format!("the redrive policy names {arn}, SQS_DLQ_URL is {}", dlq.arn),
            &format!("correct SQS_DLQ_URL, or: {join}"),
        ),
        None => Finding::fail(name, "the queue has no redrive policy that names this dlq", &join),
    }
}

fn max_receives(subject: &Subject<'_>, main: &QueueFacts, dlq: Option<&QueueFacts>) -> Finding {
    let name = "max_receives";
    let arn = main.dead_letter_arn.as_deref().or(dlq.map(|facts| facts.arn.as_str())).unwrap_or("DLQ_ARN");
    let raise = set_attributes(subject.queue.url, "RedrivePolicy", &policy_text(arn, ADVISED_MAX_RECEIVES));
    match main.max_receive_count {
        None => Finding::fail(name, "no maxReceiveCount: a message that ends the worker circles for ever", &raise),
        Some(count) if count < LOWEST_MAX_RECEIVES => Finding::fail(
            name,
            &format!("maxReceiveCount is {count}: deploys and lost polls alone reach it, and sqs gives no reason"),
            &raise,
        ),
        Some(count) if count < ADVISED_MAX_RECEIVES => Finding::warn(
            name,
            &format!(
                "maxReceiveCount is {count}, {ADVISED_MAX_RECEIVES} is advised: sqs may dead-letter without a reason first"
            ),
            &raise,
        ),
        Some(count) => Finding::pass(name, &format!("maxReceiveCount is {count}")),
    }
}

fn retention(subject: &Subject<'_>, main: &QueueFacts, dlq: &QueueFacts) -> Finding {
    let name = "retention";
    let days = |period: Duration| {
        let hours = period.as_secs() / 3_600;
        if hours.is_multiple_of(24) { format!("{} d", hours / 24) } else { format!("{hours} h") }
    };
    let evidence = format!("queue {}, dlq {}", days(main.retention), days(dlq.retention));
    if dlq.retention > main.retention {
        return Finding::pass(name, &evidence);
    }
    // What SQS moves itself keeps its first timestamp: it may arrive in the DLQ with minutes to live.
    let evidence = format!("{evidence}: a message moved late expires in the dlq before anybody looks");
    let lengthen = |at: QueueAt<'_>, period: u64| set_attributes(at.url, "MessageRetentionPeriod", &period.to_string());
    let fix = match subject.dlq {
        Some(at) if main.retention < SQS_MAX_RETENTION => lengthen(at, SQS_MAX_RETENTION.as_secs()),
        // The DLQ cannot have more than 14 days: the queue must have less.
        _ => lengthen(subject.queue, 345_600),
    };
    Finding::fail(name, &evidence, &fix)
}

fn lease(subject: &Subject<'_>, main: &QueueFacts) -> Finding {
    let name = "lease";
    let lease = subject.visibility.as_secs();
    let evidence = format!(
        "SQS_VISIBILITY_TIMEOUT is {lease} s, set at each receive; the queue's own {} s is for other consumers",
        main.visibility.as_secs()
    );
    if subject.visibility < SHORTEST_LEASE {
        Finding::fail(name, &evidence, "set SQS_VISIBILITY_TIMEOUT to 10 or more; 60 is advised")
    } else if subject.visibility > LONG_LEASE {
        Finding::warn(
            name,
            &format!("{evidence}; after a crash its messages stay hidden for up to {lease} s"),
            "set SQS_VISIBILITY_TIMEOUT=60: heartbeats extend it for as long as work runs",
        )
    } else {
        Finding::pass(name, &evidence)
    }
}

fn policy_text(dlq_arn: &str, max_receives: u32) -> String {
    serde_json::json!({"deadLetterTargetArn": dlq_arn, "maxReceiveCount": max_receives.to_string()}).to_string()
}

/// A command to paste. Attributes as JSON: the short form cannot hold a redrive policy.
fn set_attributes(url: &str, attribute: &str, value: &str) -> String {
    let attributes = serde_json::json!({ attribute: value }).to_string();
    let endpoint = match url.split('/').take(3).collect::<Vec<_>>().join("/") {
        aws if aws.ends_with(".amazonaws.com") || aws.ends_with(".amazonaws.com.cn") => String::new(),
        // The aws command asks the real SQS unless told: for SQS its version 1 reads no AWS_ENDPOINT_URL.
        other => format!(" --endpoint-url {}", shell_quoted(&other)),
    };
    format!(
        "aws sqs set-queue-attributes{endpoint} --queue-url {} --attributes {}",
        shell_quoted(url),
        shell_quoted(&attributes)
    )
}

fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
