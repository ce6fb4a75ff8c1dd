//! `redrive parked`: from what is wanted to what does it.
//!
//! Promises that a pause refuses what would replay or move anything, that an index which is not there is one clear line
//! and exit 75 before anything is replayed, and that Ctrl-C ends it with the lease let go.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;

use super::{CannotStart, index_client, no_pause_file, stop_on_interrupt};
use crate::books::Books;
use crate::clock::SystemClock;
use crate::config::{OpenSearchConfig, ParkedOrder, exit};
use crate::gate::Gate;
use crate::index::Search as _;
use crate::index::bulk::Lane;
use crate::index::park::Parking;
use crate::index::parked::{Answer, Lots, Now, count_all, refused_by};
use crate::index::replay::Replayer;
use crate::index::replay::lease::{Holder, Replaying};
use crate::index::replay::patience::Budget;
use crate::message::Namespace;
use crate::pause::{PauseFile, Watch};
use crate::retry::Jitter;
use crate::store::StoreError;

/// Between two looks of a person.
const PROGRESS: Duration = Duration::from_secs(1);

/// Does it. `tell`: for a person who watches, nothing where there is none.
pub async fn parked(
    order: ParkedOrder,
    namespace: Namespace,
    file: &PauseFile,
    aws: &SdkConfig,
    by: String,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Answer, CannotStart> {
    let parking = Parking {
        store: Arc::clone(&file.store),
        bucket: file.bucket.clone(),
        namespace,
        clock: Arc::new(SystemClock),
        news: Arc::default(),
    };
    let lots = Lots { parking: parking.clone() };
    let unseen = |error: StoreError| CannotStart {
        line: format!("S3_BUCKET: what is parked in bucket {} is out of reach: {error}", file.bucket),
        code: exit::EX_TEMPFAIL,
    };
    match order {
        ParkedOrder::List => lots.list().await.map_err(unseen),
        ParkedOrder::Errored { key_prefix, limit } => lots.errored(key_prefix.as_deref(), limit).await.map_err(unseen),
        ParkedOrder::Reset { key_prefix } => {
            if let Some(refused) = refusal(file).await? {
                return Ok(refused);
            }
            let stop = stop_on_interrupt()?;
            let answer =
                lots.reset(key_prefix.as_deref(), &stop, &|number| tell(&format!("{number} parked again"))).await;
            tell("");
            Ok(answer)
        }
        ParkedOrder::Replay { search, budget } => {
            if let Some(refused) = refusal(file).await? {
                return Ok(refused);
            }
            replay(parking, (&search, budget), file, aws, by, tell).await
        }
    }
}

/// Once a second, for as long as it is asked to.
async fn show(all: u64, books: &Books, tell: &(dyn Fn(&str) + Sync)) -> Infallible {
    loop {
        tokio::time::sleep(PROGRESS).await;
        tell(&format!("{} of {all} replayed", books.snapshot(false).replayed));
    }
}

async fn refusal(file: &PauseFile) -> Result<Option<Answer>, CannotStart> {
    file.look().await.map(refused_by).map_err(|error| no_pause_file(&file.bucket, &error))
}

async fn replay(
    parking: Parking,
    (search, budget): (&OpenSearchConfig, Budget),
    file: &PauseFile,
    aws: &SdkConfig,
    by: String,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Answer, CannotStart> {
    let index = index_client(search, aws)?;
    index.probe().await.map_err(|error| CannotStart {
        line: format!("OPENSEARCH_ENDPOINT: {} takes no documents: {error}", search.endpoint),
        code: exit::EX_TEMPFAIL,
    })?;
    let (jitter, books) = (Arc::new(Jitter::from_entropy()), Arc::new(Books::default()));
    let (lane, drive) = Lane::new(Arc::new(index), Arc::clone(&jitter));
    tokio::spawn(drive);
    let replayer = Replayer {
        store: Arc::clone(&parking.store),
        bucket: parking.bucket.clone(),
        namespace: parking.namespace.clone(),
        lane,
        parking,
        books: Arc::clone(&books),
        jitter: Arc::clone(&jitter),
        budget,
        me: Replaying { id: uuid::Uuid::now_v7().to_string(), by },
    };
    let stop = stop_on_interrupt()?;
    let gate = Arc::new(Gate::new(Arc::clone(&jitter)));
    let watch = Watch { file: file.clone(), jitter };
    let mut pauses = gate.pauses();
    tokio::spawn(watch.run(gate, stop.clone()));
    tokio::select! { biased; () = stop.cancelled() => {}, () = pauses.over() => {} }
    let all = count_all(&replayer.markers()).await.unwrap_or_default();
    let holder = |holder: &Holder| {
        tell(&format!("{} holds the replay since {}: waiting to see if it lives\n", holder.by, holder.since));
    };
    let now = Now { replayer, pauses, stop };
    let answer = tokio::select! { biased; answer = now.run(&holder) => answer, never = show(all, &books, tell) => match never {} };
    tell("");
    Ok(answer)
}
