//! From a configuration to the canary of `worker check --deep`.
//!
//! Promises that Ctrl-C ends it with what is there of it taken away.

use std::sync::Arc;

use aws_config::SdkConfig;

use super::{CannotStart, host, search_index, stop_on_interrupt};
use crate::check::canary::Canary;
use crate::clock::SystemClock;
use crate::config::WorkerConfig;
use crate::index::catalogue::Catalogue;
use crate::queue::sqs::{self, SqsQueue};
use crate::store::s3::{self, S3Store};

/// For the first source.
pub fn canary(config: &WorkerConfig, aws: &SdkConfig) -> Result<Canary, CannotStart> {
    let none = || CannotStart::misconfigured("SOURCE_BUCKETS: there is no source".to_owned());
    let source = config.sources.first().cloned().ok_or_else(none)?;
    let index = search_index(config, aws)?;
    Ok(Canary {
        queue: Arc::new(SqsQueue::new(sqs::settling_client(aws), &config.queue_url)),
        store: Arc::new(S3Store::new(s3::client(aws))),
        catalogue: index.map(|index| Arc::new(index) as Arc<dyn Catalogue>),
        source,
        namespace: config.namespace.clone(),
        results_bucket: config.results_bucket.clone(),
        host: host(),
        clock: Arc::new(SystemClock),
        stop: stop_on_interrupt()?,
    })
}
