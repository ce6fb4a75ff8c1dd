//! Waiting for a condition, with a deadline that says what was seen last.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Long enough for a busy machine; nothing waits this long unless it fails.
pub const LONG: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Asks until the answer is `Ok`; panics with the last `Err` at the deadline.
pub async fn eventually<T, Seen: Debug>(
    what: &str,
    within: Duration,
    probe: impl AsyncFnMut() -> Result<T, Seen>,
) -> T {
    eventually_every(LOOK_EVERY, what, within, probe).await
}

/// At a pace of its own.
pub async fn eventually_every<T, Seen: Debug>(
    pace: Duration,
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, Seen>,
) -> T {
    let began = Instant::now();
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(seen) if began.elapsed() > within => {
                panic!("not within {within:?}: {what}; last seen: {seen:#?}")
            }
            Err(_) => tokio::time::sleep(pace).await,
        }
    }
}

/// `Ok` when it holds, else what was seen.
pub fn holds<Seen>(condition: bool, seen: Seen) -> Result<(), Seen> {
    if condition { Ok(()) } else { Err(seen) }
}
