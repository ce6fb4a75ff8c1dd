//! From text to values: durations, sizes, numbers, names. One parser per form, each error with its fix.
//!
//! Promises to quote what was typed with control characters escaped, cut to a line's length. Knows no setting.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::TenantFrom;
use super::mistakes::{Wrong, wrong};
use crate::message::Namespace;
use crate::message::s3_event::Source;

/// What was typed, fit for a line of a log.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// A whole number in a range.
pub(super) fn number<T>(range: RangeInclusive<T>, unit: &'static str) -> impl FnOnce(&str) -> Result<T, Wrong>
where
    T: FromStr + PartialOrd + Display,
{
    move |text| {
        let (least, most) = (range.start(), range.end());
        let fix = format!("give a whole number of {unit} from {least} to {most}");
        match text.parse::<T>() {
            Ok(value) if range.contains(&value) => Ok(value),
            Ok(_) => wrong(format!("{} is out of range", quoted(text)), fix),
            Err(_) => wrong(format!("{} is not such a number", quoted(text)), fix),
        }
    }
}

/// Seconds, plain (`60`) or with a unit (`60s`, `5m`, `1h`), in a range of seconds.
pub(super) fn seconds(range: RangeInclusive<u64>) -> impl FnOnce(&str) -> Result<Duration, Wrong> {
    move |text| {
        let (digits, factor) = match text.as_bytes().last() {
            Some(b's') => (&text[..text.len() - 1], 1),
            Some(b'm') => (&text[..text.len() - 1], 60),
            Some(b'h') => (&text[..text.len() - 1], 3600),
            _ => (text, 1),
        };
        let (least, most) = (range.start(), range.end());
        let fix = format!("give whole seconds from {least} to {most} (or with a unit: 90s, 15m, 1h)");
        match whole(digits).and_then(|count| count.checked_mul(factor)) {
            Some(count) if range.contains(&count) => Ok(Duration::from_secs(count)),
            Some(_) => wrong(format!("{} is out of range", quoted(text)), fix),
            None => wrong(format!("{} is not a duration", quoted(text)), fix),
        }
    }
}

/// Bytes, plain or with KiB, MiB, GiB.
pub(super) fn bytes(range: RangeInclusive<u64>) -> impl FnOnce(&str) -> Result<u64, Wrong> {
    move |text| {
        let lower = text.to_ascii_lowercase();
        let units = [("kib", 1_u64 << 10), ("mib", 1 << 20), ("gib", 1 << 30)];
        let (digits, factor) = units
            .iter()
            .find_map(|(unit, factor)| lower.strip_suffix(unit).map(|digits| (digits.trim_end(), *factor)))
            .unwrap_or((&lower, 1));
        let (least, most) = (range.start(), range.end());
        let fix = format!("give bytes from {least} to {most}, plain or with KiB, MiB or GiB (512MiB)");
        match whole(digits).and_then(|count| count.checked_mul(factor)) {
            Some(count) if range.contains(&count) => Ok(count),
            Some(_) => wrong(format!("{} is out of range", quoted(text)), fix),
            None => wrong(format!("{} is not a size", quoted(text)), fix),
        }
    }
}

/// Digits only: `parse` alone would let `+5` pass.
fn whole(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// `true`, `1`, `yes` or `false`, `0`, `no`.
pub(super) fn boolean(text: &str) -> Result<bool, Wrong> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => wrong(format!("{} is neither true nor false", quoted(text)), "give true or false (1 or 0, yes or no)"),
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(words: &[(&str, T)]) -> impl FnOnce(&str) -> Result<T, Wrong> {
    move |text| match words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
        Some((_, value)) => Ok(*value),
        None => {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            wrong(format!("{} is not known", quoted(text)), format!("give one of {}", known.join(", ")))
        }
    }
}

/// The scope of ids.
pub(super) fn namespace(text: &str) -> Result<Namespace, Wrong> {
    Namespace::parse(text).or_else(|what| wrong(what, "choose another name, such as prod or tenant-7"))
}

/// `IP:PORT`, or `off`.
pub(super) fn listen(text: &str) -> Result<Option<SocketAddr>, Wrong> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let fix = "give IP:PORT, such as 127.0.0.1:9464 or [::1]:9464, or off";
    text.parse().map(Some).or_else(|_| wrong(format!("{} is not an address", quoted(text)), fix))
}

/// A folder of our own. Relative ones are refused: a service has no working directory worth the name.
pub(super) fn folder(text: &str) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(text);
    // It is swept at start.
    if path.is_absolute() && path.parent().is_some() {
        Ok(path)
    } else {
        wrong(
            format!("{} is not a folder to itself", quoted(text)),
            "give an absolute path, such as /var/cache/quittance",
        )
    }
}

/// A file by its whole path: a service has no folder of its own to start from.
pub(super) fn file(text: &str) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(text);
    if path.is_absolute() && path.file_name().is_some() {
        Ok(path)
    } else {
        wrong(
            format!("{} is not a file's path", quoted(text)),
            "give an absolute path, such as /etc/quittance/limits.env",
        )
    }
}

/// `prefix:N`, `message-group`, `none`.
pub(super) fn tenant_from(text: &str) -> Result<TenantFrom, Wrong> {
    match (text, text.strip_prefix("prefix:").map(str::parse::<usize>)) {
        ("message-group", _) => Ok(TenantFrom::MessageGroup),
        ("none", _) => Ok(TenantFrom::None),
        (_, Some(Ok(segments @ 1..=16))) => Ok(TenantFrom::Prefix(segments)),
        _ => wrong(
            format!("{} does not say where the tenant is read", quoted(text)),
            "give prefix:N with N from 1 to 16, message-group, or none",
        ),
    }
}

/// A bucket's name.
pub(super) fn bucket(text: &str) -> Result<String, Wrong> {
    let form = "give the bare name of the bucket: 3 to 63 characters of a-z, 0-9, '.' and '-', \
                without s3://, ARN or region";
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let fits = (3..=63).contains(&bytes.len())
        && bytes.iter().copied().all(allowed)
        && edge(bytes.first())
        && edge(bytes.last());
    if fits { Ok(text.to_owned()) } else { wrong(format!("{} is not a bucket's name", quoted(text)), form) }
}

/// A comma list of `bucket` or `bucket/prefix`. Every bad entry is named, not only the first.
pub(super) fn sources(text: &str) -> Result<Vec<Source>, Wrong> {
    let (mut found, mut bad) = (Vec::new(), Vec::new());
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match source(entry) {
            Ok(source) if found.contains(&source) => bad.push(format!("{} is listed twice", quoted(entry))),
            Ok(source) => found.push(source),
            Err(what) => bad.push(what),
        }
    }
    let fix = "list each source once, as bucket or bucket/prefix, with commas between and without s3://, ARN or '*'";
    match bad.is_empty() {
        true if found.is_empty() => wrong("the list is empty", fix),
        true => Ok(found),
        false => wrong(bad.join(", "), fix),
    }
}

fn source(entry: &str) -> Result<Source, String> {
    // Before the split, which would make a bucket `s3:` of it.
    if entry.starts_with("s3://") || entry.starts_with("arn:") {
        return Err(format!("{} is not a bucket's name", quoted(entry)));
    }
    let (name, prefix) = entry.split_once('/').unwrap_or((entry, ""));
    // Legal in a key, but here it is always meant as a wildcard, and would silently match nothing.
    if prefix.ends_with('*') {
        return Err(format!("{} ends in '*', while a prefix matches what begins with it", quoted(entry)));
    }
    bucket(name).map(|bucket| Source { bucket, prefix: prefix.to_owned() }).map_err(|wrong| wrong.what)
}

/// An index alias after OpenSearch's rules for names; shorter than its 255 bytes, so that `-search` and an index
/// number fit behind it.
pub(super) fn index_name(text: &str) -> Result<String, Wrong> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || ",:\"*+/\\|?#<>".contains(c);
    let fits = text.len() <= 200
        && text.to_lowercase() == text
        && !text.starts_with(['-', '_', '+'])
        && !matches!(text, "." | "..")
        && !text.contains(forbidden);
    let fix = "give a lower-case name of at most 200 bytes that does not begin with '-', '_' or '+' and has no spaces \
               and none of , : \" * + / \\ | ? # < >";
    if fits { Ok(text.to_owned()) } else { wrong(format!("{} is not an index name", quoted(text)), fix) }
}
