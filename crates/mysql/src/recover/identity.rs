//! What is the recipient's own in its old datadir: who it is, what it was told to keep set, its keys and private files.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::datadir::{is_own, is_replica_file, remove, top_entries};
use crate::error::{Error, Result};

/// Larger files are neither keys nor settings.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// A private directory has few files, and is not deep.
const MAX_DEPTH: usize = 4;
/// Where MySQL keeps what `SET PERSIST` was told.
const PERSISTED: &str = "mysqld-auto.cnf";

/// Copies what is the recipient's own from its old datadir into the new one, in place of all that another's may
/// lie there; the old datadir stays as it is. Can be repeated. Returns the names.
///
/// # Errors
/// [`Error::Io`] for what cannot be copied.
pub fn carry_own(old: &Path, new: &Path) -> Result<Vec<String>> {
    if !old.exists() {
        return Ok(Vec::new());
    }
    for name in top_entries(new)?.into_iter().filter(|name| is_own(name)) {
        remove(&new.join(name))?;
    }
    let mut carried = Vec::new();
    for name in top_entries(old)?.into_iter().filter(|name| is_own(name)) {
        copy(&old.join(&name), &new.join(&name), MAX_DEPTH)?;
        carried.push(name);
    }
    File::open(new).and_then(|dir| dir.sync_all()).map_err(Error::io("flush", new))?;
    Ok(carried)
}

/// Removes the files in which a replica keeps whom it follows, so that a server finds no thread to start. Returns how many sources
/// they told of.
///
/// # Errors
/// [`Error::Io`] for what cannot be removed.
pub(super) fn forget_sources(datadir: &Path) -> Result<u64> {
    let mut sources = 0;
    for name in top_entries(datadir)?.into_iter().filter(|name| is_replica_file(name)) {
        remove(&datadir.join(&name))?;
        sources += u64::from(name.starts_with("master"));
    }
    Ok(sources)
}

/// Links are not followed, and not copied: what they lead to is not in the datadir.
fn copy(from: &Path, to: &Path, depth: usize) -> Result<()> {
    let meta = fs::symlink_metadata(from).map_err(Error::io("read", from))?;
    if meta.is_dir() && depth > 0 {
        fs::DirBuilder::new().mode(0o700).create(to).map_err(Error::io("create", to))?;
        for entry in fs::read_dir(from).map_err(Error::io("list", from))? {
            let name = entry.map_err(Error::io("list", from))?.file_name();
            copy(&from.join(&name), &to.join(&name), depth - 1)?;
        }
        let give = || {
            let dir = File::open(to)?;
            fchown(&dir, Some(meta.uid()), Some(meta.gid()))?;
            dir.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o7777))
        };
        return give().map_err(Error::io("make", to));
    }
    if !meta.is_file() || meta.len() > MAX_FILE_BYTES {
        return Ok(());
    }
    let copy = || -> io::Result<()> {
        let no_link = nix::libc::O_NOFOLLOW;
        let mut source = OpenOptions::new().read(true).custom_flags(no_link).open(from)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        io::copy(&mut source, &mut file)?;
        fchown(&file, Some(meta.uid()), Some(meta.gid()))?;
        file.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o777))?;
        file.sync_all()
    };
    copy().map_err(Error::io("copy", from))
}

/// Has a MySQL server come up read-only to all: among what it persists, in the file of this datadir. False when it does so
/// already. Can be repeated.
///
/// # Errors
/// [`Error::Io`], or [`Error::Answer`] for a file that is no such file.
pub fn persist_read_only(datadir: &Path) -> Result<bool> {
    let path = datadir.join(PERSISTED);
    let wrong = |problem: String| Error::Answer { action: "mysqld-auto.cnf", problem };
    let mut persisted: Value = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => json!({ "Version": 2 }),
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let all = persisted.as_object_mut().ok_or_else(|| wrong("it holds no object".to_owned()))?;
    let dynamic = all.entry("mysql_dynamic_variables").or_insert_with(|| json!({}));
    let dynamic = dynamic.as_object_mut().ok_or_else(|| wrong("its variables are no object".to_owned()))?;
    let wanted = json!({ "Value": "ON", "Metadata": { "Host": "", "User": "", "Timestamp": 0 } });
    if dynamic.insert("super_read_only".to_owned(), wanted).is_some_and(|before| before["Value"] == "ON") {
        return Ok(false);
    }
    let owner = fs::metadata(datadir).map_err(Error::io("read", datadir))?;
    let new = datadir.join("mysqld-auto.cnf.new");
    remove(&new)?;
    let write = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&new)?;
        serde_json::to_writer(&file, &persisted)?;
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(Error::io("write", &path))?;
    Ok(true)
}

/// The files of logs that lie outside a datadir, by the base path of each log: what testifies about its old data there.
///
/// # Errors
/// [`Error::Io`] when a directory cannot be listed.
pub fn files_of_logs(bases: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for base in bases {
        let (Some(directory), Some(name)) = (base.parent(), base.file_name().and_then(|name| name.to_str()))
        else {
            continue;
        };
        if !directory.is_dir() {
            continue;
        }
        let names = top_entries(directory)?;
        found.extend(names.iter().filter(|entry| is_of_log(name, entry)).map(|entry| directory.join(entry)));
    }
    found.sort();
    found.dedup();
    Ok(found)
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
    use super::*;

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
        let found = files_of_logs(&[dir.path().join("binlog"), dir.path().join("relay-log")]).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        let mut expected = of_log.to_vec();
        expected.sort_unstable();
        assert_eq!(names, expected);
    }
}
