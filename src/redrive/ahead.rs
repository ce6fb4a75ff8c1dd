//! Whether to go on: is the index well, is there room in the main queue, are deletes acknowledged.
//!
//! Promises that nothing is received while it could not be acted upon, and that the main queue is looked at within a large
//! batch too. Sends and settles nothing.

use tokio::time::{Instant, timeout};

use super::drain::{AGAIN, LOOK_LIMIT, Run, SICK_FOR, Sink};
use super::report::End;

/// Deletes not acknowledged yet (or a batch of them, if that is more), with which it goes on.
const UNDELETED: u64 = 100;

impl Run {
    /// Nothing is received while it could not be acted upon: the index is sick, or the main queue is full.
    pub(super) async fn until_all_are_well(&mut self, sink: &mut dyn Sink) -> Result<(), End> {
        let (began, mut looks) = (Instant::now(), 0);
        loop {
            let (why, is_trouble) = match self.trouble_ahead().await {
                Ahead::Nothing => return Ok(()),
                Ahead::Full(waiting) => (format!("{waiting} wait in the main queue"), false),
                Ahead::Sick(why) => (why, true),
            };
            if is_trouble && began.elapsed() >= SICK_FOR {
                return Err(End::Sick { why });
            }
            sink.progress(&self.tally, self.about, &format!("waiting: {why}"));
            if !self.rest(AGAIN.wait(looks, &self.of.jitter)).await {
                return Err(self.stopped().unwrap_or(End::Interrupted));
            }
            looks += 1;
        }
    }

    async fn trouble_ahead(&self) -> Ahead {
        // What is not deleted is met again by the next run, and sent again.
        let in_hand = (self.aside.len() + self.waiting.len()) as u64;
        let undeleted = self.of.hold.books().in_flight.saturating_sub(in_hand);
        if undeleted > UNDELETED.max(self.of.limits.batch_size as u64) {
            return Ahead::Sick(format!("the dead-letter queue: {undeleted} deletes are not acknowledged"));
        }
        if let Some(index) = &self.of.index {
            match timeout(LOOK_LIMIT, index.probe()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Ahead::Sick(format!("OpenSearch: {error}")),
                Err(_) => return Ahead::Sick(format!("OpenSearch: no answer within {LOOK_LIMIT:?}")),
            }
        }
        match self.backlog().await {
            Ok(Some(waiting)) => Ahead::Full(waiting),
            Ok(None) => Ahead::Nothing,
            Err(why) => Ahead::Sick(why),
        }
    }

    /// Waiting in the main queue, where that is too many.
    async fn backlog(&self) -> Result<Option<u64>, String> {
        let waiting = self.waiting_in_main().await?;
        Ok((waiting > self.of.limits.max_backlog).then_some(waiting))
    }

    pub(super) async fn waiting_in_main(&self) -> Result<u64, String> {
        match timeout(LOOK_LIMIT, self.of.main.facts()).await {
            Ok(Ok(facts)) => Ok(facts.visible + facts.delayed),
            Ok(Err(error)) => Err(format!("the main queue: {error}")),
            Err(_) => Err(format!("the main queue: no answer within {LOOK_LIMIT:?}")),
        }
    }

    /// Waits within a batch until the main queue has room. The error says why the rest of the batch is left: it was told to
    /// stop, or the queue does not answer.
    pub(super) async fn until_there_is_room(&self, sink: &mut dyn Sink) -> Result<(), String> {
        let (mut answered, mut looks) = (Instant::now(), 0);
        loop {
            let why = match self.backlog().await {
                Ok(None) => return Ok(()),
                Ok(Some(waiting)) => {
                    answered = Instant::now();
                    format!("{waiting} wait in the main queue")
                }
                Err(why) => why,
            };
            sink.progress(&self.tally, self.about, &format!("waiting: {why}"));
            let is_silent = answered.elapsed() >= SICK_FOR;
            if is_silent || !self.rest(AGAIN.wait(looks, &self.of.jitter)).await {
                return Err(format!("not sent: {why}"));
            }
            looks += 1;
        }
    }
}

enum Ahead {
    Nothing,
    Full(u64),
    Sick(String),
}
