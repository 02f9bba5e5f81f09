//! What differs between the providers that keep directories.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use protocol::snapshot::ProviderKind;
use walkdir::WalkDir;

use crate::Error;
use crate::error::IoContext as _;
use crate::provider::Features;

/// Completes a copy, in the instant.
pub(super) type Take<'a> = Box<dyn FnOnce() -> Result<(), Error> + 'a>;

/// How trees are copied and deleted.
pub(super) trait Backend: Send + Sync + fmt::Debug {
    fn kind(&self) -> ProviderKind;
    fn features(&self) -> Features;
    /// Why it cannot work with this root; `None` when it can.
    fn missing(&self, root: &Path) -> Option<String>;
    /// The tree that is copied for a data directory.
    fn origin(&self, datadir: &Path) -> Result<PathBuf, Error>;
    /// What to copy for a data directory, checked.
    fn plan(&self, datadir: &Path, root: &Path) -> Result<Plan, Error>;
    /// Begins a copy of `source` at `target`, which does not exist, with all that need not wait for the instant.
    fn begin<'a>(&'a self, source: &'a Path, target: &'a Path) -> Result<Take<'a>, Error>;
    /// Makes a writable copy of a snapshot's tree.
    fn view(&self, tree: &Path, target: &Path) -> Result<(), Error>;
    /// Deletes a tree, or nothing.
    fn delete_tree(&self, path: &Path) -> Result<(), Error>;
    /// Whether a directory can be a snapshot of this kind.
    fn is_snapshot(&self, path: &Path) -> bool;
}

/// What to copy.
#[derive(Debug)]
pub(super) struct Plan {
    /// The tree.
    pub(super) source: PathBuf,
    /// The data directory relative to it.
    pub(super) inside: PathBuf,
}

/// The nearest directory that exists, at or above a path.
pub(super) fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/"))
}

/// Refuses a tree that contains the snapshots, or parts on another file system: they would be copied endlessly, or not at all.
pub(super) fn check_tree(datadir: &Path, source: &Path, root: &Path) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::Origin { datadir: datadir.to_owned(), reason });
    let device = fs::metadata(source).context("look at", source)?.dev();
    if root.starts_with(datadir) {
        return refuse(format!("the snapshot root {} lies inside it; choose another one", root.display()));
    }
    for entry in WalkDir::new(datadir).follow_links(false).into_iter() {
        let entry = match entry {
            Ok(entry) => entry,
            // A running server drops tables; a directory that is gone holds nothing.
            Err(e) if e.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => continue,
            Err(e) => return refuse(format!("it cannot be read: {e}")),
        };
        if entry.file_type().is_dir() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != device {
                return refuse(format!(
                    "{} is another file system or subvolume and would be missing in the snapshot",
                    entry.path().display()
                ));
            }
        }
    }
    Ok(())
}
