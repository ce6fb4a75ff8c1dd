//! The contract of a queue.
//!
//! LocalStack differs, so the model alone is asked: that an old handle cannot change a visibility, and the 12-hour cap.

use std::collections::BTreeMap;
use std::time::Duration;

use quittance::message::{AttributeValue, Message, MessageAttribute, ReceiptHandle};
use quittance::queue::sqs::{self, SqsQueue};
use quittance::queue::{BatchSize, Outgoing, Queue, QueueError, SQS_MAX_MESSAGE_BYTES};
use tokio::time::Instant;

use crate::sim::{QueueSettings, World};
use crate::{contract, local_aws, unique};

/// A queue whose messages go to `dead_letters` after two receives, and a queue that is not there.
struct Bed {
    queue: Box<dyn Queue>,
    dead_letters: Box<dyn Queue>,
    missing: Box<dyn Queue>,
}

impl Bed {
    fn of_the_model() -> Self {
        let world = World::with(1, 2);
        let missing = crate::sim::ModelQueue::new(QueueSettings::default(), 1, world.ticks.clone());
        missing.remove();
        Self { queue: Box::new(world.queue), dead_letters: Box::new(world.dead_letters), missing: Box::new(missing) }
    }

    async fn of_the_local_stack() -> Self {
        let client = sqs::settling_client(&local_aws().await);
        let name = unique("contract");
        let dead = client.create_queue().queue_name(format!("{name}-dlq")).send().await.unwrap().queue_url.unwrap();
        let dead_letters = SqsQueue::new(client.clone(), dead);
        let target = dead_letters.facts().await.unwrap().arn;
        let policy = format!(r#"{{"deadLetterTargetArn":"{target}","maxReceiveCount":"2"}}"#);
        let settings =
            [("RedrivePolicy", policy.as_str()), ("VisibilityTimeout", "60"), ("MessageRetentionPeriod", "1209600")];
        let mut request = client.create_queue().queue_name(&name);
        for (fact, value) in settings {
            request = request.attributes(fact.into(), value);
        }
        let url = request.send().await.unwrap().queue_url.unwrap();
        let found = sqs::url_of_arn(&client, &target).await.unwrap();
        assert!(found.ends_with(&format!("{name}-dlq")), "{found}");
        // Receives through the client that receives, on a pool of its own.
        let polling = sqs::polling_client(&local_aws().await, Duration::from_secs(5));
        Self {
            queue: Box::new(SqsQueue::new(polling, &url)),
            dead_letters: Box::new(dead_letters),
            missing: Box::new(SqsQueue::new(client, format!("{url}-gone"))),
        }
    }
}

contract! { Bed:
    a_message_arrives_byte_for_byte,
    a_message_is_delivered_again_when_its_visibility_ends,
    a_message_returned_with_zero_is_visible_at_once,
    an_extension_holds_a_message,
    a_batch_delete_answers_each_entry_in_its_place,
    a_batch_change_answers_each_entry_in_its_place,
    deleting_twice_is_a_yes,
    an_empty_queue_answers_with_nothing,
    a_message_received_too_often_moves_to_the_dead_letters,
    facts_tell_the_policy_and_the_counts,
    a_message_of_one_mebibyte_is_taken_and_a_larger_one_refused,
    a_queue_that_is_not_there_is_missing,
    a_batch_is_sent_and_each_message_acknowledged_in_its_place,
    a_batch_of_more_than_ten_is_refused_whole,
}

const LONG: Duration = Duration::from_secs(60);

fn plain(body: &str) -> Outgoing {
    Outgoing { body: body.into(), attributes: BTreeMap::new(), group_id: None }
}

/// The next message, however long the service's tick is: waits for the condition, with a deadline.
async fn next(queue: &dyn Queue, visibility: Duration) -> Message {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        let received = queue.receive(BatchSize::clamped(1), Duration::from_secs(2), visibility).await.unwrap();
        if let Some(message) = received.into_iter().next() {
            return message;
        }
    }
    panic!("no message within the deadline");
}

async fn nothing_for(queue: &dyn Queue, wait: Duration) {
    assert_eq!(queue.receive(BatchSize::clamped(10), wait, LONG).await.unwrap(), []);
}

fn attribute(data_type: &str, value: AttributeValue) -> MessageAttribute {
    MessageAttribute { data_type: data_type.into(), value }
}

async fn a_message_arrives_byte_for_byte(bed: &Bed) {
    let text = |text: &str| AttributeValue::Text(text.into());
    let sent = Outgoing {
        body: "{\"鍵\": \"日本語 + %2B 😀\\n\"}\r\n\t<&>\"' ".into(),
        attributes: BTreeMap::from([
            ("plain".into(), attribute("String", text("値 with spaces  "))),
            ("custom".into(), attribute("String.json", text("{}"))),
            ("number".into(), attribute("Number.int", text("007"))),
            ("bytes".into(), attribute("Binary", AttributeValue::Binary((0..=255).collect()))),
            ("picture".into(), attribute("Binary.gif", AttributeValue::Binary(vec![0, 255, 0]))),
        ]),
        group_id: Some("tenant-7".into()),
    };
    let id = bed.queue.send(&sent).await.unwrap();
    let got = next(&*bed.queue, LONG).await;
    assert_eq!(got.id, id);
    assert_eq!(got.receive_count, 1);
    assert!(got.sent_at_ms.is_some_and(|ms| ms > 1_700_000_000_000));
    assert_eq!(got.moved_from, None);
    assert_eq!(Outgoing { body: got.body, attributes: got.attributes, group_id: got.group_id }, sent);
}

async fn a_message_is_delivered_again_when_its_visibility_ends(bed: &Bed) {
    bed.queue.send(&plain("m")).await.unwrap();
    let first = next(&*bed.queue, Duration::from_secs(1)).await;
    let second = next(&*bed.queue, LONG).await;
    assert_eq!((second.id, second.body), (first.id, first.body));
    assert_eq!((first.receive_count, second.receive_count), (1, 2));
    assert_ne!(first.handle, second.handle);
    assert_eq!(first.sent_at_ms, second.sent_at_ms);
}

async fn a_message_returned_with_zero_is_visible_at_once(bed: &Bed) {
    bed.queue.send(&plain("m")).await.unwrap();
    let first = next(&*bed.queue, Duration::from_secs(600)).await;
    let replies = bed.queue.change_visibility(&[(first.handle, Duration::ZERO)]).await.unwrap();
    assert_eq!(replies, [Ok(())]);
    // Long before the 600 s: `next` has its own deadline.
    assert_eq!(next(&*bed.queue, LONG).await.receive_count, 2);
}

async fn an_extension_holds_a_message(bed: &Bed) {
    bed.queue.send(&plain("m")).await.unwrap();
    let first = next(&*bed.queue, Duration::from_secs(2)).await;
    assert_eq!(bed.queue.change_visibility(&[(first.handle.clone(), LONG)]).await.unwrap(), [Ok(())]);
    nothing_for(&*bed.queue, Duration::from_secs(5)).await;
    assert_eq!(bed.queue.delete(&[first.handle]).await.unwrap(), [Ok(())]);
}

/// Three messages in flight, and the middle one's handle replaced by one that SQS never gave out.
async fn three_with_a_bad_one(bed: &Bed) -> (Vec<Message>, Vec<ReceiptHandle>) {
    for body in ["a", "b", "c"] {
        bed.queue.send(&plain(body)).await.unwrap();
    }
    let mut messages = Vec::new();
    for _ in 0..3 {
        messages.push(next(&*bed.queue, LONG).await);
    }
    let mut handles: Vec<_> = messages.iter().map(|message| message.handle.clone()).collect();
    handles[1] = ReceiptHandle("never-given-out".into());
    (messages, handles)
}

async fn a_batch_delete_answers_each_entry_in_its_place(bed: &Bed) {
    let (messages, handles) = three_with_a_bad_one(bed).await;
    let replies = bed.queue.delete(&handles).await.unwrap();
    assert_eq!((&replies[0], &replies[2], replies.len()), (&Ok(()), &Ok(()), 3));
    assert_eq!(replies[1].as_ref().unwrap_err().code, "ReceiptHandleIsInvalid");
    bed.queue.change_visibility(&[(messages[1].handle.clone(), Duration::ZERO)]).await.unwrap();
    assert_eq!(next(&*bed.queue, LONG).await.id, messages[1].id, "only the refused one is still there");
    nothing_for(&*bed.queue, Duration::from_secs(1)).await;
}

async fn a_batch_change_answers_each_entry_in_its_place(bed: &Bed) {
    let (messages, handles) = three_with_a_bad_one(bed).await;
    let entries: Vec<_> = handles.into_iter().map(|handle| (handle, Duration::ZERO)).collect();
    let replies = bed.queue.change_visibility(&entries).await.unwrap();
    assert_eq!((&replies[0], &replies[2], replies.len()), (&Ok(()), &Ok(()), 3));
    assert_eq!(replies[1].as_ref().unwrap_err().code, "ReceiptHandleIsInvalid");
    let mut returned = [next(&*bed.queue, LONG).await.id, next(&*bed.queue, LONG).await.id];
    let mut expected = [messages[0].id.clone(), messages[2].id.clone()];
    returned.sort();
    expected.sort();
    assert_eq!(returned, expected);
}

async fn deleting_twice_is_a_yes(bed: &Bed) {
    bed.queue.send(&plain("m")).await.unwrap();
    let message = next(&*bed.queue, LONG).await;
    for _ in 0..2 {
        assert_eq!(bed.queue.delete(std::slice::from_ref(&message.handle)).await.unwrap(), [Ok(())]);
    }
}

async fn an_empty_queue_answers_with_nothing(bed: &Bed) {
    nothing_for(&*bed.queue, Duration::from_secs(1)).await;
    assert_eq!(bed.queue.delete(&[]).await, Ok(vec![]));
    assert_eq!(bed.queue.change_visibility(&[]).await, Ok(vec![]));
}

async fn a_message_received_too_often_moves_to_the_dead_letters(bed: &Bed) {
    let sent = Outgoing {
        attributes: BTreeMap::from([("a".into(), attribute("String", AttributeValue::Text("値".into())))]),
        ..plain("poison")
    };
    let id = bed.queue.send(&sent).await.unwrap();
    for count in 1..=2 {
        let message = next(&*bed.queue, LONG).await;
        assert_eq!(message.receive_count, count);
        bed.queue.change_visibility(&[(message.handle, Duration::ZERO)]).await.unwrap();
    }
    nothing_for(&*bed.queue, Duration::from_secs(2)).await; // the move happens on receive
    let dead = next(&*bed.dead_letters, LONG).await;
    assert_eq!((dead.id, dead.body, dead.attributes), (id, sent.body, sent.attributes));
    assert_eq!(dead.moved_from, Some(bed.queue.facts().await.unwrap().arn), "whose letter it is");
}

async fn facts_tell_the_policy_and_the_counts(bed: &Bed) {
    for body in ["a", "b"] {
        bed.queue.send(&plain(body)).await.unwrap();
    }
    next(&*bed.queue, LONG).await;
    let (facts, dead) = (bed.queue.facts().await.unwrap(), bed.dead_letters.facts().await.unwrap());
    assert_eq!(facts.visibility, Duration::from_secs(60));
    assert_eq!(facts.retention, Duration::from_secs(1_209_600));
    assert_eq!(facts.max_receive_count, Some(2));
    assert_eq!(facts.dead_letter_arn.as_ref(), Some(&dead.arn));
    assert!(facts.arn.starts_with("arn:aws:sqs:"), "{}", facts.arn);
    assert_eq!((facts.visible, facts.in_flight, facts.delayed), (1, 1, 0));
    assert_eq!((dead.max_receive_count, dead.dead_letter_arn), (None, None));
}

async fn a_message_of_one_mebibyte_is_taken_and_a_larger_one_refused(bed: &Bed) {
    let body = "x".repeat(SQS_MAX_MESSAGE_BYTES);
    bed.queue.send(&plain(&body)).await.unwrap();
    assert_eq!(next(&*bed.queue, LONG).await.body.len(), SQS_MAX_MESSAGE_BYTES);
    let refused = bed.queue.send(&plain(&format!("{body}x"))).await.unwrap_err();
    assert!(matches!(refused, QueueError::Refused(_)), "{refused}");
}

async fn a_queue_that_is_not_there_is_missing(bed: &Bed) {
    let handle = ReceiptHandle("h".into());
    let errors = [
        bed.missing.receive(BatchSize::clamped(1), Duration::ZERO, LONG).await.unwrap_err(),
        bed.missing.delete(std::slice::from_ref(&handle)).await.unwrap_err(),
        bed.missing.change_visibility(&[(handle, LONG)]).await.unwrap_err(),
        bed.missing.send(&plain("m")).await.unwrap_err(),
        bed.missing.facts().await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, QueueError::Missing(_)), "{error}");
    }
}

async fn a_batch_is_sent_and_each_message_acknowledged_in_its_place(bed: &Bed) {
    let bodies: Vec<String> = (0..10).map(|n| format!("{{\"n\":{n},\"key\":\"日本 {n}\"}}")).collect();
    let mut messages: Vec<Outgoing> = bodies.iter().map(|body| plain(body)).collect();
    let kind = MessageAttribute { data_type: "String".into(), value: AttributeValue::Text("v".into()) };
    messages[3].attributes.insert("Kind".into(), kind);
    messages[5].body = "\u{1}".into(); // SQS takes no control characters
    let replies = bed.queue.send_batch(&messages).await.unwrap();
    assert_eq!(replies.len(), 10);
    assert!(replies[5].is_err(), "{:?}", replies[5]); // LocalStack does not call it the sender's fault
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    for (message, reply) in messages.iter().zip(&replies) {
        if let Ok(id) = reply {
            expected.insert(id.0.clone(), message.body.clone());
        }
    }
    assert_eq!(expected.len(), 9, "nine ids: {replies:?}");
    let mut received = BTreeMap::new();
    while received.len() < 9 {
        let message = next(bed.queue.as_ref(), LONG).await;
        assert_eq!(message.attributes.len(), usize::from(message.body == bodies[3]));
        received.insert(message.id.0, message.body);
    }
    assert_eq!(received, expected);
    assert_eq!(bed.queue.send_batch(&[]).await, Ok(vec![]));
    assert!(matches!(bed.missing.send_batch(&[plain("x")]).await, Err(QueueError::Missing(_))));
}

async fn a_batch_of_more_than_ten_is_refused_whole(bed: &Bed) {
    let eleven: Vec<Outgoing> = (0..11).map(|n| plain(&n.to_string())).collect();
    assert!(matches!(bed.queue.send_batch(&eleven).await, Err(QueueError::Refused(_))));
    assert_eq!(bed.queue.facts().await.unwrap().visible, 0);
}
