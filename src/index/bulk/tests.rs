//! The lane over an index that answers as told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::index::{ItemAnswer, SearchError};
use crate::message::{DocumentId, Namespace};

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// What the index makes of a document, by its revision.
const GOOD: u64 = 1;
const REFUSED: u64 = 2;
const POISON: u64 = 3;
const SICK: u64 = 4;
/// And so many requests long: `BUSY + 2` is turned away twice.
const BUSY: u64 = 100;
const UNKNOWN: u64 = 200;
/// The reply has nothing at the places from this one on.
const SILENT: u64 = 300;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Mood {
    #[default]
    Well,
    /// Answers after this long that it cannot.
    Fails(Duration),
    /// Never answers; the client closes the connection after this long.
    Hangs(Duration),
    /// 429 to everything.
    Full,
    /// 413 to more documents than this.
    Takes(usize),
    /// 400 to everything.
    Refuses,
    /// One after the other, each document in this time.
    Works(Duration),
}

#[derive(Default)]
struct State {
    mood: Mood,
    /// Begin and documents of each request.
    requests: Vec<(Instant, usize)>,
    seen: BTreeMap<DocumentId, u64>,
    free_at: Option<Instant>,
}

#[derive(Default)]
struct Told {
    state: Mutex<State>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl Told {
    fn mood(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    fn requests(&self) -> usize {
        self.state.lock().unwrap().requests.len()
    }

    fn sizes(&self) -> Vec<usize> {
        self.state.lock().unwrap().requests.iter().map(|(_, documents)| *documents).collect()
    }

    fn forget(&self) {
        self.state.lock().unwrap().requests.clear();
    }

    async fn answer(&self, items: &[IndexItem]) -> Result<Vec<ItemAnswer>, SearchError> {
        let unavailable = |why: &str| Err(SearchError::Unavailable(why.into()));
        let mood = self.state.lock().unwrap().mood.clone();
        match mood {
            Mood::Well => sleep(Duration::from_millis(5)).await,
            Mood::Fails(after) => {
                sleep(after).await;
                return unavailable("503");
            }
            Mood::Hangs(closed_after) => {
                sleep(closed_after).await;
                return unavailable("no answer");
            }
            Mood::Full => return Err(SearchError::Busy("429 rejected".into())),
            Mood::Takes(most) if items.len() > most => return Err(SearchError::TooLarge("413".into())),
            Mood::Takes(_) => {}
            Mood::Refuses => {
                sleep(Duration::from_millis(5)).await;
                return Err(SearchError::WholeRefused("400".into()));
            }
            Mood::Works(each) => {
                let until = {
                    let mut state = self.state.lock().unwrap();
                    let begin = state.free_at.map_or_else(Instant::now, |at| at.max(Instant::now()));
                    *state.free_at.insert(begin + each * u32::try_from(items.len()).unwrap())
                };
                tokio::time::sleep_until(until).await;
            }
        }
        if items.iter().any(|item| item.revision == POISON) {
            return Err(SearchError::WholeRefused("400".into()));
        }
        let mut state = self.state.lock().unwrap();
        let mut answers = Vec::new();
        for item in items {
            let seen = state.seen.entry(item.document_id.clone()).or_default();
            *seen += 1;
            answers.push(match item.revision {
                REFUSED => ItemAnswer::Refused("mapping".into()),
                SICK => ItemAnswer::Sick("unavailable_shards_exception".into()),
                times @ BUSY..UNKNOWN if *seen <= times - BUSY => ItemAnswer::Busy("rejected".into()),
                times @ UNKNOWN..SILENT if *seen <= times - UNKNOWN => ItemAnswer::Unknown("cannot be read".into()),
                times @ SILENT.. if *seen <= times - SILENT => break,
                _ => ItemAnswer::Durable,
            });
        }
        Ok(answers)
    }
}

#[async_trait]
impl Search for Told {
    async fn bulk(&self, items: &[IndexItem]) -> Result<Vec<ItemAnswer>, SearchError> {
        self.state.lock().unwrap().requests.push((Instant::now(), items.len()));
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(now, Ordering::SeqCst);
        let answer = self.answer(items).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        answer
    }

    async fn probe(&self) -> Result<(), SearchError> {
        Ok(())
    }

    fn request_timeout(&self) -> Duration {
        PATIENCE
    }
}

fn lane() -> (Arc<Told>, Lane) {
    let told = Arc::new(Told::default());
    let (lane, drive) = Lane::new(Arc::clone(&told) as Arc<dyn Search>, Arc::new(Jitter::seeded(1)));
    tokio::spawn(drive);
    (told, lane)
}

fn item(number: usize, revision: u64, bytes: usize) -> IndexItem {
    let document_id = DocumentId::of(&Namespace::parse("n").unwrap(), "b", &format!("{number}"));
    IndexItem { document_id, revision, source: Bytes::from(vec![b' '; bytes]) }
}

async fn submit(lane: &Lane, revisions: impl IntoIterator<Item = u64>) -> Vec<ItemVerdict> {
    let items = revisions.into_iter().enumerate().map(|(number, revision)| item(number, revision, 2));
    join_all(items.map(|item| lane.submit(item, Class::Fresh))).await
}

/// Verdicts with the time that each took, of documents handed in one after the other at this distance.
fn stream(lane: &Lane, documents: usize, apart: Duration) -> Vec<JoinHandle<(ItemVerdict, Duration)>> {
    let one = |number: usize| {
        let lane = lane.clone();
        async move {
            sleep(apart * u32::try_from(number).unwrap()).await;
            let began = Instant::now();
            let verdict = lane.submit(item(number, GOOD, 2), Class::Fresh).await;
            (verdict, began.elapsed())
        }
    };
    (0..documents).map(one).map(tokio::spawn).collect()
}

async fn all(stream: Vec<JoinHandle<(ItemVerdict, Duration)>>) -> Vec<(ItemVerdict, Duration)> {
    join_all(stream).await.into_iter().map(Result::unwrap).collect()
}

fn is_systemic(verdict: &ItemVerdict) -> bool {
    matches!(verdict, ItemVerdict::Systemic(_))
}

#[tokio::test(start_paused = true)]
async fn a3_2_one_poison_among_a_hundred_is_found_in_fifteen_requests_and_the_others_are_indexed() {
    for guilty in [0, 37, 99] {
        let (told, lane) = lane();
        let verdicts = submit(&lane, (0..100).map(|n| if n == guilty { POISON } else { GOOD })).await;
        for (n, verdict) in (0..).zip(&verdicts) {
            let expected = if n == guilty { ItemVerdict::Refused("400".into()) } else { ItemVerdict::Durable };
            assert_eq!(verdict, &expected, "document {n}, guilty {guilty}");
        }
        assert!(told.requests() <= 15, "{} requests", told.requests());
        assert_eq!(lane.room(), Room::Free, "it answers: it is well");
    }
}

/// A proxy with a bad rule: nothing that is sent is to blame, and the first few look as if they were.
#[tokio::test(start_paused = true)]
async fn where_every_request_is_refused_no_more_than_four_documents_are_blamed_and_the_index_is_left_alone() {
    let (told, lane) = lane();
    told.mood(Mood::Refuses);
    let mut verdicts = submit(&lane, vec![GOOD; 200]).await;
    assert!(told.requests() <= 20, "{} requests for a batch", told.requests());
    for _ in 0..60 {
        verdicts.extend(submit(&lane, vec![GOOD; 20]).await);
        sleep(SECOND).await;
    }
    assert_ne!(lane.room(), Room::Free);
    assert!(told.requests() <= 60, "{} requests in a minute", told.requests());
    let blamed = verdicts.iter().filter(|verdict| matches!(verdict, ItemVerdict::Refused(_))).count();
    assert!((1..=4).contains(&blamed), "{blamed}");
    // The rule is mended; whoever is refused among others that are taken is to blame again.
    told.mood(Mood::Well);
    sleep(60 * SECOND).await;
    submit(&lane, [GOOD]).await;
    sleep(SECOND).await;
    assert_eq!(lane.room(), Room::Free);
    for _ in 0..10 {
        let verdicts = submit(&lane, [GOOD, POISON, GOOD]).await;
        let refused = ItemVerdict::Refused("400".into());
        assert_eq!(verdicts, [ItemVerdict::Durable, refused, ItemVerdict::Durable]);
    }
}

#[tokio::test(start_paused = true)]
async fn documents_that_alone_are_too_large_are_to_blame_however_many_they_are() {
    let (told, lane) = lane();
    told.mood(Mood::Takes(0));
    let verdicts = submit(&lane, vec![GOOD; 20]).await;
    assert!(verdicts.iter().all(|verdict| *verdict == ItemVerdict::Refused("413".into())), "{verdicts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_search_for_the_guilty_ends_with_one_request_timeout_and_what_is_left_is_parked() {
    let (told, lane) = lane();
    told.mood(Mood::Works(Duration::from_millis(25))); // the first request alone: 5 s
    let began = Instant::now();
    let verdicts = submit(&lane, (0..200).map(|n| if n == 199 { POISON } else { GOOD })).await;
    assert!(began.elapsed() <= PATIENCE, "{:?}", began.elapsed());
    let durable = verdicts.iter().filter(|verdict| **verdict == ItemVerdict::Durable).count();
    let systemic = verdicts.iter().filter(|verdict| is_systemic(verdict)).count();
    assert!(durable >= 50 && systemic > 0 && durable + systemic == 200, "{durable} durable, {systemic} systemic");
}

#[tokio::test(start_paused = true)]
async fn batches_refused_for_their_size_become_smaller_and_stay_so() {
    let (told, lane) = lane();
    told.mood(Mood::Takes(30));
    assert_eq!(submit(&lane, vec![GOOD; 200]).await, vec![ItemVerdict::Durable; 200]);
    assert_eq!(told.sizes().iter().max(), Some(&200));
    for _ in 0..3 {
        assert_eq!(submit(&lane, vec![GOOD; 200]).await, vec![ItemVerdict::Durable; 200]);
    }
    told.forget();
    assert_eq!(submit(&lane, vec![GOOD; 200]).await, vec![ItemVerdict::Durable; 200]);
    assert!(told.sizes().iter().all(|documents| *documents <= 100), "{:?}", told.sizes());
}

#[tokio::test(start_paused = true)]
async fn only_what_has_no_verdict_is_sent_again_and_within_the_time_of_one_request() {
    type Case = (&'static str, &'static [u64], &'static str, &'static [usize], bool);
    // Revisions, verdicts (d, r, s), documents of each request, breaker closed.
    let cases: [Case; 9] = [
        ("one of three is busy twice", &[GOOD, BUSY + 2, REFUSED], "ddr", &[3, 1, 1], true),
        ("all are busy once", &[BUSY + 1, BUSY + 1], "dd", &[2, 2], true),
        ("an item that cannot be read", &[GOOD, UNKNOWN + 1, GOOD], "ddd", &[3, 1], true),
        ("a reply that cannot be read", &[UNKNOWN + 1, UNKNOWN + 1], "dd", &[2, 2], true),
        ("a reply that ends in the middle", &[GOOD, SILENT + 1, GOOD], "ddd", &[3, 2], true),
        ("busy and unknown together", &[BUSY + 1, UNKNOWN + 1, GOOD], "ddd", &[3, 2], true),
        ("one that is never readable", &[GOOD, UNKNOWN + 90], "du", &[2, 1, 1], true),
        ("replies that are never readable", &[UNKNOWN + 90, UNKNOWN + 90], "ss", &[2, 2, 2], false),
        ("a sick cluster is not asked twice", &[GOOD, SICK], "ds", &[2], true),
    ];
    for (name, revisions, expected, requests, closed) in cases {
        let (told, lane) = lane();
        let began = Instant::now();
        let verdicts = submit(&lane, revisions.iter().copied()).await;
        let told_as = |verdict: &ItemVerdict| match verdict {
            ItemVerdict::Durable => 'd',
            ItemVerdict::Refused(_) => 'r',
            ItemVerdict::Unclear(_) => 'u',
            ItemVerdict::Systemic(_) => 's',
        };
        assert_eq!(verdicts.iter().map(told_as).collect::<String>(), expected, "{name}");
        assert_eq!(told.sizes(), requests, "{name}");
        assert!(began.elapsed() < PATIENCE, "{name}: {:?}", began.elapsed());
        assert_eq!(lane.room() == Room::Free, closed, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_turned_away_for_a_whole_request_timeout_is_parked_and_opens_the_breaker() {
    for whole in [true, false] {
        let (told, lane) = lane();
        if whole {
            told.mood(Mood::Full);
        }
        let began = Instant::now();
        let verdicts = submit(&lane, vec![BUSY + 99; 20]).await;
        assert!(verdicts.iter().all(is_systemic), "{verdicts:?}");
        assert!(began.elapsed() <= PATIENCE, "{:?}", began.elapsed());
        assert!((5..=12).contains(&told.requests()), "with growing distances: {}", told.requests());
        sleep(LITTLE).await;
        assert_eq!(lane.room(), Room::None, "whole: {whole}");
        // One that is turned away while others are taken says nothing about the index.
        told.mood(Mood::Well);
        sleep(40 * SECOND).await;
        submit(&lane, [GOOD]).await;
        sleep(SECOND).await;
        let verdicts = submit(&lane, [GOOD, BUSY + 99]).await;
        assert!(verdicts[0] == ItemVerdict::Durable && is_systemic(&verdicts[1]), "{verdicts:?}");
        sleep(LITTLE).await;
        assert_eq!(lane.room(), Room::Free);
    }
}

/// A batch begins a moment after its first document came, and ends as much later.
const LITTLE: Duration = Duration::from_millis(50);

#[tokio::test(start_paused = true)]
async fn a_document_that_is_never_taken_does_not_shut_out_the_others() {
    let (_, lane) = lane();
    for _ in 0..10 {
        let verdicts = submit(&lane, [GOOD, SICK, REFUSED]).await;
        assert!(
            matches!(&verdicts[..], [ItemVerdict::Durable, ItemVerdict::Systemic(_), ItemVerdict::Refused(_)]),
            "{verdicts:?}"
        );
        assert_eq!(lane.room(), Room::Free);
    }
}

/// The documents in the two requests that hang, those that wait behind them in the channel, and those that come later.
#[tokio::test(start_paused = true)]
async fn an_outage_costs_one_request_timeout_once_whoever_waits_and_wherever() {
    for (name, mood, cost) in [
        ("hangs", Mood::Hangs(PATIENCE), PATIENCE),
        ("hangs for ever", Mood::Hangs(1000 * SECOND), PATIENCE),
        ("is gone", Mood::Fails(Duration::ZERO), SECOND),
        ("swallows packets", Mood::Fails(2 * SECOND), 5 * SECOND),
        ("has no shards", Mood::Fails(5 * SECOND), PATIENCE + LITTLE),
        ("is full", Mood::Full, PATIENCE),
    ] {
        let (told, lane) = lane();
        told.mood(mood);
        // Ten a second, for two minutes.
        let ends = all(stream(&lane, 1_200, SECOND / 10)).await;
        assert!(ends.iter().all(|(verdict, _)| is_systemic(verdict)), "{name}");
        let slowest = ends.iter().map(|(_, took)| *took).max().unwrap();
        assert!(slowest <= PATIENCE, "{name}: {slowest:?}");
        // Once: whoever comes when that time is over does not wait at all.
        let late = usize::try_from((cost + LITTLE).as_millis() / 100).unwrap() + 1;
        let late = ends.iter().skip(late).map(|(_, took)| *took).max().unwrap();
        assert_eq!(late, Duration::ZERO, "{name}");
        assert!(told.requests() <= 20, "{name}: {} requests in two minutes", told.requests());
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_breaker_is_open_one_document_at_a_time_is_sent_and_none_waits_for_that() {
    let (told, lane) = lane();
    told.mood(Mood::Hangs(PATIENCE));
    assert!(is_systemic(&submit(&lane, [GOOD]).await[0]));
    sleep(LITTLE).await;
    assert_eq!((lane.room(), told.requests()), (Room::None, 1), "one timeout is enough");
    let began = Instant::now();
    assert!(submit(&lane, vec![GOOD; 500]).await.iter().all(is_systemic));
    assert_eq!((told.requests(), began.elapsed()), (1, Duration::ZERO));
    // A try is due: one fresh document is sent, and parked like the others.
    sleep(2 * SECOND).await;
    assert_eq!(lane.room(), Room::One);
    let began = Instant::now();
    assert!(submit(&lane, vec![GOOD; 5]).await.iter().all(is_systemic));
    assert_eq!(began.elapsed(), Duration::ZERO);
    sleep(SECOND).await;
    assert_eq!((told.sizes(), lane.room()), (vec![1, 1], Room::None));
    // A replayed one waits for its verdict, which closes the breaker for all.
    sleep(9 * SECOND).await;
    told.mood(Mood::Well);
    assert_eq!(lane.room(), Room::One);
    assert_eq!(lane.submit(item(1, GOOD, 2), Class::Replay).await, ItemVerdict::Durable);
    assert_eq!(lane.room(), Room::Free);
    assert_eq!(submit(&lane, vec![GOOD; 5]).await, vec![ItemVerdict::Durable; 5]);
    // A fresh one does so too.
    told.mood(Mood::Hangs(PATIENCE));
    submit(&lane, [GOOD]).await;
    told.mood(Mood::Well);
    sleep(3 * SECOND).await;
    assert!(is_systemic(&submit(&lane, [GOOD]).await[0]));
    sleep(SECOND).await;
    assert_eq!(lane.room(), Room::Free);
}

#[tokio::test(start_paused = true)]
async fn requests_that_nobody_waits_for_still_count() {
    let (told, lane) = lane();
    told.mood(Mood::Hangs(1000 * SECOND));
    // Cancelled soon after they were handed in, again and again, in the eyes of a breaker that is not told.
    for _ in 0..20 {
        let work = join_all((0..250).map(|number| lane.submit(item(number, GOOD, 2), Class::Fresh)));
        assert!(tokio::time::timeout(SECOND / 10, work).await.is_err());
    }
    assert_eq!(told.most_under_way.load(Ordering::SeqCst), 2, "the limit to begin with");
    // Given up by the lane, and not ended: the tries must wait.
    sleep(60 * SECOND).await;
    for _ in 0..100 {
        submit(&lane, [GOOD]).await;
        sleep(SECOND).await;
    }
    assert_eq!((told.most_under_way.load(Ordering::SeqCst), told.requests()), (2, 2));
    // They end, and the next try goes.
    told.mood(Mood::Well);
    sleep(1000 * SECOND).await;
    submit(&lane, [GOOD]).await;
    sleep(SECOND).await;
    assert_eq!((lane.room(), submit(&lane, [GOOD]).await), (Room::Free, vec![ItemVerdict::Durable]));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_lane_leaves_no_request_uncounted_and_its_driver_ends() {
    let told = Arc::new(Told::default());
    let (lane, drive) = Lane::new(Arc::clone(&told) as Arc<dyn Search>, Arc::new(Jitter::seeded(1)));
    let driving = tokio::spawn(drive);
    assert_eq!(submit(&lane, [GOOD]).await, [ItemVerdict::Durable]);
    drop(lane);
    driving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn documents_over_the_bound_of_bytes_wait_for_a_place_and_never_longer_than_a_request_timeout() {
    const BIG: usize = 8 * 1024 * 1024;
    let (told, lane) = lane();
    told.mood(Mood::Works(SECOND / 4)); // each in a request of its own
    let big = |number| lane.submit(item(number, GOOD, BIG), Class::Fresh);
    // Eight have a place, the others follow as places become free.
    let began = Instant::now();
    assert_eq!(join_all((0..20).map(big)).await, vec![ItemVerdict::Durable; 20]);
    assert!(began.elapsed() < PATIENCE);
    // The index hangs with eight; a ninth document, also a small one and one larger than the bound, has its verdict in time.
    told.mood(Mood::Hangs(PATIENCE));
    let (began, lane) = (Instant::now(), &lane);
    let small = async |number| {
        sleep(SECOND).await;
        lane.submit(item(number, GOOD, if number == 99 { 2 * WAITING_BYTES } else { 2 }), Class::Fresh).await
    };
    let (all, late) = tokio::join!(join_all((0..12).map(big)), join_all((98..100).map(small)));
    assert!(all.iter().chain(&late).all(is_systemic));
    assert!(began.elapsed() <= PATIENCE + SECOND, "{:?}", began.elapsed());
    // What was parked takes no place any more; one larger than the bound is taken alone.
    told.mood(Mood::Well);
    sleep(60 * SECOND).await;
    submit(lane, [GOOD]).await;
    sleep(SECOND).await;
    assert_eq!(lane.waiting[0].available_permits(), WAITING_BYTES / UNIT);
    assert_eq!(lane.submit(item(1, GOOD, 2 * WAITING_BYTES), Class::Fresh).await, ItemVerdict::Durable);
    sleep(SECOND).await;
    assert_eq!(lane.waiting[0].available_permits(), WAITING_BYTES / UNIT);
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_replayed_documents_keep_no_fresh_one_out() {
    let (told, lane) = lane();
    told.mood(Mood::Hangs(1000 * SECOND));
    let replayed = join_all((0..9).map(|number| lane.submit(item(number, GOOD, WAITING_BYTES / 8), Class::Replay)));
    assert!(tokio::time::timeout(SECOND, replayed).await.is_err());
    assert_eq!(lane.waiting[0].available_permits(), WAITING_BYTES / UNIT);
}

#[tokio::test(start_paused = true)]
async fn an_index_slower_than_its_timeout_for_whole_batches_is_given_smaller_ones() {
    let (told, lane) = lane();
    told.mood(Mood::Works(SECOND / 2)); // 25 documents take longer than a request may
    let mut durable = 0;
    for _ in 0..60 {
        durable += submit(&lane, vec![GOOD; 25]).await.iter().filter(|verdict| !is_systemic(verdict)).count();
        sleep(10 * SECOND).await;
    }
    let sizes = told.sizes();
    assert!(sizes[0] == 25 && sizes[2..].iter().all(|documents| *documents <= 12), "{sizes:?}");
    assert!(durable > 60 * 25 / 4, "{durable} of {}", 60 * 25);
}

/// Documents that are handed in again as soon as they have their verdict; how many were taken.
fn load(lane: &Lane, class: Class, documents: usize) -> Arc<AtomicUsize> {
    let done = Arc::new(AtomicUsize::new(0));
    for number in 0..documents {
        let (lane, done) = (lane.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            loop {
                if lane.submit(item(number, GOOD, 2), class).await == ItemVerdict::Durable {
                    done.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
    }
    done
}

#[tokio::test(start_paused = true)]
async fn replay_alone_leaves_a_slot_for_the_fresh_ones_that_may_come() {
    let (told, lane) = lane();
    let replayed = load(&lane, Class::Replay, 400);
    sleep(3 * SECOND).await;
    assert!(replayed.load(Ordering::SeqCst) > 3 * 1_000, "{replayed:?}");
    assert_eq!(told.most_under_way.load(Ordering::SeqCst), 1);
}

/// Fresh documents never stop coming, more than the index takes.
#[tokio::test(start_paused = true)]
async fn under_full_load_replay_has_its_tenth_of_the_slots_and_no_more() {
    let (told, lane) = lane();
    told.mood(Mood::Works(Duration::from_millis(5))); // a second for a batch
    let (fresh, replayed) = (load(&lane, Class::Fresh, 1_000), load(&lane, Class::Replay, 1_000));
    sleep(600 * SECOND).await;
    let done = [&fresh, &replayed].map(|done| done.load(Ordering::SeqCst));
    let share = done[1] as f64 / (done[0] + done[1]) as f64;
    assert!((0.08..=0.12).contains(&share), "{done:?}: {share}");
    assert!(done[0] + done[1] > 600 * 200 * 8 / 10, "{done:?}: the index was not made use of");
}
