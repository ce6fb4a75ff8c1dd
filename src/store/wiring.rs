//! What buckets are told to do by themselves: whom they notify, what they delete. Only the doctor asks.

use async_trait::async_trait;

use super::StoreError;

/// One notification of a bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notification {
    /// ARN of the queue, topic or function.
    pub target: String,
    /// As S3 writes them: `s3:ObjectCreated:*`, …
    pub events: Vec<String>,
    /// Keys begin so; empty is all.
    pub prefix: String,
    /// Keys end so; empty is all.
    pub suffix: String,
}

/// All notifications of a bucket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Notifications {
    /// Each.
    pub all: Vec<Notification>,
    /// EventBridge hears of everything; what its rules do is not the bucket's to say.
    pub event_bridge: bool,
}

/// One lifecycle rule that deletes current objects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expiration {
    /// Its id, as the bucket's owner named it.
    pub rule: String,
    /// Keys begin so; empty is all.
    pub prefix: String,
}

/// Asks a bucket about itself.
#[async_trait]
pub trait Wiring: Send + Sync {
    /// Whom it notifies.
    async fn notifications(&self, bucket: &str) -> Result<Notifications, StoreError>;

    /// What it deletes by itself: rules that are on, for current objects. Rules that look at tags or sizes too count as
    /// rules for their prefix.
    async fn expirations(&self, bucket: &str) -> Result<Vec<Expiration>, StoreError>;
}
