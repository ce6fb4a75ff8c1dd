//! The status page: one file, with its own style and script and nothing from elsewhere.
//!
//! Promises a policy under which only that style and that script run, whatever the data holds: they are named by their
//! hashes, and no text from outside is in the page at all (the script asks `/status` and writes text, never markup).

use std::sync::LazyLock;

use base64::Engine as _;
use sha2::{Digest as _, Sha256};

const BODY: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page as it is sent.
pub(super) static PAGE: LazyLock<String> =
    LazyLock::new(|| BODY.replacen("{style}", STYLE, 1).replacen("{script}", SCRIPT, 1));

/// `Content-Security-Policy` of the page.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});
