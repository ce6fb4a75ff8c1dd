//! One file in this process: its kind, its reader, and what came of it.
//!
//! Promises: a file that cannot be read gives an [`Extraction`] with an `extraction_error` and
//! whatever else is known; only a broken limit is an error. Nothing is written anywhere.
//! Refuses to know: who asks. The child calls this, and so do table tests.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::kind::{self, Kind};
use super::sink::{Doc, MAX_ERROR_CHARS, one_line};
use super::{
    Extraction, Hints, LimitBroken, LimitKind, Limits, html, json, language, mail, markdown, office, pdf, sheet, table,
    text,
};

/// What a reader reads from: a file, or bytes.
pub(super) trait Input: Read + Seek {}
impl<T: Read + Seek> Input for T {}

/// What a reader is given.
pub(super) struct Wanted<'a> {
    pub input: &'a mut dyn Input,
    pub hints: &'a Hints,
    pub limits: &'a Limits,
}

/// Why a reader stopped before the end.
#[derive(Debug)]
pub(super) enum Stop {
    /// Something about the file that its document should say.
    Finding(String),
    Limit(LimitBroken),
}

impl Stop {
    pub fn finding(what: impl Into<String>) -> Self {
        Stop::Finding(what.into())
    }

    pub fn limit(which: LimitKind, detail: impl Into<String>) -> Self {
        Stop::Limit(LimitBroken { which, detail: detail.into() })
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Finding(format!("cannot be read: {error}"))
    }
}

/// Why [`extract_file`] has no answer.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The disk, not the file's format.
    #[error("cannot read the file from disk: {0}")]
    Disk(#[from] io::Error),
    #[error(transparent)]
    /// A limit on the file's cost was broken.
    Limit(#[from] LimitBroken),
}

/// Reads bytes in this process, unprotected: for tests and for the child.
pub fn extract_bytes(bytes: &[u8], hints: &Hints, limits: &Limits) -> Result<Extraction, LimitBroken> {
    match extract(Cursor::new(bytes), hints, limits) {
        Ok(extraction) => Ok(extraction),
        Err(FileError::Limit(broken)) => Err(broken),
        // Memory has no read errors; said as a finding rather than asserted.
        Err(FileError::Disk(error)) => {
            Ok(Extraction { extraction_error: one_line(&error.to_string(), MAX_ERROR_CHARS), ..Extraction::default() })
        }
    }
}

/// Reads the file at `path` in this process, unprotected: for the child. No link is followed.
pub fn extract_file(path: &Path, hints: &Hints, limits: &Limits) -> Result<Extraction, FileError> {
    extract(open(path)?, hints, limits)
}

/// A plain file, not through a link: the worker's temp files are neither (T5).
pub(super) fn open(path: &Path) -> io::Result<File> {
    // NONBLOCK: opening a fifo must not wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"))
    }
}

pub(super) fn extract<I: Read + Seek>(input: I, hints: &Hints, limits: &Limits) -> Result<Extraction, FileError> {
    let mut input = Watched { input, failed: None };
    let (kind, mime_type) = kind::of(&mut input, hints)?;
    let mut doc = Doc::new(limits.max_text_bytes);
    let result = run(kind, &mut Wanted { input: &mut input, hints, limits }, &mut doc);
    if let Some(error) = input.failed {
        return Err(error.into());
    }
    let finding = match result {
        Ok(()) => None,
        Err(Stop::Finding(finding)) => one_line(&finding, MAX_ERROR_CHARS),
        Err(Stop::Limit(broken)) => return Err(broken.into()),
    };
    let Doc { text, title, meta } = doc;
    let (content, truncated) = text.finish();
    let content = (kind != Kind::Opaque).then_some(content);
    Ok(Extraction {
        mime_type,
        title,
        language: content.as_deref().and_then(language::guess).map(str::to_owned),
        content,
        truncated,
        extraction_error: finding,
        meta,
    })
}

fn run(kind: Kind, wanted: &mut Wanted<'_>, doc: &mut Doc) -> Result<(), Stop> {
    match kind {
        Kind::Text => text::extract(wanted, doc),
        Kind::Markdown => markdown::extract(wanted, doc),
        Kind::Csv => table::extract(wanted, doc, false),
        Kind::Tsv => table::extract(wanted, doc, true),
        Kind::Json => json::extract(wanted, doc),
        Kind::Html => html::extract(wanted, doc),
        Kind::Mail => mail::extract(wanted, doc),
        Kind::Pdf => pdf::extract(wanted, doc),
        Kind::Docx => office::docx(wanted, doc),
        Kind::Pptx => office::pptx(wanted, doc),
        Kind::Xlsx => sheet::extract(wanted, doc),
        Kind::Opaque => Ok(()),
    }
}

/// The beginning of an input, and whether that is all of it.
pub(super) struct Bytes {
    pub bytes: Vec<u8>,
    pub whole: bool,
}

/// Reads from the start, at most `max_bytes`.
pub(super) fn at_most(input: &mut dyn Input, max_bytes: u64) -> io::Result<Bytes> {
    let length = input.seek(SeekFrom::End(0))?;
    input.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(max_bytes)).unwrap_or(0));
    input.take(max_bytes).read_to_end(&mut bytes)?;
    Ok(Bytes { bytes, whole: length <= max_bytes })
}

/// Remembers a failure of the disk, which the readers' own errors would hide.
struct Watched<I> {
    input: I,
    failed: Option<io::Error>,
}

impl<I: Read> Read for Watched<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(io::Error::new(error.kind(), error.to_string()));
            }
        })
    }
}

impl<I: Seek> Seek for Watched<I> {
    // Not watched: parsers seek where a broken file tells them to, and that fails honestly.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.input.seek(to)
    }
}
