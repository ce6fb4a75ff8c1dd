//! The container of the office formats: parts of a zip, streamed as XML, against a budget.
//!
//! Promises (T1, T2): what is inflated is counted as it streams, whatever headers say; entries
//! that share bytes are refused; a document type declaration is refused, so no entity is ever
//! expanded; nothing is written to disk.
//! Refuses to know: what the elements of one format mean beyond where text begins and ends.

use std::borrow::Cow;
use std::io::{self, Read};

use zip::ZipArchive;
use zip::result::ZipError;

use super::read::{self, Input, Stop, Wanted};
use super::sink::Doc;
use super::xml::{Node, Xml, declared};
use super::{LimitBroken, LimitKind, Limits};

/// Below this the ratio says nothing: small files of blanks compress well.
const RATIO_AFTER_BYTES: u64 = 1 << 20;
/// A compound file's directory is looked for in as much.
const COMPOUND_FILE_BYTES: u64 = 8 << 20;
/// A declaration comes before the first element.
const DECLARATION_BYTES: usize = 8 << 10;

/// An opened office file.
pub(super) struct Package<'p, 'i> {
    archive: ZipArchive<&'p mut (dyn Input + 'i)>,
    budget: Budget,
}

impl<'p, 'i> Package<'p, 'i> {
    pub fn open(wanted: &'p mut Wanted<'i>) -> Result<Self, Stop> {
        if is_compound_file(wanted.input)? {
            return Err(Stop::finding(match is_encrypted(wanted.input)? {
                true => "the file is encrypted",
                false => "an old binary office file under a new name",
            }));
        }
        let file_bytes = wanted.input.seek(io::SeekFrom::End(0))?;
        let mut archive = ZipArchive::new(&mut *wanted.input).map_err(finding)?;
        let entries = archive.len();
        if entries > wanted.limits.max_archive_entries {
            return Err(Stop::limit(LimitKind::Entries, format!("{entries} entries in the archive")));
        }
        if archive.has_overlapping_entries().map_err(finding)? {
            return Err(Stop::limit(LimitKind::Overlap, "entries of the archive share bytes"));
        }
        Ok(Self { archive, budget: Budget::new(wanted.limits, file_bytes) })
    }

    /// Names of the parts that begin so and end in `.xml`, in the order of the number between.
    pub fn numbered(&self, prefix: &str) -> Vec<String> {
        let number = |name: &str| {
            let middle = name.strip_prefix(prefix)?.strip_suffix(".xml")?;
            if middle.is_empty() { Some(0) } else { middle.parse::<u32>().ok() }
        };
        let mut parts: Vec<(u32, String)> = self.names().filter_map(|name| Some((number(&name)?, name))).collect();
        parts.sort();
        parts.into_iter().map(|(_, name)| name).collect()
    }

    /// Reads one part; `None` when there is no such part.
    pub fn part<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Xml<'_>) -> Result<T, Stop>,
    ) -> Result<Option<T>, Stop> {
        let max_depth = self.budget.limits.max_depth;
        let file = match self.archive.by_name(name) {
            Ok(file) => file,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(error) => return Err(finding(error)),
        };
        let mut counted = Counted { file, budget: &mut self.budget };
        let result = read(&mut Xml::new(&mut counted, max_depth));
        // What the XML reader made of it is a consequence.
        self.budget.broken.take().map_or(result.map(Some), |broken| Err(Stop::Limit(broken)))
    }

    /// Inflates every XML part to nothing: what a library that counts nothing would inflate.
    pub fn inflate_all(&mut self) -> Result<(), Stop> {
        let names: Vec<String> =
            self.names().filter(|name| name.ends_with(".xml") || name.ends_with(".rels")).collect();
        for name in names {
            let file = self.archive.by_name(&name).map_err(finding)?;
            let mut counted = Counted { file, budget: &mut self.budget };
            let mut head = Vec::new();
            let read = (&mut counted).take(DECLARATION_BYTES as u64).read_to_end(&mut head);
            let read = read.and_then(|_| io::copy(&mut counted, &mut io::sink()));
            if let Some(broken) = self.budget.broken.take() {
                return Err(Stop::Limit(broken));
            }
            read.map_err(|error| Stop::finding(format!("cannot inflate {name}: {error}")))?;
            if head.windows(9).any(|window| window == b"<!DOCTYPE") {
                return Err(declared());
            }
        }
        Ok(())
    }

    /// Title, author and dates, from where all office formats keep them.
    pub fn core_properties(&mut self, doc: &mut Doc) -> Result<(), Stop> {
        self.part("docProps/core.xml", |xml| {
            let (mut name, mut value) = (String::new(), String::new());
            loop {
                match xml.next()? {
                    Node::Open(start) => (name, value) = (start.local_name().as_ref().to_owned(), String::new()),
                    Node::Text(text) => value.push_str(&text),
                    Node::Close(_) => {
                        match name.as_str() {
                            "title" => doc.set_title(&value),
                            "creator" => doc.set("author", &value),
                            "subject" | "keywords" | "description" | "created" | "modified" => doc.set(&name, &value),
                            _ => {}
                        }
                        name.clear();
                    }
                    Node::End => return Ok(()),
                }
            }
        })?;
        Ok(())
    }

    fn names(&self) -> impl Iterator<Item = String> {
        self.archive.file_names().filter_map(Result::ok).map(Cow::into_owned)
    }
}

fn finding(error: ZipError) -> Stop {
    Stop::finding(match error {
        ZipError::InvalidPassword => "the archive is encrypted".to_owned(),
        ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) => "the archive is encrypted".to_owned(),
        error => format!("the archive is broken: {error}"),
    })
}

fn is_compound_file(input: &mut dyn Input) -> io::Result<bool> {
    Ok(read::at_most(input, 8)?.bytes == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
}

/// An encrypted office file is a compound file with a stream of this name.
fn is_encrypted(input: &mut dyn Input) -> io::Result<bool> {
    let name: Vec<u8> = "EncryptedPackage".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bytes = read::at_most(input, COMPOUND_FILE_BYTES)?.bytes;
    Ok(bytes.windows(name.len()).any(|window| window == name))
}

/// What the parts of one archive may inflate to together.
struct Budget {
    limits: Limits,
    file_bytes: u64,
    inflated: u64,
    broken: Option<LimitBroken>,
}

impl Budget {
    fn new(limits: &Limits, file_bytes: u64) -> Self {
        Self { limits: *limits, file_bytes, inflated: 0, broken: None }
    }

    /// Against the length of the whole file, which no header can lie about.
    fn spend(&mut self, bytes: usize) -> io::Result<()> {
        self.inflated += bytes as u64;
        let ratio_bytes = self.file_bytes.saturating_mul(self.limits.max_inflation_ratio).max(RATIO_AFTER_BYTES);
        let (which, most) = if self.inflated > self.limits.max_inflated_bytes {
            (LimitKind::Inflated, self.limits.max_inflated_bytes)
        } else if self.inflated > ratio_bytes {
            (LimitKind::Ratio, ratio_bytes)
        } else {
            return Ok(());
        };
        let detail = format!("an archive of {} bytes inflates to more than {most}", self.file_bytes);
        self.broken = Some(LimitBroken { which, detail: detail.clone() });
        Err(io::Error::other(detail))
    }
}

struct Counted<'b, R> {
    file: R,
    budget: &'b mut Budget,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.budget.spend(read)?;
        Ok(read)
    }
}
