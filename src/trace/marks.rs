//! The markers of one document in one lot, on whatever day its records were written.
//!
//! Promises two LISTs for each day that has markers of anybody, however many they are, and no more than
//! [`MOST_LISTS`]: an outage leaves few days. Writes nothing.

use futures_util::StreamExt as _;

use super::findings::{Mark, Marks};
use super::{Ground, PATIENCE};
use crate::index::park::markers::MarkerKey;
use crate::index::park::{Lot, Marker};
use crate::message::DocumentId;
use crate::message::detail::detail;
use crate::store::{StoreError, read_all};

/// Of one lot: fourteen days with markers. On AWS a LIST takes some 30 ms.
const MOST_LISTS: usize = 28;
/// Of one day: more revisions of one file are not parked in a day.
const MOST_KEYS: usize = 100;
/// The newest that are read.
const READ: usize = 10;
const MARKER_LIMIT: usize = 64 * 1024;

/// From the first day on.
pub(super) async fn of_document(ground: &Ground, lot: Lot, document: &DocumentId) -> Result<Option<Marks>, StoreError> {
    let (found, not_from) = leap(ground, lot, document).await?;
    let marks = read_all_of(ground, found).await;
    let known = !marks.is_empty() || not_from.is_some();
    Ok(known.then_some(Marks { marks, not_from }))
}

/// Where the days were too many: the one that matters, too.
pub(super) async fn of_record_day(
    ground: &Ground,
    lot: Lot,
    document: &DocumentId,
    mut marks: Marks,
    day: &str,
) -> Result<Option<Marks>, StoreError> {
    if marks.not_from.as_deref().is_some_and(|from| day >= from) {
        let found = on_day(ground, lot, document, day).await?;
        marks.marks.extend(read_all_of(ground, found).await);
    }
    Ok(Some(marks))
}

async fn read_all_of(ground: &Ground, mut found: Vec<MarkerKey>) -> Vec<Mark> {
    let newest = found.split_off(found.len().saturating_sub(READ));
    futures_util::stream::iter(newest).map(|key| read(ground, key)).buffered(READ).collect().await
}

/// From day to day; where there are too many of them, the first that was not looked at.
async fn leap(
    ground: &Ground,
    lot: Lot,
    document: &DocumentId,
) -> Result<(Vec<MarkerKey>, Option<String>), StoreError> {
    let (mut found, mut place) = (Vec::new(), None::<String>);
    for lists in 0.. {
        let page = ground.store.list(&ground.bucket, lot.prefix(), place.as_deref(), 1).await?;
        let Some(day) = page.keys.first().and_then(|key| key.strip_prefix(lot.prefix())?.split('/').next()) else {
            break;
        };
        if 2 * lists >= MOST_LISTS {
            return Ok((found, Some(day.to_owned())));
        }
        found.extend(on_day(ground, lot, document, day).await?);
        place = Some(format!("{}{day}0", lot.prefix())); // '0' follows '/'
    }
    Ok((found, None))
}

async fn on_day(ground: &Ground, lot: Lot, document: &DocumentId, day: &str) -> Result<Vec<MarkerKey>, StoreError> {
    let prefix = format!("{}{day}/{}/{document}/", lot.prefix(), ground.namespace);
    let page = ground.store.list(&ground.bucket, &prefix, None, MOST_KEYS).await?;
    Ok(page.keys.iter().filter_map(|key| MarkerKey::parse(key)).collect())
}

/// What its key says stands, whatever becomes of its body.
async fn read(ground: &Ground, MarkerKey { key, revision, .. }: MarkerKey) -> Mark {
    let body = async {
        let object = ground.store.get(&ground.bucket, &key).await.ok()??;
        serde_json::from_slice::<Marker>(&read_all(object, MARKER_LIMIT).await.ok()?).ok()
    };
    let marker = tokio::time::timeout(PATIENCE / 2, body).await.ok().flatten();
    let (failed_at, reason) = marker.map(|marker| (marker.failed_at, detail(&marker.reason))).unzip();
    Mark { marker: key, revision, failed_at, reason }
}
