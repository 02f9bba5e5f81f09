//! What is the recipient's own in its old datadir: who it is, what it was told to keep set, its keys and private files.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde_json::{Value, json};
use sys::dir::{Dir, Rights};

use crate::binlog::names_below;
use crate::datadir::{is_own, is_replica_file};
use crate::error::{Error, Result};
use crate::persisted::FILE as PERSISTED;

/// Larger files are neither keys nor settings.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// A private directory has few files, and is not deep.
const MAX_DEPTH: usize = 4;

/// Copies what is the recipient's own from its old datadir into the new one, in place of all that another's may
/// lie there; the old datadir stays as it is. Can be repeated. Returns the names.
///
/// # Errors
/// [`Error::Io`] for what cannot be copied.
pub fn carry_own(old: &Path, new: &Path) -> Result<Vec<String>> {
    if !old.exists() {
        return Ok(Vec::new());
    }
    let open = |path: &Path| Dir::open(path).map_err(Error::io("open", path));
    let (old, new) = (open(old)?, open(new)?);
    for name in own_names(&new)? {
        new.remove(Path::new(&name)).map_err(Error::io("remove", new.path().join(&name)))?;
    }
    let mut carried = Vec::new();
    for name in own_names(&old)? {
        copy(&old, &new, Path::new(&name), MAX_DEPTH).map_err(Error::io("copy", old.path().join(&name)))?;
        carried.push(name);
    }
    new.sync().map_err(Error::io("flush", new.path()))?;
    Ok(carried)
}

fn own_names(dir: &Dir) -> Result<Vec<String>> {
    Ok(names_below(dir, Path::new(""))?.into_iter().filter(|name| is_own(name)).collect())
}

/// Removes the files in which a replica keeps whom it follows, so that a server finds no thread to start. Returns how many sources
/// they told of.
///
/// # Errors
/// [`Error::Io`] for what cannot be removed.
pub(super) fn forget_sources(datadir: &Dir) -> Result<u64> {
    let mut sources = 0;
    for name in names_below(datadir, Path::new(""))?.into_iter().filter(|name| is_replica_file(name)) {
        datadir.remove(Path::new(&name)).map_err(Error::io("remove", datadir.path().join(&name)))?;
        sources += u64::from(name.starts_with("master"));
    }
    Ok(sources)
}

/// Links are not followed, and not copied: what they lead to is not in the datadir.
fn copy(from: &Dir, to: &Dir, below: &Path, depth: usize) -> io::Result<()> {
    let Some(meta) = from.metadata(below)? else { return Ok(()) };
    if meta.is_dir() && depth > 0 {
        to.make_dir(below, 0o700)?;
        for name in from.dir(below)?.names()? {
            copy(from, to, &below.join(name), depth - 1)?;
        }
        let dir = to.open_below(below, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
        return Rights::from(&meta).give(&dir);
    }
    if !meta.is_file() || meta.len() > MAX_FILE_BYTES {
        return Ok(());
    }
    let mut source = from.file(below)?.take(MAX_FILE_BYTES);
    let rights = Rights { mode: meta.mode() & 0o777, ..Rights::from(&meta) };
    let mut file = to.create(below, rights)?;
    io::copy(&mut source, &mut file)?;
    file.sync_all()
}

/// Has a MySQL server come up read-only to all: among what it persists, in the file of this datadir. False when it does so
/// already. Can be repeated.
///
/// # Errors
/// [`Error::Io`], or [`Error::Answer`] for a file that is no such file.
pub fn persist_read_only(datadir: &Path) -> Result<bool> {
    let tree = Dir::open(datadir).map_err(Error::io("open", datadir))?;
    let path = Path::new(PERSISTED);
    let wrong = |problem: String| Error::Answer { action: "mysqld-auto.cnf", problem };
    let before = tree.read(path, MAX_FILE_BYTES).map_err(Error::io("read", datadir.join(path)))?;
    let mut persisted: Value = match before {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?,
        None => json!({ "Version": 2 }),
    };
    let all = persisted.as_object_mut().ok_or_else(|| wrong("it holds no object".to_owned()))?;
    let dynamic = all.entry("mysql_dynamic_variables").or_insert_with(|| json!({}));
    let dynamic = dynamic.as_object_mut().ok_or_else(|| wrong("its variables are no object".to_owned()))?;
    let wanted = json!({ "Value": "ON", "Metadata": { "Host": "", "User": "", "Timestamp": 0 } });
    if dynamic.insert("super_read_only".to_owned(), wanted).is_some_and(|before| before["Value"] == "ON") {
        return Ok(false);
    }
    let write = || {
        let owner = nix::sys::stat::fstat(&tree)?;
        let rights = Rights { uid: owner.st_uid, gid: owner.st_gid, mode: 0o640 };
        tree.write(path, persisted.to_string().as_bytes(), rights)
    };
    write().map_err(Error::io("write", datadir.join(path)))?;
    Ok(true)
}

/// The files of a log that lies outside a datadir, by its base name in its directory: what testifies about its old data there.
///
/// # Errors
/// [`Error::Io`] when the directory cannot be listed.
pub fn files_of_log(directory: &Dir, base: &str) -> Result<Vec<String>> {
    let mut names = names_below(directory, Path::new(""))?;
    names.retain(|entry| is_of_log(base, entry));
    names.sort();
    Ok(names)
}

/// Of the log itself, or of a named connection's relay log: `base-channel.000001`.
fn is_of_log(base: &str, entry: &str) -> bool {
    use crate::binlog::is_log_of;
    let stem = entry.trim_end_matches(".idx").rsplit_once('.').map_or(entry, |(stem, _)| stem);
    is_log_of(base, entry)
        || stem.strip_prefix(base).is_some_and(|rest| rest.starts_with('-'))
            && base.contains("relay")
            && is_log_of(stem, entry)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::datadir::top_entries;

    #[test]
    fn the_recipients_own_files_come_along_and_nothing_that_speaks_of_its_old_data() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        for path in [&old, &new] {
            fs::create_dir_all(path.join("shop")).unwrap();
        }
        fs::create_dir(old.join(".ssh")).unwrap();
        let own = ["auto.cnf", "server-key.pem", ".my.cnf", ".ssh/id", "mysqld-auto.cnf", "keyring"];
        for name in own {
            fs::write(old.join(name), "mine").unwrap();
        }
        for name in [
            "ibdata1",
            "binlog.000001",
            "master.info",
            "relay-log.info",
            "grastate.dat",
            "core.17",
            "db2.pid",
        ] {
            fs::write(old.join(name), "of the old data").unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", old.join("ca.pem")).unwrap();
        fs::write(new.join("auto.cnf"), "another's").unwrap();
        for _ in 0..2 {
            carry_own(&old, &new).unwrap();
            for name in own {
                assert_eq!(fs::read_to_string(new.join(name)).unwrap(), "mine", "{name}");
            }
            assert_eq!(top_entries(&new).unwrap().len(), own.len() + 1, "{:?}", top_entries(&new));
        }
    }

    #[test]
    fn read_only_is_added_to_what_is_persisted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PERSISTED);
        let kept = r#"{"Version": 2, "mysql_dynamic_variables": {"event_scheduler": {"Value": "ON"}}}"#;
        for before in [None, Some(kept)] {
            if let Some(text) = before {
                fs::write(&path, text).unwrap();
            }
            assert!(persist_read_only(dir.path()).unwrap());
            let text: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            assert_eq!(text["mysql_dynamic_variables"]["super_read_only"]["Value"], "ON");
            assert_eq!(text["mysql_dynamic_variables"]["event_scheduler"].is_object(), before.is_some());
            assert!(!persist_read_only(dir.path()).unwrap(), "it is there already");
        }
        fs::write(&path, "[]").unwrap();
        assert!(persist_read_only(dir.path()).is_err());
    }

    #[test]
    fn the_files_of_a_log_are_told_from_their_neighbours() {
        let dir = tempfile::tempdir().unwrap();
        let of_log = [
            "binlog.000001",
            "binlog.000002.idx",
            "binlog.index",
            "binlog.state",
            "relay-log.000003",
            "relay-log-eu.index",
        ];
        let not = ["binlog2.000001", "binlog.ibd", "binlog-old.000001", "error.log", "relay-log.info"];
        for name in of_log.iter().chain(&not) {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let directory = Dir::open(dir.path()).unwrap();
        let mut names: Vec<_> = ["binlog", "relay-log"]
            .into_iter()
            .flat_map(|base| files_of_log(&directory, base).unwrap())
            .collect();
        names.sort();
        let mut expected = of_log.to_vec();
        expected.sort_unstable();
        assert_eq!(names, expected);
    }
}
