//! The host: its clock, its disk, the way to the services, its credentials.
//!
//! Promises to tell apart what looks alike from inside of a client: a name that nobody knows, a port that is closed, a
//! service that does not answer, credentials that are not there. Opens connections and closes them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::statfs;
use tokio::net::{TcpStream, lookup_host};
use url::Url;

use super::{Finding, Subject};

/// One look at a name or a port.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);
/// More apart than this is worth mending.
const SKEW: u64 = 30_000;
/// AWS refuses requests that are further apart than 15 minutes; leases, ages and revisions by time suffer long before.
const TOO_SKEWED: u64 = 300_000;
/// `TMPFS_MAGIC` of Linux's statfs(2): a file system in memory.
const IN_MEMORY: i64 = 0x0102_1994;

/// Where files lie while they are read, and how much of them at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disk {
    /// `TEMP_DIR`, or what stands for it.
    pub folder: PathBuf,
    /// `MAX_OBJECT_BYTES`.
    pub largest: u64,
    /// `EXTRACTORS`.
    pub at_once: u64,
}

/// `written_ms`: when the store says that an object was written, and when we did it, both Unix milliseconds.
pub(super) fn clock(written_ms: Option<(u64, u64)>) -> Finding {
    let name = "clock";
    let Some((theirs, ours)) = written_ms else {
        return Finding::skipped(name, "needs a write to the results bucket: its time is compared with ours");
    };
    // S3 tells whole seconds.
    let apart = theirs.abs_diff(ours).saturating_sub(1_000);
    let evidence = format!("{} s between this host's clock and the store's", apart / 1_000);
    let fix = "run a time service: systemctl enable --now chronyd";
    if apart <= SKEW {
        Finding::pass(name, &evidence)
    } else if apart <= TOO_SKEWED {
        Finding::warn(name, &evidence, fix)
    } else {
        let evidence =
            format!("{evidence}: requests are refused from 15 minutes on, and revisions by time would be wrong");
        Finding::fail(name, &evidence, fix)
    }
}

pub(super) fn disk(subject: &Subject<'_>) -> Option<Finding> {
    let Disk { folder, largest, at_once } = subject.disk?;
    let name = "disk";
    // The folder itself is made at start.
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    let fix = "set TEMP_DIR to a folder on a disk with room for EXTRACTORS files of MAX_OBJECT_BYTES";
    Some(match statfs(there) {
        Err(error) => Finding::fail(name, &format!("{}: {error}", there.display()), fix),
        Ok(told) => {
            let free = told.f_bavail.saturating_mul(u64::try_from(told.f_bsize).unwrap_or(0));
            room(&folder.display().to_string(), free, told.f_type == IN_MEMORY, *largest, *at_once, fix)
        }
    })
}

fn room(folder: &str, free: u64, in_memory: bool, largest: u64, at_once: u64, fix: &str) -> Finding {
    let name = "disk";
    const MIB: u64 = 1 << 20;
    let kind = if in_memory { ", in memory" } else { "" };
    let evidence = format!("{folder}: {} MiB free{kind}; one file may take {} MiB", free / MIB, largest / MIB);
    if free < largest {
        return Finding::fail(name, &format!("{evidence}: a large file cannot be read"), fix);
    }
    if free < largest.saturating_mul(at_once) {
        return Finding::warn(name, &format!("{evidence}, and {at_once} are read at once"), fix);
    }
    if in_memory {
        return Finding::warn(name, &format!("{evidence}: large files there are taken from the worker's memory"), fix);
    }
    Finding::pass(name, &evidence)
}

/// Whether a service can be reached at all, before anybody judges its answers.
pub async fn reach(name: &'static str, variable: &str, endpoint: &str) -> Finding {
    let fix = format!("check {variable}");
    let Some((host, port)) = Url::parse(endpoint).ok().and_then(|url| {
        // An address in brackets is a URL's way to write it, not a resolver's.
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        Some((host, url.port_or_known_default()?))
    }) else {
        return Finding::fail(name, &format!("{endpoint} names no host"), &fix);
    };
    let addresses = match tokio::time::timeout(REACH_TIMEOUT, lookup_host((host.as_str(), port))).await {
        Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
        Ok(Err(error)) => {
            let evidence = format!("{host}: the name is not known here ({error})");
            return Finding::fail(name, &evidence, &format!("{fix}; check the resolver (resolvectl query {host})"));
        }
        Err(_) => {
            let evidence = format!("{host}: the resolver did not answer within {REACH_TIMEOUT:?}");
            return Finding::fail(name, &evidence, &format!("check the resolver (resolvectl query {host})"));
        }
    };
    let mut last = format!("{host}: the name has no address");
    for address in addresses {
        match tokio::time::timeout(REACH_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Finding::pass(name, &format!("{host} is {address}, and takes connections")),
            Ok(Err(error)) => last = format!("{host} is {address}, and refuses connections: {error}"),
            Err(_) => {
                last = format!(
                    "{host} is {address}, and does not answer within {REACH_TIMEOUT:?}: a firewall or security group, \
                     most likely"
                );
            }
        }
    }
    Finding::fail(
        name,
        &last,
        &format!("{fix}; allow this host to reach port {port} (security group, route, VPC endpoint)"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_from_the_stores() {
        for (theirs, ours, verdict) in [
            (10_000_000, 10_000_900, Verdict::Pass),
            (10_000_000, 10_031_000, Verdict::Pass),
            (10_000_000, 10_031_001, Verdict::Warn),
            (10_100_000, 10_000_000, Verdict::Warn),
            (20_000_000, 10_000_000, Verdict::Fail),
        ] {
            assert_eq!(clock(Some((theirs, ours))).verdict, verdict, "{theirs} and {ours}");
        }
        assert_eq!(clock(None).verdict, Verdict::Skipped);
    }

    #[test]
    fn a_disk_has_room_for_what_is_read_at_once_or_says_so() {
        for (free, in_memory, verdict, words) in [
            (40, false, Verdict::Pass, "40 MiB free"),
            (40, true, Verdict::Warn, "taken from the worker's memory"),
            (39, false, Verdict::Warn, "4 are read at once"),
            (9, true, Verdict::Fail, "cannot be read"),
        ] {
            let finding = room("/tmp", free << 20, in_memory, 10 << 20, 4, "fix");
            assert!(finding.verdict == verdict && finding.evidence.contains(words), "{finding:?}");
        }
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_a_closed_port_and_an_open_one_are_told_apart() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = format!("http://{}", listener.local_addr().unwrap());
        for (endpoint, verdict, words) in [
            (open.as_str(), Verdict::Pass, "takes connections"),
            ("http://127.0.0.1:1", Verdict::Fail, "refuses connections"),
            ("https://no-such-host.invalid", Verdict::Fail, "the name is not known here"),
            ("http://", Verdict::Fail, "names no host"),
        ] {
            let finding = reach("network", "SOME_ENDPOINT", endpoint).await;
            assert!(finding.verdict == verdict && finding.evidence.contains(words), "{finding:?}");
        }
    }
}
