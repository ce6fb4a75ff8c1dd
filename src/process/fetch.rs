//! The current object into a temp file: capped, hashed, under one total deadline.
//!
//! Promises that partial text is never read (the length is checked, a broken body is an error), that a file over the
//! cap costs no download, and that the file is gone when its owner is. A key is never a path. Knows no record.

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::message::hex;
use crate::store::{ObjectHead, OpenObject, StoreError, body_deadline};

/// For the whole body of the largest files; smaller ones have less ([`body_deadline`]).
pub const FETCH_DEADLINE: Duration = Duration::from_secs(600);
/// Name of a worker's lock in its own temp folder.
const LOCK: &str = "lock";
/// Folders of workers that live, or died.
const LIVE: &str = "worker-";
/// Folders on their way.
const NEW: &str = "new-";
/// A folder on its way for longer than this has nobody.
const HALF_MADE: Duration = Duration::from_secs(3600);

/// A file that was read whole.
pub struct Fetched {
    /// What the store said of it.
    pub head: ObjectHead,
    /// Hex SHA-256 of the bytes.
    pub sha256: String,
    /// Bytes read.
    pub size: u64,
    file: NamedTempFile,
}

impl Fetched {
    /// Where it lies for as long as this lives.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Larger than the cap.
    #[error("{size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Bytes, as far as known.
        size: u64,
        /// The cap.
        limit: u64,
    },
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The total deadline passed.
    #[error("the body took longer than {0:?}")]
    TooSlow(Duration),
    /// This host's: disk full, no descriptors.
    #[error("cannot write to the temp folder: {0}")]
    Host(#[from] io::Error),
}

/// A worker's own folder for files in work, removed when dropped.
pub struct TempFolder {
    path: PathBuf,
    _lock: File,
}

impl TempFolder {
    /// Makes the folder below `root`, after sweeping what dead workers left there. A living worker's folder is known
    /// by the lock that its process holds, and is left alone; it gets the name that is swept only once it is locked.
    pub fn open(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        sweep(root)?;
        let new = tempfile::Builder::new().prefix(NEW).tempdir_in(root)?;
        let lock = File::create(new.path().join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => error,
            TryLockError::WouldBlock => io::Error::other("a new lock file is locked"),
        })?;
        let name = new.path().file_name().unwrap_or_default().to_string_lossy().replacen(NEW, LIVE, 1);
        let path = root.join(name);
        std::fs::rename(new.keep(), &path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path); // what stays is swept by the next worker
    }
}

fn sweep(root: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        match is_dead(&entry) {
            Ok(false) => {}
            Ok(true) => match std::fs::remove_dir_all(entry.path()) {
                Err(error) if !is_gone(&error) => {
                    tracing::warn!(target: "quittance", "cannot remove {}: {error}", entry.path().display());
                }
                Ok(()) | Err(_) => {}
            },
            // Another worker that starts now sweeps as well.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn is_dead(entry: &std::fs::DirEntry) -> io::Result<bool> {
    let name = entry.file_name().to_string_lossy().into_owned();
    if !entry.file_type()?.is_dir() {
        return Ok(false);
    }
    if name.starts_with(LIVE) {
        match File::open(entry.path().join(LOCK)) {
            Ok(lock) => Ok(lock.try_lock().is_ok()),
            // It had one when it got its name: half swept, or made again after something cleaned it away.
            Err(error) => Ok(is_gone(&error) && is_old(entry)?),
        }
    } else {
        // Killed between making and naming it; a younger one may be on its way.
        Ok(name.starts_with(NEW) && is_old(entry)?)
    }
}

fn is_old(entry: &std::fs::DirEntry) -> io::Result<bool> {
    Ok(entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > HALF_MADE))
}

/// A new file in the folder; the folder is made again if something has cleaned it away (`/tmp` is, on many hosts).
fn new_file(folder: &Path) -> io::Result<NamedTempFile> {
    match NamedTempFile::new_in(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(folder)?;
            NamedTempFile::new_in(folder)
        }
        made => made,
    }
}

/// Reads `object` into `folder`, at most `limit` bytes.
pub async fn fetch(object: OpenObject, folder: &Path, limit: u64) -> Result<Fetched, FetchError> {
    let size = object.head.size;
    if size > limit {
        return Err(FetchError::TooLarge { size, limit });
    }
    let deadline = body_deadline(size, FETCH_DEADLINE);
    match tokio::time::timeout(deadline, read(object, folder, limit)).await {
        Ok(ended) => ended,
        Err(_) => Err(FetchError::TooSlow(deadline)),
    }
}

async fn read(object: OpenObject, folder: &Path, limit: u64) -> Result<Fetched, FetchError> {
    let OpenObject { head, mut body } = object;
    let mut file = new_file(folder)?;
    let mut hasher = Sha256::new();
    let mut size = 0_u64;
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        size += chunk.len() as u64;
        if size > limit {
            return Err(FetchError::TooLarge { size, limit });
        }
        hasher.update(&chunk);
        // A temp file's write goes to the page cache: shorter than the hop to a blocking thread would be.
        file.write_all(&chunk)?;
        failpoint!(MidBody if size < head.size);
    }
    if size != head.size {
        return Err(StoreError::Interrupted(format!("{size} of {} bytes", head.size)).into());
    }
    Ok(Fetched { head, sha256: hex(&hasher.finalize()), size, file })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures_util::stream;

    fn object(chunks: Vec<Result<Bytes, StoreError>>, size: u64) -> OpenObject {
        OpenObject { head: ObjectHead { size, ..ObjectHead::default() }, body: Box::pin(stream::iter(chunks)) }
    }

    #[tokio::test]
    async fn a_whole_file_is_hashed_and_gone_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let chunks = vec![Ok(Bytes::from_static(b"ab")), Ok(Bytes::from_static(b"c"))];
        let fetched = fetch(object(chunks, 3), folder.path(), 3).await.unwrap();
        assert_eq!(std::fs::read(fetched.path()).unwrap(), b"abc");
        // printf abc | sha256sum
        assert_eq!(fetched.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        drop(fetched);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// Both sweep what a crash has left; neither may stumble over what the other has just removed.
    #[test]
    fn workers_that_start_at_the_same_time_do_not_stumble_over_each_others_sweep() {
        let root = tempfile::tempdir().unwrap();
        for _ in 0..50 {
            for n in 0..20 {
                let left = root.path().join(format!("{LIVE}{n}"));
                std::fs::create_dir(&left).unwrap();
                std::fs::write(left.join(LOCK), "").unwrap();
            }
            std::thread::scope(|scope| {
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| TempFolder::open(root.path()))).collect();
                let opened: Vec<_> = starts.into_iter().map(|start| start.join().unwrap().unwrap()).collect();
                assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), opened.len());
            });
        }
    }

    #[tokio::test]
    async fn a_short_broken_long_or_slow_body_is_an_error_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = |text: &'static [u8]| Ok(Bytes::from_static(text));
        let short = fetch(object(vec![bytes(b"ab")], 3), folder.path(), 9).await;
        assert!(matches!(short, Err(FetchError::Store(StoreError::Interrupted(_)))));
        let broken = vec![bytes(b"ab"), Err(StoreError::Interrupted("reset".into()))];
        let broken = fetch(object(broken, 3), folder.path(), 9).await;
        assert!(matches!(broken, Err(FetchError::Store(StoreError::Interrupted(_)))));
        let announced = fetch(object(vec![], 10), folder.path(), 9).await;
        assert!(matches!(announced, Err(FetchError::TooLarge { size: 10, limit: 9 })));
        let sneaked = fetch(object(vec![bytes(b"0123456789")], 3), folder.path(), 9).await;
        assert!(matches!(sneaked, Err(FetchError::TooLarge { size: 10, limit: 9 })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_for_ever_ends_at_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let stalled = OpenObject { head: ObjectHead::default(), body: Box::pin(stream::pending()) };
        let began = tokio::time::Instant::now();
        assert!(matches!(fetch(stalled, folder.path(), 9).await, Err(FetchError::TooSlow(_))));
        assert_eq!(began.elapsed(), body_deadline(0, FETCH_DEADLINE));
    }

    #[test]
    fn a_body_has_time_by_its_size() {
        const MIB: u64 = 1024 * 1024;
        for (size, seconds) in [(0, 30), (100, 30), (MIB, 38), (10 * MIB, 110), (100 * MIB, 600), (u64::MAX, 600)] {
            assert_eq!(body_deadline(size, FETCH_DEADLINE).as_secs(), seconds, "{size} bytes");
        }
    }

    #[test]
    fn only_the_folders_of_dead_workers_are_swept() {
        let root = tempfile::tempdir().unwrap();
        let living = TempFolder::open(root.path()).unwrap();
        let dead = root.path().join("worker-dead");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join(LOCK), b"").unwrap();
        std::fs::write(dead.join("left"), b"x").unwrap();
        let foreign = root.path().join("somebody-elses");
        let half_made = root.path().join("new-abc");
        std::fs::create_dir(&foreign).unwrap();
        std::fs::create_dir(&half_made).unwrap();
        let next = TempFolder::open(root.path()).unwrap();
        assert!(living.path().exists() && foreign.exists() && half_made.exists());
        assert!(!dead.exists());
        let path = next.path();
        drop(next);
        assert!(!path.exists(), "it takes its folder with it");
    }

    #[tokio::test]
    async fn a_folder_that_was_cleaned_away_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = TempFolder::open(root.path()).unwrap();
        std::fs::remove_dir_all(folder.path()).unwrap();
        let fetched = fetch(object(vec![Ok(Bytes::from_static(b"abc"))], 3), &folder.path(), 3).await.unwrap();
        assert_eq!(std::fs::read(fetched.path()).unwrap(), b"abc");
    }
}
