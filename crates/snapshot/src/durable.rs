//! Small files that a crash leaves either as they were or as they should be.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::error::IoContext as _;

/// Far above what any file of ours needs; a larger one is damaged.
const MAX_BYTES: u64 = 4 << 20;

/// Writes `value` as JSON, closed to others.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let damaged = |detail: String| Error::Damaged { path: path.to_owned(), detail };
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| damaged(e.to_string()))?;
    bytes.push(b'\n');
    Ok(sys::file::write(path, &bytes, 0o600)?)
}

/// Reads what [`write_json`] wrote; `None` when there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).context("look at", path),
    };
    let damaged = |detail: String| Error::Damaged { path: path.to_owned(), detail };
    if meta.len() > MAX_BYTES {
        return Err(damaged(format!("{} bytes are more than any such file has", meta.len())));
    }
    let bytes = fs::read(path).context("read", path)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|e| damaged(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), None);
        write_json(&path, &vec![1, 2]).unwrap();
        write_json(&path, &vec![3]).unwrap();
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), Some(vec![3]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
        fs::write(&path, "[3").unwrap();
        assert!(matches!(read_json::<Vec<u8>>(&path), Err(Error::Damaged { .. })));
    }
}
