//! Every shape of S3 event, to changes.
