//! `schemas/`, `docs/commands.md` and `docs/configuration.md`: written from the types of the code, and compared with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;
use walkdir::WalkDir;

use crate::{configuration, original};

const COMMANDS: &str = "docs/commands.md";

/// Writes the generated files anew and removes those that no type stands behind any more. Returns how many there are.
pub fn write(root: &Path) -> anyhow::Result<usize> {
    let wanted = wanted(root)?;
    for path in present(root)?.into_keys().filter(|path| !wanted.contains_key(path)) {
        fs::remove_file(root.join(&path)).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    for (path, text) in &wanted {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(wanted.len())
}

/// Says, one line each, where the generated files and the code differ.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = differences(&wanted(root)?, &present(root)?);
    found.extend(original::check(root));
    found.extend(configuration::check(root)?);
    Ok(found)
}

/// Paths from the root of the repository to texts.
type Files = BTreeMap<PathBuf, String>;

fn differences(wanted: &Files, present: &Files) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in wanted {
        match present.get(path) {
            None => found.push(format!("{} is missing", path.display())),
            Some(old) if old != text => {
                found.push(format!("{} is not what the code says", path.display()));
            }
            Some(_) => {}
        }
    }
    for path in present.keys().filter(|path| !wanted.contains_key(*path)) {
        found.push(format!("{} has no type behind it", path.display()));
    }
    found
}

fn wanted(root: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for document in protocol::schema::documents() {
        let mut text = serde_json::to_string_pretty(&sorted(document.content))?;
        text.push('\n');
        let twice = files.insert(Path::new("schemas").join(&document.path), text).is_some();
        ensure!(!twice, "two documents are named {}", document.path);
    }
    files.insert(COMMANDS.into(), commands());
    files.insert(configuration::PAGE.into(), configuration::page(root)?);
    Ok(files)
}

fn commands() -> String {
    format!(
        "<!-- Written by `make schemas` from crates/protocol and crates/xtask/src/original.rs; do not edit. -->\n\
         # Commands\n\n\
         All that an agent can be told, on `orch.v1.cmd.<host>.<command>`. [`schemas/v1/commands/`](../schemas/v1/commands) has\n\
         the parameters and the result of each, [`schemas/v1/examples/`](../schemas/v1/examples) a request with its reply,\n\
         [`orchestrator-ctl`](ctl.md) a subcommand for each, and `orchestrator-ctl raw HOST COMMAND JSON` sends any of them.\n\
         [`schemas/README.md`](../schemas/README.md) says how to speak to an agent from another language.\n\n\
         - A **query** only looks and never waits behind a job.\n\
         - A **change** is short; an agent does one after the other.\n\
         - A **job** is long: the reply is its id at once; events, progress and `jobs.abort` follow.\n\n\
         The sender's key must have the command's role. *replaces* names the endpoints of the HTTP agent that this one succeeds.\n\n\
         {}\n\
         ## Errors\n\n\
         An error has a stable code, a message, whether the same request may succeed later, and the causes. Every command can\n\
         answer with `bad_request`, `unknown_command`, `unsupported_version`, `too_large`, `expired`, `unauthenticated`,\n\
         `forbidden`, `busy`, `shutting_down`, `timed_out` and `internal`; a change or a job also with `replayed`. *own errors*\n\
         names the others. What fails later stands in the job's `error`.\n\n\
         ## The endpoints of the HTTP agent\n\n\
         None is missing. Each row names the test that runs the command on a real agent beside a real MariaDB; logical volumes\n\
         need a kernel with device-mapper, so their test runs in a VM.\n\n\
         {}",
        protocol::schema::commands_table(),
        original::table()
    )
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

/// The JSON files below `schemas/` and the two pages; others (a README) are not generated and none of our business.
fn present(root: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for page in [COMMANDS, configuration::PAGE] {
        if let Ok(text) = fs::read_to_string(root.join(page)) {
            files.insert(page.into(), text);
        }
    }
    let directory = root.join("schemas");
    if !directory.exists() {
        return Ok(files);
    }
    // Examples are recorded by their own test, which also compares them with the schemas; what ctl prints has its own too.
    let others = [directory.join("v1/examples"), directory.join("ctl")];
    let ours = |path: &Path| others.iter().all(|other| path != other);
    for entry in WalkDir::new(directory).into_iter().filter_entry(|entry| ours(entry.path())) {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "json") {
            let path = entry.path().strip_prefix(root)?.to_owned();
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
        let wanted =
            files(&[("schemas/same.json", "1"), ("schemas/changed.json", "2"), ("docs/new.md", "3")]);
        let present =
            files(&[("schemas/same.json", "1"), ("schemas/changed.json", "old"), ("schemas/gone.json", "4")]);
        assert_eq!(
            differences(&wanted, &present),
            [
                "docs/new.md is missing",
                "schemas/changed.json is not what the code says",
                "schemas/gone.json has no type behind it",
            ]
        );
    }
}
