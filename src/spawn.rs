//! The spawn port: every task of the pipeline is tied before it is spawned, so that a simulation can hold all tasks of
//! one worker at once, as SIGSTOP does, or drop them, as SIGKILL does.
//!
//! Promises that a task tied inside a held task is held with it, and that in a real process, where nobody holds
//! anything, a tied task is the task itself. Spawns nothing: where a task runs is its owner's affair.

use std::cell::RefCell;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Who gives a worker's tasks their turns; only a simulation has one.
pub trait Turns: Send + Sync {
    /// Calls `poll` now, or keeps the waker and wakes it when the task may go on.
    fn turn(&self, context: &mut Context<'_>, poll: &mut dyn FnMut(&mut Context<'_>));
}

thread_local! {
    /// Whose task is running on this thread. Passed on from task to task, as a process id is.
    static GIVER: RefCell<Option<Arc<dyn Turns>>> = const { RefCell::new(None) };
}

/// Ties a task to the worker whose task is asking.
pub fn tied<F: Future>(task: F) -> impl Future<Output = F::Output> {
    let giver = GIVER.with_borrow(Clone::clone);
    async move {
        match giver {
            None => task.await,
            Some(giver) => given_by(giver, task).await,
        }
    }
}

/// Runs a task, and all that is tied within it, by the turns of `giver`.
pub async fn given_by<F: Future>(giver: Arc<dyn Turns>, task: F) -> F::Output {
    let mut task = pin!(task);
    std::future::poll_fn(|context| {
        let mut polled = Poll::Pending;
        giver.turn(context, &mut |context| {
            let _mine = Mine::now(Arc::clone(&giver));
            polled = task.as_mut().poll(context);
        });
        polled
    })
    .await
}

/// For the length of one poll, also when it panics.
struct Mine(Option<Arc<dyn Turns>>);

impl Mine {
    fn now(giver: Arc<dyn Turns>) -> Self {
        Self(GIVER.replace(Some(giver)))
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        GIVER.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::task::Waker;

    use super::*;

    #[derive(Default)]
    struct Held {
        holding: Mutex<bool>,
        waiting: Mutex<Vec<Waker>>,
    }

    impl Turns for Held {
        fn turn(&self, context: &mut Context<'_>, poll: &mut dyn FnMut(&mut Context<'_>)) {
            if *self.holding.lock().unwrap() {
                self.waiting.lock().unwrap().push(context.waker().clone());
            } else {
                poll(context);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_worker_and_what_it_spawned_stand_still_and_others_go_on() {
        let held = Arc::new(Held::default());
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let second = std::time::Duration::from_secs(1);
        let child = move |name: &'static str| {
            let told = told.clone();
            async move {
                loop {
                    tokio::time::sleep(second).await;
                    told.send(name).unwrap();
                }
            }
        };
        let (mine, others) = (child("mine"), child("another's"));
        tokio::spawn(given_by(held.clone(), async move { drop(tokio::spawn(tied(mine))) }));
        tokio::spawn(tied(others));
        tokio::time::sleep(second * 3 / 2).await;
        *held.holding.lock().unwrap() = true;
        tokio::time::sleep(second * 3).await;
        *held.holding.lock().unwrap() = false;
        held.waiting.lock().unwrap().drain(..).for_each(Waker::wake);
        tokio::time::sleep(second / 4).await;
        let mut all = Vec::new();
        while let Ok(name) = heard.try_recv() {
            all.push(name);
        }
        let count = |name| all.iter().filter(|told| **told == name).count();
        assert_eq!((count("mine"), count("another's")), (2, 4), "{all:?}");
        assert_eq!(all.last(), Some(&"mine"), "its timer had expired: it goes on at once");
    }
}
