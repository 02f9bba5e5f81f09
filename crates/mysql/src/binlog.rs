//! Binary and relay logs: which there are, where they end, what is in them, and applying them.
//!
//! Names come from requests: they are looked up in the server's own index and never used as paths.

mod apply;
mod at_rest;
pub(crate) mod format;
mod needed;
mod text;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use protocol::mysql::BinlogPosition;

pub use apply::{Applied, apply};
pub use at_rest::{AtRest, at_rest};
pub use format::{Header, inspect};
pub(crate) use needed::{directories, is_log_of, log_lines, names_below, write_index};
pub use needed::{localize_indexes, superfluous};
pub use text::{TextStream, text};

use crate::datadir::LogNames;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::settings::Settings;

/// Larger index files are not index files.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// What this server wrote.
    Binary,
    /// What this replica fetched from its source.
    Relay,
}

/// The files of one log, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSet {
    /// The index file.
    pub index: PathBuf,
    /// The files that the index names and that exist.
    pub files: Vec<LogFile>,
}

/// One file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// Base name, as in coordinates.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes when it was listed.
    pub size_bytes: u64,
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// First file.
    pub first: String,
    /// Position of the first event in it; up to 4 means from its beginning.
    pub start: u64,
    /// Last file; absent: the first one is the only one.
    pub last: Option<String>,
    /// Position behind the last event in the last file; absent: its end.
    pub stop: Option<u64>,
}

impl Instance {
    /// The files of a log, from the running server's settings, else from the option files.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the server has no such log.
    pub async fn logs(&self, kind: LogKind) -> Result<LogSet> {
        let settings = self.settings().await;
        let variable = match kind {
            LogKind::Binary => "SELECT @@log_bin_index",
            LogKind::Relay => "SELECT @@relay_log_index",
        };
        let told = match self.connect().await {
            Ok(mut session) => {
                let told = session.scalar("show its log index", variable).await.ok().flatten();
                session.close().await;
                told.filter(|path| !path.is_empty()).map(|path| settings.resolve(Path::new(&path)))
            }
            Err(_) => None,
        };
        // A relay log's variable can name a file that was never made.
        let index = told.filter(|p| p.is_file()).or_else(|| index_of(&settings, kind));
        let index = index.ok_or(Error::NotFound {
            what: match kind {
                LogKind::Binary => "the binary log index",
                LogKind::Relay => "the relay log index",
            },
        })?;
        let base = settings.datadir.clone().unwrap_or_default();
        read_index(&index, &base, &settings.root)
    }

    /// What the logs of this server are called, by their indexes: what an option named is not told by a file's name.
    pub async fn log_names(&self) -> LogNames {
        let layout = self.settings().await.layout();
        let mut names = LogNames::default().with_data_files(layout.innodb_data_file_path.as_deref());
        for (kind, bases) in [(LogKind::Binary, &mut names.log_bin), (LogKind::Relay, &mut names.relay_log)] {
            let Ok(logs) = self.logs(kind).await else { continue };
            let files = std::iter::once(logs.index).chain(logs.files.into_iter().map(|file| file.path));
            bases.extend(files.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())));
        }
        names
    }
}

/// The index file, as far as the option files and the datadir tell.
fn index_of(settings: &Settings, kind: LogKind) -> Option<PathBuf> {
    let with_suffix = |base: &Path| PathBuf::from(format!("{}.index", base.display()));
    let (option, base) = match kind {
        LogKind::Binary => ("log-bin-index", settings.log_bin()),
        LogKind::Relay => {
            let base = settings.options.path("relay-log");
            let base =
                base.unwrap_or_else(|| PathBuf::from(format!("{}-relay-bin", settings.hostname_base())));
            ("relay-log-index", Some(settings.resolve(&base)))
        }
    };
    let named = settings.options.path(option).map(|p| settings.resolve(&p));
    let found = named.or_else(|| base.as_deref().map(with_suffix)).filter(|p| p.is_file());
    found.or_else(|| {
        // A host that was renamed keeps the relay logs of its old name.
        let names = crate::datadir::top_entries(settings.datadir.as_deref()?).ok()?;
        let mut indexes = names.iter().filter(|n| n.ends_with("-relay-bin.index"));
        let only = indexes.next().filter(|_| kind == LogKind::Relay)?;
        indexes.next().is_none().then(|| settings.resolve(Path::new(only)))
    })
}

/// Reads an index. Files that it names but that are gone are left out.
///
/// # Errors
/// [`Error::Io`] when the index cannot be read.
pub fn read_index(index: &Path, datadir: &Path, root: &Path) -> Result<LogSet> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(index)?.take(MAX_INDEX_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(Error::io("read the log index", index))?;
    let files = text.lines().map(str::trim).filter(|l| !l.is_empty()).filter_map(|line| {
        let line = Path::new(line);
        let path = match line.strip_prefix("/") {
            Ok(rest) => root.join(rest),
            // Relative entries are meant from the datadir, wherever the index lies.
            Err(_) => datadir.join(line.strip_prefix("./").unwrap_or(line)),
        };
        let size_bytes = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?.len();
        let name = path.file_name()?.to_str()?.to_owned();
        Some(LogFile { name, path, size_bytes })
    });
    Ok(LogSet { index: index.to_owned(), files: files.collect() })
}

impl LogSet {
    /// Where the log ends now: the last whole event of its last file.
    ///
    /// # Errors
    /// [`Error::Binlog`] when the last file is no log.
    pub fn end(&self) -> Result<Option<BinlogPosition>> {
        let Some(last) = self.files.last() else { return Ok(None) };
        let position = format::last_event_end(&last.path, None)?;
        Ok(Some(BinlogPosition { file: last.name.clone(), position }))
    }

    /// The files of a range, in order.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a name that is not in the index, [`Error::Refused`] for a range that runs backwards.
    pub fn select(&self, range: &Range) -> Result<&[LogFile]> {
        let place = |name: &str| {
            let found = self.files.iter().position(|f| f.name == name);
            found.ok_or(Error::NotFound { what: "a log file of this name in the index" })
        };
        let first = place(&range.first)?;
        let last = range.last.as_deref().map_or(Ok(first), place)?;
        if last < first || (last == first && range.stop.is_some_and(|stop| stop < range.start)) {
            return Err(Error::Refused { reason: "the range of the log runs backwards".to_owned() });
        }
        Ok(&self.files[first..=last])
    }

    /// The range as one log file: header, format description, then the events; blocking.
    ///
    /// # Errors
    /// [`Error::Binlog`] for a position that is not at an event, an encrypted log, or a range beyond `max_bytes`.
    pub fn binary(&self, range: &Range, max_bytes: u64) -> Result<BinaryReader> {
        let files = self.select(range)?;
        let mut segments = Vec::new();
        for (i, file) in files.iter().enumerate() {
            let header = inspect(&file.path)?;
            if header.encrypted {
                return Err(problem(
                    &file.path,
                    "it is encrypted; its events leave this host only decoded as text",
                ));
            }
            if i == 0 {
                segments.push(Segment::new(file, 0, header.format_end));
            }
            let is_last = i + 1 == files.len();
            let start = if i == 0 { range.start } else { 0 };
            let stop = range.stop.filter(|_| is_last);
            let start = format::event_start(&file.path, start, header.format_end)?;
            let end = format::last_event_end(&file.path, stop)?;
            // Each further file brings its own format description, without the magic that only begins a file.
            let from = if i == 0 { start } else { format::MAGIC_BYTES };
            if end > from {
                segments.push(Segment::new(file, from, end));
            }
        }
        let total = segments.iter().map(|s| s.end - s.from).sum::<u64>();
        if total > max_bytes {
            let what =
                format!("the range holds {total} bytes, and at most {max_bytes} may be asked for at once");
            return Err(problem(&files[0].path, &what));
        }
        segments.reverse();
        Ok(BinaryReader { segments, open: None, total_bytes: total })
    }
}

pub(crate) fn problem(file: &Path, problem: &str) -> Error {
    Error::Binlog { file: file.to_owned(), problem: problem.to_owned() }
}

/// Reads a range of a log as one file, in whatever portions the caller asks for.
#[derive(Debug)]
pub struct BinaryReader {
    /// What is left, last first.
    segments: Vec<Segment>,
    open: Option<io::Take<File>>,
    /// Bytes that will be read in all.
    pub total_bytes: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    from: u64,
    end: u64,
}

impl Segment {
    fn new(file: &LogFile, from: u64, end: u64) -> Self {
        Self { path: file.path.clone(), from, end }
    }
}

impl Read for BinaryReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(open) = &mut self.open {
                let n = open.read(buffer)?;
                if n > 0 {
                    return Ok(n);
                }
                if open.limit() > 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the log was cut while it was read",
                    ));
                }
            }
            let Some(segment) = self.segments.pop() else { return Ok(0) };
            let mut file = File::open(&segment.path)?;
            file.seek(SeekFrom::Start(segment.from))?;
            self.open = Some(file.take(segment.end - segment.from));
        }
    }
}
