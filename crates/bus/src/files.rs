//! Files that hold secrets or must survive a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{BusError, Result};

/// A secret file is small; more is a mistake.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Reads a secret after checking that only we (and root) could have written or read it.
pub(crate) fn read_secret(path: &Path) -> Result<String> {
    let failed = |source| BusError::File { action: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    check_closed(&meta).map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_SECRET_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Checks the modes of a secret file that someone else reads.
pub(crate) fn check_secret(path: &Path) -> Result<()> {
    let failed = |source| BusError::File { action: "use", path: path.to_owned(), source };
    check_closed(&fs::metadata(path).map_err(failed)?).map_err(failed)
}

fn check_closed(meta: &fs::Metadata) -> io::Result<()> {
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if !meta.is_file() {
        return refuse("it is no regular file".into());
    }
    let mode = meta.mode() & 0o777;
    // A group may read what root gave it (`root:agent` 0640), and nobody else anything.
    let forbidden = if meta.uid() == 0 { 0o037 } else { 0o077 };
    if mode & forbidden != 0 {
        return refuse(format!("its mode is {mode:04o}; it holds a secret: chmod 0600"));
    }
    let own = fs::metadata("/proc/self")?.uid();
    if meta.uid() != 0 && meta.uid() != own {
        return refuse(format!("it belongs to user {}; it must belong to root or to user {own}", meta.uid()));
    }
    Ok(())
}

/// Replaces a file so that after a crash either the old or the new content is there.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// Makes a created, renamed or removed directory entry last.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}
