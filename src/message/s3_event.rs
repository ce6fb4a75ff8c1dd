//! Every shape of S3 event, to changes.

/// A place that may be read: a bucket, and the prefix under it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The bucket's name.
    pub bucket: String,
    /// The prefix, literal; empty for the whole bucket.
    pub prefix: String,
}
