//! What the probe says of each kind of outage.

use std::sync::Mutex;

use async_trait::async_trait;
use futures_util::StreamExt as _;

use super::*;
use crate::store::{ObjectHead, OpenObject, Page, PutReply};

/// `verb bucket/key` that begins like this fails so.
type Fault = (&'static str, fn() -> StoreError);

/// Two sources with these objects, and a results bucket.
pub(in crate::gate) struct Buckets {
    pub(in crate::gate) faults: Mutex<Vec<Fault>>,
    objects: Vec<&'static str>,
    calls: Mutex<Vec<String>>,
}

impl Buckets {
    pub(in crate::gate) fn new(objects: &[&'static str], faults: &[Fault]) -> Arc<Self> {
        Arc::new(Self { faults: Mutex::new(faults.to_vec()), objects: objects.to_vec(), calls: Mutex::default() })
    }

    fn meet(&self, verb: &str, bucket: &str, key: &str) -> Result<(), StoreError> {
        let call = format!("{verb} {bucket}/{key}");
        self.calls.lock().unwrap().push(call.clone());
        let faults = self.faults.lock().unwrap();
        faults.iter().find(|(begins, _)| call.starts_with(begins)).map_or(Ok(()), |(_, error)| Err(error()))
    }
}

#[async_trait]
impl Store for Buckets {
    async fn head(&self, _: &str, _: &str) -> Result<Option<ObjectHead>, StoreError> {
        panic!("a HEAD says less than what is asked here")
    }
    async fn get(&self, bucket: &str, key: &str) -> Result<Option<OpenObject>, StoreError> {
        self.meet("get", bucket, key)?;
        if bucket != "results" && !self.objects.contains(&format!("{bucket}/{key}").as_str()) {
            return Ok(None);
        }
        let head = ObjectHead { size: 1, ..ObjectHead::default() };
        Ok(Some(OpenObject { head, body: futures_util::stream::iter([Ok(Bytes::from_static(b"x"))]).boxed() }))
    }
    async fn put(
        &self,
        bucket: &str,
        key: &str,
        _: Bytes,
        _: &BTreeMap<String, String>,
        condition: Condition,
    ) -> Result<PutReply, StoreError> {
        assert_eq!((bucket, key, condition), ("results", "control/probe-default.json", Condition::None));
        self.meet("put", bucket, key)?;
        Ok(PutReply::Written { etag: "e".into() })
    }
    async fn delete(&self, _: &str, _: &str) -> Result<(), StoreError> {
        panic!("nothing is removed")
    }
    async fn list(&self, bucket: &str, prefix: &str, _: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.meet("list", bucket, prefix)?;
        let begins = format!("{bucket}/{prefix}");
        let keys = self.objects.iter().filter(|object| object.starts_with(&begins)).take(limit);
        let keys = keys.map(|object| object[bucket.len() + 1..].to_owned()).collect();
        Ok(Page { keys, more: false })
    }
    async fn probe(&self, bucket: &str) -> Result<(), StoreError> {
        self.meet("probe", bucket, "")
    }
}

pub(in crate::gate) fn probe_of(store: &Arc<Buckets>, sources: &[&str]) -> Probe {
    Probe {
        store: Arc::clone(store) as Arc<dyn Store>,
        results_bucket: "results".into(),
        key: "control/probe-default.json".into(),
        sources: sources.iter().map(|text| Source::parse(text).unwrap()).collect(),
    }
}

pub(in crate::gate) fn down() -> StoreError {
    StoreError::Unavailable("503".into())
}

fn denied() -> StoreError {
    StoreError::Denied("AccessDenied".into())
}

fn slow() -> StoreError {
    StoreError::Throttled("SlowDown".into())
}

fn gone() -> StoreError {
    StoreError::BucketMissing("NoSuchBucket".into())
}

fn archived() -> StoreError {
    StoreError::Archived("GLACIER".into())
}

/// Two sources: `src` with a prefix, `more`.
const FOUR: &[&str] = &["src/a/1", "src/a/2", "src/a/3", "more/x"];

fn suspects(dependencies: &[Dependency], denied: &[&str]) -> Suspects {
    let mut suspects = Suspects::default();
    dependencies.iter().for_each(|dependency| suspects.add(*dependency, None));
    denied.iter().for_each(|key| suspects.add(Dependency::Source, Some(key)));
    suspects
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_what_is_asked() {
    use Answer::{Reads, Sick, Well};
    use Dependency::{Host, Parking, Results, Source};
    type Row = (&'static str, &'static [Dependency], &'static [&'static str], &'static [Fault], Answer);
    let table: &[Row] = &[
        ("nothing is known: all buckets are looked at", &[Host], &[], &[], Reads),
        ("a bucket does not answer", &[Host], &[], &[("probe more", down)], Sick),
        ("the results bucket does not answer", &[Source], &[], &[("probe results", down)], Sick),
        ("writes fail", &[Results], &[], &[("put results", down)], Sick),
        ("writes fail, and nobody asked", &[Source], &[], &[("put results", down)], Reads),
        ("writes fail, while parking", &[Parking], &[], &[("put results", slow)], Sick),
        ("what was written cannot be read", &[Results], &[], &[("get results", down)], Sick),
        ("an older policy denies the probe", &[Results], &[], &[("put results", denied)], Well),
        ("the results bucket is gone", &[Results], &[], &[("probe results", gone)], Sick),
        ("everything is denied", &[Source], &[], &[("", denied)], Sick),
        ("objects cannot be read", &[Source], &[], &[("get src", down), ("get more", down)], Sick),
        ("those of one source", &[Source], &[], &[("get src", down)], Sick),
        ("one object never answers", &[Source], &[], &[("get src/a/1", down)], Reads),
        ("two never answer, and a third does", &[Source], &[], &[("get src/a/1", down), ("get src/a/2", down)], Reads),
        ("the only one of a bucket never answers", &[Source], &[], &[("get more/x", down)], Well),
        ("a source is throttled", &[Source], &[], &[("list src", slow)], Sick),
        ("a source may not be listed any more", &[Source], &[], &[("list src", denied)], Well),
        ("a source is gone for good", &[Source], &[], &[("list more", gone)], Reads),
        ("objects are archived", &[Source], &[], &[("get src", archived)], Reads),
        ("objects are denied: that says nothing", &[Source], &[], &[("get src", denied)], Well),
        ("one is denied, others are read", &[], &["a/1"], &[("get src/a/1", denied)], Reads),
        ("all that there are, are denied", &[], &["x"], &[("get more", denied)], Well),
        ("a policy is broken", &[], &["a/1", "a/2"], &[("get src", denied)], Well),
    ];
    for (name, dependencies, denied, faults, expected) in table {
        let store = Buckets::new(FOUR, faults);
        let answer = probe_of(&store, &["src/a/", "more"]).ask(&suspects(dependencies, denied)).await;
        assert_eq!(answer, *expected, "{name}: {:?}", store.calls.lock().unwrap());
    }
    let empty = Buckets::new(&[], &[]);
    assert_eq!(
        probe_of(&empty, &["src"]).ask(&suspects(&[Source], &["a"])).await,
        Well,
        "nothing to read proves nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_a_handful_of_small_calls() {
    let (store, objects) = (Buckets::new(FOUR, &[("get", denied)]), suspects(&[Dependency::Results], &["a/2"]));
    probe_of(&store, &["src/a/", "more"]).ask(&objects).await;
    let mut calls = store.calls.lock().unwrap().clone();
    calls.sort();
    let expected = [
        "get more/x",
        "get results/control/probe-default.json",
        "get src/a/1",
        "get src/a/3", // and not the one that was denied
        "list more/",
        "list src/a/",
        "probe results/",
        "put results/control/probe-default.json",
    ];
    assert_eq!(calls, expected);
}

#[test]
fn only_denied_objects_are_acquitted_and_only_by_reading_others() {
    let mut objects = suspects(&[], &["a", "b"]);
    assert!(!objects.heard(Answer::Well) && !objects.acquitted);
    assert!(objects.heard(Answer::Reads) && objects.acquitted, "news");
    assert!(!objects.heard(Answer::Reads) && objects.acquitted, "no news");
    objects.heard(Answer::Well);
    assert!(!objects.acquitted, "they cannot be read any more");
    objects.heard(Answer::Reads);
    objects.add(Dependency::Results, None);
    assert!(!objects.acquitted, "something else fails");
    objects.heard(Answer::Reads);
    assert!(!objects.acquitted);
    let mut nothing = suspects(&[Dependency::Source], &[]);
    assert!(!nothing.heard(Answer::Reads));
}
