//! Developer tasks that keep the repository as its texts say: crate arrows, generated schemas, tidiness.
//!
//! A library beside the binary so that the same checks run as tests.

mod configuration;
mod ground;
pub mod layering;
mod modules;
pub mod mutants;
mod named;
pub mod original;
pub mod schemas;
pub mod tidy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Paths from the root to texts; what is not UTF-8 has no lines to judge.
type Files = BTreeMap<String, String>;

/// The top of this repository.
pub fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap_or(root)
}
