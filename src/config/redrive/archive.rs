//! `redrive archive`: its flags, and what comes of them.

use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};

use super::upkeep::{QueueArgs, queue};
use super::when::{When, when};
use crate::config::mistakes::Reader;
use crate::config::values::seconds;
use crate::config::{setting, urls};
use crate::redrive::archive::Source;
use crate::redrive::archive::shelf::Selection;

pub(super) const HELP: &str = "\
Letters that the redrive has given up on lie under archive/dlq/{day}/{message id}.json in the results bucket, whole, with
the reason; copies of a queue's messages that `save` made, under archive/main/ or archive/dlq/ as well. Days and times are
UTC, and are those of the archiving.

Examples:
  redrive archive list                                       how many, since when, why; the oldest 100
  redrive archive list --since 3d --reason malformed --json
  redrive archive show 0b1afe77-4f5c-4a51-a7a5-4f3b7e3c1a0f  one message in full
  redrive archive restore --reason denied --dry-run          what would go back into the workers' queue
  redrive archive restore --reason denied --rate 20
  redrive archive save --queue main                          before a purge; or: redrive archive --queue main
  redrive archive save --queue dlq --remove

Exit codes: 0 well · 3 partial: some could not be read, sent or saved, or are not there, or the fleet was paused meanwhile ·
4 refused: the fleet is paused, or the queue is its own dead-letter queue · 64 · 75 a dependency is sick (run it again) · 78 · 130 interrupted (run it again)";

const SAVE_HELP: &str = "\
Writes every message that the queue hands out to archive/{main|dlq}/{day}/{message id}.json. Each is held under a lease
until the end, hidden from the workers, and then returned: it costs each message one receive (towards maxReceiveCount). With
--remove each is deleted once S3 has acknowledged its object. Killed, the same command saves all again, once the leases have
ended (--visibility-timeout). A pause does not stop this: it works on nothing, and before a purge the
workers should stand still (`redrive pause`), for what they hold in flight cannot be seen: it is counted, and told (exit 3).
The way back: redrive archive restore --queue main --all.

Examples:
  redrive archive save --queue main
  redrive archive save --queue dlq --remove --json";

const RESTORE_HELP: &str = "\
Sends archived letters to the workers' queue, body, attributes and group byte for byte, day by day, the oldest first; each
object goes after the queue has acknowledged its message. What is archived after it began is for another run. The `Quittance` attribute says 0 redrives again: whoever restores has mended
something, and the message gets its whole budget. Killed at any moment, the same command goes on: what was sent and not
yet removed is sent twice, which is harmless. Obeys `redrive pause`.

Examples:
  redrive archive restore --message-id 0b1afe77-4f5c-4a51-a7a5-4f3b7e3c1a0f
  redrive archive restore --reason denied --since 2026-11-20 --dry-run
  redrive archive restore --all --max-messages 100 --rate 10";

/// Letters of a listing.
const LIMIT: u32 = 100;

/// What was typed.
#[derive(Args, Clone, PartialEq, Eq)]
#[command(subcommand_negates_reqs = true)]
pub(super) struct ArchiveArgs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    save: Option<SaveArgs>,
}

#[derive(Subcommand, Clone, PartialEq, Eq)]
enum What {
    /// Say what was given up on: by day and by reason, and the oldest.
    List(ListArgs),
    /// Show one message in full.
    Show(ShowArgs),
    /// Send letters back to the workers' queue.
    #[command(after_help = RESTORE_HELP)]
    Restore(Box<RestoreArgs>),
    /// Save a queue's messages to S3.
    #[command(after_help = SAVE_HELP)]
    Save(SaveArgs),
}

/// Which letters.
#[derive(Args, Clone, PartialEq, Eq)]
struct SelectArgs {
    /// Taken from this queue; default dlq.
    #[arg(long, value_name = "QUEUE", value_parser = ["dlq", "main"])]
    queue: Option<String>,
    /// Archived at this time or later: 2026-11-22, 2026-11-22T08:30:00Z, or 90m, 12h, 3d ago.
    #[arg(long, value_name = "TIME", value_parser = when)]
    since: Option<When>,
    /// Archived before this time.
    #[arg(long, value_name = "TIME", value_parser = when)]
    until: Option<When>,
    /// Archived for this reason, such as malformed, denied or max_receives.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// One of the source keys begins so.
    #[arg(long, alias = "prefix", value_name = "TEXT", allow_hyphen_values = true)]
    key_prefix: Option<String>,
    /// The message that was archived, or first sent, under this id.
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
}

#[derive(Args, Clone, PartialEq, Eq)]
struct ListArgs {
    #[command(flatten)]
    select: SelectArgs,
    /// Letters to print at most; default 100, range 1 to 100000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: Option<u32>,
}

#[derive(Args, Clone, PartialEq, Eq)]
struct ShowArgs {
    /// The message's id: the one it was archived under (at once), or its first (every letter is read).
    #[arg(value_name = "MESSAGE_ID")]
    message_id: String,
}

#[derive(Args, Clone, PartialEq, Eq)]
// Nothing is sent back by accident.
#[command(group(ArgGroup::new("selection").args(["all", "since", "until", "reason", "key_prefix", "message_id"])
    .required(true).multiple(true)))]
struct RestoreArgs {
    /// All of them.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    to: QueueArgs,
    /// Messages to send at most; default: all that match.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_messages: Option<u64>,
    /// Say what would be sent, and send nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Clone, PartialEq, Eq)]
struct SaveArgs {
    /// The queue: main or dlq.
    #[arg(long, value_name = "QUEUE", value_parser = ["main", "dlq"])]
    queue: String,
    /// URL of the workers' queue; required.
    #[arg(long, env = "SQS_QUEUE_URL", value_name = "URL")]
    queue_url: Option<String>,
    /// URL of its dead-letter queue; default: as its redrive policy says.
    #[arg(long, env = "SQS_DLQ_URL", value_name = "URL")]
    dlq_url: Option<String>,
    /// Delete each message once it is saved; default: all are returned at the end.
    #[arg(long)]
    remove: bool,
    /// Lease length in seconds; default 120, range 10 to 43200. Extended while a message is held; a run that is killed hides
    /// its messages for so long.
    #[arg(long, env = "SQS_VISIBILITY_TIMEOUT", value_name = "SECONDS")]
    visibility_timeout: Option<String>,
    /// Messages to save at most; default: all, but 20000 at most without --remove.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_messages: Option<u32>,
}

/// Which letters are wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LettersWanted {
    source: Source,
    since: Option<When>,
    until: Option<When>,
    reason: Option<String>,
    key_prefix: Option<String>,
    message_id: Option<String>,
}

impl LettersWanted {
    /// For a run that begins now.
    pub fn selection(self, now_ms: u64) -> Selection {
        let Self { source, since, until, reason, key_prefix, message_id } = self;
        let (since_ms, until_ms) = (since.map(|when| when.ms(now_ms)), until.map(|when| when.ms(now_ms)));
        Selection { source, since_ms, until_ms, reason, key_prefix, message_id }
    }
}

/// What is wanted of the archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ArchiveOrder {
    /// Count and show.
    List {
        /// Which.
        wanted: LettersWanted,
        /// Letters to print at most.
        limit: usize,
    },
    /// Show one in full.
    Show {
        /// Its id.
        message_id: String,
    },
    /// Send back.
    Restore {
        /// Which.
        wanted: LettersWanted,
        /// Into this queue, so many messages a second at most; `None` only counts.
        send: Option<(String, u32)>,
        /// At most.
        most: Option<u64>,
    },
    /// Save a queue.
    Save {
        /// Which of the two.
        source: Source,
        /// The workers' queue.
        queue_url: String,
        /// Its DLQ, where it was named.
        dlq_url: Option<String>,
        /// Delete what is saved.
        remove: bool,
        /// Lease length.
        visibility: Duration,
        /// At most.
        most: Option<usize>,
    },
}

impl ArchiveArgs {
    /// Neither a command nor a queue was named.
    pub(super) fn is_bare(&self) -> bool {
        self.what.is_none() && self.save.is_none()
    }

    /// A command and a queue to save were named.
    pub(super) fn is_both(&self) -> bool {
        self.what.is_some() && self.save.is_some()
    }

    /// The command whose flags were typed.
    pub(super) fn path(&self) -> &'static [&'static str] {
        match &self.what {
            None => &["archive"],
            Some(What::List(_)) => &["archive", "list"],
            Some(What::Show(_)) => &["archive", "show"],
            Some(What::Restore(_)) => &["archive", "restore"],
            Some(What::Save(_)) => &["archive", "save"],
        }
    }
}

pub(super) fn convert(read: &Reader<'_>, args: &ArchiveArgs) -> Option<ArchiveOrder> {
    match (&args.what, &args.save) {
        (Some(What::List(args)), _) => {
            let limit = usize::try_from(args.limit.unwrap_or(LIMIT)).unwrap_or(usize::MAX);
            Some(ArchiveOrder::List { wanted: wanted(&args.select), limit })
        }
        (Some(What::Show(args)), _) => Some(ArchiveOrder::Show { message_id: args.message_id.clone() }),
        (Some(What::Restore(args)), _) => {
            let to = queue(read, &args.to, !args.dry_run)?;
            let send = to.url.filter(|_| !args.dry_run).map(|url| (url, to.rate));
            Some(ArchiveOrder::Restore { wanted: wanted(&args.select), send, most: args.max_messages })
        }
        (Some(What::Save(args)), _) | (None, Some(args)) => save(read, args),
        (None, None) => None, // refused when it was read
    }
}

fn wanted(args: &SelectArgs) -> LettersWanted {
    let SelectArgs { queue, since, until, reason, key_prefix, message_id } = args.clone();
    let source = source(queue.as_deref().unwrap_or("dlq"));
    LettersWanted { source, since, until, reason, key_prefix, message_id }
}

fn source(name: &str) -> Source {
    if name == Source::Main.as_str() { Source::Main } else { Source::Dlq }
}

fn save(read: &Reader<'_>, args: &SaveArgs) -> Option<ArchiveOrder> {
    let form = || urls::queue("the workers refuse it");
    let queue_url = read.required(&setting!(read, args.queue_url), "give the workers' queue", form());
    let dlq_url = read.optional(&setting!(read, args.dlq_url), form());
    let visibility = read.value(&setting!(read, args.visibility_timeout), "120", seconds(10..=43_200));
    Some(ArchiveOrder::Save {
        source: source(&args.queue),
        queue_url: queue_url?,
        dlq_url: dlq_url?,
        remove: args.remove,
        visibility: visibility?,
        most: args.max_messages.map(|most| usize::try_from(most).unwrap_or(usize::MAX)),
    })
}
