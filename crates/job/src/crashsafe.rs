//! Files that are either as before or wholly new, also when the machine dies in between.
//!
//! One writer per path: a writer that died leaves a temporary file, which the next one replaces.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What failed, on what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct Error {
    /// What was tried.
    pub action: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl Error {
    fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

/// Replaces, or makes, the file at `path` with `bytes` and the permission bits `mode`.
///
/// # Errors
/// Any step of it; the file is then as before, unless only the last one (syncing the directory) failed.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let temporary = temporary_beside(path)?;
    remove_if_there(&temporary)?;
    let written = write_new(&temporary, bytes, mode)
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::on("put in place", path)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_parent(path)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(Error::on("create", path))?;
    file.write_all(bytes).map_err(Error::on("write", path))?;
    file.sync_all().map_err(Error::on("sync", path))
}

/// Moves `from` to `to`, which may be an existing file, and syncs both directories.
///
/// # Errors
/// The move failed and nothing changed, or it is done and a directory could not be synced.
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::on("move", from))?;
    sync_parent(to)?;
    if from.parent() == to.parent() { Ok(()) } else { sync_parent(from) }
}

/// Makes a directory with the permission bits `mode`; its parent must exist, it must not.
///
/// # Errors
/// It cannot be made, or its parent cannot be synced.
pub fn create_dir(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new().mode(mode).create(path).map_err(Error::on("create the directory", path))?;
    sync_parent(path)
}

/// Removes a file; one that is not there is fine.
///
/// # Errors
/// It cannot be removed, or its directory cannot be synced.
pub fn remove_file(path: &Path) -> Result<(), Error> {
    remove_if_there(path)?;
    sync_parent(path)
}

/// Makes what happened to the entries of a directory durable.
///
/// # Errors
/// It cannot be opened or synced.
pub fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::on("sync the directory", path))
}

fn sync_parent(path: &Path) -> Result<(), Error> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::on("remove", path)(error)),
        _ => Ok(()),
    }
}

fn temporary_beside(path: &Path) -> Result<PathBuf, Error> {
    let name = path.file_name().ok_or_else(|| Error {
        action: "name a temporary file beside",
        path: path.to_owned(),
        source: io::ErrorKind::InvalidInput.into(),
    })?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(".tmp");
    Ok(path.with_file_name(temporary))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_no_temporary_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write(&path, b"old", 0o600).unwrap();
        write(&path, b"new", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
    }

    #[test]
    fn what_a_dead_writer_left_is_replaced_and_a_link_in_its_place_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("state"), dir.path().join("victim"));
        fs::write(&victim, b"precious").unwrap();
        symlink(&victim, dir.path().join(".state.tmp")).unwrap();
        write(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn an_error_names_what_was_tried_on_which_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/state");
        let error = write(&path, b"", 0o600).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot create ") && error.to_string().contains("missing"),
            "{error}"
        );
        create_dir(&dir.path().join("made"), 0o700).unwrap();
        let error = create_dir(&dir.path().join("made"), 0o700).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        assert!(rename(&path, &dir.path().join("made/x")).is_err());
    }
}
