//! Which binary logs a copy of a datadir needs to recover, and an index without the others.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use super::MAX_INDEX_BYTES;
use super::format::{checkpoint, inspect};
use crate::datadir::{ClonePolicy, LogNames, Reason, remove, top_entries, unwanted};
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
        name.ends_with(".index") && unwanted(name, &policy, names) == Some(Reason::BinaryLog)
    };
    let mut found = Vec::new();
    for index in entries.iter().filter(is_index) {
        let logs: Vec<String> = lines(&datadir.join(index))?
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

/// Takes logs that did not come along out of the indexes at the top of a copied datadir: a server stumbles over them when it
/// lists or purges its logs. Can be repeated.
///
/// # Errors
/// [`Error::Io`] when an index cannot be read or written.
pub fn prune_indexes(datadir: &Path) -> Result<()> {
    for name in top_entries(datadir)?.iter().filter(|name| name.ends_with(".index")) {
        let index = datadir.join(name);
        let named = lines(&index)?;
        let is_here = |line: &&String| file_name(line).is_some_and(|name| datadir.join(name).is_file());
        let kept: Vec<&String> = named.iter().filter(is_here).collect();
        // Without any it is no index of logs, or of logs that lie elsewhere.
        if kept.is_empty() || kept.len() == named.len() {
            continue;
        }
        // Always the same name: what a crash has left of it goes the next time.
        let new = datadir.join(format!("{name}.new"));
        remove(&new)?;
        let write = || {
            let mut file = File::create_new(&new)?;
            kept.iter().try_for_each(|line| writeln!(file, "{line}"))?;
            file.set_permissions(fs::metadata(&index)?.permissions())?;
            file.sync_all()?;
            fs::rename(&new, &index)
        };
        write().map_err(Error::io("write the log index", &index))?;
    }
    Ok(())
}

fn lines(index: &Path) -> Result<Vec<String>> {
    let meta = fs::symlink_metadata(index).map_err(Error::io("read the log index", index))?;
    if !meta.is_file() || meta.len() > MAX_INDEX_BYTES {
        return Ok(Vec::new());
    }
    let bytes = fs::read(index).map_err(Error::io("read the log index", index))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect())
}

fn file_name(line: &str) -> Option<&str> {
    Path::new(line).file_name()?.to_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_what_came_along() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        write("binlog.000007", "x");
        write("binlog.index", "./binlog.000006\n/srv/mysql/binlog.000007\n");
        write("elsewhere.index", "/logs/a.000001\n");
        write("words.index", "no log at all\n");
        fs::create_dir(dir.path().join("db.index")).unwrap();
        write("binlog.index.new", "left by a crash, and longer than what will be written\n");
        for _ in 0..2 {
            prune_indexes(dir.path()).unwrap();
            assert_eq!(read("binlog.index"), "/srv/mysql/binlog.000007\n");
            assert_eq!(read("elsewhere.index"), "/logs/a.000001\n");
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
