//! What the suite found, one file per cell below the target directory, for `docs/reliability.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::table::Cell;

/// Below the target directory that the running program was built into.
///
/// # Panics
/// When the program lies in no target directory.
#[must_use]
pub fn directory() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let profile = program.ancestors().find(|dir| dir.join(".cargo-lock").exists());
    profile.expect("a program that cargo built lies below its target directory").join("reliability-records")
}

/// Keeps that a cell has passed.
///
/// # Panics
/// When it cannot be written.
pub fn passed(cell: &Cell, took_ms: u128, freed_ms: Option<u128>) {
    let directory = directory();
    fs::create_dir_all(&directory).unwrap();
    let record = json!({ "outcome": cell.outcome.as_str(), "took_ms": took_ms as u64,
        "freed_ms": freed_ms.map(|ms| ms as u64) });
    let path = directory.join(format!("{}.json", cell.key()));
    let half = path.with_extension("half");
    fs::write(&half, record.to_string()).unwrap();
    fs::rename(&half, &path).unwrap();
}

/// All records, by the cells' keys.
///
/// # Errors
/// When the directory cannot be read: the suite has not run.
pub fn all(directory: &Path) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut records = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let key = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            records.insert(key, serde_json::from_slice(&fs::read(&path)?)?);
        }
    }
    Ok(records)
}
