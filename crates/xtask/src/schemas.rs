//! `schemas/`: written from the protocol's types, and compared with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;
use walkdir::WalkDir;

/// Writes `schemas/` anew and removes generated files that no type stands behind any more. Returns how many files there are.
pub fn write(root: &Path) -> anyhow::Result<usize> {
    let wanted = wanted()?;
    let directory = root.join("schemas");
    for path in present(&directory)?.into_keys().filter(|path| !wanted.contains_key(path)) {
        fs::remove_file(directory.join(&path))
            .with_context(|| format!("cannot remove {}", path.display()))?;
    }
    for (path, text) in &wanted {
        let path = directory.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(wanted.len())
}

/// Says, one line each, where `schemas/` and the code differ.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    Ok(differences(&wanted()?, &present(&root.join("schemas"))?))
}

type Files = BTreeMap<PathBuf, String>;

fn differences(wanted: &Files, present: &Files) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in wanted {
        match present.get(path) {
            None => found.push(format!("schemas/{} is missing", path.display())),
            Some(old) if old != text => {
                found.push(format!("schemas/{} is not what the code says", path.display()))
            }
            Some(_) => {}
        }
    }
    for path in present.keys().filter(|path| !wanted.contains_key(*path)) {
        found.push(format!("schemas/{} has no type behind it", path.display()));
    }
    found
}

fn wanted() -> anyhow::Result<Files> {
    let mut files = Files::new();
    for document in protocol::schema::documents() {
        let mut text = serde_json::to_string_pretty(&sorted(document.content))?;
        text.push('\n');
        let twice = files.insert(PathBuf::from(&document.path), text).is_some();
        ensure!(!twice, "two documents are named {}", document.path);
    }
    Ok(files)
}

/// Keys in alphabetical order, whatever features other crates switch on in serde_json.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<_, _> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(ordered.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// The JSON files below the directory; others (a README) are not generated and none of our business.
fn present(directory: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    if !directory.exists() {
        return Ok(files);
    }
    for entry in WalkDir::new(directory) {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "json") {
            let path = entry.path().strip_prefix(directory)?.to_owned();
            files.insert(path, fs::read_to_string(entry.path())?);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        entries.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect()
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        let wanted = files(&[("same.json", "1"), ("changed.json", "2"), ("new.json", "3")]);
        let present = files(&[("same.json", "1"), ("changed.json", "old"), ("gone.json", "4")]);
        assert_eq!(
            differences(&wanted, &present),
            [
                "schemas/changed.json is not what the code says",
                "schemas/new.json is missing",
                "schemas/gone.json has no type behind it",
            ]
        );
    }
}
