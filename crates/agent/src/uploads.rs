//! Binary log contents that come in pieces, because one message of the bus is too small for them.
//!
//! A piece is written at its offset, so that one which comes again does no harm. What nobody applies goes after an hour.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::error::{ErrorCode, WireError};
use protocol::ids::UploadId;

use crate::errors::system;

/// Bytes of one upload.
pub(crate) const MAX_BYTES: u64 = 256 << 20;
/// Uploads at the same time.
const MAX_UPLOADS: usize = 4;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// Where the contents of an upload are.
pub(crate) fn path(state_dir: &Path, upload: UploadId) -> PathBuf {
    state_dir.join("uploads").join(upload.to_string())
}

/// Writes one piece; the upload's size so far. Blocking.
pub(crate) fn write(state_dir: &Path, upload: UploadId, offset: u64, piece: &[u8]) -> Result<u64, WireError> {
    let path = path(state_dir, upload);
    let dir = state_dir.join("uploads");
    let failed = |error: &io::Error| system(format!("cannot write {}", path.display()), error);
    make_dir(&dir).map_err(|e| failed(&e))?;
    let is_new = !path.exists();
    if is_new && make_room(&dir).map_err(|e| failed(&e))? >= MAX_UPLOADS {
        let why = format!("{MAX_UPLOADS} uploads wait to be applied already; apply one, or wait an hour");
        return Err(WireError::new(ErrorCode::Busy, why).retryable());
    }
    let bad = |why: String| Err(WireError::new(ErrorCode::BadRequest, why));
    if offset.saturating_add(piece.len() as u64) > MAX_BYTES {
        return bad(format!("an upload has at most {MAX_BYTES} bytes; apply it in parts"));
    }
    let size = if is_new { 0 } else { fs::metadata(&path).map_err(|e| failed(&e))?.len() };
    if offset > size {
        return bad(format!("the upload has {size} bytes; the next piece begins there and not at {offset}"));
    }
    let write = || -> io::Result<u64> {
        let mut file: File =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(piece)?;
        Ok(file.metadata()?.len())
    };
    write().map_err(|e| failed(&e))
}

/// Keeps the content of a command that brought it whole: it takes no other upload's place, since its job follows at once. Blocking.
pub(crate) fn whole(state_dir: &Path, upload: UploadId, content: &[u8]) -> Result<(), WireError> {
    let path = path(state_dir, upload);
    let write = || -> io::Result<()> {
        make_dir(&state_dir.join("uploads"))?;
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?.write_all(content)
    };
    write().map_err(|e| system(format!("cannot write {}", path.display()), &e))
}

fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Removes what was forgotten; how many are left.
fn make_room(dir: &Path) -> io::Result<usize> {
    let mut left = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age < FORGOTTEN_AFTER || fs::remove_file(entry.path()).is_err() {
            left += 1;
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_order_and_may_come_again() {
        let dir = tempfile::tempdir().unwrap();
        let upload = UploadId::generate();
        assert_eq!(write(dir.path(), upload, 0, b"one").unwrap(), 3);
        assert_eq!(write(dir.path(), upload, 3, b"two").unwrap(), 6);
        assert_eq!(write(dir.path(), upload, 3, b"two").unwrap(), 6, "again");
        assert_eq!(write(dir.path(), upload, 7, b"x").unwrap_err().code, ErrorCode::BadRequest);
        assert_eq!(write(dir.path(), upload, MAX_BYTES, b"x").unwrap_err().code, ErrorCode::BadRequest);
        assert_eq!(fs::read(path(dir.path(), upload)).unwrap(), b"onetwo");
    }

    #[test]
    fn there_are_few_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..MAX_UPLOADS {
            write(dir.path(), UploadId::generate(), 0, b"x").unwrap();
        }
        assert_eq!(write(dir.path(), UploadId::generate(), 0, b"x").unwrap_err().code, ErrorCode::Busy);
    }
}
