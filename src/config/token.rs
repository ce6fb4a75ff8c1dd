//! The token of the status page: given, or in a file.
//!
//! Promises that it is in the result only, never in a mistake, and that one which can be guessed is refused.

use super::args::Args;
use super::mistakes::{Reader, Setting, wrong};
use super::search::from_file;
use super::{Secret, setting};

/// Characters: shorter ones can be guessed, longer ones fit no header.
const LEAST: usize = 16;
const MOST: usize = 256;

/// `Some(None)`: there is none; `None` only after a mistake.
pub(super) fn convert(read: &Reader<'_>, args: &Args) -> Option<Option<Secret>> {
    let token = read.secret("admin_token", args.admin_token.as_ref().map(Secret::expose));
    let file = setting!(read, args.admin_token_file);
    match (&token.text, &file.text) {
        (Some(_), Some(_)) => {
            read.mistake(&token, "is given, and ADMIN_TOKEN_FILE too", "keep one of the two: the file");
            None
        }
        (None, Some(_)) => {
            let token = read.required(&file, "", from_file("token"))?;
            judged(read, &file, token)
        }
        (Some(text), None) => {
            let given = Secret::from(text.clone());
            judged(read, &token, given)
        }
        (None, None) => Some(None),
    }
}

fn judged(read: &Reader<'_>, from: &Setting, token: Secret) -> Option<Option<Secret>> {
    let text = token.expose();
    let fits = (LEAST..=MOST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    let fix = "give a random one: openssl rand -hex 24";
    let what = format!("is no token of {LEAST} to {MOST} printable ASCII characters without spaces");
    read.required(from, fix, |_| if fits { Ok(Some(token)) } else { wrong(what, fix) })
}
