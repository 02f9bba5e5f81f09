//! The error log: its last lines, and what a starting or stopping server says of its progress there.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::PathBuf;

use nix::fcntl::OFlag;

use crate::error::{Error, Result};

/// Most lines that a tail gives.
pub const MAX_TAIL_LINES: usize = 1_000;
/// Most bytes that a tail reads.
const MAX_TAIL_BYTES: u64 = 1 << 20;
/// Longer lines are cut here, bytes.
const MAX_LINE_BYTES: usize = 4_096;

/// What a line of the log tells of a server's start or stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server answers from now on.
    Ready,
    /// Crash recovery goes on.
    Recovering {
        /// Percent done, where the line says so.
        percent: Option<u8>,
        /// The line's message.
        message: String,
    },
    /// Shutdown goes on.
    Stopping,
    /// Shutdown is complete.
    Stopped,
    /// The server gave up; the message says why.
    Fatal(String),
}

/// Reads the meaning of one line, of either vendor. Lines that say nothing of start or stop are `None`.
#[must_use]
pub fn parse(line: &str) -> Option<Event> {
    let message = message_of(line);
    let has = |needle: &str| message.contains(needle);
    if has("ready for connections") && !has("X Plugin") {
        return Some(Event::Ready);
    }
    if has("Shutdown complete") {
        return Some(Event::Stopped);
    }
    if has("Normal shutdown")
        || has("Starting shutdown")
        || has("Received SHUTDOWN")
        || has("Buffer pool(s) dump")
    {
        return Some(Event::Stopping);
    }
    let recovering = [
        "Starting crash recovery",
        "Starting final batch to recover",
        "Starting a batch to recover",
        "Doing recovery",
        "Applying a batch of",
        "Apply batch completed",
        "Read redo log up to LSN",
        "To recover:",
        "Progress in percent",
        "Processed tablespace",
        "Transaction state to roll back",
        "Rolling back trx",
        "Rollback of trx",
        "Rolled back recovered transaction",
        "Recovering after a crash",
        "End of log at LSN",
        "Opened undo tablespace",
        "Resizing redo log",
        "Upgrading redo log",
        "Data Dictionary initialized",
        "Validated",
        "waiting for the buffer pool",
    ];
    if recovering.iter().any(|needle| has(needle)) {
        return Some(Event::Recovering { percent: percent_of(message), message: message.to_owned() });
    }
    let is_error = line.contains("[ERROR]");
    if is_error && (has("Aborting") || has("Plugin initialization aborted") || has("Failed to initialize")) {
        return Some(Event::Fatal(message.to_owned()));
    }
    if has("got signal ") || has("Assertion failure") || has("got exception") {
        return Some(Event::Fatal(message.to_owned()));
    }
    None
}

/// The message behind the time, thread, `[level]`, `[MY-…]` and `[subsystem]`.
fn message_of(line: &str) -> &str {
    let Some(start) = line.find("] ") else { return line.trim() };
    let mut rest = line[start + 2..].trim_start();
    while let Some(inner) = rest.strip_prefix('[') {
        match inner.split_once("] ") {
            Some((_, after)) => rest = after.trim_start(),
            None => break,
        }
    }
    rest.trim()
}

/// The last number from 0 to 100 in a line of percents, or the one before a `%`.
fn percent_of(message: &str) -> Option<u8> {
    let text = match message.split_once('%') {
        Some((before, _)) => before,
        None if message.contains("percent") => message,
        None => return None,
    };
    text.split(|c: char| !c.is_ascii_digit()).rfind(|w| !w.is_empty())?.parse().ok().filter(|p| *p <= 100)
}

/// An error log: written by the server's user, who may put anything else in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    path: PathBuf,
    trust: Trust,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// A plain file of this user, not reached through a link at its end.
    OwnedBy(u32),
    /// A descriptor that the proven server has open.
    Descriptor,
}

impl LogFile {
    /// The log at a path, written by the user with this id.
    #[must_use]
    pub fn of(path: impl Into<PathBuf>, owner: u32) -> Self {
        Self { path: path.into(), trust: Trust::OwnedBy(owner) }
    }

    /// The file behind a descriptor of the server, below `/proc`.
    pub(crate) fn opened_by_server(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), trust: Trust::Descriptor }
    }

    /// Opens it without waiting for a writer, and proves that it is what it should be: a log that leads to a file of root's would show
    /// that to everybody who may read logs.
    fn open(&self) -> io::Result<(File, Metadata)> {
        let link = match self.trust {
            Trust::OwnedBy(_) => OFlag::O_NOFOLLOW,
            Trust::Descriptor => OFlag::empty(),
        };
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | link;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&self.path)?;
        let meta = file.metadata()?;
        let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        match self.trust {
            _ if !meta.is_file() => refuse("it is no plain file"),
            Trust::OwnedBy(owner) if meta.uid() != owner => {
                refuse(&format!("it belongs to user {} and not to the server's, {owner}", meta.uid()))
            }
            _ => Ok((file, meta)),
        }
    }

    /// Its last `lines` lines, at most [`MAX_TAIL_LINES`] and one MiB.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, or is not the server's.
    pub fn tail(&self, lines: usize) -> Result<Vec<String>> {
        let read = || -> io::Result<Vec<u8>> {
            let (mut file, meta) = self.open()?;
            file.seek(SeekFrom::Start(meta.len().saturating_sub(MAX_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(MAX_TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        Ok(last_lines(&read().map_err(Error::io("read the error log", &self.path))?, lines))
    }
}

/// The last lines of a text, each cut at a sane length.
pub(crate) fn last_lines(bytes: &[u8], lines: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut last: Vec<String> = text.lines().rev().take(lines.min(MAX_TAIL_LINES)).map(cut).collect();
    last.reverse();
    last
}

fn cut(line: &str) -> String {
    let end = (0..=line.len().min(MAX_LINE_BYTES)).rev().find(|&i| line.is_char_boundary(i)).unwrap_or(0);
    line[..end].to_owned()
}

/// Reads what is appended to a log from now on; follows a rotation.
#[derive(Debug)]
pub struct Follower {
    log: LogFile,
    inode: u64,
    offset: u64,
    partial: Vec<u8>,
}

impl Follower {
    /// Starts at the log's present end; a log that is not there yet is read from its start.
    #[must_use]
    pub fn new(log: LogFile) -> Self {
        let meta = log.open().ok().map(|(_, meta)| meta);
        Self {
            log,
            inode: meta.as_ref().map_or(0, MetadataExt::ino),
            offset: meta.map_or(0, |m| m.len()),
            partial: Vec::new(),
        }
    }

    /// The lines that were completed since the last call. A log that cannot be read gives none.
    pub fn new_lines(&mut self) -> Vec<String> {
        let Ok((mut file, meta)) = self.log.open() else { return Vec::new() };
        if meta.ino() != self.inode || meta.len() < self.offset {
            (self.inode, self.offset) = (meta.ino(), 0);
            self.partial.clear();
        }
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(self.offset)).is_err()
            || file.take(MAX_TAIL_BYTES).read_to_end(&mut bytes).is_err()
        {
            return Vec::new();
        }
        self.offset += bytes.len() as u64;
        self.partial.extend_from_slice(&bytes);
        let Some(end) = self.partial.iter().rposition(|b| *b == b'\n') else {
            self.partial.truncate(MAX_LINE_BYTES);
            return Vec::new();
        };
        let rest = self.partial.split_off(end + 1);
        let complete = std::mem::replace(&mut self.partial, rest);
        String::from_utf8_lossy(&complete).lines().map(cut).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn log(path: &std::path::Path) -> LogFile {
        LogFile::of(path, nix::unistd::Uid::effective().as_raw())
    }

    #[test]
    fn what_was_put_in_the_place_of_a_log_is_not_shown_and_hangs_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let [secret, link, fifo] = ["secret", "link", "fifo"].map(|name| dir.path().join(name));
        std::fs::write(&secret, "of root only\n").unwrap();
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&link, &fifo] {
            let error = log(path).tail(10).unwrap_err();
            assert!(error.to_string().contains("cannot read the error log"), "{error}");
            assert_eq!(Follower::new(log(path)).new_lines(), Vec::<String>::new());
        }
        let stranger = LogFile::of(&secret, 4711);
        let error = std::error::Error::source(&stranger.tail(10).unwrap_err()).unwrap().to_string();
        assert!(error.contains("not to the server's"), "{error}");
        assert_eq!(log(&secret).tail(10).unwrap(), ["of root only"]);
    }

    #[test]
    fn ready_lines_of_both_vendors() {
        let mariadb = "2026-11-22 22:30:00 0 [Note] /usr/sbin/mariadbd: ready for connections.";
        let mysql = "2026-11-22T22:30:00.123456Z 0 [System] [MY-010931] [Server] /usr/sbin/mysqld: ready for connections. Version: '9.7.4'  socket: '/run/s'  port: 0";
        assert_eq!(parse(mariadb), Some(Event::Ready));
        assert_eq!(parse(mysql), Some(Event::Ready));
        let x_plugin = "2026-11-22T22:30:00Z 0 [System] [MY-011323] [Server] X Plugin ready for connections. Bind-address: '::' port: 33060";
        assert_eq!(parse(x_plugin), None, "the X plugin answers before the server does");
    }

    #[test]
    fn recovery_lines_of_both_vendors_show_progress() {
        let mariadb =
            "2026-11-22 22:30:00 0 [Note] InnoDB: Starting crash recovery from checkpoint LSN=46590";
        assert!(matches!(parse(mariadb), Some(Event::Recovering { percent: None, .. })));
        let mysql = "2026-11-22T22:30:00.1Z 0 [Note] [MY-012532] [InnoDB] Applying a batch of 120 redo log records ...";
        assert!(matches!(parse(mysql), Some(Event::Recovering { .. })));
        let percent = "2026-11-22 22:30:00 0 [Note] InnoDB: To recover: LSN 123/456; 40% done";
        assert!(matches!(parse(percent), Some(Event::Recovering { percent: Some(40), .. })));
    }

    #[test]
    fn a_failed_start_is_fatal_with_its_reason() {
        let line = "2026-11-22 22:30:00 0 [ERROR] Plugin 'InnoDB' init function returned error.";
        assert_eq!(parse(line), None);
        let line = "2026-11-22 22:30:00 0 [ERROR] Aborting";
        assert_eq!(parse(line), Some(Event::Fatal("Aborting".into())));
        assert!(matches!(parse("261122 22:30:00 [ERROR] mysqld got signal 6 ;"), Some(Event::Fatal(_))));
    }

    #[test]
    fn tail_gives_the_last_lines_only() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for i in 0..50_000 {
            writeln!(file, "line {i} {}", "x".repeat(40)).unwrap();
        }
        let lines = log(file.path()).tail(3).unwrap();
        assert_eq!(lines.len(), 3);
        assert!(lines[2].starts_with("line 49999 "));
        assert_eq!(log(file.path()).tail(usize::MAX).unwrap().len(), MAX_TAIL_LINES);
    }

    #[test]
    fn a_follower_sees_whole_lines_once_and_survives_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("error.log");
        std::fs::write(&path, "old\n").unwrap();
        let mut follower = Follower::new(log(&path));
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(follower.new_lines(), ["one"]);
        file.write_all(b"o\n").unwrap();
        assert_eq!(follower.new_lines(), ["two"]);
        std::fs::rename(&path, dir.path().join("error.log.1")).unwrap();
        std::fs::write(&path, "three\n").unwrap();
        assert_eq!(follower.new_lines(), ["three"]);
        assert!(follower.new_lines().is_empty());
    }
}
