//! `redrive inspect`: its flags, and what comes of them.

use std::path::PathBuf;

use clap::Args;

use super::upkeep::{ScopeArgs, scope};
use super::when::{When, when};
use crate::config::mistakes::Reader;
use crate::config::values::tenant_from;
use crate::config::{TenantFrom, setting, urls};
use crate::message::Namespace;

pub(super) const HELP: &str = "\
Counts what is in the dead-letter queue, in the archive and under errored-index/, by reason, error, tenant, folder, age and
number of redrives, with the inflow over time. It writes and deletes nothing, and receives nothing from the dead-letter
queue unless --sample N is given: then it receives up to N letters, holds them under leases, returns them all at the end,
and says so; each of them is one receive older. Only a sample can tell what is in the queue and when its letters expire:
SQS has no call that asks. Times are UTC.

Examples:
  redrive inspect
  redrive inspect --since 24h --sample 500
  redrive inspect --since 2026-11-20 --until 2026-11-22 --json
  redrive inspect --sample 1000 --html report.html           one file with charts, to open or to send
  redrive inspect --message-id 0b1afe77-4f5c-4a51-a7a5-4f3b7e3c1a0f --sample 100

Exit codes: 0 well · 3 some could not be read, or the message was not found · 64 · 75 a dependency is sick · 78 ·
130 interrupted";

/// Objects read of the archive and of errored-index/.
const MOST: u32 = 10_000;

/// What was typed.
#[derive(Args, Clone, PartialEq, Eq)]
pub(super) struct InspectArgs {
    /// Only what came at this time or later: 2026-11-22, 2026-11-22T08:30:00Z, or 90m, 12h, 3d ago.
    #[arg(long, value_name = "TIME", value_parser = when)]
    since: Option<When>,
    /// Only what came before this time.
    #[arg(long, value_name = "TIME", value_parser = when)]
    until: Option<When>,
    /// Receive up to N letters of the dead-letter queue and return them; default: none; range 1 to 1000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    sample: Option<u32>,
    /// Objects to read of the archive, and of errored-index/, at most, the newest; default 10000, range 1 to 1000000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    read: Option<u32>,
    /// Show one message in full: from the archive, and from the sample where there is one.
    #[arg(long, value_name = "ID", conflicts_with_all = ["since", "until", "read", "html"])]
    message_id: Option<String>,
    /// Write the report to this file as well, as one page of HTML that needs nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// URL of the workers' queue; required.
    #[arg(long, env = "SQS_QUEUE_URL", value_name = "URL")]
    queue_url: Option<String>,
    /// URL of its dead-letter queue; default: as its redrive policy says.
    #[arg(long, env = "SQS_DLQ_URL", value_name = "URL")]
    dlq_url: Option<String>,
    /// Where a file's tenant is read, as the workers': prefix:N, message-group, or none; default prefix:1.
    #[arg(long, env = "TENANT_FROM", value_name = "WHERE")]
    tenant_from: Option<String>,
    #[command(flatten)]
    scope: ScopeArgs,
}

/// What an inspection runs with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InspectConfig {
    /// From when on.
    pub since: Option<When>,
    /// Until when.
    pub until: Option<When>,
    /// Letters to receive.
    pub sample: Option<usize>,
    /// Objects to read of each place.
    pub most: usize,
    /// Show this one, and count nothing.
    pub message_id: Option<String>,
    /// Write the page there.
    pub html: Option<PathBuf>,
    /// The workers' queue.
    pub queue_url: String,
    /// Its DLQ, where it was named.
    pub dlq_url: Option<String>,
    /// Whose a file is.
    pub tenant_from: TenantFrom,
    /// Scope of what errored.
    pub namespace: Namespace,
}

pub(super) fn convert(read: &Reader<'_>, args: &InspectArgs) -> Option<InspectConfig> {
    let form = || urls::queue("the workers refuse it");
    let queue_url = read.required(&setting!(read, args.queue_url), "give the workers' queue", form());
    let dlq_url = read.optional(&setting!(read, args.dlq_url), form());
    let tenants = read.value(&setting!(read, args.tenant_from), "prefix:1", tenant_from);
    let namespace = scope(read, &args.scope);
    Some(InspectConfig {
        since: args.since,
        until: args.until,
        sample: args.sample.map(|number| usize::try_from(number).unwrap_or(usize::MAX)),
        most: usize::try_from(args.read.unwrap_or(MOST)).unwrap_or(usize::MAX),
        message_id: args.message_id.clone(),
        html: args.html.clone(),
        queue_url: queue_url?,
        dlq_url: dlq_url?,
        tenant_from: tenants?,
        namespace: namespace?,
    })
}
