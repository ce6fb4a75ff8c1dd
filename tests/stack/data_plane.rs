//! Queues, buckets and what joins them.

use std::collections::BTreeSet;

use quittance::message::{DocumentId, MessageId, Namespace};
use quittance::store::layout;
use serde_json::{Value, json};

use crate::template::Template;

const DATA_PLANE: [(&str, &str); 3] =
    [("DataPlaneOnly", "true"), ("SourceBucket", "incoming"), ("ResultsBucket", "results")];

fn data_plane() -> Template {
    Template::with(&DATA_PLANE)
}

#[test]
fn the_data_plane_alone_is_queues_buckets_policies_and_roles() {
    let types: BTreeSet<String> =
        data_plane().resources().values().map(|resource| resource["Type"].as_str().unwrap().to_owned()).collect();
    let expected = [
        "AWS::IAM::InstanceProfile",
        "AWS::IAM::ManagedPolicy",
        "AWS::IAM::Role",
        "AWS::S3::Bucket",
        "AWS::S3::BucketPolicy",
        "AWS::SQS::Queue",
        "AWS::SQS::QueuePolicy",
    ];
    assert_eq!(types, expected.map(str::to_owned).into());
    let whole: BTreeSet<String> = Template::with(&[])
        .resources()
        .values()
        .map(|resource| resource["Type"].as_str().unwrap().to_owned())
        .collect();
    for kind in ["AutoScaling::AutoScalingGroup", "CloudWatch::Alarm", "CloudWatch::Dashboard", "Logs::LogGroup"] {
        assert!(whole.contains(&format!("AWS::{kind}")), "{kind}");
    }
}

#[test]
fn the_dlq_keeps_longer_than_the_main_queue_and_both_name_each_other() {
    let template = data_plane();
    let [main, dlq] = ["MainQueue", "DeadLetterQueue"].map(|queue| template.properties(queue));
    let retention = |queue: &Value| queue["MessageRetentionPeriod"].as_u64().unwrap();
    assert_eq!((retention(&main), retention(&dlq)), (4 * 86_400, 14 * 86_400));
    assert_eq!(main["RedrivePolicy"], json!({"deadLetterTargetArn": "DeadLetterQueue.Arn", "maxReceiveCount": 20}));
    assert_eq!(main["VisibilityTimeout"], 60);
    let source = ["arn:aws:sqs:eu-central-1:111122223333:quittance"];
    assert_eq!(dlq["RedriveAllowPolicy"], json!({"redrivePermission": "byQueue", "sourceQueueArns": source}));
    assert_eq!((&main["QueueName"], &dlq["QueueName"]), (&json!("quittance"), &json!("quittance-dlq")));
    // S3 cannot notify a FIFO queue.
    assert!([&main, &dlq].iter().all(|queue| queue.get("FifoQueue").is_none()));
}

#[test]
fn everything_is_encrypted_with_the_given_key_or_the_services_own() {
    let with = [DATA_PLANE.as_slice(), &[("KmsKeyId", "k")]].concat();
    for (template, key) in [(data_plane(), None), (Template::with(&with), Some("k"))] {
        for (name, queue) in template.of_type("AWS::SQS::Queue") {
            assert_eq!(queue.get("KmsMasterKeyId").and_then(Value::as_str), key, "{name}");
            assert_eq!(queue.get("SqsManagedSseEnabled").is_some_and(|on| on == true), key.is_none(), "{name}");
        }
        for (name, bucket) in template.of_type("AWS::S3::Bucket") {
            let by =
                &bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]["ServerSideEncryptionByDefault"];
            assert_eq!(by["SSEAlgorithm"], if key.is_some() { "aws:kms" } else { "AES256" }, "{name}");
            assert_eq!(by.get("KMSMasterKeyID").and_then(Value::as_str), key, "{name}");
        }
    }
}

#[test]
fn only_s3_for_that_bucket_of_that_account_may_send_and_nobody_in_the_clear() {
    let template = data_plane();
    let kinds = ["AWS::SQS::QueuePolicy", "AWS::S3::BucketPolicy"];
    let policies: Vec<_> = kinds.iter().flat_map(|kind| template.of_type(kind)).collect();
    assert_eq!(policies.len(), 4);
    let mut allowed = Vec::new();
    for (name, policy) in &policies {
        let statements = policy["PolicyDocument"]["Statement"].as_array().unwrap();
        let insecure = json!({"Bool": {"aws:SecureTransport": "false"}});
        let denied =
            statements.iter().find(|statement| statement["Effect"] == "Deny").unwrap_or_else(|| panic!("{name}"));
        assert_eq!((&denied["Condition"], &denied["Principal"]), (&insecure, &json!("*")), "{name}");
        assert!(["sqs:*", "s3:*"].map(Value::from).contains(&denied["Action"]), "{name}");
        allowed.extend(statements.iter().filter(|statement| statement["Effect"] == "Allow"));
    }
    let [s3] = allowed[..] else { panic!("{allowed:?}") };
    assert_eq!(s3["Principal"], json!({"Service": "s3.amazonaws.com"}));
    assert_eq!((&s3["Action"], &s3["Resource"]), (&json!("sqs:SendMessage"), &json!("MainQueue.Arn")));
    let from = json!({
        "ArnEquals": {"aws:SourceArn": "arn:aws:s3:::incoming"},
        "StringEquals": {"aws:SourceAccount": "111122223333"},
    });
    assert_eq!(s3["Condition"], from);
}

#[test]
fn the_source_notifies_of_creations_removals_and_expirations_of_the_prefix() {
    let all = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*"];
    for prefix in ["", "in/"] {
        let template = Template::with(&[DATA_PLANE.as_slice(), &[("SourcePrefix", prefix)]].concat());
        let source = &template.resources()["Source"];
        // S3 refuses a notification to a queue that does not let it send.
        assert_eq!(source["DependsOn"], "MainQueuePolicy");
        let notified = source["Properties"]["NotificationConfiguration"]["QueueConfigurations"].as_array().unwrap();
        assert_eq!(notified.iter().map(|one| one["Event"].as_str().unwrap()).collect::<Vec<_>>(), all);
        for one in notified {
            assert_eq!(one["Queue"], "MainQueue.Arn");
            let filter = json!({"S3Key": {"Rules": [{"Name": "prefix", "Value": prefix}]}});
            assert_eq!(one.get("Filter"), (!prefix.is_empty()).then_some(&filter));
        }
        let by_hand = template.resolved(&template.text["Outputs"]["NotificationToAdd"]["Value"]).unwrap();
        let by_hand: Value = serde_json::from_str(by_hand.as_str().unwrap()).unwrap();
        assert_eq!(by_hand["Events"], json!(all), "a bucket that was there is told the same");
        assert_eq!(by_hand["Filter"]["Key"]["FilterRules"][0]["Value"].as_str().unwrap_or(""), prefix);
    }
    let there = Template::with(&[DATA_PLANE.as_slice(), &[("CreateSourceBucket", "false")]].concat()).resources();
    assert!(
        !there.contains_key("Source") && !there.contains_key("SourcePolicy"),
        "somebody else's bucket is left alone"
    );
    assert!(data_plane().properties("Results").get("NotificationConfiguration").is_none(), "a loop");
}

#[test]
fn the_lifecycle_spares_records_and_what_is_still_to_be_indexed() {
    let rules = data_plane().properties("Results")["LifecycleConfiguration"]["Rules"].clone();
    let rules = rules.as_array().unwrap();
    let namespace = Namespace::parse("default").unwrap();
    let (document, message) = (DocumentId::of(&namespace, "incoming", "a.txt"), MessageId("m".into()));
    let day = "2026-11-22";
    let days = |key: &str| -> Option<u64> {
        let expiring = rules.iter().filter(|rule| {
            let known = ["Id", "Status", "Prefix", "ExpirationInDays", "NoncurrentVersionExpiration"];
            let known = [known.as_slice(), &["ExpiredObjectDeleteMarker", "AbortIncompleteMultipartUpload"]].concat();
            assert!(rule.as_object().unwrap().keys().all(|name| known.contains(&name.as_str())), "{rule}");
            rule.get("ExpirationInDays").is_some() && key.starts_with(rule["Prefix"].as_str().unwrap())
        });
        expiring.map(|rule| rule["ExpirationInDays"].as_u64().unwrap()).min()
    };
    for (key, expected) in [
        (layout::record(&namespace, &document), None),
        (layout::parked(day, &namespace, &document, 1), None),
        (layout::PAUSE.to_owned(), None),
        (layout::REPLAY.to_owned(), None),
        (layout::attempts(&namespace, &message), Some(15)),
        (layout::errored(day, &namespace, &document, 1), Some(365)),
        (layout::envelope(day, &message), Some(365)),
        (layout::archived("main", day, &message), Some(365)),
        (layout::redrive_part("run", 0), Some(365)),
    ] {
        assert_eq!(days(&key), expected, "{key}");
    }
    // Old versions and what was never finished go, or the bucket grows for ever.
    let over = rules.iter().find(|rule| rule["Prefix"] == "").unwrap();
    assert_eq!(over["NoncurrentVersionExpiration"], json!({"NoncurrentDays": 30}));
    assert_eq!(over["AbortIncompleteMultipartUpload"], json!({"DaysAfterInitiation": 7}));
}

#[test]
fn what_holds_messages_files_or_logs_outlives_the_stack_and_is_not_public() {
    for (name, resource) in Template::with(&[]).resources() {
        let kind = resource["Type"].as_str().unwrap();
        let kept = ["AWS::SQS::Queue", "AWS::S3::Bucket", "AWS::Logs::LogGroup"].contains(&kind);
        for policy in ["DeletionPolicy", "UpdateReplacePolicy"] {
            assert_eq!(resource.get(policy).is_some_and(|policy| policy == "Retain"), kept, "{name}: {policy}");
        }
        if kind == "AWS::S3::Bucket" {
            let blocked = &resource["Properties"]["PublicAccessBlockConfiguration"];
            for what in ["BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"] {
                assert_eq!(blocked[what], true, "{name}: {what}");
            }
        }
    }
    assert_eq!(data_plane().properties("Results")["VersioningConfiguration"]["Status"], "Enabled");
}
