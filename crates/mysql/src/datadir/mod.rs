//! The data directory: what is not cloned with it, whose it is, and emptying it without a mistake.

mod cloning;
mod named;
mod ownership;
pub(crate) mod shape;

use std::fs;
use std::path::{Component, Path};

use sys::dir::Dir;

use crate::error::{Error, Result};
use crate::find;

pub use self::cloning::{ClonePolicy, LogNames, Reason, Removal, clean, cleanup_plan, unwanted};
pub(crate) use self::cloning::{is_own, is_relay_log, is_replica_file, stays_at_home};
pub use self::named::{make_directories, named_directories};
pub use self::ownership::{Ownership, give_to};
pub use self::shape::looks_like_datadir;

/// What lies at the top of a directory under names that are text: name, and whether it is a directory or a link to one.
///
/// # Errors
/// [`Error::Io`] when it cannot be listed.
pub fn top(datadir: &Path) -> Result<Vec<(String, bool)>> {
    let names = top_entries(datadir)?;
    Ok(names
        .into_iter()
        .map(|name| (datadir.join(&name).is_dir(), name))
        .map(|(is_dir, name)| (name, is_dir))
        .collect())
}

/// The names at the top of a directory that are text.
///
/// # Errors
/// [`Error::Io`] when it cannot be listed.
pub fn top_entries(datadir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(datadir).map_err(Error::io("list", datadir))?;
    Ok(entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect())
}

/// True for a file at the top of a datadir that belongs to the server itself.
pub(crate) fn is_system_file(name: &str) -> bool {
    ["ibdata", "ib_logfile", "undo", "mysql.ibd", "#innodb_redo", "aria_log", "#ib_"]
        .iter()
        .any(|p| name.starts_with(p))
}

/// Checks that a directory may be emptied.
///
/// # Errors
/// [`Error::Refused`] with the reason: not absolute, `/` or a system directory, a link, a mount point that holds more than
/// a datadir, anything that does not look like a datadir, or one that a server uses.
pub fn check_clearable(datadir: &Path) -> Result<()> {
    let refuse = |why: &str| Err(Error::Refused { reason: format!("{} {why}", datadir.display()) });
    if !datadir.is_absolute() || datadir.components().any(|c| matches!(c, Component::ParentDir)) {
        return refuse("is not an absolute path without ..");
    }
    if datadir.components().count() < 3 {
        return refuse("is too near the root of the file system to be a datadir of its own");
    }
    let meta = fs::symlink_metadata(datadir).map_err(Error::io("read", datadir))?;
    if meta.is_symlink() {
        return refuse("is a link; name the directory itself");
    }
    if !meta.is_dir() {
        return refuse("is not a directory");
    }
    let is_empty = fs::read_dir(datadir).map_err(Error::io("list", datadir))?.next().is_none();
    if !is_empty && !looks_like_datadir(datadir) {
        return refuse("does not look like a MySQL datadir");
    }
    if ["etc", "usr", "bin", "proc", "home"].iter().filter(|d| datadir.join(d).is_dir()).count() >= 3 {
        return refuse("holds a whole system");
    }
    if find::is_in_use(datadir) {
        return refuse("is in use by a running server");
    }
    Ok(())
}

/// Empties a datadir and keeps the directory itself, which may be a mount point. Blocking; stays on one file system.
/// Returns the number of entries removed from its top.
///
/// # Errors
/// As [`check_clearable`], and [`Error::Io`] for what cannot be removed.
pub fn clear(datadir: &Path) -> Result<usize> {
    check_clearable(datadir)?;
    let dir = Dir::open(datadir).map_err(Error::io("open", datadir))?;
    let device = dir.identity().map_err(Error::io("read", datadir))?.device;
    let names = dir.names().map_err(Error::io("list", datadir))?;
    for name in &names {
        let entry = dir.entry(name).map_err(Error::io("read", datadir.join(name)))?;
        if entry.is_some_and(|entry| entry.device != device) {
            let reason = format!("{} is a mount of its own; unmount it first", datadir.join(name).display());
            return Err(Error::Refused { reason });
        }
    }
    let mut removed = 0;
    for name in names {
        // A file system's own directory belongs to its mount point, not to the data.
        if name == "lost+found" {
            continue;
        }
        let is_gone = dir.remove(Path::new(&name));
        removed += usize::from(is_gone.map_err(Error::io("remove", datadir.join(&name)))?);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_directories_are_not_cleared() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        for path in [
            Path::new("/"),
            Path::new("/var"),
            Path::new("/usr/lib"),
            Path::new("relative"),
            Path::new("/tmp/../etc"),
            dir.path(),
            &link,
        ] {
            let error = clear(path).unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{}: {error}", path.display());
        }
        assert!(dir.path().join("thesis.tex").exists());
    }

    #[test]
    fn a_stopped_datadir_is_cleared_and_stays_as_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let datadir = dir.path().join("mysql");
        fs::create_dir_all(datadir.join("shop")).unwrap();
        fs::write(datadir.join("ibdata1"), "x").unwrap();
        fs::create_dir(datadir.join("lost+found")).unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "precious").unwrap();
        std::os::unix::fs::symlink(&outside, datadir.join("shop/link")).unwrap();
        assert_eq!(clear(&datadir).unwrap(), 2);
        assert!(datadir.join("lost+found").exists() && outside.exists());
        assert!(!datadir.join("ibdata1").exists());
    }
}
