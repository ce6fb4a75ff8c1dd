//! `worker check`: the clients for the doctor, and a closer look at the network where something does not answer.
//!
//! Promises that what cannot be found is for the findings to tell, and no reason to stop looking. Judges nothing: `check`
//! does.

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials as _;

use super::{CannotStart, canary, find_queues, search_index};
use crate::aws::{chain, one_line};
use crate::check::host::{Disk, reach};
use crate::check::{self, Finding, Verdict};
use crate::clock::SystemClock;
use crate::config::WorkerConfig;
use crate::index::Search;
use crate::index::opensearch::Examine;
use crate::queue::sqs::{self, SqsQueue};
use crate::store::s3::{self, S3Store};

/// The instance's metadata service may be slow; a profile may ask STS.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(10);

/// All findings; `deep`: a canary too, where nothing speaks against it.
pub async fn findings(config: &WorkerConfig, aws: &SdkConfig, deep: bool) -> Result<Vec<Finding>, CannotStart> {
    let client = sqs::settling_client(aws);
    let queue = SqsQueue::new(client.clone(), &config.queue_url);
    let dlq_url = find_queues(&config.queue_url, config.dlq_url.as_deref(), &client).await.ok();
    let dlq_url = dlq_url.map(|queues| queues.dlq_url).or(config.dlq_url.clone());
    let dlq = dlq_url.as_ref().map(|url| SqsQueue::new(client, url));
    let index = search_index(config, aws)?;
    let store = Arc::new(S3Store::new(s3::client(aws)));
    let disk = Disk {
        folder: config.temp_path(),
        largest: config.max_object_bytes,
        at_once: u64::try_from(config.extractors).unwrap_or(u64::MAX),
    };
    let subject = check::Subject {
        queue: check::QueueAt { url: &config.queue_url, queue: &queue },
        dlq: dlq.as_ref().zip(dlq_url.as_ref()).map(|(queue, url)| check::QueueAt { url, queue }),
        store: store.as_ref(),
        sources: &config.sources,
        results_bucket: &config.results_bucket,
        search: index.as_ref().map(|index| index as &dyn Search),
        skip_opensearch: config.opensearch.is_none(),
        index: config.opensearch.as_ref().map_or("files", |search| &search.index),
        visibility: config.visibility,
        drain_timeout: config.drain_timeout,
        wiring: Some(store.as_ref()),
        mapping: index.as_ref().map(|index| index as &dyn Examine),
        disk: Some(&disk),
        clock: &SystemClock,
    };
    let (credentials, mut findings) = tokio::join!(credentials(aws), check::check(&subject));
    findings.insert(0, credentials);
    let closer = closer_looks(config, aws, &findings).await;
    findings.extend(closer);
    if deep {
        findings.extend(match check::canary::obstacle(&findings) {
            Some(obstacle) => vec![obstacle],
            None => canary(config, aws)?.fly(&|line| crate::terminal::say(line)).await,
        });
    }
    Ok(findings)
}

/// Who we are, as far as that is known without asking anybody.
async fn credentials(aws: &SdkConfig) -> Finding {
    let fix = "give the instance a role (aws sts get-caller-identity shows who it is), or set AWS_PROFILE or the keys";
    let Some(provider) = aws.credentials_provider() else { return check::credentials(Err("there are none"), fix) };
    match tokio::time::timeout(CREDENTIALS_TIMEOUT, provider.provide_credentials()).await {
        Ok(Ok(found)) => check::credentials(Ok((found.access_key_id(), found.expiry())), fix),
        Ok(Err(error)) => check::credentials(Err(&one_line(&chain(&error))), fix),
        Err(_) => check::credentials(Err("their source (metadata service, STS) does not answer"), fix),
    }
}

/// Where something did not answer: is it the name, the port, or the service?
async fn closer_looks(config: &WorkerConfig, aws: &SdkConfig, findings: &[Finding]) -> Vec<Finding> {
    let failed = |names: &[&str]| {
        findings.iter().any(|finding| finding.verdict == Verdict::Fail && names.contains(&finding.name))
    };
    let region = aws.region().map_or("us-east-1", AsRef::as_ref);
    let s3 = aws.endpoint_url().map_or_else(|| format!("https://s3.{region}.amazonaws.com"), str::to_owned);
    let sqs = aws.endpoint_url().unwrap_or(&config.queue_url);
    let mut looks = Vec::new();
    if failed(&["queue", "dlq"]) {
        looks.push(reach("network_sqs", "SQS_QUEUE_URL, AWS_REGION and AWS_ENDPOINT_URL", sqs).await);
    }
    if failed(&["source_bucket", "results_bucket"]) {
        looks.push(reach("network_s3", "AWS_REGION and AWS_ENDPOINT_URL", &s3).await);
    }
    if let Some(search) = config.opensearch.as_ref().filter(|_| failed(&["index"])) {
        looks.push(reach("network_search", "OPENSEARCH_ENDPOINT", &search.endpoint).await);
    }
    looks
}
