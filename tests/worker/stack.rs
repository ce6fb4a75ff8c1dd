//! The data plane of `deploy/stack.yaml`, made by CloudFormation on the local stack: a worker does its job on what it
//! made. LocalStack does not enforce policies and sets no lifecycle; those are held by `tests/stack`.

use aws_sdk_s3::types::Event;
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::{Value, json};

use crate::world::{World, text_files};

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn the_template_makes_a_data_plane_on_which_files_are_recorded_found_and_removed() {
    let world = World::of_the_template().await;
    the_queues_are_as_the_template_says(&world).await;
    the_buckets_are_as_the_template_says(&world).await;

    let check = world.launch().run(&["check", "--json"]);
    assert_eq!(check.code, 0, "the doctor finds something to mend on what the template makes: {check:?}");

    let mut worker = world.launch().start().await;
    let files = text_files(12);
    world.put_all(&files).await;
    world.finds_exactly(files.keys().map(String::as_str)).await;
    let removed = files.keys().next().unwrap();
    world.remove(removed).await;
    world.finds_exactly(files.keys().skip(1).map(String::as_str)).await;
    for key in files.keys() {
        let (record, _) = world.record(key).await.expect("a record");
        assert_eq!(record["document"]["deleted"], json!(key == removed), "{key}");
    }
    world.emptied().await;
    world.dlq_is_empty().await;
    let books = worker.stop().await;
    // S3 announced itself once for each of the three notifications.
    assert_eq!((books.of("done"), books.of("skipped"), books.of("received")), (13, 3, 16));
}

async fn the_queues_are_as_the_template_says(world: &World) {
    let attributes = async |url: &str| {
        let asked = world.sqs.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
        asked.send().await.unwrap().attributes.unwrap()
    };
    let (main, dlq) = (attributes(&world.queue).await, attributes(&world.dlq).await);
    for (queue, retention) in [(&main, "345600"), (&dlq, "1209600")] {
        assert_eq!(queue[&QueueAttributeName::MessageRetentionPeriod], retention);
        assert_eq!(queue[&QueueAttributeName::SqsManagedSseEnabled], "true");
        assert!(queue[&QueueAttributeName::Policy].contains("aws:SecureTransport"), "{queue:?}");
    }
    let json = |text: &String| serde_json::from_str::<Value>(text).unwrap();
    let redrive = json(&main[&QueueAttributeName::RedrivePolicy]);
    assert_eq!(redrive["deadLetterTargetArn"], json!(dlq[&QueueAttributeName::QueueArn]));
    let allowed = json(&dlq[&QueueAttributeName::RedriveAllowPolicy]);
    assert_eq!(allowed["sourceQueueArns"], json!([main[&QueueAttributeName::QueueArn]]));
    assert_eq!(main[&QueueAttributeName::VisibilityTimeout], "60");
    let policy = json(&main[&QueueAttributeName::Policy]);
    let source = json!(format!("arn:aws:s3:::{}", world.source));
    assert_eq!(policy["Statement"][0]["Condition"]["ArnEquals"]["aws:SourceArn"], source);
}

async fn the_buckets_are_as_the_template_says(world: &World) {
    let asked = world.s3.get_bucket_notification_configuration().bucket(&world.source).send().await.unwrap();
    let mut events: Vec<&Event> = asked.queue_configurations().iter().flat_map(|one| one.events()).collect();
    events.sort();
    let wanted = ["s3:LifecycleExpiration:*", "s3:ObjectCreated:*", "s3:ObjectRemoved:*"].map(Event::from);
    assert_eq!(events, wanted.iter().collect::<Vec<_>>());
    let versioning = world.s3.get_bucket_versioning().bucket(&world.results).send().await.unwrap();
    assert_eq!(versioning.status.unwrap().as_str(), "Enabled");
    let policy = world.s3.get_bucket_policy().bucket(&world.results).send().await.unwrap().policy.unwrap();
    assert!(policy.contains("aws:SecureTransport"), "{policy}");
}
