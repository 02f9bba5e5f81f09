//! The binary log that came along with the data: found for recovery, then made the recipient's own or removed.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::binlog::{is_log_of, localize_indexes, log_lines, write_index};
use crate::datadir::{LogNames, is_relay_log, remove, top_entries};
use crate::error::{Error, Result};

/// A binary log inside a copied datadir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CarriedLog {
    /// Base name, relative to the datadir.
    pub(super) base: PathBuf,
    /// Its index, relative to the datadir.
    pub(super) index: PathBuf,
}

/// Where the recipient's own server writes its binary log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnLog {
    /// Nowhere.
    Off,
    /// Inside the datadir: the base name relative to it.
    Inside(PathBuf),
    /// Elsewhere: it begins anew. `state` is where MariaDB's state of the log is left for it.
    Outside {
        /// The file, beside the copied datadir.
        state: PathBuf,
    },
}

/// The log that was written last, once each line of its index is a name in the datadir.
pub(super) fn find(datadir: &Path) -> Result<Option<CarriedLog>> {
    localize_indexes(datadir)?;
    let mut newest: Option<(SystemTime, CarriedLog)> = None;
    let inner = top_entries(datadir)?.into_iter().map(PathBuf::from);
    let inner = inner.filter(|name| fs::symlink_metadata(datadir.join(name)).is_ok_and(|meta| meta.is_dir()));
    for directory in std::iter::once(PathBuf::new()).chain(inner) {
        for name in top_entries(&datadir.join(&directory))?.iter().filter(|name| name.ends_with(".index")) {
            let index = directory.join(name);
            let lines = log_lines(&datadir.join(&index))?;
            let Some(last) = lines.last().map(|line| PathBuf::from(line.trim_start_matches("./"))) else {
                continue;
            };
            let base = last.with_extension("");
            let plain = base.file_name().and_then(|base| base.to_str()).unwrap_or_default();
            if is_relay_log(plain, &LogNames::default()) {
                continue;
            }
            let written = fs::metadata(datadir.join(&last)).and_then(|meta| meta.modified());
            let written = written.map_err(Error::io("read", datadir.join(&last)))?;
            if newest.as_ref().is_none_or(|(time, _)| *time < written) {
                newest = Some((written, CarriedLog { base, index }));
            }
        }
    }
    Ok(newest.map(|(_, log)| log))
}

/// Gives a carried log the recipient's names, so that its server goes on in it; removes it where that server writes elsewhere.
/// Can be repeated.
pub(super) fn adopt(datadir: &Path, carried: &CarriedLog, own: &OwnLog) -> Result<()> {
    let (directory, base) = parts(&carried.base);
    let here = datadir.join(&directory);
    let files = top_entries(&here)?.into_iter().filter(|name| is_log_of(&base, name));
    match own {
        OwnLog::Inside(own) if *own == carried.base => {}
        OwnLog::Inside(own) => return rename(datadir, carried, &files.collect::<Vec<_>>(), own),
        OwnLog::Off | OwnLog::Outside { .. } => {
            for name in files {
                match own {
                    OwnLog::Outside { state } if name.ends_with(".state") => {
                        fs::rename(here.join(&name), state).map_err(Error::io("keep", here.join(&name)))?;
                    }
                    _ => _ = remove(&here.join(&name))?,
                }
            }
            remove(&datadir.join(&carried.index))?;
        }
    }
    Ok(())
}

/// The index goes last: while it is there, what a crash has left undone is done again.
fn rename(datadir: &Path, carried: &CarriedLog, files: &[String], own: &Path) -> Result<()> {
    let (directory, base) = parts(&carried.base);
    let (own_directory, own_base) = parts(own);
    let (from, to) = (datadir.join(&directory), datadir.join(&own_directory));
    make_like(&to, datadir)?;
    for name in files.iter().filter(|name| !name.ends_with(".index")) {
        let new = to.join(format!("{own_base}{}", &name[base.len()..]));
        fs::rename(from.join(name), &new).map_err(Error::io("rename", from.join(name)))?;
    }
    let old_index = datadir.join(&carried.index);
    let lines: Vec<String> = log_lines(&old_index)?
        .iter()
        .filter_map(|line| line.rsplit_once('.'))
        .map(|(_, number)| format!("./{}.{number}", own.display()))
        .collect();
    let new_index = to.join(format!("{own_base}.index"));
    if new_index != old_index {
        fs::copy(&old_index, &new_index).map_err(Error::io("write", &new_index))?;
        let owner = fs::metadata(&old_index).map_err(Error::io("read", &old_index))?;
        chown(&new_index, Some(owner.uid()), Some(owner.gid()))
            .map_err(Error::io("change the owner of", &new_index))?;
    }
    write_index(&new_index, &lines)?;
    if new_index != old_index {
        remove(&old_index)?;
    }
    for path in [&from, &to] {
        File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("flush", path))?;
    }
    Ok(())
}

/// A directory of the owner and mode of another.
fn make_like(directory: &Path, model: &Path) -> Result<()> {
    if directory.exists() {
        return Ok(());
    }
    let meta = fs::metadata(model).map_err(Error::io("read", model))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(directory)
        .map_err(Error::io("create", directory))?;
    chown(directory, Some(meta.uid()), Some(meta.gid())).map_err(Error::io("change the owner of", directory))
}

/// Directory and base name.
fn parts(base: &Path) -> (PathBuf, String) {
    let name = base.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    (base.parent().map(Path::to_owned).unwrap_or_default(), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn donors(dir: &Path) {
        let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
        write("db1-bin.000003", "three");
        write("db1-bin.000004", "four");
        write("db1-bin.000004.idx", "x");
        write("db1-bin.state", "0-1-42\n");
        write("db1-bin-not.frm", "x");
        write("db1-bin.index", "/srv/db1/db1-bin.000003\n/srv/db1/db1-bin.000004\n");
    }

    #[test]
    fn a_carried_log_takes_the_recipients_names_and_nothing_leads_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        donors(dir.path());
        let carried = find(dir.path()).unwrap().unwrap();
        assert_eq!(carried.base, Path::new("db1-bin"));
        adopt(dir.path(), &carried, &OwnLog::Inside("logs/db2-bin".into())).unwrap();
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(text("logs/db2-bin.index"), "./logs/db2-bin.000003\n./logs/db2-bin.000004\n");
        assert_eq!(
            (text("logs/db2-bin.000004"), text("logs/db2-bin.state")),
            ("four".into(), "0-1-42\n".into())
        );
        assert_eq!(
            top_entries(dir.path()).unwrap().len(),
            2,
            "the log's directory and the file that is not of it"
        );
    }

    #[test]
    fn a_recipient_that_logs_elsewhere_begins_with_the_state_alone() {
        let dir = tempfile::tempdir().unwrap();
        donors(dir.path());
        let carried = find(dir.path()).unwrap().unwrap();
        let state = dir.path().join("kept");
        adopt(dir.path(), &carried, &OwnLog::Outside { state: state.clone() }).unwrap();
        assert_eq!(fs::read_to_string(&state).unwrap(), "0-1-42\n");
        assert_eq!(top_entries(dir.path()).unwrap().len(), 2);
    }
}
