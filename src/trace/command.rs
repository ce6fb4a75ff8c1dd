//! `redrive trace`: clients, what is said, exit code.

use std::sync::Arc;

use aws_config::SdkConfig;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::peek::HIDDEN;
use super::{PATIENCE, Peek, Provenance, Trace, no_answer};
use crate::clock::{LeaseClock, SystemClock};
use crate::config::{DlqConfig, DlqUrl, TraceConfig};
use crate::message::detail::detail;
use crate::pipeline::Seat;
use crate::queue::Queue;
use crate::queue::sqs::{self, SqsQueue};
use crate::redrive::hold::{self, Grip};
use crate::retry::Jitter;
use crate::start::{self, CannotStart, stop_on_interrupt};
use crate::store::s3::{self, S3Store};
use crate::terminal::{out, page};

/// Asks, and says what was found.
pub async fn trace(config: TraceConfig, results_bucket: String, json: bool) -> Result<u8, CannotStart> {
    let aws = start::aws().await?;
    let index: Option<Arc<dyn Provenance>> = match &config.opensearch {
        Some(search) => Some(Arc::new(start::index_client(search, &aws)?)),
        None => None,
    };
    let dead_letters = match &config.dlq {
        Some(dlq) => Some(look_into(dlq, &aws, stop_on_interrupt()?).await?),
        None => None,
    };
    let trace = Trace {
        store: Arc::new(S3Store::new(s3::client(&aws))),
        results_bucket,
        namespace: config.namespace,
        index,
        dead_letters,
        days: config.days,
        clock: Arc::new(SystemClock),
    };
    let report = trace.run(&config.target).await;
    if json {
        out(&report.json());
    } else {
        page(&report.text());
    }
    Ok(report.code)
}

/// The dead-letter queue. What was asked for by a flag and is not there is a mistake to be told, not a source that is
/// silent.
async fn look_into(dlq: &DlqConfig, aws: &SdkConfig, stop: CancellationToken) -> Result<Peek, CannotStart> {
    let client = sqs::settling_client(aws);
    let url = match &dlq.queue {
        DlqUrl::Given(url) => url.clone(),
        DlqUrl::Of(main) => {
            let facts = start::look_at_queue("SQS_QUEUE_URL", main, &client).await?;
            let arn = facts.dead_letter_arn.ok_or_else(|| {
                CannotStart::missing(format!(
                    "queue {main} has no redrive policy: name its dead-letter queue (SQS_DLQ_URL)"
                ))
            })?;
            match timeout(PATIENCE, sqs::url_of_arn(&client, &arn)).await {
                Ok(Ok(url)) => url,
                Ok(Err(error)) => return Err(not_found(&arn, &error.to_string())),
                Err(_) => return Err(not_found(&arn, &no_answer())),
            }
        }
    };
    let queue = |client| -> Arc<dyn Queue> { Arc::new(SqsQueue::new(client, &url)) };
    let grip = Grip {
        polling: queue(sqs::polling_client(aws, hold::WAIT)),
        settling: queue(sqs::settling_client(aws)),
        most: dlq.limit,
        visibility: HIDDEN,
        jitter: Jitter::from_entropy(),
        clock: LeaseClock::of_system(),
        seat: Seat::OwnThread,
    };
    Ok(Peek { queue: queue(client), grip, most: dlq.limit, stop })
}

fn not_found(arn: &str, why: &str) -> CannotStart {
    CannotStart::missing(format!("the dead-letter queue {arn} cannot be found: {}; set SQS_DLQ_URL", detail(why)))
}
