//! The pool against children that are well, and against children that are not.
//!
//! A shell script stands in for the child where it must misbehave: the file name in its request
//! says how. Nothing waits for time to pass, only for what must happen.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use quittance::process::extract::{
    CHILD_ARG, ChildPool, ChildSettings, EXTRACTOR, Extract, ExtractFailure, Extraction, Keep, LimitKind,
};
use tempfile::TempDir;

use crate::samples::{content, docx_of, hints, pdf};

/// Longer than any test lasts: what must happen before it does not wait for it.
const NEVER: Duration = Duration::from_secs(600);
/// A deadline that is to pass; long enough for a child to begin on a busy machine.
const SOON: Duration = Duration::from_secs(2);

fn settings(program: &str, arg: &'static str) -> ChildSettings {
    let mut settings = ChildSettings::new(1);
    settings.program = PathBuf::from(program);
    settings.arg = arg;
    settings.deadline = NEVER;
    settings
}

fn real() -> ChildSettings {
    settings(env!("CARGO_BIN_EXE_worker"), CHILD_ARG)
}

fn nothing() -> Keep {
    Arc::new(())
}

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A child that does as the file's name says.
    fn script(&self) -> ChildSettings {
        let at = self.dir.path().display();
        let ready = format!("echo '{EXTRACTOR} ready'; echo $$ > {at}/pid.new; /bin/mv {at}/pid.new {at}/pid");
        let script = format!(
            r#"request=$(/bin/cat)
            case "$request" in
                *hangs-early*) echo $$ > {at}/pid; exec /bin/sleep 1000;;
                *deaf*) trap '' TERM HUP INT; {ready}; while :; do /bin/sleep 1000; done;;
                *parent*) /bin/sleep 1000 & echo $! > {at}/grandchild; {ready}; wait;;
                *hangs*) {ready}; exec /bin/sleep 1000;;
                *silent*) {ready}; exec >&- 2>&-; exec /bin/sleep 1000;;
                *endless*) {ready}; exec /usr/bin/yes;;
                *loud*) {ready}; /usr/bin/yes ' noise' | /usr/bin/head -c 3000000 >&2; printf 'last \033[2Jwords\n' >&2; exit 1;;
                *exits*) {ready}; exit 1;;
                *leaves*) {ready}; exit 0;;
                *killed*) {ready}; kill -KILL $$;;
                *faults*) {ready}; kill -SEGV $$;;
                *stopped*) {ready}; kill -TERM $$;;
                *spins*) {ready}; kill -XCPU $$;;
                *aborts*) {ready}; echo 'memory allocation of 9 bytes failed' >&2; kill -ABRT $$;;
                *overflows*) {ready}; echo "thread 'main' has overflowed its stack" >&2; kill -ABRT $$;;
                *environment*) /usr/bin/env > {at}/env; {ready}; exit 1;;
                *lies*) {ready}; printf '{{"extracted":{{"mime_type":"a\\nb","content":"%s","truncated":false,"meta":{{}}}}}}' 0123456789012345;;
                *) {ready}; printf '{{"extracted":{{"mime_type":"text/plain","truncated":false,"meta":{{}}}}}}';;
            esac"#
        );
        let path = self.file("child.sh", script.as_bytes());
        // Run by a shell rather than by itself: a test that forks meanwhile may hold it open.
        settings("/bin/sh", Box::leak(path.display().to_string().into_boxed_str()))
    }

    fn pid(&self) -> Option<String> {
        fs::read_to_string(self.dir.path().join("pid")).ok().map(|pid| pid.trim().to_owned())
    }

    async fn await_pid(&self) -> String {
        loop {
            match self.pid() {
                Some(pid) if !pid.is_empty() => return pid,
                Some(_) | None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }

    async fn ask(&self, pool: &ChildPool, how: &str) -> Result<Extraction, ExtractFailure> {
        let file = self.file("file", b"x");
        pool.extract(&file, &hints(how), nothing()).await
    }
}

/// Says, at the moment it is dropped, whether the child is gone for good.
struct Witness {
    pid: PathBuf,
    gone: Sender<bool>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        let pid = fs::read_to_string(&self.pid).unwrap_or_default();
        let gone = !pid.is_empty() && !Path::new("/proc").join(pid.trim()).exists();
        let _ = self.gone.send(gone);
    }
}

fn witness(place: &Place) -> (Keep, Receiver<bool>) {
    let (gone, seen) = channel();
    (Arc::new(Witness { pid: place.dir.path().join("pid"), gone }), seen)
}

async fn said(seen: Receiver<bool>) -> bool {
    tokio::task::spawn_blocking(move || seen.recv_timeout(NEVER).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_real_child_reads_a_file() {
    let place = Place::new();
    let pool = ChildPool::start(real());
    let file = place.file("some name", "日本語のテキストです".as_bytes());
    let got = pool.extract(&file, &hints("メモ.txt"), nothing()).await.unwrap();
    assert_eq!((content(&got), got.language.as_deref()), ("日本語のテキストです", Some("ja")));
    let got = pool.extract(&place.file("b", &pdf()), &hints("b.pdf"), nothing()).await.unwrap();
    assert_eq!(content(&got), "Hello world\nsecond line");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_a_finding_and_no_failure() {
    let place = Place::new();
    let got =
        ChildPool::start(real()).extract(&place.file("x", b"%PDF-1.7"), &hints("x.pdf"), nothing()).await.unwrap();
    assert_eq!(got.extraction_error.as_deref(), Some("not a readable PDF"));
}

#[tokio::test]
async fn a_limit_broken_inside_the_child_is_named() {
    let place = Place::new();
    let bomb = docx_of(&format!("<w:document>{}</w:document>", " ".repeat(8 << 20)));
    let got = ChildPool::start(real()).extract(&place.file("x", &bomb), &hints("x.docx"), nothing()).await;
    assert!(matches!(got, Err(ExtractFailure::Limit { which: LimitKind::Ratio, .. })), "{got:?}");
}

#[tokio::test]
async fn a_child_out_of_memory_breaks_the_memory_limit() {
    let place = Place::new();
    let pool = ChildPool::start(ChildSettings { memory_bytes: 120 << 20, ..real() });
    let big = place.file("x", &[b"[\"", &b"x".repeat(63 << 20)[..], b"\"]"].concat());
    let got = pool.extract(&big, &hints("x.json"), nothing()).await.map(|_| "an answer");
    assert!(matches!(got, Err(ExtractFailure::Limit { which: LimitKind::Memory, .. })), "{got:?}");
}

#[tokio::test]
async fn a_child_that_never_began_says_nothing_about_the_file() {
    let place = Place::new();
    let file = place.file("x", b"x");
    let link = place.dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let gone = place.dir.path().join("gone");
    let cases = [
        (real(), &gone),
        (real(), &link),
        (settings("/no/such/program", CHILD_ARG), &file),
        (settings("/bin/false", CHILD_ARG), &file),
        (settings("/bin/echo", "some other program that talks and talks"), &file),
        (ChildSettings { deadline: Duration::from_millis(50), ..place.script() }, &place.file("hangs-early", b"")),
    ];
    for (settings, file) in cases {
        let got = ChildPool::start(settings).extract(file, &hints("x"), nothing()).await;
        assert!(matches!(got, Err(ExtractFailure::Unavailable { .. })), "{got:?}");
    }
}

#[tokio::test]
async fn a_child_that_ends_without_an_answer_has_crashed_and_the_next_is_well() {
    let place = Place::new();
    let pool = ChildPool::start(place.script());
    for how in ["exits", "leaves", "killed", "faults"] {
        let got = place.ask(&pool, how).await;
        assert!(matches!(got, Err(ExtractFailure::Crashed { .. })), "{how}: {got:?}");
        assert_eq!(place.ask(&pool, "is well").await.unwrap().mime_type, "text/plain");
    }
    for (how, limit) in [("aborts", LimitKind::Memory), ("overflows", LimitKind::Stack), ("spins", LimitKind::Cpu)] {
        match place.ask(&pool, how).await {
            Err(ExtractFailure::Limit { which, .. }) => assert_eq!(which, limit, "{how}"),
            other => panic!("{how}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_child_that_was_told_to_stop_says_nothing_about_the_file() {
    let place = Place::new();
    let got = place.ask(&ChildPool::start(place.script()), "stopped").await;
    assert!(matches!(got, Err(ExtractFailure::Unavailable { .. })), "{got:?}");
}

#[tokio::test]
async fn a_child_that_hangs_is_killed_at_its_deadline_and_the_next_is_well() {
    let killed_at_deadline = |how: &'static str| async move {
        let place = Place::new();
        let pool = ChildPool::start(ChildSettings { deadline: SOON, ..place.script() });
        let (keep, seen) = witness(&place);
        let got = pool.extract(&place.file("file", b"x"), &hints(how), keep).await;
        assert_eq!(got, Err(ExtractFailure::TimedOut { after: SOON }), "{how}");
        assert!(said(seen).await, "{how}: kept until the child was gone");
        assert_eq!(place.ask(&pool, "is well").await.unwrap().mime_type, "text/plain");
    };
    tokio::join!(killed_at_deadline("hangs"), killed_at_deadline("deaf"), killed_at_deadline("silent"));
}

#[tokio::test]
async fn p7_a_dropped_request_kills_its_child_and_keeps_until_it_is_gone() {
    for how in ["hangs", "deaf", "silent", "hangs-early"] {
        let place = Place::new();
        let pool = Arc::new(ChildPool::start(place.script()));
        let (keep, seen) = witness(&place);
        let file = place.file("file", b"x");
        let request = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.extract(&file, &hints(how), keep).await }
        });
        let pid = place.await_pid().await;
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        assert!(said(seen).await, "{how}: kept until the child was gone");
        assert!(!Path::new("/proc").join(pid).exists());
        // The only slot is free again.
        assert_eq!(place.ask(&pool, "is well").await.unwrap().mime_type, "text/plain");
    }
}

#[tokio::test]
async fn p7_a_request_that_still_waits_for_a_child_gives_its_permit_back_at_once() {
    let place = Place::new();
    let pool = Arc::new(ChildPool::start(place.script()));
    let file = place.file("file", b"x");
    let busy = tokio::spawn({
        let (pool, file) = (Arc::clone(&pool), file.clone());
        async move { pool.extract(&file, &hints("hangs"), nothing()).await }
    });
    place.await_pid().await;
    let (keep, seen) = witness(&place);
    {
        let hints = hints("is well");
        let waits = pool.extract(&file, &hints, keep);
        tokio::pin!(waits);
        assert!(futures_now(waits.as_mut()).await.is_none(), "the only child is busy");
        assert!(seen.try_recv().is_err());
    }
    assert!(!said(seen).await, "given back while the other child lives");
    busy.abort();
}

/// One poll.
async fn futures_now<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn what_a_child_started_ends_with_it() {
    let place = Place::new();
    let pool = ChildPool::start(ChildSettings { deadline: SOON, ..place.script() });
    assert!(matches!(place.ask(&pool, "parent").await, Err(ExtractFailure::TimedOut { .. })));
    let grandchild = fs::read_to_string(place.dir.path().join("grandchild")).unwrap();
    let status = Path::new("/proc").join(grandchild.trim()).join("stat");
    // Killed with its group; it may lie about as a zombie where nobody collects orphans.
    while fs::read_to_string(&status).is_ok_and(|stat| !stat.contains(") Z ")) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_reply_without_end_is_cut_off_and_its_child_killed() {
    let place = Place::new();
    let pool = ChildPool::start(ChildSettings { max_text_bytes: 1000, ..place.script() });
    let (keep, seen) = witness(&place);
    let got = pool.extract(&place.file("file", b"x"), &hints("endless"), keep).await;
    assert!(matches!(got, Err(ExtractFailure::Limit { which: LimitKind::Reply, .. })), "{got:?}");
    assert!(said(seen).await);
}

#[tokio::test]
async fn last_words_are_short_and_escaped() {
    let place = Place::new();
    match place.ask(&ChildPool::start(place.script()), "loud").await {
        Err(ExtractFailure::Crashed { detail }) => {
            assert!(detail.ends_with("last \\u{1b}[2Jwords"), "{detail}");
            assert!(detail.len() < 600 && !detail.contains(char::is_control), "{detail}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_child_that_lies_is_held_to_its_bounds() {
    let place = Place::new();
    let pool = ChildPool::start(ChildSettings { max_text_bytes: 10, ..place.script() });
    let got = place.ask(&pool, "lies").await.unwrap();
    assert_eq!((content(&got), got.truncated, got.mime_type.as_str()), ("0123456789", true, "a b"));
}

#[tokio::test]
async fn a_child_inherits_no_environment() {
    let place = Place::new();
    let _ = place.ask(&ChildPool::start(place.script()), "environment").await;
    let own = fs::read_to_string(place.dir.path().join("env")).unwrap();
    // What the shell sets by itself.
    let foreign: Vec<&str> = own
        .lines()
        .filter(|line| !["PWD=/", "SHLVL=0", "SHLVL=1", "_=/usr/bin/env", "OLDPWD=/"].contains(line))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}
