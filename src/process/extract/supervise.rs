//! The life of one child: start it, speak with it, and see its end, come what may.
//!
//! Promises: whoever asked may go away at any time; the child is killed (its whole process
//! group), its end is awaited, and only then is `held` dropped (P7). The reply and stderr are
//! capped while they are read, so that a rogue child cannot fill the worker's memory.
//! Refuses to know: what `held` is, and what the file was.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

use super::protocol::{Reply, Request, hello, max_reply_bytes};
use super::{ChildSettings, ExtractFailure, Extraction, LimitKind};

type Answer = Result<Extraction, ExtractFailure>;

/// How much of a child's last words is kept.
const STDERR_TAIL_BYTES: usize = 4096;
/// How much of them goes into a failure's detail.
const DETAIL_CHARS: usize = 300;

/// Runs one child for one request. `held` is the slot and the caller's `Keep`.
pub(super) async fn supervise<H: Send>(
    settings: Arc<ChildSettings>,
    request: Request,
    mut reply: oneshot::Sender<Answer>,
    held: H,
) {
    let answer = match spawn(&settings) {
        Ok(mut child) => {
            let answer = converse(&settings, &request, &mut child, &mut reply).await;
            end(&mut child).await;
            answer
        }
        Err(error) => Some(unavailable(format!("cannot start {}: {error}", settings.program.display()))),
    };
    // Before the answer: who reads it may count on the slot and the permit being free.
    drop(held);
    if let Some(answer) = answer {
        // The requester may have gone in the meantime; then nobody needs it.
        drop(reply.send(answer));
    }
}

fn spawn(settings: &ChildSettings) -> io::Result<Child> {
    Command::new(&settings.program)
        .arg(settings.arg)
        // Credentials live in the environment; the child parses hostile files.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: a Ctrl-C at the terminal is the worker's to answer, and one kill
        // reaches whatever the child may have started.
        .process_group(0)
        // Only for a runtime that is torn down under us; every other end is awaited below.
        .kill_on_drop(true)
        .spawn()
}

/// What came over the pipes before they closed.
struct Said {
    reply: Vec<u8>,
    stderr: Vec<u8>,
}

/// Why listening ended before they closed.
enum Deaf {
    ReplyTooLong { cap: usize },
    NotOurs,
}

/// `None` when the requester has gone. A child that still runs when this returns is killed by
/// [`end`]; it is reaped here only when it has ended by itself, so that its id stays ours.
async fn converse(
    settings: &ChildSettings,
    request: &Request,
    child: &mut Child,
    reply: &mut oneshot::Sender<Answer>,
) -> Option<Answer> {
    let request = match serde_json::to_vec(request) {
        Ok(request) => request,
        Err(error) => return Some(unavailable(format!("cannot write the request: {error}"))),
    };
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Some(unavailable("the child has no pipes".to_owned()));
    };
    let cap = max_reply_bytes(settings.max_text_bytes);
    let mut began = false;
    let said = {
        let talk = async {
            let listened = listen(stdout, cap, &mut began);
            let ((), reply, stderr) = tokio::try_join!(ask(stdin, &request), listened, last_words(stderr))?;
            let status = child.wait().await;
            Ok((Said { reply, stderr }, status))
        };
        tokio::select! {
            biased;
            () = reply.closed() => return None,
            said = talk => Some(said),
            () = tokio::time::sleep(settings.deadline) => None,
        }
    };
    Some(match said {
        None if began => Err(ExtractFailure::TimedOut { after: settings.deadline }),
        None => unavailable(format!("not ready after {} ms", settings.deadline.as_millis())),
        Some(Err(Deaf::NotOurs)) => unavailable("the program is not this version's extraction child".to_owned()),
        Some(Err(Deaf::ReplyTooLong { cap })) => {
            Err(ExtractFailure::Limit { which: LimitKind::Reply, detail: format!("more than {cap} bytes") })
        }
        Some(Ok((said, Ok(status)))) => verdict(began, status, &said, settings.max_text_bytes),
        Some(Ok((_, Err(error)))) => unavailable(format!("cannot wait for the child: {error}")),
    })
}

/// A child that does not want its request has its reasons, and they show elsewhere.
async fn ask(mut stdin: ChildStdin, request: &[u8]) -> Result<(), Deaf> {
    drop(stdin.write_all(request).await);
    Ok(())
}

/// The reply after the hello; empty where the child closed stdout before it was done with that.
async fn listen(mut stdout: ChildStdout, cap: usize, began: &mut bool) -> Result<Vec<u8>, Deaf> {
    let mut greeting = vec![0; hello().len()];
    match stdout.read_exact(&mut greeting).await {
        Ok(_) if greeting == hello().as_bytes() => *began = true,
        Ok(_) => return Err(Deaf::NotOurs),
        Err(_) => return Ok(Vec::new()),
    }
    let mut reply = Vec::new();
    // One more than is allowed, to see that there is more. A read error is a reply cut short.
    drop((&mut stdout).take(cap as u64 + 1).read_to_end(&mut reply).await);
    if reply.len() > cap { Err(Deaf::ReplyTooLong { cap }) } else { Ok(reply) }
}

/// The end of stderr; all of it is read, or the child would block on a full pipe.
async fn last_words(mut stderr: impl AsyncRead + Unpin) -> Result<Vec<u8>, Deaf> {
    let mut tail = Vec::new();
    let mut chunk = [0; 1024];
    while let Ok(length @ 1..) = stderr.read(&mut chunk).await {
        tail.extend_from_slice(&chunk[..length]);
        tail.drain(..tail.len().saturating_sub(STDERR_TAIL_BYTES));
    }
    Ok(tail)
}

/// What an ended child means.
fn verdict(began: bool, status: ExitStatus, said: &Said, max_text_bytes: usize) -> Answer {
    let words = String::from_utf8_lossy(&said.stderr);
    let detail = match printable_tail(&words) {
        tail if tail.is_empty() => status.to_string(),
        tail => format!("{status}: {tail}"),
    };
    if !began {
        return unavailable(detail);
    }
    if status.success() {
        return match serde_json::from_slice(&said.reply) {
            Ok(Reply::Extracted(extraction)) => Ok((*extraction).bounded(max_text_bytes)),
            Ok(Reply::Limit(broken)) => Err(ExtractFailure::Limit { which: broken.which, detail: broken.detail }),
            Ok(Reply::CannotRead(why)) => unavailable(why),
            Err(error) => Err(ExtractFailure::Crashed { detail: format!("cannot parse its reply: {error}") }),
        };
    }
    // No parser raises these: a stopping system does (P15), or a person.
    if [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT].iter().any(|own| status.signal() == Some(own.as_raw())) {
        return unavailable(format!("ended from outside: {detail}"));
    }
    // The runtime aborts on both of these, after a sentence that has been the same for years.
    let which = if status.signal() == Some(Signal::XCPU.as_raw()) {
        Some(LimitKind::Cpu)
    } else if words.contains("memory allocation of ") {
        Some(LimitKind::Memory)
    } else if words.contains("has overflowed its stack") {
        Some(LimitKind::Stack)
    } else {
        None
    };
    Err(match which {
        Some(which) => ExtractFailure::Limit { which, detail },
        None => ExtractFailure::Crashed { detail },
    })
}

/// Kills whatever still runs of the child's group and waits for the child's real end.
async fn end(child: &mut Child) {
    // No id: it has been reaped, and the number may be somebody else's by now.
    if let Some(group) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // It may have ended in this very moment; the wait says so either way.
        let _ = kill_process_group(group, Signal::KILL);
    }
    // Fails only where there is no such child any more.
    drop(child.wait().await);
}

fn unavailable(detail: String) -> Answer {
    Err(ExtractFailure::Unavailable { detail })
}

/// The last characters, control characters escaped: they end up in logs (T8).
fn printable_tail(text: &str) -> String {
    let text = text.trim();
    let from = text.char_indices().rev().nth(DETAIL_CHARS - 1).map_or(0, |(at, _)| at);
    text[from..]
        .chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}
