"""The world of the demo, of `up` and of a test: what deploy/stack.yaml makes of its data plane, by CloudFormation.

Knows the names that the worker's configuration needs (design §8) and nothing of the worker.
"""
import os

from . import aws, install

TEMPLATE = os.path.join(os.path.dirname(install.HERE), "deploy", "stack.yaml")
TEST_EVENTS = 3  # S3 says so once for each of the template's notifications


def provision(endpoint, name="quittance"):
    """Makes everything, and returns the worker's variables for it."""
    s3 = aws.S3(endpoint)
    with open(TEMPLATE, "rb") as file:
        template = file.read()
    # Through a bucket, as on AWS: it is longer than what fits into a call.
    s3.make_bucket(f"{name}-templates")
    s3.put(f"{name}-templates", "stack.yaml", template)
    outputs = aws.CloudFormation(endpoint).deploy(name, f"{endpoint}/{name}-templates/stack.yaml", {
        "Name": name, "DataPlaneOnly": "true", "SourceBucket": f"{name}-files", "ResultsBucket": f"{name}-results"})
    return {"SQS_QUEUE_URL": outputs["MainQueueUrl"], "SQS_DLQ_URL": outputs["DeadLetterQueueUrl"],
            "S3_BUCKET": outputs["ResultsBucketName"], "SOURCE_BUCKETS": outputs["SourceBucketName"]}
