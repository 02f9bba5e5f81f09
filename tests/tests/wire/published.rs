//! The published schemas, read from their files as a client in another language would.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The directory `schemas/v1`.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/v1")
}

/// A JSON file below `schemas/v1`.
pub(crate) fn read(path: &str) -> Value {
    let path = directory().join(path);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Fails unless the value is what the schema says; `part` is a member of the file.
pub(crate) fn assert_valid(value: &Value, path: &str, part: Option<&str>) {
    let document = read(path);
    let schema = part.map_or(&document, |part| &document[part]);
    let validator = jsonschema::validator_for(schema).unwrap();
    let faults: Vec<String> =
        validator.iter_errors(value).map(|e| format!("{e} at {}", e.instance_path())).collect();
    assert!(faults.is_empty(), "not as {path} {part:?} says: {}\n{value:#}", faults.join("; "));
}

/// Where a command's schema is.
pub(crate) fn of(command: &str) -> String {
    format!("commands/{command}.json")
}
