//! As much of the log format as is needed to cut a log at events: magic, event headers, format description.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;

use super::problem;
use crate::error::{Error, Result};

const MAGIC: [u8; 4] = [0xFE, b'b', b'i', b'n'];
/// MySQL 8 writes this before an encrypted log.
const MAGIC_ENCRYPTED: [u8; 4] = [0xFD, b'b', b'i', b'n'];
pub(crate) const MAGIC_BYTES: u64 = 4;
/// Timestamp, type, server id, length, end position, flags.
const HEADER_BYTES: usize = 19;
const FORMAT_DESCRIPTION_EVENT: u8 = 15;
/// MariaDB's event with the name of the log that crash recovery has to begin with; its length in 4 bytes, then the name.
const CHECKPOINT_EVENT: u8 = 161;
/// Longest path of the systems that servers run on.
const MAX_NAME_BYTES: u32 = 4096;
/// MariaDB writes this behind the format description of an encrypted log.
const START_ENCRYPTION_EVENT: u8 = 164;
/// Post-header of a format description before its list of lengths: version, server version, time, header length.
const FORMAT_FIXED_BYTES: usize = 2 + 50 + 4 + 1;
/// `LOG_EVENT_BINLOG_IN_USE_F`: a server takes it away when it closes its log.
const IN_USE: u16 = 1;
/// A CRC32 behind an event.
const CHECKSUM_BYTES: usize = 4;
/// Larger events are not read as a whole: a list of GTIDs of a hundred thousand servers has less.
const MAX_BODY_BYTES: u64 = 16 << 20;
/// A format description is a few hundred bytes.
const MAX_FORMAT_BYTES: u64 = 64 << 10;

/// What the beginning of a log tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Version of the server that wrote it; absent when encrypted as a whole.
    pub server_version: Option<String>,
    /// True when each event ends with a CRC32.
    pub checksums: bool,
    /// True when the events cannot be read without the server's key.
    pub encrypted: bool,
    /// Its server has not closed it: it runs, or it crashed.
    pub in_use: bool,
    /// `server_id` of the server that wrote it; 0 when encrypted as a whole.
    pub server_id: u32,
    /// When it was begun, seconds since 1970 by that server's clock; 0 when encrypted as a whole.
    pub created_s: u32,
    /// Position behind the format description: of the first event of the log proper.
    pub format_end: u64,
}

/// Reads the beginning of a log.
///
/// # Errors
/// [`Error::Binlog`] for a file that is no log, [`Error::Io`] when it cannot be read.
pub fn inspect(path: &Path) -> Result<Header> {
    let mut log = Log::open(path)?;
    let mut magic = [0; MAGIC.len()];
    log.fill(&mut magic)?;
    if magic == MAGIC_ENCRYPTED {
        return Ok(Header {
            server_version: None,
            checksums: false,
            encrypted: true,
            in_use: true,
            server_id: 0,
            created_s: 0,
            format_end: MAGIC_BYTES,
        });
    }
    if magic != MAGIC {
        return Err(problem(path, "it does not begin as a binary log"));
    }
    let event = log.event(MAGIC_BYTES)?.ok_or_else(|| problem(path, "it has no format description"))?;
    let bad = || problem(path, "its format description is damaged");
    let length = event.end - event.start;
    if event.kind != FORMAT_DESCRIPTION_EVENT || length > MAX_FORMAT_BYTES {
        return Err(bad());
    }
    let body_bytes = usize::try_from(length).map_err(|_| bad())? - HEADER_BYTES;
    let mut body = vec![0; body_bytes];
    log.fill(&mut body)?;
    if body.len() < FORMAT_FIXED_BYTES + 5 {
        return Err(bad());
    }
    let version: String = body[2..52]
        .iter()
        .take_while(|b| **b != 0)
        .map(|b| char::from(*b))
        .filter(|c| !c.is_control())
        .collect();
    // The algorithm stands before the checksum that a format description always ends with.
    let checksums = body[body.len() - 5] == 1;
    let next = log.event(event.end)?;
    let encrypted = next.is_some_and(|e| e.kind == START_ENCRYPTION_EVENT);
    Ok(Header {
        server_version: Some(version),
        checksums,
        encrypted,
        in_use: event.flags & IN_USE != 0,
        server_id: event.server_id,
        created_s: event.created_s,
        format_end: event.end,
    })
}

/// Checks that an event starts at `start`; a position up to 4 means the log's first event.
pub(crate) fn event_start(path: &Path, start: u64, format_end: u64) -> Result<u64> {
    if start <= MAGIC_BYTES {
        return Ok(format_end);
    }
    let reached = walk(path, start)?;
    if reached == start {
        return Ok(start.max(format_end));
    }
    Err(problem(path, &format!("no event starts at position {start}; the one before it starts at {reached}")))
}

/// The end of the last whole event, or of the last one that ends at or before `stop`.
pub(crate) fn last_event_end(path: &Path, stop: Option<u64>) -> Result<u64> {
    walk(path, stop.unwrap_or(u64::MAX))
}

/// Walks over the events up to a position; returns where it got to, without leaping over it.
fn walk(path: &Path, limit: u64) -> Result<u64> {
    let mut log = Log::open(path)?;
    let mut at = MAGIC_BYTES;
    while at < limit {
        match log.event(at)? {
            Some(event) if event.end <= limit => at = event.end,
            _ => break,
        }
    }
    Ok(at)
}

/// The log that MariaDB's recovery has to begin with, by the last checkpoint in this one; absent without any.
pub(crate) fn checkpoint(path: &Path) -> Result<Option<String>> {
    let mut log = Log::open(path)?;
    let (mut at, mut named) = (MAGIC_BYTES, None);
    while let Some(event) = log.event(at)? {
        if event.kind == CHECKPOINT_EVENT {
            let mut length = [0; 4];
            log.fill(&mut length)?;
            let length = u32::from_le_bytes(length);
            if length > MAX_NAME_BYTES || at + HEADER_BYTES as u64 + 4 + u64::from(length) > event.end {
                return Err(problem(path, &format!("the event at position {at} is damaged")));
            }
            let mut name = vec![0; length as usize];
            log.fill(&mut name)?;
            named = Some(String::from_utf8_lossy(&name).into_owned());
        }
        at = event.end;
    }
    Ok(named)
}

struct Event {
    kind: u8,
    server_id: u32,
    created_s: u32,
    flags: u16,
    start: u64,
    end: u64,
}

/// A walk over a log's events that reads some of them.
pub(crate) struct Events<'a> {
    log: Log<'a>,
    at: u64,
    checksums: bool,
}

/// An event of a walk.
pub(crate) struct Walked {
    pub(crate) kind: u8,
    pub(crate) server_id: u32,
    /// Position behind it.
    pub(crate) end: u64,
    /// Its bytes behind the header, without the checksum; empty where it was not wanted.
    pub(crate) body: Vec<u8>,
}

impl<'a> Events<'a> {
    pub(crate) fn open(path: &'a Path, checksums: bool) -> Result<Self> {
        Ok(Self { log: Log::open(path)?, at: MAGIC_BYTES, checksums })
    }

    /// The next event, its body too where its kind is wanted; absent behind the last whole one.
    pub(crate) fn next(&mut self, wanted: impl Fn(u8) -> bool) -> Result<Option<Walked>> {
        let Some(event) = self.log.event(self.at)? else { return Ok(None) };
        let mut body = Vec::new();
        if wanted(event.kind) {
            let bytes = event.end - event.start - HEADER_BYTES as u64;
            if bytes > MAX_BODY_BYTES {
                return Err(problem(
                    self.log.path,
                    &format!("the event at position {} is too long", event.start),
                ));
            }
            body = vec![0; usize::try_from(bytes).unwrap_or_default()];
            self.log.fill(&mut body)?;
            body.truncate(body.len().saturating_sub(if self.checksums { CHECKSUM_BYTES } else { 0 }));
        }
        self.at = event.end;
        Ok(Some(Walked { kind: event.kind, server_id: event.server_id, end: event.end, body }))
    }
}

struct Log<'a> {
    path: &'a Path,
    file: BufReader<File>,
    at: u64,
    size: u64,
}

impl<'a> Log<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let open = || -> io::Result<(File, u64)> {
            // The server's user may have put a pipe in its place.
            let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
            let meta = file.metadata()?;
            if !meta.is_file() {
                return Err(io::Error::other("it is no file"));
            }
            Ok((file, meta.len()))
        };
        let (file, size) = open().map_err(Error::io("read", path))?;
        Ok(Self { path, file: BufReader::new(file), at: 0, size })
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        match self.file.read_exact(buffer) {
            Ok(()) => {
                self.at += buffer.len() as u64;
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(problem(self.path, "it ends within its header"))
            }
            Err(e) => Err(Error::io("read", self.path)(e)),
        }
    }

    /// The event at a position, which is read behind its header; absent when it is not whole (yet).
    fn event(&mut self, start: u64) -> Result<Option<Event>> {
        if start.saturating_add(HEADER_BYTES as u64) > self.size {
            return Ok(None);
        }
        // Both positions lie within the file, so their difference fits.
        let step = i64::try_from(start).unwrap_or(i64::MAX) - i64::try_from(self.at).unwrap_or(i64::MAX);
        self.file
            .seek_relative(step)
            .or_else(|_| self.file.seek(SeekFrom::Start(start)).map(drop))
            .map_err(Error::io("read", self.path))?;
        self.at = start;
        let mut header = [0; HEADER_BYTES];
        self.fill(&mut header)?;
        let length = u32::from_le_bytes([header[9], header[10], header[11], header[12]]);
        if (length as usize) < HEADER_BYTES {
            return Err(problem(self.path, &format!("the event at position {start} is damaged")));
        }
        let end = start + u64::from(length);
        let number =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        Ok((end <= self.size).then(|| Event {
            kind: header[4],
            created_s: number(0),
            server_id: number(5),
            flags: u16::from_le_bytes([header[17], header[18]]),
            start,
            end,
        }))
    }
}

/// A log of a few events.
#[cfg(test)]
pub(crate) fn sample() -> Vec<u8> {
    let file = tests::log(&[
        tests::event(START_ENCRYPTION_EVENT, &[0; 17]),
        tests::event(2, &[1; 50]),
        tests::event(CHECKPOINT_EVENT, &[&13_u32.to_le_bytes()[..], b"binlog.000001"].concat()),
    ]);
    std::fs::read(file.path()).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) fn event(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut event = vec![0; HEADER_BYTES];
        event[4] = kind;
        event[9..13].copy_from_slice(&u32::try_from(HEADER_BYTES + body.len()).unwrap().to_le_bytes());
        event.extend_from_slice(body);
        event
    }

    #[test]
    fn the_last_checkpoint_counts() {
        let named = |name: &str| {
            let length = u32::try_from(name.len()).unwrap().to_le_bytes();
            event(CHECKPOINT_EVENT, &[&length, name.as_bytes(), &[9; 4]].concat())
        };
        let file = log(&[named("binlog.000001"), event(2, &[1; 50]), named("binlog.000002")]);
        assert_eq!(checkpoint(file.path()).unwrap().as_deref(), Some("binlog.000002"));
        assert_eq!(checkpoint(log(&[]).path()).unwrap(), None);
        let damaged = log(&[event(CHECKPOINT_EVENT, &[255; 20])]);
        assert!(checkpoint(damaged.path()).unwrap_err().to_string().contains("damaged"));
    }

    /// As [`event`], of a server and with a checksum, as [`log`] says that events have one.
    pub(crate) fn event_of(kind: u8, server: u32, body: &[u8]) -> Vec<u8> {
        let mut event = event(kind, &[body, &[0; CHECKSUM_BYTES]].concat());
        event[5..9].copy_from_slice(&server.to_le_bytes());
        event
    }

    pub(crate) fn log(more: &[Vec<u8>]) -> tempfile::NamedTempFile {
        let mut body = vec![0; FORMAT_FIXED_BYTES + 40];
        body[2..9].copy_from_slice(b"10.11.6");
        let crc_flag = body.len() - 5;
        body[crc_flag] = 1;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(event(FORMAT_DESCRIPTION_EVENT, &body));
        bytes.extend(more.concat());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn encrypted_logs_of_both_vendors_are_recognised() {
        let mariadb = log(&[event(START_ENCRYPTION_EVENT, &[0; 17])]);
        assert!(inspect(mariadb.path()).unwrap().encrypted);
        let mysql = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(mysql.path(), [&MAGIC_ENCRYPTED[..], &[7; 600]].concat()).unwrap();
        assert!(inspect(mysql.path()).unwrap().encrypted);
    }

    #[test]
    fn a_torn_last_event_is_not_part_of_the_log() {
        let mut torn = event(2, &[1; 50]);
        torn.truncate(30);
        let file = log(&[event(2, &[1; 50]), torn]);
        let header = inspect(file.path()).unwrap();
        assert!(header.checksums && !header.encrypted);
        assert_eq!(header.server_version.as_deref(), Some("10.11.6"));
        let first_end = header.format_end + 69;
        assert_eq!(last_event_end(file.path(), None).unwrap(), first_end);
        assert_eq!(
            event_start(file.path(), header.format_end, header.format_end).unwrap(),
            header.format_end
        );
        let error = event_start(file.path(), header.format_end + 1, header.format_end).unwrap_err();
        assert!(error.to_string().contains("no event starts at position"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), magic: bool) {
            let file = tempfile::NamedTempFile::new().unwrap();
            let bytes = if magic { [&MAGIC[..], &bytes].concat() } else { bytes };
            std::fs::write(file.path(), &bytes).unwrap();
            let _ = inspect(file.path());
            let _ = checkpoint(file.path());
            if let Ok(end) = last_event_end(file.path(), None) {
                prop_assert!(end <= (bytes.len() as u64).max(MAGIC_BYTES));
            }
        }
    }
}
