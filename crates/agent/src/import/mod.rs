//! `orchestrator-agent import`: the configuration of the Go agent (`orchestrator-agent.conf.json`) as ours, every key of it accounted for.
//!
//! What is the same is taken. A line of its shell becomes a program with arguments where it is one, and else a script for a person to
//! review; what would run it stays a comment until then. Secrets go into files of their own and are never shown.

mod draft;
mod keys;
mod words;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value};
use sys::dir::{Dir, Rights};

pub(crate) use draft::Draft;

/// Larger than any configuration of people.
const MAX_BYTES: u64 = 1 << 20;

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As it was.
    Taken,
    /// Taken, and it means something else now.
    Changed,
    /// What it was for is done without it.
    Needless,
    /// A person has to look at it.
    Decide,
    /// It is none of the original's.
    Unknown,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Changed => "changed",
            Self::Needless => "needless",
            Self::Decide => "DECIDE",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// Reads a configuration of the original.
///
/// # Errors
/// A file that cannot be read, or that is no JSON object.
pub(crate) fn read(file: &Path) -> anyhow::Result<Draft> {
    let length = fs::metadata(file).with_context(|| format!("cannot look at {}", file.display()))?.len();
    if length > MAX_BYTES {
        bail!("{} has {length} bytes: that is no configuration", file.display());
    }
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let values: Map<String, Value> = serde_json::from_str(&text)
        .with_context(|| format!("{} is no JSON object as the original reads it", file.display()))?;
    Ok(keys::import(&values))
}

/// What became of each key, the troublesome ones last, where they are seen.
pub(crate) fn report(draft: &Draft) -> String {
    let mut accounts: Vec<_> = draft.accounts().iter().collect();
    accounts.sort_by_key(|account| matches!(account.outcome, Outcome::Decide | Outcome::Unknown));
    let width = accounts.iter().map(|account| account.key.chars().count()).max().unwrap_or(0);
    let line = |account: &&draft::Account| {
        let key = sys::text::line(&account.key).into_owned();
        format!("{:<9} {key:<width$}  {}\n", account.outcome.word(), sys::text::line(&account.says))
    };
    accounts.iter().map(line).collect()
}

/// Whether a person has to look at something before the result is whole.
pub(crate) fn is_whole(draft: &Draft) -> bool {
    !draft.accounts().iter().any(|account| matches!(account.outcome, Outcome::Decide | Outcome::Unknown))
}

/// Writes the configuration, scripts and secrets into a new directory; the files' names.
///
/// # Errors
/// A directory that is there already: nothing in it is overwritten.
pub(crate) fn write(draft: &Draft, into: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let failed = |path: &Path| format!("cannot write {}", path.display());
    match fs::DirBuilder::new().create(into) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{} is there already, and nothing is overwritten: name a new directory", into.display());
        }
        made => made.with_context(|| format!("cannot make {}", into.display()))?,
    }
    let dir = Dir::open(into).with_context(|| failed(into))?;
    dir.set_mode(0o700).with_context(|| failed(into))?;
    let mut written = Vec::new();
    for file in draft.files() {
        let path = into.join(file.name);
        dir.write(Path::new(file.name), file.text.as_bytes(), Rights::own(file.mode))
            .with_context(|| failed(&path))?;
        written.push(path);
    }
    Ok(written)
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
