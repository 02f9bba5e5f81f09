//! Which binary logs a copy of a datadir needs to recover, and an index without the others.

use std::io;
use std::path::{Path, PathBuf};

use sys::dir::{Dir, Rights};

use super::MAX_INDEX_BYTES;
use super::format::{checkpoint, inspect};
use crate::datadir::{ClonePolicy, LogNames, Reason, top_entries, unwanted};
use crate::error::{Error, Result};

/// Binary logs at the top of a datadir without which its server recovers just as well.
///
/// Crash recovery asks the log which prepared transactions were committed. MySQL rotates a log only when none is prepared, so
/// that its last one is enough; the one before it stays as well. MariaDB does not wait, and writes into each log from which one
/// on recovery has to read (`Binlog_checkpoint_event`, MariaDB's replication protocol). Nothing is superfluous where the
/// last log cannot be read, as when it is encrypted.
///
/// # Errors
/// [`Error::Io`] when the datadir or an index cannot be read.
pub fn superfluous(datadir: &Path, names: &LogNames) -> Result<Vec<String>> {
    let policy = ClonePolicy { keep_binlogs: false, ..ClonePolicy::default() };
    let entries = top_entries(datadir)?;
    let is_index = |name: &&String| {
        name.ends_with(".index") && unwanted(name, false, &policy, names) == Some(Reason::BinaryLog)
    };
    let root = Dir::open(datadir).map_err(Error::io("open", datadir))?;
    let mut found = Vec::new();
    for index in entries.iter().filter(is_index) {
        let bytes = root.read(Path::new(index), MAX_INDEX_BYTES);
        let bytes = bytes.map_err(Error::io("read the log index", datadir.join(index)))?;
        let logs: Vec<String> = lines(&bytes.unwrap_or_default())
            .iter()
            .filter_map(|line| Some(file_name(line)?.to_owned()))
            .filter(|name| datadir.join(name).is_file())
            .collect();
        let keep_from = first_needed(datadir, &logs).unwrap_or(0);
        for log in &logs[..keep_from] {
            found.extend([format!("{log}.idx")].into_iter().filter(|name| entries.contains(name)));
            found.push(log.clone());
        }
    }
    Ok(found)
}

/// The place of the first log that recovery may read; absent when it cannot be told.
fn first_needed(datadir: &Path, logs: &[String]) -> Option<usize> {
    let last = datadir.join(logs.last()?);
    let header = inspect(&last).ok().filter(|header| !header.encrypted)?;
    if !header.server_version?.contains("MariaDB") {
        return Some(logs.len().saturating_sub(2));
    }
    let named = checkpoint(&last).ok().flatten()?;
    logs.iter().position(|log| *log == named)
}

/// Makes each line of the log indexes in a copied datadir the name of a file that lies beside its index, and takes out those of
/// logs that did not come along. A line with a directory of its own would lead to the logs of the server that was copied,
/// which then expire by the copy's settings. Can be repeated.
///
/// # Errors
/// [`Error::Io`] when an index cannot be read or written.
pub fn localize_indexes(datadir: &Path) -> Result<()> {
    let datadir = Dir::open(datadir).map_err(Error::io("open", datadir))?;
    for directory in std::iter::once(PathBuf::new()).chain(directories(&datadir)?) {
        for name in names_below(&datadir, &directory)?.iter().filter(|name| name.ends_with(".index")) {
            localize(&datadir, &directory, name)?;
        }
    }
    Ok(())
}

/// Directories at the top of a datadir: an option may put the logs into one.
pub(crate) fn directories(datadir: &Dir) -> Result<Vec<PathBuf>> {
    let is_dir = |name: &PathBuf| matches!(datadir.metadata(name), Ok(Some(meta)) if meta.is_dir());
    Ok(names_below(datadir, Path::new(""))?.into_iter().map(PathBuf::from).filter(is_dir).collect())
}

/// The names in a directory below that are text; an empty path is the directory itself.
pub(crate) fn names_below(datadir: &Dir, directory: &Path) -> Result<Vec<String>> {
    let names = match directory.as_os_str().is_empty() {
        true => datadir.names(),
        false => datadir.dir(directory).and_then(|dir| dir.names()),
    };
    let names = names.map_err(Error::io("list", datadir.path().join(directory)))?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

fn localize(datadir: &Dir, directory: &Path, name: &str) -> Result<()> {
    let index = directory.join(name);
    // Whatever else ends so is no index of logs.
    let named = log_lines(datadir, &index)?;
    if named.is_empty() {
        return Ok(());
    }
    let is_here =
        |name: &&str| matches!(datadir.metadata(&directory.join(name)), Ok(Some(meta)) if meta.is_file());
    let kept: Vec<String> = named
        .iter()
        .filter_map(|line| file_name(line).filter(is_here))
        .map(|name| format!("./{}", directory.join(name).display()))
        .collect();
    if kept.is_empty() {
        return datadir.remove(&index).map(drop).map_err(Error::io("remove", datadir.path().join(&index)));
    }
    if kept == named { Ok(()) } else { write_index(datadir, &index, &index, &kept) }
}

/// Writes an index anew, whole or not at all, with the rights of `model`.
pub(crate) fn write_index(datadir: &Dir, index: &Path, model: &Path, lines: &[String]) -> Result<()> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let write = || match datadir.metadata(model)? {
        Some(meta) => datadir.write(index, text.as_bytes(), Rights::from(&meta)),
        None => Err(io::ErrorKind::NotFound.into()),
    };
    write().map_err(Error::io("write the log index", datadir.path().join(index)))
}

/// The lines of an index, when all of them name logs; empty otherwise.
pub(crate) fn log_lines(datadir: &Dir, index: &Path) -> Result<Vec<String>> {
    let is_one =
        matches!(datadir.metadata(index), Ok(Some(meta)) if meta.is_file() && meta.len() <= MAX_INDEX_BYTES);
    if !is_one {
        return Ok(Vec::new());
    }
    let bytes = datadir.read(index, MAX_INDEX_BYTES);
    let bytes = bytes.map_err(Error::io("read the log index", datadir.path().join(index)))?;
    let named = lines(&bytes.unwrap_or_default());
    Ok(if named.iter().all(|line| file_name(line).is_some_and(is_log)) { named } else { Vec::new() })
}

/// `base.000001`: at least six digits follow the dot.
fn is_log(name: &str) -> bool {
    name.rsplit_once('.')
        .is_some_and(|(_, number)| number.len() >= 6 && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a file is a part of the log of this base name: a log, its index, its state.
pub(crate) fn is_log_of(base: &str, name: &str) -> bool {
    let Some(rest) = name.strip_prefix(base) else { return false };
    is_log(name.trim_end_matches(".idx"))
        && rest.starts_with('.')
        && rest[1..].trim_end_matches(".idx").bytes().all(|b| b.is_ascii_digit())
        || [".index", ".state", ".index_crash_safe", ".~rec~"].contains(&rest)
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

fn file_name(line: &str) -> Option<&str> {
    Path::new(line).file_name()?.to_str()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_line_of_an_index_names_what_came_along_in_its_own_directory() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        fs::create_dir(dir.path().join("logs")).unwrap();
        write("binlog.000007", "x");
        write("logs/b.000002", "x");
        write("binlog.index", "./binlog.000006\n/srv/mysql/binlog.000007\n");
        write("logs/b.index", "/srv/mysql/logs/b.000001\n/srv/mysql/logs/b.000002\n");
        write("elsewhere.index", "/logs/a.000001\n");
        write("words.index", "no log at all\n");
        fs::create_dir(dir.path().join("db.index")).unwrap();
        write("binlog.index.new", "left by a crash, and longer than what will be written\n");
        for _ in 0..2 {
            localize_indexes(dir.path()).unwrap();
            assert_eq!(read("binlog.index"), "./binlog.000007\n");
            assert_eq!(read("logs/b.index"), "./logs/b.000002\n");
            assert!(!dir.path().join("elsewhere.index").exists(), "another server's live logs");
            assert_eq!(read("words.index"), "no log at all\n");
        }
        assert_eq!(top_entries(dir.path()).unwrap().len(), 5, "nothing else is left there");
    }

    #[test]
    fn where_the_last_log_tells_nothing_all_are_needed() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(superfluous(dir.path(), &LogNames::default()).unwrap(), Vec::<String>::new());
        for n in 1..5 {
            write(&format!("binlog.00000{n}"), "not a log");
        }
        write("binlog.index", "./binlog.000001\n./binlog.000002\n./binlog.000003\n./binlog.000004\n");
        assert_eq!(superfluous(dir.path(), &LogNames::default()).unwrap(), Vec::<String>::new());
    }
}
