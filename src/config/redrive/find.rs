//! `redrive search`: its flags, and what comes of them.

use clap::Args;

use super::upkeep::{ScopeArgs, index, scope};
use crate::config::args::SearchArgs;
use crate::config::mistakes::Reader;
use crate::config::values::number;
use crate::config::{OpenSearchConfig, setting};
use crate::message::Namespace;

pub(super) const HELP: &str = "\
Looks in title, text and file name of the namespace's documents, through the read alias {index}-search: what was removed
is not shown. The best come first; what was matched stands between ** and **. Needs only the OPENSEARCH_ settings.

Examples:
  redrive search 'annual report'
  redrive search 請求書 --limit 3 --json

Exit codes: 0 also where nothing was found · 64 · 75 OpenSearch or the alias is not there · 78";

/// What was typed.
#[derive(Args, Clone, PartialEq, Eq)]
pub(super) struct FindArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    search: SearchArgs,

    /// What to look for.
    #[arg(value_name = "WORDS", required = true, num_args = 1..)]
    words: Vec<String>,

    /// Hits, at most; default 10, range 1 to 100.
    #[arg(long, env = "SEARCH_LIMIT", value_name = "N", allow_negative_numbers = true)]
    limit: Option<String>,
}

/// What a search runs with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FindConfig {
    /// Scope.
    pub namespace: Namespace,
    /// The index.
    pub opensearch: OpenSearchConfig,
    /// What to look for.
    pub words: String,
    /// Hits, at most.
    pub limit: usize,
}

pub(super) fn convert(read: &Reader<'_>, args: &FindArgs, allow_http: bool) -> Option<FindConfig> {
    let namespace = scope(read, &args.scope);
    let opensearch = index(read, &args.search, allow_http);
    let limit = read.value(&setting!(read, args.limit), "10", number(1..=100, "hits"));
    Some(FindConfig { namespace: namespace?, opensearch: opensearch?, words: args.words.join(" "), limit: limit? })
}
