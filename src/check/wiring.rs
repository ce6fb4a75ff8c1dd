//! Whom the buckets notify, and what they delete by themselves.
//!
//! Promises that a worker which would wait for ever, one whose own records come back as work, and records that a rule
//! would delete are told before the first night. Changes nothing; what may not be looked at is a warning, for the worker
//! itself needs no right to it.

use futures_util::future::join_all;

use super::{Finding, Subject, within};
use crate::message::s3_event::Source;
use crate::store::StoreError;
use crate::store::wiring::{Expiration, Notification, Notifications, Wiring};

/// Prefixes of the results bucket under which nothing may go by itself.
const LASTING: [&str; 4] = ["processed/", "retry-index/", "errored-index/", "control/"];

/// `queue`: ARN of the main queue, where it said one.
pub(super) async fn check(subject: &Subject<'_>, queue: Option<&str>) -> Vec<Finding> {
    let Some(wiring) = subject.wiring else { return Vec::new() };
    let bucket = subject.results_bucket;
    let (sources, results, rules) = tokio::join!(
        join_all(subject.sources.iter().map(|source| arrives(wiring, source, queue))),
        within(wiring.notifications(bucket), StoreError::Unavailable),
        within(wiring.expirations(bucket), StoreError::Unavailable)
    );
    let mut findings: Vec<Finding> = sources;
    findings.push(no_loop(bucket, &results, queue));
    findings.push(spared(bucket, &rules));
    findings
}

async fn arrives(wiring: &dyn Wiring, source: &Source, queue: Option<&str>) -> Finding {
    let Source { bucket, prefix } = source;
    let (told, rules) = tokio::join!(
        within(wiring.notifications(bucket), StoreError::Unavailable),
        within(wiring.expirations(bucket), StoreError::Unavailable)
    );
    notified(bucket, prefix, &told, &rules, queue)
}

fn notified(
    bucket: &str,
    prefix: &str,
    told: &Result<Notifications, StoreError>,
    rules: &Result<Vec<Expiration>, StoreError>,
    queue: Option<&str>,
) -> Finding {
    let name = "notification";
    let told = match told {
        Ok(told) => told,
        Err(error) => return unseen(name, bucket, "s3:GetBucketNotification", error),
    };
    let Some(queue) = queue else { return Finding::skipped(name, &format!("{bucket}: needs the queue's ARN")) };
    let ours: Vec<&Notification> = told.all.iter().filter(|one| one.target == queue).collect();
    let add = format!(
        "add it to the bucket's notifications: queue {queue}, events s3:ObjectCreated:*, s3:ObjectRemoved:*, \
         s3:LifecycleExpiration:* (deploy/stack.yaml has all of it, the queue's policy too)"
    );
    if ours.is_empty() {
        let topic = told.all.iter().find(|one| one.target.contains(":sns:"));
        return match (topic, told.event_bridge) {
            (Some(Notification { target, .. }), _) => {
                Finding::pass(name, &format!("{bucket}: notifies topic {target}; what that sends on is not looked at"))
            }
            (None, true) => {
                Finding::pass(name, &format!("{bucket}: notifies EventBridge; what its rules do is not looked at"))
            }
            (None, false) => {
                Finding::warn(name, &format!("{bucket}: does not notify the queue: no file of it will be seen"), &add)
            }
        };
    }
    // Any of them may bring an event; a key is told if any of them matches it.
    let tells = |event: &str, wanted: &str| {
        let kind = wanted.split(':').take(2).collect::<Vec<_>>().join(":");
        event == wanted || event.starts_with(&kind) && event.ends_with(":*")
    };
    let covers = |one: &&&Notification| prefix.starts_with(&one.prefix) && one.suffix.is_empty();
    let brings =
        |wanted: &str| ours.iter().filter(covers).any(|one| one.events.iter().any(|event| tells(event, wanted)));
    let mut missing = Vec::new();
    if !brings("s3:ObjectCreated:*") {
        missing.push("s3:ObjectCreated:*: new files of this source are not all told");
    }
    if !brings("s3:ObjectRemoved:*") {
        missing.push("s3:ObjectRemoved:*: removed files stay found");
    }
    let reaches = |rule: &Expiration| rule.prefix.starts_with(prefix) || prefix.starts_with(&rule.prefix);
    match rules {
        _ if brings("s3:LifecycleExpiration:*") => {}
        Ok(rules) if rules.iter().any(reaches) => {
            missing.push("s3:LifecycleExpiration:*: files that a lifecycle rule deletes stay found");
        }
        Ok(_) => {}
        // Whether a rule deletes something of it is not known.
        Err(error) if missing.is_empty() => return unseen(name, bucket, "s3:GetLifecycleConfiguration", error),
        Err(_) => {}
    }
    match missing.is_empty() {
        true => Finding::pass(name, &format!("{bucket}/{prefix}: the queue is told of what comes and what goes")),
        false => {
            Finding::warn(name, &format!("{bucket}/{prefix}: the queue is not told of {}", missing.join("; ")), &add)
        }
    }
}

fn no_loop(bucket: &str, told: &Result<Notifications, StoreError>, queue: Option<&str>) -> Finding {
    let name = "notification_loop";
    let told = match told {
        Ok(told) => told,
        Err(error) => return unseen(name, bucket, "s3:GetBucketNotification", error),
    };
    match told.all.iter().find(|one| Some(one.target.as_str()) == queue) {
        Some(_) => Finding::fail(
            name,
            &format!("{bucket}: notifies the queue of our own records: each one written would be a message more"),
            "take the queue out of that bucket's notifications",
        ),
        None if queue.is_none() && !told.all.is_empty() => {
            Finding::skipped(name, &format!("{bucket}: needs the queue's ARN"))
        }
        None if told.all.is_empty() && !told.event_bridge => Finding::pass(name, &format!("{bucket}: notifies nobody")),
        None => Finding::pass(name, &format!("{bucket}: notifies others, and not the queue")),
    }
}

fn spared(bucket: &str, rules: &Result<Vec<Expiration>, StoreError>) -> Finding {
    let name = "results_lifecycle";
    let rules = match rules {
        Ok(rules) => rules,
        Err(error) => return unseen(name, bucket, "s3:GetLifecycleConfiguration", error),
    };
    let reaches = |rule: &&Expiration| {
        LASTING.iter().any(|lasting| lasting.starts_with(&rule.prefix) || rule.prefix.starts_with(lasting))
    };
    match rules.iter().find(reaches) {
        Some(Expiration { rule, prefix }) => Finding::fail(
            name,
            &format!(
                "{bucket}: lifecycle rule {rule:?} deletes what begins with {prefix:?}: records and markers must stay, or \
                 finished work is done again and parked documents are lost"
            ),
            "take that rule away, or give it a prefix of its own: attempts/, archive/, redrive/",
        ),
        None => Finding::pass(name, &format!("{bucket}: no lifecycle rule reaches records or markers")),
    }
}

/// Not a failure: the worker runs without that right.
fn unseen(name: &'static str, bucket: &str, right: &str, error: &StoreError) -> Finding {
    let fix = format!("grant {right} on arn:aws:s3:::{bucket} to whoever runs this check");
    Finding::warn(name, &format!("{bucket}: cannot be looked at: {error}"), &fix)
}
