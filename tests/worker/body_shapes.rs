//! Every shape of body through a real queue: what is good is found, what is nothing is skipped.

use serde_json::{Value, json};

use crate::world::{World, spelt};

/// A record of an S3 event; the key as S3 writes it there, form-encoded.
pub fn record(event: &str, bucket: &str, encoded_key: &str) -> Value {
    json!({
        "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-east-1",
        "eventTime": "2026-11-20T08:15:30.000Z", "eventName": event,
        "responseElements": { "x-amz-request-id": "C3D13FE58DE4C810" },
        "s3": {
            "s3SchemaVersion": "1.0", "configurationId": "quittance", "bucket": { "name": bucket },
            "object": { "key": encoded_key, "size": 5, "eTag": "d41d8cd98f00b204e9800998ecf8427e" },
        },
    })
}

pub fn created(bucket: &str, encoded_key: &str) -> Value {
    json!({ "Records": [record("ObjectCreated:Put", bucket, encoded_key)] })
}

pub fn sns(message: &Value) -> Value {
    json!({
        "Type": "Notification", "MessageId": "95df01b4-ee98-5cb9-9903-4c221d41eb5e",
        "TopicArn": "arn:aws:sns:us-east-1:000000000000:files", "Subject": "Amazon S3 Notification",
        "Message": message.to_string(), "Timestamp": "2026-11-20T08:15:31.114Z",
    })
}

pub fn eventbridge(bucket: &str, key: &str) -> Value {
    json!({
        "version": "0", "id": "17793124-05d4-b198-2fde-7ededc63b103", "detail-type": "Object Created",
        "source": "aws.s3", "account": "000000000000", "time": "2026-11-12T00:00:00Z", "region": "us-east-1",
        "resources": [format!("arn:aws:s3:::{bucket}")],
        "detail": {
            "version": "0", "bucket": { "name": bucket }, "request-id": "N4N7GDK58NMKJ12R",
            "object": { "key": key, "size": 5, "etag": "b1946ac92492d2347c6235b4d2611184",
                        "sequencer": "617f08299329d189" },
        },
    })
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn every_shape_of_body_brings_its_files_into_the_index_or_is_skipped() {
    let world = World::silent().await;
    let bucket = &world.source;
    let test_event = json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-11-20T08:00:00.000Z",
                             "Bucket": bucket, "RequestId": "5582815E1AEA5ADF", "HostId": "8cLeGAmw098X5cv4" });
    let several = json!({ "Records": [
        record("ObjectCreated:Put", bucket, "several/one.txt"),
        record("ObjectCreated:CompleteMultipartUpload", bucket, "several/%E4%BA%8C+2.txt"),
        record("ObjectCreated:Copy", bucket, "several/three.txt"),
    ]});
    // Body, and the keys that it brings in: none is a skip.
    let shapes: Vec<(Value, Vec<&str>)> = vec![
        (created(bucket, "direct/%E6%97%A5%E6%9C%AC/a+b%2Bc%252Bd.txt"), vec!["direct/日本/a b+c%2Bd.txt"]),
        (several, vec!["several/one.txt", "several/二 2.txt", "several/three.txt"]),
        (sns(&created(bucket, "sns/a+b.txt")), vec!["sns/a b.txt"]),
        (eventbridge(bucket, "bridge/a+b%2Bc d.txt"), vec!["bridge/a+b%2Bc d.txt"]),
        (sns(&eventbridge(bucket, "sns-bridge/a+b.txt")), vec!["sns-bridge/a+b.txt"]),
        (json!({ "bucket": bucket, "key": "minimal/a+b%2Bc d.txt" }), vec!["minimal/a+b%2Bc d.txt"]),
        (
            json!({ "bucket": bucket, "key": "minimal/options.txt", "version_id": "null", "force": true }),
            vec!["minimal/options.txt"],
        ),
        (test_event.clone(), vec![]),
        (sns(&test_event), vec![]),
        (json!({ "Records": [] }), vec![]),
        (json!({ "Records": [record("ObjectTagging:Put", bucket, "tags.txt")] }), vec![]),
    ];
    let keys: Vec<&str> = shapes.iter().flat_map(|(_, keys)| keys.clone()).collect();
    for (n, key) in keys.iter().enumerate() {
        world.put(key, format!("This came in as number {}.", spelt(n))).await;
    }
    let mut worker = world.launch().start().await;
    let mut ids = Vec::new();
    for (body, _) in &shapes {
        ids.push(world.send(&body.to_string()).await);
    }
    for (fact, (body, keys)) in worker.settled_messages(&ids).await.iter().zip(&shapes) {
        let outcome = if keys.is_empty() { "skipped" } else { "done" };
        assert_eq!((&fact["outcome"], &fact["settlement"]), (&json!(outcome), &json!("deleted")), "{body}");
        if outcome == "done" {
            assert_eq!(fact["keys"], json!(keys), "{body}");
            assert_eq!(fact["work_ids"].as_array().unwrap().len(), keys.len(), "{body}");
        }
    }
    for (n, key) in keys.iter().enumerate() {
        world.finds(&spelt(n), key).await;
    }
    world.finds_exactly(keys.iter().copied()).await;
    world.emptied().await;
    world.dlq_is_empty().await;
    let books = worker.stop().await;
    assert_eq!((books.of("done"), books.of("skipped"), books.of("changes_done")), (7, 4, keys.len() as u64));
}
