"""The demo's world: a queue and its DLQ, a source bucket that notifies the queue, a results bucket.

Knows the names that the worker's configuration needs (design §8) and nothing of the worker.
"""
import json

from . import aws

MAX_RECEIVE_COUNT = 20  # above the worker's own attempt budget, so that it dead-letters first, with a reason


def provision(endpoint, prefix="quittance"):
    """Makes everything, and returns the worker's variables for it."""
    s3, sqs = aws.S3(endpoint), aws.Sqs(endpoint)
    retention = {"MessageRetentionPeriod": "1209600"}
    dlq = sqs.make_queue(f"{prefix}-dlq", **retention)
    policy = {"deadLetterTargetArn": sqs.arn(dlq), "maxReceiveCount": MAX_RECEIVE_COUNT}
    queue = sqs.make_queue(prefix, RedrivePolicy=json.dumps(policy), VisibilityTimeout="60",
                           MessageRetentionPeriod="345600")
    source, results = f"{prefix}-files", f"{prefix}-results"
    s3.make_bucket(source)
    s3.make_bucket(results)
    s3.notify(source, sqs.arn(queue))
    return {"SQS_QUEUE_URL": queue, "SQS_DLQ_URL": dlq, "S3_BUCKET": results, "SOURCE_BUCKETS": source}
