//! What both AWS adapters share: the loaded configuration, and an SDK error reduced to plain facts.
//!
//! Promises one pinned behaviour version, a connect timeout on every client, and error texts of one line
//! that hold no receipt handle. Knows no service: what a code *means* is judged in `queue::sqs` and `store::s3`.

use std::error::Error;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};

/// A peer that does not answer a SYN in this time is not there; the SDK's own default varies by version.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest error text: it goes into log lines and dead-letter reasons.
const MAX_TEXT_CHARS: usize = 300;
/// SQS quotes the receipt handle in some messages. Nothing else we may print is a word this long.
const MAX_WORD_CHARS: usize = 100;

/// Credentials, region and endpoint as every AWS tool finds them (environment, profile, instance role).
pub async fn load() -> SdkConfig {
    // Pinned: a newer SDK must not change retries, timeouts or checksums behind our back.
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
        .load()
        .await
}

/// Requests for S3 go to something other than AWS: a local stack, which has no wildcard DNS for bucket names.
pub fn endpoint_is_custom(shared: &SdkConfig) -> bool {
    shared.endpoint_url().is_some() || std::env::var_os("AWS_ENDPOINT_URL_S3").is_some()
}

/// The codes, of any AWS service, that blame the caller's credentials or clock and say nothing of the request.
pub(crate) fn blames_credentials(code: &str) -> bool {
    matches!(
        code,
        "ExpiredToken"
            | "ExpiredTokenException"
            | "TokenRefreshRequired"
            | "InvalidToken"
            | "InvalidAccessKeyId"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "SignatureDoesNotMatch"
            | "InvalidSignatureException"
            | "IncompleteSignature"
            | "MissingAuthenticationToken"
            | "RequestTimeTooSkewed"
            | "RequestExpired"
    )
}

/// An SDK error as plain facts, so that each service's judgement is a function of plain values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Built wrongly on our side; never sent.
    Unsendable { text: String },
    /// No answer that can be read: timeout, connection, DNS, credentials, a reply cut off.
    Silent { text: String },
    /// The service answered with an error. A HEAD has no body, hence no code.
    Answered { status: u16, code: Option<String>, text: String },
}

impl Fault {
    pub(crate) fn unsendable(error: &dyn Error) -> Self {
        Self::Unsendable { text: one_line(&chain(error)) }
    }

    pub(crate) fn silent(error: &dyn Error) -> Self {
        Self::Silent { text: one_line(&chain(error)) }
    }

    pub(crate) fn answered(status: u16, code: Option<&str>, message: Option<&str>) -> Self {
        let text = match (code, message) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            (None, Some(message)) => format!("status {status}: {message}"),
            (None, None) => format!("status {status}"),
        };
        Self::Answered { status, code: code.map(str::to_owned), text: one_line(&text) }
    }
}

/// The SDK's own `Display` says only "dispatch failure": the cause is further down.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

/// One line, bounded, control characters gone, overlong words (handles) cut.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_TEXT_CHARS));
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        if word.chars().nth(MAX_WORD_CHARS).is_some() { line.push('…') } else { line.push_str(word) }
    }
    match line.char_indices().nth(MAX_TEXT_CHARS - 1) {
        Some((cut, _)) if line.chars().nth(MAX_TEXT_CHARS).is_some() => line[..cut].to_owned() + "…",
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_text_is_one_short_line_without_handles() {
        let handle = "AQEB".repeat(60);
        let text = one_line(&format!("InvalidInput: the handle \"{handle}\"\r\n is\u{1b}[2J bad"));
        assert_eq!(text, "InvalidInput: the handle … is [2J bad");
        assert_eq!(one_line(&"日本 ".repeat(400)).chars().count(), 300);
        assert_eq!(one_line(&"a ".repeat(150)).chars().count(), 299);
    }

    #[test]
    fn the_cause_below_the_sdks_summary_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("dispatch failure")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("connection refused"));
        assert_eq!(Fault::silent(&error), Fault::Silent { text: "dispatch failure: connection refused".into() });
    }
}
