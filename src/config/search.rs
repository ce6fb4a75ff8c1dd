//! The part of the conversion that is about OpenSearch: where, which alias, how to sign in.
//!
//! Promises that a password is in the result only, never in a mistake. With `SKIP_OPENSEARCH` nothing else here is
//! looked at: it is the switch for bad days, and must not trip over a password file that is gone.

use std::fs::File;
use std::io::Read as _;

use super::args::SearchArgs;
use super::mistakes::{Reader, Wrong, wrong};
use super::values::{boolean, index_name, one_of, quoted};
use super::{OpenSearchAuth, OpenSearchConfig, Secret, setting, urls};

/// No password is longer; `/dev/zero` is.
const LONGEST_PASSWORD: u64 = 64 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    None,
    Basic,
    SigV4,
}

/// `Some(None)` to skip, `None` only after a mistake.
pub(super) fn convert(read: &Reader<'_>, args: &SearchArgs, allow_http: bool) -> Option<Option<OpenSearchConfig>> {
    if read.value(&setting!(read, args.skip_opensearch), "false", boolean)? {
        return Some(None);
    }
    let endpoint = setting!(read, args.opensearch_endpoint);
    let fix = "give OpenSearch's URL, or SKIP_OPENSEARCH=true to park all documents";
    let endpoint = read.required(&endpoint, fix, urls::endpoint(allow_http));
    let index = read.value(&setting!(read, args.index), "files", index_name);
    let auth = auth(read, args, endpoint.as_deref());
    Some(Some(OpenSearchConfig { endpoint: endpoint?, index: index?, auth: auth? }))
}

fn auth(read: &Reader<'_>, args: &SearchArgs, endpoint: Option<&str>) -> Option<OpenSearchAuth> {
    let username = setting!(read, args.opensearch_username);
    let password = read.secret("opensearch_password", args.opensearch_password.as_ref().map(Secret::expose));
    let file = setting!(read, args.opensearch_password_file);

    // A password alone is a half of `basic` as well: its user must have been forgotten.
    let guess = if username.text.is_some() || password.text.is_some() || file.text.is_some() {
        "basic"
    } else if endpoint.is_some_and(urls::is_aws_search) {
        "sigv4"
    } else {
        "none"
    };
    let ways = [("none", Auth::None), ("basic", Auth::Basic), ("sigv4", Auth::SigV4)];
    match read.value(&setting!(read, args.opensearch_auth), guess, one_of(&ways))? {
        Auth::None => Some(OpenSearchAuth::None),
        Auth::SigV4 => Some(OpenSearchAuth::SigV4),
        Auth::Basic => {
            let user =
                read.required(&username, "basic authentication needs a user: give one", |text| Ok(text.to_owned()));
            let password = match (&password.text, &file.text) {
                (Some(_), Some(_)) => {
                    read.mistake(
                        &password,
                        "is given, and OPENSEARCH_PASSWORD_FILE too",
                        "keep one of the two: the file",
                    );
                    None
                }
                (None, Some(_)) => read.required(&file, "", from_file("password")),
                (_, None) => {
                    let fix = "basic authentication needs a password: give OPENSEARCH_PASSWORD_FILE, or this";
                    read.required(&password, fix, |text| Ok(Secret::from(text.to_owned())))
                }
            };
            Some(OpenSearchAuth::Basic { username: user?, password: password? })
        }
    }
}

/// The file's text without its last newline. What is in the file is never quoted.
pub(super) fn from_file(secret: &'static str) -> impl FnOnce(&str) -> Result<Secret, Wrong> {
    move |path| {
        let mut text = String::new();
        let length = File::open(path).and_then(|file| file.take(LONGEST_PASSWORD + 1).read_to_string(&mut text));
        let path = quoted(path);
        match length {
            Err(error) => wrong(format!("cannot read {path}: {error}"), "give a text file that this user may read"),
            Ok(length) if length as u64 > LONGEST_PASSWORD => wrong(
                format!("{path} is longer than any {secret}"),
                format!("give a file that holds the {secret} and nothing else"),
            ),
            Ok(_) => {
                let line = text.strip_suffix('\n').unwrap_or(&text);
                let line = line.strip_suffix('\r').unwrap_or(line);
                if line.is_empty() {
                    return wrong(format!("{path} is empty"), format!("write the {secret} into it"));
                }
                Ok(Secret::from(line.to_owned()))
            }
        }
    }
}
