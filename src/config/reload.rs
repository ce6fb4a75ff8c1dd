//! The file of what may be changed while a worker runs (`RELOAD_FILE`), read at start and at each SIGHUP.
//!
//! Promises that a file with one bad line changes nothing, and that each bad line is told by its number. Its lines are
//! those of an environment file: `NAME=value`, `#` and `;` for comments, quotes round a value or none.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use super::values::quoted;

/// What may stand in it.
pub const RELOADABLE: [&str; 6] =
    ["LOG_LEVEL", "WORKER_CONCURRENCY", "DRAIN_TIMEOUT", "MAX_ATTEMPTS", "RETRY_BASE_SECONDS", "RETRY_MAX_SECONDS"];
/// A file of six lines; more is another file.
const LONGEST: u64 = 64 * 1024;

/// Its settings; none where there is no such file. The error is a sentence with its fix.
pub fn read(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let fail = |error: std::io::Error| format!("cannot be read: {error}; let the worker's user read it, or remove it");
    let size = match std::fs::metadata(path) {
        Ok(file) if file.is_file() => file.len(),
        // A pipe would be waited for, and the worker with it.
        Ok(_) => return Err("is no file; name one, or remove it".to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(fail(error)),
    };
    if size > LONGEST {
        return Err(format!("has {size} bytes, which no such file has; name another"));
    }
    parse(&std::fs::read_to_string(path).map_err(fail)?)
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let (mut settings, mut wrong) = (BTreeMap::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            wrong.push(format!("line {}: {} is no NAME=value", number + 1, quoted(line)));
            continue;
        };
        let name = name.trim();
        if RELOADABLE.contains(&name) {
            settings.insert(name.to_owned(), unquoted(value.trim()).to_owned());
        } else {
            // The value is not told: a password may have strayed here.
            wrong.push(format!("line {}: {} cannot be changed while the worker runs", number + 1, quoted(name)));
        }
    }
    match wrong.is_empty() {
        true => Ok(settings),
        false => {
            Err(format!("{}; give {} in it, and all else in the environment", wrong.join(", "), RELOADABLE.join(", ")))
        }
    }
}

fn unquoted(value: &str) -> &str {
    let within = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    within('"').or_else(|| within('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_systemd_reads_them_and_each_bad_one_is_told_without_its_value() {
        let read =
            parse("# at night\nLOG_LEVEL=debug\n; old\n\n WORKER_CONCURRENCY = \"8\"\r\nDRAIN_TIMEOUT='5m'\n").unwrap();
        let expected = [("DRAIN_TIMEOUT", "5m"), ("LOG_LEVEL", "debug"), ("WORKER_CONCURRENCY", "8")];
        assert_eq!(read.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(), expected);
        let told = parse("LOG_LEVEL=debug\nOPENSEARCH_PASSWORD=hunter2\nexport\n").unwrap_err();
        for words in ["line 2: \"OPENSEARCH_PASSWORD\"", "line 3: \"export\"", "MAX_ATTEMPTS"] {
            assert!(told.contains(words), "{told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
    }

    #[test]
    fn no_file_is_no_change_and_one_that_cannot_be_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join("none")), Ok(BTreeMap::new()));
        assert!(read(folder.path()).unwrap_err().contains("is no file"));
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert!(read(&pipe).unwrap_err().contains("is no file"));
        assert!(read(&folder.path().join("n\0ne")).unwrap_err().contains("cannot be read"));
        let huge = folder.path().join("huge");
        std::fs::write(&huge, "x".repeat(100_000)).unwrap();
        assert!(read(&huge).unwrap_err().contains("100000 bytes"));
    }
}
