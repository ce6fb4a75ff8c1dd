//! Stories side by side in one test: they mostly wait, and the test harness has no more threads than the machine has cores.

use std::pin::Pin;
use std::time::Instant;

use futures_util::StreamExt as _;
use tokio::task::{JoinError, LocalSet, spawn_local};

/// A name, and what happens.
pub type Story = (String, Pin<Box<dyn Future<Output = ()>>>);

pub fn story(name: impl Into<String>, what: impl Future<Output = ()> + 'static) -> Story {
    (name.into(), Box::pin(what))
}

/// At most so many at a time. One that panics does not end the others; all that went wrong is told in the end.
pub async fn side_by_side(most: usize, stories: impl IntoIterator<Item = Story>) {
    let stories: Vec<Story> = stories.into_iter().collect();
    LocalSet::new().run_until(run(most, stories)).await;
}

async fn run(most: usize, stories: Vec<Story>) {
    let one = async |(name, what): Story| {
        let began = Instant::now();
        (name, spawn_local(what).await, began.elapsed())
    };
    let (mut times, mut wrong) = (Vec::new(), Vec::new());
    let mut running = std::pin::pin!(futures_util::stream::iter(stories).map(one).buffer_unordered(most));
    while let Some((name, end, took)) = running.next().await {
        match end {
            Ok(()) => times.push(format!("{name} {took:.0?}")),
            Err(panic) => wrong.push(format!("{name}: {}", text(panic))),
        }
    }
    eprintln!("{}", times.join(" · "));
    assert!(wrong.is_empty(), "{} stories went wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// What a task said when it panicked.
pub fn text(end: JoinError) -> String {
    let panic = end.into_panic();
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
