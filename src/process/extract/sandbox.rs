//! The child: lowers its own limits, reads one file, writes one reply, ends.
//!
//! Promises: nothing of the file is looked at before the limits are in force; the child has no
//! credentials (its environment is empty) and needs none. A panic ends it, and the parent calls
//! that a crash.
//! Later: [`confine`] is the seam for landlock and seccomp. The file is open by then, and from
//! there on the child needs to open nothing, connect to nothing and start nothing.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use super::protocol::{MAX_REQUEST_BYTES, Reply, Request, hello};
use super::read::{self, FileError};

/// Standard streams, the file, and a few for libraries that look around.
const OPEN_FILES: u64 = 16;

/// What `worker extract-child` runs: one request from stdin, one reply to stdout.
pub fn child_main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where stderr is gone too, the exit code has to do.
            drop(writeln!(io::stderr(), "{error}"));
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let mut request = Vec::new();
    io::stdin().lock().take(MAX_REQUEST_BYTES).read_to_end(&mut request)?;
    let request: Request = serde_json::from_slice(&request)?;
    let file = read::open(&request.file)?;
    limit(&request)?;
    confine()?;
    let mut out = io::stdout().lock();
    out.write_all(hello().as_bytes())?;
    out.flush()?;
    #[cfg(feature = "failpoints")]
    crate::failpoint::misbehave(&request.hints.file_name);
    let reply = match read::extract(file, &request.hints, &request.limits) {
        Ok(extraction) => Reply::Extracted(Box::new(extraction)),
        Err(FileError::Limit(broken)) => Reply::Limit(broken),
        Err(FileError::Disk(error)) => Reply::CannotRead(error.to_string()),
    };
    serde_json::to_writer(&mut out, &reply)?;
    out.flush()
}

/// Not `RLIMIT_FSIZE`: at 0 it kills a child whose stderr is a file. Not the parent-death
/// signal: it fires when the *thread* that forked ends, and runtimes end threads as they like;
/// an orphan ends by `RLIMIT_CPU`, or when it writes its reply to nobody.
fn limit(request: &Request) -> io::Result<()> {
    let at_most = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::Core, at_most(0))?;
    setrlimit(Resource::As, at_most(request.memory_bytes))?;
    // One more at the hard limit: where both are equal the signal is KILL, which says nothing.
    let cpu = Rlimit { current: Some(request.cpu_seconds), maximum: Some(request.cpu_seconds + 1) };
    setrlimit(Resource::Cpu, cpu)?;
    setrlimit(Resource::Nofile, at_most(OPEN_FILES))?;
    // Nobody attaches to it, and its memory is not written to disk.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn confine() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}
