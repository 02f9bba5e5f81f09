//! The binary log that came along with the data: found for recovery, then made the recipient's own or removed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sys::dir::{Dir, Rights};

use crate::binlog::{directories, is_log_of, log_lines, names_below, write_index};
use crate::datadir::{LogNames, is_relay_log};
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
pub(super) fn find(datadir: &Dir) -> Result<Option<CarriedLog>> {
    let mut newest: Option<(SystemTime, CarriedLog)> = None;
    for directory in std::iter::once(PathBuf::new()).chain(directories(datadir)?) {
        for name in names_below(datadir, &directory)?.iter().filter(|name| name.ends_with(".index")) {
            let index = directory.join(name);
            let lines = log_lines(datadir, &index)?;
            let Some(last) = lines.last().map(|line| PathBuf::from(line.trim_start_matches("./"))) else {
                continue;
            };
            let base = last.with_extension("");
            let plain = base.file_name().and_then(|base| base.to_str()).unwrap_or_default();
            if is_relay_log(plain, &LogNames::default()) {
                continue;
            }
            let written = datadir.file(&last).and_then(|file| file.metadata()?.modified());
            let written = written.map_err(Error::io("read", datadir.path().join(&last)))?;
            if newest.as_ref().is_none_or(|(time, _)| *time < written) {
                newest = Some((written, CarriedLog { base, index }));
            }
        }
    }
    Ok(newest.map(|(_, log)| log))
}

/// Gives a carried log the recipient's names, so that its server goes on in it; removes it where that server writes elsewhere.
/// Can be repeated.
pub(super) fn adopt(datadir: &Dir, carried: &CarriedLog, own: &OwnLog) -> Result<()> {
    let (directory, base) = parts(&carried.base);
    let files = names_below(datadir, &directory)?.into_iter().filter(|name| is_log_of(&base, name));
    let place = |below: &Path| datadir.path().join(below);
    match own {
        OwnLog::Inside(own) if *own == carried.base => {}
        OwnLog::Inside(own) => return rename(datadir, carried, &files.collect::<Vec<_>>(), own),
        OwnLog::Off | OwnLog::Outside { .. } => {
            for below in files.map(|name| directory.join(name)) {
                match own {
                    OwnLog::Outside { state } if below.extension().is_some_and(|last| last == "state") => {
                        keep(datadir, &below, state).map_err(Error::io("keep", place(&below)))?;
                    }
                    _ => _ = datadir.remove(&below).map_err(Error::io("remove", place(&below)))?,
                }
            }
            datadir.remove(&carried.index).map_err(Error::io("remove", place(&carried.index)))?;
        }
    }
    Ok(())
}

/// Out of the tree, into a directory of our own.
fn keep(datadir: &Dir, below: &Path, state: &Path) -> io::Result<()> {
    let (Some(directory), Some(name)) = (state.parent(), state.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    datadir.shift(below, &Dir::open(directory)?, Path::new(name))
}

/// The index goes last: while it is there, what a crash has left undone is done again.
fn rename(datadir: &Dir, carried: &CarriedLog, files: &[String], own: &Path) -> Result<()> {
    let (directory, base) = parts(&carried.base);
    let (own_directory, own_base) = parts(own);
    let place = |below: &Path| datadir.path().join(below);
    let made = || {
        let like = nix::sys::stat::fstat(datadir)?;
        datadir.make_dirs(&own_directory, Rights { uid: like.st_uid, gid: like.st_gid, mode: 0o750 })
    };
    made().map_err(Error::io("create", place(&own_directory)))?;
    for name in files.iter().filter(|name| !name.ends_with(".index")) {
        let (from, to) =
            (directory.join(name), own_directory.join(format!("{own_base}{}", &name[base.len()..])));
        datadir.shift(&from, datadir, &to).map_err(Error::io("rename", place(&from)))?;
    }
    let lines: Vec<String> = log_lines(datadir, &carried.index)?
        .iter()
        .filter_map(|line| line.rsplit_once('.'))
        .map(|(_, number)| format!("./{}.{number}", own.display()))
        .collect();
    let new_index = own_directory.join(format!("{own_base}.index"));
    write_index(datadir, &new_index, &carried.index, &lines)?;
    if new_index != carried.index {
        datadir.remove(&carried.index).map_err(Error::io("remove", place(&carried.index)))?;
    }
    for below in [&directory, &own_directory] {
        let flushed = match below.as_os_str().is_empty() {
            true => datadir.sync(),
            false => datadir.dir(below).and_then(|dir| dir.sync()),
        };
        flushed.map_err(Error::io("flush", place(below)))?;
    }
    Ok(())
}

/// Directory and base name.
fn parts(base: &Path) -> (PathBuf, String) {
    let name = base.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    (base.parent().map(Path::to_owned).unwrap_or_default(), name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::binlog::localize_indexes;
    use crate::datadir::top_entries;

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
        localize_indexes(dir.path()).unwrap();
        let tree = Dir::open(dir.path()).unwrap();
        let carried = find(&tree).unwrap().unwrap();
        assert_eq!(carried.base, Path::new("db1-bin"));
        adopt(&tree, &carried, &OwnLog::Inside("logs/db2-bin".into())).unwrap();
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
        localize_indexes(dir.path()).unwrap();
        let tree = Dir::open(dir.path()).unwrap();
        let carried = find(&tree).unwrap().unwrap();
        let state = dir.path().join("kept");
        adopt(&tree, &carried, &OwnLog::Outside { state: state.clone() }).unwrap();
        assert_eq!(fs::read_to_string(&state).unwrap(), "0-1-42\n");
        assert_eq!(top_entries(dir.path()).unwrap().len(), 2);
    }

    /// The servers' user can put anything in the tree at any moment: what it puts where root will write must not be followed.
    #[test]
    fn links_where_an_index_or_a_directory_will_be_lead_root_nowhere() {
        let outside = tempfile::tempdir().unwrap();
        let precious = outside.path().join("precious");
        let planted: [(&str, &str, &Path); 4] = [
            ("db2-bin.index", "db2-bin", &precious),
            ("db2-bin.index.new", "db2-bin", &precious),
            ("logs", "logs/db2-bin", outside.path()),
            ("db1-bin.index", "db2-bin", &precious),
        ];
        for (at, own, target) in planted {
            fs::write(&precious, "precious").unwrap();
            let dir = tempfile::tempdir().unwrap();
            donors(dir.path());
            localize_indexes(dir.path()).unwrap();
            let tree = Dir::open(dir.path()).unwrap();
            let carried = find(&tree).unwrap().unwrap();
            // After the look, as one who races would.
            drop(fs::remove_file(dir.path().join(at)));
            std::os::unix::fs::symlink(target, dir.path().join(at)).unwrap();
            drop(adopt(&tree, &carried, &OwnLog::Inside(own.into())));
            let left: Vec<_> =
                fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, ["precious"], "{at}");
            assert_eq!(fs::read_to_string(&precious).unwrap(), "precious", "{at}");
        }
    }
}
