//! The only file naming `aws_sdk_sqs`.
