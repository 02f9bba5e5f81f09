//! Files that are either as before or wholly new, also when the machine dies in between, and files that hold secrets.
//!
//! One writer per path: a writer that died leaves a temporary file, which the next one replaces.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

/// A secret file is small; more is a mistake.
const MAX_SECRET_BYTES: u64 = 64 << 10;
/// A line for each of ten thousand hosts is far less.
const MAX_TRUSTED_BYTES: u64 = 16 << 20;

/// What failed, on what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
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

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.source.kind(), error)
    }
}

/// Replaces, or makes, the file at `path` with `bytes` and the permission bits `mode`. A link in its place is replaced, not followed.
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

/// Makes a file that must not exist yet, with `bytes` and the permission bits `mode`; a crash may leave it incomplete.
///
/// # Errors
/// There is one, or any step of it.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    write_new(path, bytes, mode)?;
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
    match sync_parent(path) {
        // Nor is its directory.
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}

/// Makes what happened to the entries of a directory durable.
///
/// # Errors
/// It cannot be opened or synced.
pub fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::on("sync the directory", path))
}

/// Makes a created, renamed or removed entry durable: syncs the directory that it is in.
///
/// # Errors
/// As [`sync_dir`].
pub fn sync_parent(path: &Path) -> Result<(), Error> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Makes `copy`, an empty file opened for writing, share all blocks of `original` (`FICLONE`). Waits for writes to `original`
/// that are under way.
///
/// # Errors
/// The file system does not share blocks, or not between these two.
pub fn share_blocks(original: &File, copy: &File) -> io::Result<()> {
    rustix::fs::ioctl_ficlone(copy, original).map_err(io::Error::from)
}

/// Reads a secret as text, after the checks of [`check_secret`] on the very file that is read.
///
/// # Errors
/// As [`check_secret`], or it is no text, or longer than 64 KiB.
pub fn read_secret(path: &Path) -> Result<String, Error> {
    read_bounded(&open_checked(path, Others::Nobody)?, path, MAX_SECRET_BYTES)
}

/// Reads a file that says what is to be believed: anybody may read it, only root or we may have written it.
///
/// # Errors
/// It is not there, others may write to it, it belongs to another user, it is no text, or longer than 16 MiB.
pub fn read_trusted(path: &Path) -> Result<String, Error> {
    read_bounded(&open_checked(path, Others::Readers)?, path, MAX_TRUSTED_BYTES)
}

fn read_bounded(file: &File, path: &Path, most: u64) -> Result<String, Error> {
    let mut text = String::new();
    let read = file.take(most + 1).read_to_string(&mut text);
    match read.map_err(Error::on("read", path))? {
        bytes if bytes as u64 > most => {
            Err(Error::on("read", path)(io::Error::other(format!("it is longer than {most} bytes"))))
        }
        _ => Ok(text),
    }
}

/// Whom else a file may be open to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    /// To nobody: it holds a secret.
    Nobody,
    /// To readers: only what it says must not be anybody's.
    Readers,
}

/// Checks a secret file that somebody else reads: a regular file of root's or of our own, closed to others. Who is not root may be
/// given root's file by its group (`root:agent` 0640).
///
/// # Errors
/// It is not there, or one of these does not hold; the source says which, and what to do.
pub fn check_secret(path: &Path) -> Result<(), Error> {
    open_checked(path, Others::Nobody).map(drop)
}

fn open_checked(path: &Path, others: Others) -> Result<File, Error> {
    let own_uid = geteuid().as_raw();
    let refuse = |why: String| Error::on("use", path)(io::Error::new(io::ErrorKind::PermissionDenied, why));
    // Orchestrators hand out secrets behind links of root's; anybody else's link could name another file of root's.
    let named = fs::symlink_metadata(path).map_err(Error::on("read", path))?;
    if named.is_symlink() && ![0, own_uid].contains(&named.uid()) {
        return Err(refuse(format!("it is a link that belongs to user {}", named.uid())));
    }
    let mut options = OpenOptions::new();
    // Without waiting: a pipe in its place must not hold the agent.
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = options.open(path).map_err(Error::on("read", path))?;
    let meta = file.metadata().map_err(Error::on("look at", path))?;
    match exposure(&meta, own_uid, others) {
        None => Ok(file),
        Some(why) => Err(refuse(why)),
    }
}

/// Why a file is no place for a secret of that user, or for what that user is to believe.
fn exposure(meta: &Metadata, own_uid: u32, others: Others) -> Option<String> {
    let mode = meta.mode() & 0o777;
    let (forbidden, should) = match others {
        Others::Readers => (0o022, "go-w"),
        Others::Nobody if meta.uid() == 0 && own_uid != 0 => (0o037, "600"),
        Others::Nobody => (0o077, "600"),
    };
    if !meta.is_file() {
        Some("it is no regular file".to_owned())
    } else if mode & forbidden != 0 {
        Some(format!("its mode {mode:04o} opens it to others; run chmod {should} on it"))
    } else if meta.uid() != 0 && meta.uid() != own_uid {
        Some(format!("it belongs to user {}; it must belong to root or to user {own_uid}", meta.uid()))
    } else {
        None
    }
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::on("remove", path)(error)),
        _ => Ok(()),
    }
}

fn temporary_beside(path: &Path) -> Result<PathBuf, Error> {
    let nameless = || Error::on("name a temporary file beside", path)(io::ErrorKind::InvalidInput.into());
    let name = path.file_name().ok_or_else(nameless)?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(".tmp");
    Ok(path.with_file_name(temporary))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

    use super::*;

    fn with_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole_and_leaves_no_temporary_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write(&path, b"old", 0o600).unwrap();
        write(&path, b"new", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(create(&path, b"other", 0o600).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
        create(&path, b"other", 0o600).unwrap();
        remove_file(&dir.path().join("missing/file")).unwrap();
    }

    #[test]
    fn what_a_dead_writer_left_is_replaced_and_a_link_in_its_place_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("state"), dir.path().join("victim"));
        fs::write(&victim, b"precious").unwrap();
        symlink(&victim, dir.path().join(".state.tmp")).unwrap();
        symlink(&victim, &path).unwrap();
        write(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn an_error_names_what_was_tried_on_which_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/state");
        let error = write(&path, b"", 0o600).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot create {}/missing/.state.tmp", dir.path().display()));
        create_dir(&dir.path().join("made"), 0o700).unwrap();
        let error = create_dir(&dir.path().join("made"), 0o700).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        assert!(rename(&path, &dir.path().join("made/x")).is_err());
    }

    #[test]
    fn a_secret_is_read_only_from_a_file_that_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        create(&path, b"hidden\n", 0o600).unwrap();
        assert_eq!(read_secret(&path).unwrap(), "hidden\n");
        for mode in [0o604, 0o660, 0o610] {
            with_mode(&path, mode);
            let error = read_secret(&path).unwrap_err();
            assert!(error.source.to_string().contains("chmod 600"), "{mode:o}: {error}");
            assert!(check_secret(&path).is_err());
        }
        assert!(read_secret(dir.path()).is_err(), "a directory is no secret");
        let long = dir.path().join("long");
        create(&long, &vec![b'x'; 1 << 17], 0o600).unwrap();
        assert!(read_secret(&long).is_err(), "half a secret is none");
    }

    #[test]
    fn a_secret_is_ours_or_roots_and_a_pipe_does_not_hold_its_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        create(&path, b"hidden\n", 0o600).unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read_secret(&pipe).is_err());
        if !geteuid().is_root() {
            testkit::skip!("only root can give files away");
        }
        let meta = |mode| {
            with_mode(&path, mode);
            fs::metadata(&path).unwrap()
        };
        assert_eq!(
            exposure(&meta(0o640), 4711, Others::Nobody),
            None,
            "root's file may be read by its group"
        );
        assert!(exposure(&meta(0o640), 0, Others::Nobody).is_some());
        assert!(exposure(&meta(0o644), 4711, Others::Nobody).is_some());
        with_mode(&path, 0o644);
        assert_eq!(read_trusted(&path).unwrap(), "hidden\n", "no secret: all may read it");
        with_mode(&path, 0o664);
        let error = read_trusted(&path).unwrap_err();
        assert!(error.source.to_string().contains("go-w"), "{error}");
        with_mode(&path, 0o600);
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(check_secret(&link).is_ok(), "root's link");
        lchown(&link, Some(65_534), None).unwrap();
        assert!(check_secret(&link).unwrap_err().source.to_string().contains("a link"));
        chown(&path, Some(65_534), None).unwrap();
        let error = check_secret(&path).unwrap_err();
        assert!(error.source.to_string().contains("it belongs to user 65534"), "{error}");
        assert!(read_trusted(&path).is_err(), "another user's word");
    }
}
