//! What a worker shows of itself: the facts that can be told, who looks at what is parked, and the port that answers.

use std::sync::{Arc, OnceLock};

use aws_config::SdkConfig;

use super::Queues;
use crate::admin::Admin;
use crate::clock::WallClock;
use crate::config::WorkerConfig;
use crate::gate::Gate;
use crate::index::bulk::Lane;
use crate::index::park::Lot;
use crate::index::park::markers::Markers;
use crate::message::s3_event::Wanted;
use crate::metrics::{Facts, Meters};
use crate::queue::sqs::{self, SqsQueue};
use crate::retry::Jitter;
use crate::store::Store;
use crate::survey::{Survey, Surveyor};

/// The stations that are looked at.
pub(super) struct Stations<'a> {
    pub(super) meters: Arc<Meters>,
    pub(super) gate: Arc<Gate>,
    pub(super) lane: Option<Lane>,
    pub(super) clock: Arc<dyn WallClock>,
    pub(super) store: Arc<dyn Store>,
    pub(super) jitter: Arc<Jitter>,
    pub(super) queues: &'a Queues,
}

/// Facts, surveyor and port of one worker. Where nobody asked to be told, nobody looks.
pub(super) async fn look(
    config: &WorkerConfig,
    aws: &SdkConfig,
    run_id: &str,
    stations: Stations<'_>,
) -> (Arc<Facts>, Option<Surveyor>, Option<Admin>) {
    let Stations { meters, gate, lane, clock, store, jitter, queues } = stations;
    let survey = Arc::new(Survey::default());
    let facts = Arc::new(Facts {
        meters,
        gate,
        lane,
        survey: Arc::clone(&survey),
        started_ms: clock.unix_ms(),
        clock,
        run_id: run_id.to_owned(),
        namespace: config.namespace.as_str().to_owned(),
        wanted: Wanted::new(config.sources.clone(), config.results_bucket.clone()),
        attached: OnceLock::new(),
    });
    let admin = match config.admin_listen {
        Some(address) => Admin::open(address, Arc::clone(&facts), config.admin_token.clone()).await,
        None => None,
    };
    let markers = |lot| Markers {
        store: Arc::clone(&store),
        bucket: config.results_bucket.clone(),
        namespace: config.namespace.clone(),
        lot,
    };
    let surveyor = (admin.is_some() || config.metrics_emf).then(|| Surveyor {
        parked: markers(Lot::Retry),
        errored: markers(Lot::Errored),
        dead_letters: Arc::new(SqsQueue::new(sqs::settling_client(aws), &queues.dlq_url)),
        jitter,
        survey,
    });
    (facts, surveyor, admin)
}
