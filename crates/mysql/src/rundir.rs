//! The run directory of a server that the agent starts beside the host's own.
//!
//! Root's part holds what the server is told (its option file); below `own` the server writes as the owner of its data. So that user can
//! neither change what is started next, nor lead root's writes elsewhere by a link.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::Uid;

use crate::error::{Error, Result};

/// Longest path of a Unix socket, bytes.
pub(crate) const MAX_SOCKET_PATH: usize = 107;
/// Name of the option file.
pub(crate) const OPTION_FILE: &str = "my.cnf";
/// The part of a run directory that belongs to the server.
const OWN: &str = "own";

/// Where a server's own file of this name lies.
pub(crate) fn own(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(OWN).join(name)
}

/// Its socket.
pub(crate) fn socket(run_dir: &Path) -> PathBuf {
    own(run_dir, "s")
}

/// Whether a server that is told this directory can have its socket in it.
///
/// # Errors
/// [`Error::Refused`].
pub(crate) fn check_length(run_dir: &Path) -> Result<()> {
    if socket(run_dir).as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok(());
    }
    let reason =
        format!("{} is too long for a Unix socket; choose a shorter run directory", run_dir.display());
    Err(Error::Refused { reason })
}

/// Makes a run directory, and what is missing above it, whatever the umask is. `others` may get through to the socket. Can be repeated.
///
/// # Errors
/// [`Error::Refused`] for a path that is too long or that belongs to somebody else, [`Error::Io`].
pub(crate) fn make(run_dir: &Path, owner: &Metadata, others: bool) -> Result<()> {
    check_length(run_dir)?;
    if let Some(parent) = run_dir.parent() {
        make_parents(parent)?;
    }
    make_dir(run_dir, 0o711, None)?;
    make_dir(&run_dir.join(OWN), if others { 0o755 } else { 0o700 }, Some(owner))?;
    make_dir(&own(run_dir, "tmp"), 0o700, Some(owner))
}

/// Writes the option file, for the group of the data's owner to read: it may name keys.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn write_options(run_dir: &Path, text: &str, owner: &Metadata) -> Result<()> {
    let path = run_dir.join(OPTION_FILE);
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        fchown(&file, None, Some(group(owner)))?;
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
        fs::rename(&new, &path)
    };
    write().map_err(Error::io("write", &path))
}

/// A value that option files give back unchanged.
pub(crate) fn quoted(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// An option of a command line as a line of an option file.
///
/// # Errors
/// [`Error::Refused`] for a name that would say something else there.
pub(crate) fn line(argument: &str) -> Result<String> {
    let option = argument.trim_start_matches("--");
    let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Err(Error::Refused { reason: format!("{argument:?} cannot be written in an option file") });
    }
    Ok(value.map_or_else(|| name.to_owned(), |value| format!("{name}={}", quoted(value))))
}

fn group(owner: &Metadata) -> u32 {
    crate::process::User::owner_of(owner).map_or(owner.gid(), |user| user.gid)
}

/// Servers of other users get through what is made here.
fn make_parents(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_parents(parent)?;
    }
    make_dir(dir, 0o711, None)
}

/// Makes a directory with this mode, of this owner or of ours; one that is there already must be theirs.
fn make_dir(path: &Path, mode: u32, owner: Option<&Metadata>) -> Result<()> {
    let made = match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Error::io("create", path)(e)),
        made => made.is_ok(),
    };
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let dir = File::options().read(true).custom_flags(flags.bits()).open(path);
    let dir = dir.map_err(Error::io("open", path))?;
    let uid = owner.map_or(Uid::effective().as_raw(), MetadataExt::uid);
    let found = dir.metadata().map_err(Error::io("look at", path))?.uid();
    if made && let Some(owner) = owner {
        fchown(&dir, Some(uid), Some(group(owner))).map_err(Error::io("change the owner of", path))?;
    } else if found != uid {
        let reason = format!("{} belongs to user {found} and not to {uid}: remove it", path.display());
        return Err(Error::Refused { reason });
    }
    dir.set_permissions(fs::Permissions::from_mode(mode)).map_err(Error::io("set the mode of", path))
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::{Mode, umask};

    use super::*;
    use crate::options::OptionFiles;

    #[test]
    fn the_servers_part_is_its_owners_and_the_options_are_ours_under_any_umask() {
        if !Uid::effective().is_root() {
            testkit::skip!("only root can give directories away");
        }
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        std::os::unix::fs::chown(&data, Some(65_534), Some(65_534)).unwrap();
        let owner = fs::metadata(&data).unwrap();
        let run = dir.path().join("servers/3307");
        let before = umask(Mode::from_bits_truncate(0o077));
        let made = make(&run, &owner, true).and_then(|()| write_options(&run, "[mysqld]\n", &owner));
        umask(before);
        made.unwrap();
        let seen = |path: &Path| {
            let meta = fs::metadata(path).unwrap();
            (meta.mode() & 0o777, meta.uid())
        };
        assert_eq!(seen(run.parent().unwrap()), (0o711, 0));
        assert_eq!(seen(&run), (0o711, 0));
        assert_eq!(seen(&run.join(OPTION_FILE)), (0o640, 0));
        assert_eq!(seen(&run.join(OWN)), (0o755, 65_534));
        assert_eq!(seen(&own(&run, "tmp")), (0o700, 65_534));
        make(&run, &owner, true).unwrap();
        // The owner puts a link where root would write next.
        fs::remove_dir(own(&run, "tmp")).unwrap();
        std::os::unix::fs::symlink("/etc", own(&run, "tmp")).unwrap();
        make(&run, &owner, true).unwrap_err();
        assert_eq!(seen(Path::new("/etc")).1, 0);
    }

    #[test]
    fn any_value_survives_the_option_file() {
        for value in ["plain", "with # hash", "a\"b'c\\d", "tail\\", "\"", "'x'", " spaced ", "a\nuser=root"]
        {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), format!("[mysqld]\n{}\n", line(&format!("--some-name={value}")).unwrap()))
                .unwrap();
            let options = OptionFiles::load_file(file.path()).unwrap().effective(&["mysqld"]);
            assert_eq!(options.get("some-name"), Some(value));
            assert_eq!(options.get("user"), None);
        }
        assert!(line("--a\nuser").is_err() && line("").is_err());
        assert_eq!(line("--skip-networking").unwrap(), "skip-networking");
    }
}
