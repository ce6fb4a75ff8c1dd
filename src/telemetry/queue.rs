//! The way of a worker's log lines to stderr: through a bounded queue and a thread of its own.
//!
//! Promises that who writes a line never waits for who reads it: a journal that stands still, or a pipe that nobody empties,
//! must not cost a lease (H7). Lines that find the queue full are dropped and counted; the count is told, and nothing of the
//! ledger rests on them. Knows no field of a line but that last one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Lines that wait, at most: some MiB, and minutes of a busy worker.
const LINES: usize = 10_000;
/// The end of a process waits so long for its last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

enum Word {
    Line(String),
    /// All before it has been written; answered.
    Flush(SyncSender<()>),
}

/// The writing end; every clone is of the same queue.
#[derive(Clone)]
pub struct Queue {
    words: SyncSender<Word>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// Starts the thread. `told` makes the line that says how many were dropped.
    pub fn start(told: impl Fn(u64) -> String + Send + 'static) -> std::io::Result<Self> {
        let (words, heard) = sync_channel(LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(&mut std::io::stderr(), &heard, &count, told))?;
        Ok(Self { words, dropped })
    }

    /// Never waits.
    pub fn line(&self, line: &str) {
        if self.words.try_send(Word::Line(line.to_owned())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines so far are written, for two seconds at most: somebody may never read them.
    pub fn flush(&self) {
        let (written, answer) = sync_channel(1);
        let (mut word, until) = (Word::Flush(written), Instant::now() + LAST_LINES);
        // The queue may be full, and the reader slow: it is asked again for as long as there is time.
        while let Err(std::sync::mpsc::TrySendError::Full(back)) = self.words.try_send(word) {
            if Instant::now() >= until {
                return;
            }
            word = back;
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = answer.recv_timeout(until.saturating_duration_since(Instant::now())); // written, or not to be had
    }
}

fn write_all(
    stderr: &mut impl std::io::Write,
    words: &Receiver<Word>,
    dropped: &AtomicU64,
    told: impl Fn(u64) -> String,
) {
    loop {
        let word = match words.recv_timeout(Duration::from_secs(1)) {
            Ok(word) => Some(word),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        match word {
            // Nobody to tell that nobody can be told.
            Some(Word::Line(line)) => drop(stderr.write_all(line.as_bytes())),
            Some(Word::Flush(written)) => drop(written.send(())),
            None => {}
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            drop(stderr.write_all(told(lost).as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_and_counts_and_its_writer_never_waits() {
        let (words, heard) = sync_channel(LINES);
        let queue = Queue { words, dropped: Arc::default() };
        let began = Instant::now();
        for _ in 0..LINES + 7 {
            queue.line("x\n");
        }
        assert_eq!(queue.dropped.load(Ordering::Relaxed), 7);
        queue.flush(); // nobody writes: it gives up
        assert!(began.elapsed() < LAST_LINES * 5, "{:?}", began.elapsed());
        assert_eq!(heard.try_iter().count(), LINES);
    }

    #[test]
    fn what_was_dropped_is_told_once_as_soon_as_lines_are_written_again() {
        let (words, heard) = sync_channel(LINES);
        let queue = Queue { words, dropped: Arc::new(AtomicU64::new(7)) };
        let dropped = Arc::clone(&queue.dropped);
        queue.line("one\n");
        queue.line("two\n");
        drop(queue);
        let mut written = Vec::new();
        write_all(&mut written, &heard, &dropped, |lines| format!("lost {lines}\n"));
        assert_eq!(String::from_utf8(written).unwrap(), "one\nlost 7\ntwo\n");
    }
}
