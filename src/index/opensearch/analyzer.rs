//! How text is cut into words: which analyzers there are, which of them this OpenSearch has, and which is taken.
//!
//! Promises that a choice which cannot be had is said with what mends it, before anything is created, and that `auto`
//! says what it took and why. Knows no document.

use bytes::Bytes;
use opensearch::http::Method;
use opensearch::http::headers::HeaderMap;
use serde_json::{Value, json};

use super::OpenSearchIndex;
use super::reply::whole_trouble;
use super::setup::{PATIENCE, SetupError};
use super::wire::Ask;

/// How the text of documents is cut into words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Analyzer {
    /// Japanese by a dictionary of words and their forms (plugin `analysis-kuromoji`).
    Kuromoji,
    /// Chinese, Japanese, Thai and others by a dictionary, the rest at spaces (plugin `analysis-icu`).
    Icu,
    /// Chinese, Japanese and Korean in pairs of characters, the rest at spaces. Needs no plugin.
    Cjk,
    /// At spaces; each Chinese or Japanese character alone. Needs no plugin.
    Standard,
}

/// `OPENSEARCH_ANALYZER`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnalyzerChoice {
    /// Kuromoji where the plugin is there, else ICU where that one is, else CJK. An index that is there keeps what it has.
    Auto,
    /// This one.
    Only(Analyzer),
}

impl Analyzer {
    /// All there are; `auto` takes the first that can be had.
    pub const ALL: [Analyzer; 4] = [Analyzer::Kuromoji, Analyzer::Icu, Analyzer::Cjk, Analyzer::Standard];

    /// As it is configured.
    pub fn as_str(self) -> &'static str {
        match self {
            Analyzer::Kuromoji => "kuromoji",
            Analyzer::Icu => "icu",
            Analyzer::Cjk => "cjk",
            Analyzer::Standard => "standard",
        }
    }

    /// As the mapping names it. Kuromoji's is our own: see `mapping`.
    pub(super) fn in_mapping(self) -> &'static str {
        match self {
            Analyzer::Kuromoji => "japanese_words",
            Analyzer::Icu => "icu_analyzer",
            Analyzer::Cjk => "cjk",
            Analyzer::Standard => "standard",
        }
    }

    /// Of an index (the object under `mappings`) whose text was mapped by us.
    pub(super) fn of_mapping(mappings: &Value) -> Option<Self> {
        let named = mappings.pointer("/properties/content/analyzer")?.as_str()?;
        Self::ALL.into_iter().find(|analyzer| analyzer.in_mapping() == named)
    }

    /// The plugin that it takes, and the tokenizer by which that is known.
    fn plugin(self) -> Option<(&'static str, &'static str)> {
        match self {
            Analyzer::Kuromoji => Some(("analysis-kuromoji", "kuromoji_tokenizer")),
            Analyzer::Icu => Some(("analysis-icu", "icu_tokenizer")),
            Analyzer::Cjk | Analyzer::Standard => None,
        }
    }
}

/// An analyzer that was taken, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Taken {
    pub analyzer: Analyzer,
    pub why: String,
}

/// Whether a plugin is there.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Plugin {
    There,
    Absent,
    /// It may not be asked; with what was said.
    Unknown(String),
}

impl OpenSearchIndex {
    /// What a new index would have.
    pub(super) async fn choose(&self, choice: AnalyzerChoice) -> Result<Taken, SetupError> {
        let analyzer = match choice {
            AnalyzerChoice::Auto => return self.best().await,
            AnalyzerChoice::Only(analyzer) => analyzer,
        };
        if let Some((plugin, tokenizer)) = analyzer.plugin()
            && self.has(tokenizer).await? == Plugin::Absent
        {
            return Err(absent(analyzer, plugin));
        }
        Ok(Taken { analyzer, why: format!("OPENSEARCH_ANALYZER={}", analyzer.as_str()) })
    }

    async fn best(&self) -> Result<Taken, SetupError> {
        let mut missing = Vec::new();
        for analyzer in Analyzer::ALL {
            let Some((plugin, tokenizer)) = analyzer.plugin() else {
                let why = format!("auto: {}", missing.join(", "));
                return Ok(Taken { analyzer, why });
            };
            match self.has(tokenizer).await? {
                Plugin::There => return Ok(Taken { analyzer, why: format!("auto: plugin {plugin} is installed") }),
                Plugin::Absent => missing.push(format!("plugin {plugin} is not installed")),
                Plugin::Unknown(said) => {
                    missing.push(format!("whether plugin {plugin} is installed was not told ({said})"))
                }
            }
        }
        // Not reached: what needs no plugin is among all.
        Ok(Taken { analyzer: Analyzer::Cjk, why: "auto".into() })
    }

    /// Asked by use: the list of plugins has other names at other vendors, and may not be read everywhere.
    async fn has(&self, tokenizer: &str) -> Result<Plugin, SetupError> {
        let ask = Ask {
            method: Method::Post,
            path: "/_analyze",
            query: &[],
            headers: HeaderMap::new(),
            body: Some(Bytes::from(json!({ "tokenizer": tokenizer, "text": "x" }).to_string())),
            timeout: self.request_timeout.max(PATIENCE),
        };
        let answer = self.wire.ask(ask).await.map_err(SetupError::Unavailable)?;
        Ok(match answer.status {
            200 => Plugin::There,
            400 if String::from_utf8_lossy(&answer.body).contains("failed to find") => Plugin::Absent,
            status @ (429 | 500..=599) => return Err(SetupError::Unavailable(whole_trouble(status, &answer.body))),
            status => Plugin::Unknown(whole_trouble(status, &answer.body)),
        })
    }
}

fn absent(analyzer: Analyzer, plugin: &str) -> SetupError {
    SetupError::Analyzer(format!(
        "OPENSEARCH_ANALYZER={} (--analyzer): plugin {plugin} is not installed on this OpenSearch; fix: install it on every \
         node (`opensearch-plugin install {plugin}`, then restart the node; Amazon OpenSearch Service has it), or take \
         auto or cjk, which need no plugin",
        analyzer.as_str()
    ))
}
