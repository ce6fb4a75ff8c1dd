//! The only file naming `aws_sdk_s3`.
