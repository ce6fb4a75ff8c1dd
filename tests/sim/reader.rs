//! Extraction in a simulation: plain text, read in this process, and whatever a test wants to go wrong with a file.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use quittance::process::extract::{Extract, ExtractFailure, Extraction, Hints, Keep};
use tokio::time::Instant;

/// In the text of every panic that is part of a plan.
pub const TOLD_TO_PANIC: &str = "was told to panic";

/// What happens to a file.
#[derive(Clone, Debug)]
pub enum Act {
    Reads,
    /// Read after this long.
    Takes(Duration),
    /// Keeps its thread for this long of the wall's time, as a blocking call on an async thread does.
    Blocks(Duration),
    /// Never answers.
    Hangs,
    /// The worker's own code panics.
    Panics,
    /// The child fails.
    Fails(ExtractFailure),
    /// The file cannot be read.
    Unreadable(&'static str),
    /// Never answers; when its caller goes away, the child is gone only after this long.
    Lingers(Duration),
}

/// The reader of one site, shared by its workers.
#[derive(Default)]
pub struct Reader {
    script: Mutex<BTreeMap<String, VecDeque<Act>>>,
    begun: Mutex<Vec<Begun>>,
    ended: Mutex<Vec<(String, Instant)>>,
}

/// A file that somebody began to read, and what happened to it.
#[derive(Clone, Debug)]
pub struct Begun {
    pub file_name: String,
    pub at: Instant,
    pub act: Act,
}

impl Reader {
    /// What happens to the file of this name: one act a time; the last one is repeated.
    pub fn plan(&self, file_name: &str, acts: impl IntoIterator<Item = Act>) {
        self.script.lock().unwrap().insert(file_name.to_owned(), acts.into_iter().collect());
    }

    /// From now on nothing hangs that is not hanging already.
    pub fn heal(&self) {
        for acts in self.script.lock().unwrap().values_mut() {
            acts.retain(|act| !matches!(act, Act::Hangs | Act::Lingers(_)));
        }
    }

    /// How often this file was begun.
    pub fn works(&self, file_name: &str) -> usize {
        self.begun.lock().unwrap().iter().filter(|begun| begun.file_name == file_name).count()
    }

    /// Every beginning, in order.
    pub fn begun(&self) -> Vec<Begun> {
        self.begun.lock().unwrap().clone()
    }

    /// How often files were begun, in all.
    pub fn all_works(&self) -> usize {
        self.begun.lock().unwrap().len()
    }

    /// From when to when this file was in work, for each time that has ended.
    pub fn spans(&self, file_name: &str) -> Vec<(Instant, Instant)> {
        let (begun, ended) = (self.begun.lock().unwrap(), self.ended.lock().unwrap());
        let begun = begun.iter().filter(|begun| begun.file_name == file_name).map(|begun| begun.at);
        begun.zip(ended.iter().filter(|(name, _)| name == file_name).map(|(_, at)| *at)).collect()
    }

    fn next(&self, file_name: &str) -> Act {
        let mut script = self.script.lock().unwrap();
        let act = match script.get_mut(file_name) {
            Some(acts) if acts.len() > 1 => acts.pop_front().unwrap(),
            Some(acts) => acts.front().cloned().unwrap_or(Act::Reads),
            None => Act::Reads,
        };
        let begun = Begun { file_name: file_name.to_owned(), at: Instant::now(), act: act.clone() };
        self.begun.lock().unwrap().push(begun);
        act
    }
}

/// Says when the work on a file is over, however it ends.
struct Ends<'a>(&'a Reader, &'a str);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.ended.lock().unwrap().push((self.1.to_owned(), Instant::now()));
    }
}

/// Holds what the caller must keep for a while after it has gone, as a child does that takes its time to die.
struct Lingering {
    keep: Option<Keep>,
    time: Duration,
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let (keep, time) = (self.keep.take(), self.time);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            drop(keep);
        });
    }
}

#[async_trait]
impl Extract for Reader {
    async fn extract(&self, file: &Path, hints: &Hints, keep: Keep) -> Result<Extraction, ExtractFailure> {
        let text = String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
        let read = Extraction { mime_type: "text/plain".into(), content: Some(text), ..Extraction::default() };
        tokio::task::yield_now().await;
        let act = self.next(&hints.file_name);
        let _ends = Ends(self, &hints.file_name);
        match act {
            Act::Reads => Ok(read),
            Act::Takes(time) => {
                tokio::time::sleep(time).await;
                Ok(read)
            }
            Act::Blocks(time) => {
                std::thread::sleep(time);
                Ok(read)
            }
            Act::Hangs => std::future::pending().await,
            Act::Panics => panic!("the reader of {} {TOLD_TO_PANIC}", hints.file_name),
            Act::Fails(failure) => Err(failure),
            Act::Unreadable(why) => Ok(Extraction { content: None, extraction_error: Some(why.into()), ..read }),
            Act::Lingers(time) => {
                let _held = Lingering { keep: Some(keep), time };
                std::future::pending().await
            }
        }
    }
}
