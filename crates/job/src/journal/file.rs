//! The journal as a file: read and verify, cut a torn tail, append and fsync.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::upgrade::{FORMAT, upgrade};
use super::{Digest, Event, History, Illegal, MAX_RECORD_BYTES, Record};
use crate::crashsafe;

/// Disk space that is kept for the way back: records that go forward are refused rather than use it up, so that a job
/// which filled the disk can still journal its own undo.
const RESERVE_BYTES: u64 = 128 << 10;

const HASH_OPENS: &str = r#"{"hash":""#;
const RECORD_OPENS: &str = r#"","record":"#;
const HASH_DIGITS: usize = 64;

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The filesystem refused.
    #[error("cannot {action} the journal {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No space is left; nothing was written and nothing was acted upon.
    #[error("no space is left for the journal {path}: free some, then resume the job")]
    DiskFull {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Something around the file failed.
    #[error("cannot make the journal's place on disk safe")]
    Place(#[source] crashsafe::Error),
    /// A line is not a record.
    #[error("line {line} of the journal is not a record: {why}")]
    Corrupt {
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A line was changed, removed or put in after it was written.
    #[error("line {line} of the journal breaks the hash chain: it, or a line before it, was changed")]
    Chain {
        /// Which line, from 1.
        line: usize,
    },
    /// A later program wrote it.
    #[error("the journal has format {found}, this program knows up to {supported}: run the newer program")]
    NewerFormat {
        /// Its format.
        found: u32,
        /// Ours.
        supported: u32,
    },
    /// There is not one whole record: the job was never created.
    #[error("the journal holds no whole record")]
    Empty,
    /// The records do not follow from one another.
    #[error("the journal's history is impossible")]
    Illegal(#[from] Illegal),
    /// A record would be too long.
    #[error("a record of {size_bytes} bytes is over the limit of {MAX_RECORD_BYTES}")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
    },
    /// An earlier failure left unknown what is on disk; open the journal anew.
    #[error("the journal {path} failed before and must be opened anew")]
    Poisoned {
        /// Which file.
        path: PathBuf,
    },
    /// The job is not running in this process any more.
    #[error("the journal is closed: the job is not running")]
    Closed,
}

impl JournalError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, source },
            _ => Self::Io { action, path, source },
        }
    }
}

/// What a journal's bytes hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The whole records, verified.
    pub records: Vec<Record>,
    /// How many bytes they take.
    pub good_bytes: u64,
    /// Whether an incomplete last line follows, which nobody ever acted upon.
    pub torn: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    v: u32,
    seq: u64,
    at: Timestamp,
    prev: Digest,
    event: &'a Event,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnedBody {
    #[serde(rename = "v")]
    _format: u32,
    seq: u64,
    at: Timestamp,
    prev: Digest,
    event: Event,
}

/// Reads and verifies a journal's bytes, up to a torn last line.
///
/// A last line is torn when it has no end, or holds NUL bytes (a page that never reached the disk).
///
/// # Errors
/// A line that is no record, breaks the hash chain, or has a newer format.
pub fn parse(bytes: &[u8]) -> Result<Parsed, JournalError> {
    let mut parsed = Parsed { records: Vec::new(), good_bytes: 0, torn: false };
    let mut prev = Digest::ZERO;
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n');
        let (text, after) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        if end.is_none() || (after.is_empty() && text.contains(&0)) {
            parsed.torn = true;
            break;
        }
        let record = parse_line(text, parsed.records.len(), prev)?;
        prev = record.hash;
        parsed.good_bytes += (rest.len() - after.len()) as u64;
        parsed.records.push(record);
        rest = after;
    }
    Ok(parsed)
}

fn parse_line(text: &[u8], index: usize, prev: Digest) -> Result<Record, JournalError> {
    let line = index + 1;
    let corrupt = |why: &str| JournalError::Corrupt { line, why: why.to_owned() };
    if text.len() > MAX_RECORD_BYTES + HASH_OPENS.len() + HASH_DIGITS + RECORD_OPENS.len() + 1 {
        return Err(corrupt("it is too long"));
    }
    let text = std::str::from_utf8(text).map_err(|_| corrupt("it is not UTF-8"))?;
    let (hash, body) = text
        .strip_prefix(HASH_OPENS)
        .and_then(|rest| rest.split_at_checked(HASH_DIGITS))
        .and_then(|(hash, rest)| Some((hash, rest.strip_prefix(RECORD_OPENS)?.strip_suffix('}')?)))
        .ok_or_else(|| corrupt("it does not have the form of one"))?;
    let hash: Digest = hash.parse().map_err(|_| corrupt("its hash is not hexadecimal"))?;
    if Digest::of(body.as_bytes()) != hash {
        return Err(JournalError::Chain { line });
    }
    let value: Value = serde_json::from_str(body).map_err(|error| corrupt(&error.to_string()))?;
    let format = value.get("v").and_then(Value::as_u64).and_then(|v| u32::try_from(v).ok());
    let value = upgrade(format.ok_or_else(|| corrupt("it has no format"))?, value, line)?;
    let body: OwnedBody = serde_json::from_value(value).map_err(|error| corrupt(&error.to_string()))?;
    if body.prev != prev || body.seq != index as u64 {
        return Err(JournalError::Chain { line });
    }
    Ok(Record { seq: body.seq, at: body.at, prev, hash, event: body.event })
}

/// Reads a journal file and folds it; also while another thread appends to it.
///
/// # Errors
/// As [`parse`], and an impossible history, no whole record, or a file that cannot be read.
pub fn read(path: &Path) -> Result<(Parsed, History), JournalError> {
    let bytes = std::fs::read(path).map_err(|source| JournalError::io("read", path, source))?;
    let parsed = parse(&bytes)?;
    let history = History::fold(&parsed.records)?.ok_or(JournalError::Empty)?;
    Ok((parsed, history))
}

/// The one appender of a journal.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    path: PathBuf,
    len_bytes: u64,
    allocated_bytes: u64,
    poisoned: bool,
}

impl Writer {
    /// The bytes of a new journal's first line.
    pub(crate) fn first_line(event: &Event) -> Result<Vec<u8>, JournalError> {
        encode(0, Timestamp::now(), Digest::ZERO, event).map(|(line, _)| line)
    }

    /// Opens a journal to go on with it: verifies, folds, and cuts a torn tail.
    pub(crate) fn open(path: &Path) -> Result<(Self, History), JournalError> {
        let (parsed, history) = read(path)?;
        let io = |action| move |source| JournalError::io(action, path, source);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)
            .map_err(io("open"))?;
        if parsed.torn {
            file.set_len(parsed.good_bytes).map_err(io("cut the torn end of"))?;
            file.sync_all().map_err(io("sync"))?;
        }
        let writer = Self {
            file,
            path: path.to_owned(),
            len_bytes: parsed.good_bytes,
            allocated_bytes: 0,
            poisoned: false,
        };
        Ok((writer, history))
    }

    /// Writes `event` as the next record after `history` and returns once it is on disk.
    pub(crate) fn append(&mut self, history: &History, event: Event) -> Result<Record, JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned { path: self.path.clone() });
        }
        history.check(&event)?;
        let (seq, at, prev) = (history.len(), Timestamp::now(), history.head());
        let (line, hash) = encode(seq, at, prev, &event)?;
        if goes_forward(&event) {
            self.reserve(line.len() as u64)?;
        }
        self.write(&line)?;
        if matches!(event, Event::Finished { .. }) {
            // Gives the reserve back; harmless when it fails.
            let _ = self.file.set_len(self.len_bytes);
        }
        Ok(Record { seq, at, prev, hash, event })
    }

    fn write(&mut self, line: &[u8]) -> Result<(), JournalError> {
        let io = |action, source| JournalError::io(action, &self.path, source);
        if let Err(source) = self.file.write_all_at(line, self.len_bytes) {
            // Half a line would be taken for a torn end, but only as long as nothing follows it.
            self.poisoned = self.file.set_len(self.len_bytes).is_err();
            self.allocated_bytes = 0;
            return Err(io("write", source));
        }
        if let Err(source) = self.file.sync_data() {
            // After a failed fsync nobody knows what is on disk: only a fresh read can tell.
            self.poisoned = true;
            return Err(io("sync", source));
        }
        self.len_bytes += line.len() as u64;
        Ok(())
    }

    /// Makes sure that `RESERVE_BYTES` stay allocated behind the next `line_bytes`.
    fn reserve(&mut self, line_bytes: u64) -> Result<(), JournalError> {
        let needed = self.len_bytes + line_bytes + RESERVE_BYTES;
        if needed <= self.allocated_bytes {
            return Ok(());
        }
        let end = needed + RESERVE_BYTES;
        let Ok(length) = i64::try_from(end) else { return Ok(()) };
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
            Ok(()) => {
                self.allocated_bytes = end;
                Ok(())
            }
            Err(errno @ (Errno::ENOSPC | Errno::EDQUOT)) => {
                Err(JournalError::DiskFull { path: self.path.clone(), source: errno.into() })
            }
            // Some filesystems cannot reserve; there the append itself will tell.
            Err(_) => Ok(()),
        }
    }
}

fn goes_forward(event: &Event) -> bool {
    matches!(
        event,
        Event::Created { .. } | Event::Planned { .. } | Event::StepStarted { .. } | Event::Note { .. }
    )
}

fn encode(seq: u64, at: Timestamp, prev: Digest, event: &Event) -> Result<(Vec<u8>, Digest), JournalError> {
    let body = serde_json::to_vec(&Body { v: FORMAT, seq, at, prev, event })
        .map_err(|error| JournalError::Corrupt { line: seq as usize + 1, why: error.to_string() })?;
    if body.len() > MAX_RECORD_BYTES {
        return Err(JournalError::TooLarge { size_bytes: body.len() });
    }
    let hash = Digest::of(&body);
    let mut line = format!("{HASH_OPENS}{hash}{RECORD_OPENS}").into_bytes();
    line.extend_from_slice(&body);
    line.extend_from_slice(b"}\n");
    Ok((line, hash))
}
