//! Read-only snapshots of btrfs subvolumes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, statfs};
use protocol::snapshot::ProviderKind;
use sys::process::{Error::Failed, Program};

use super::backend::{Backend, Plan, Take, check_tree, nearest_existing};
use crate::Error;
use crate::error::IoContext as _;
use crate::provider::Features;
use crate::run::run;

/// The inode of every subvolume's root.
const SUBVOLUME_INODE: u64 = 256;
/// Committing a transaction on a busy file system takes seconds, not minutes.
const LIMIT: Duration = Duration::from_secs(120);

/// Snapshots by the file system itself.
#[derive(Debug)]
pub(super) struct Subvolumes;

impl Backend for Subvolumes {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Btrfs
    }

    fn features(&self) -> Features {
        Features { atomic: true, private_views: true, extendable: false, shares_blocks: true }
    }

    fn missing(&self, root: &Path) -> Option<String> {
        let dir = nearest_existing(root);
        if !Program::is_installed("btrfs") {
            return Some("the program btrfs is not installed (package btrfs-progs)".to_owned());
        }
        match statfs(dir) {
            Ok(fs) if fs.filesystem_type() == BTRFS_SUPER_MAGIC => {}
            Ok(_) => return Some(format!("{} is not on a btrfs file system", dir.display())),
            Err(e) => return Some(format!("{} cannot be looked at: {e}", dir.display())),
        }
        (!nix::unistd::geteuid().is_root()).then(|| "removing subvolumes needs root".to_owned())
    }

    fn origin(&self, datadir: &Path) -> Result<PathBuf, Error> {
        let on_btrfs = statfs(datadir).is_ok_and(|fs| fs.filesystem_type() == BTRFS_SUPER_MAGIC);
        let subvolume = datadir.ancestors().find(|p| is_subvolume(p)).filter(|_| on_btrfs);
        subvolume.map(Path::to_owned).ok_or_else(|| Error::Origin {
            datadir: datadir.to_owned(),
            reason: "it is not on a btrfs file system".to_owned(),
        })
    }

    fn plan(&self, datadir: &Path, root: &Path) -> Result<Plan, Error> {
        let source = self.origin(datadir)?;
        check_tree(datadir, &source, root)?;
        let inside = datadir.strip_prefix(&source).unwrap_or(Path::new("")).to_owned();
        Ok(Plan { source, inside })
    }

    fn begin<'a>(&'a self, source: &'a Path, target: &'a Path) -> Result<Take<'a>, Error> {
        Ok(Box::new(|| take(source, target)))
    }

    fn view(&self, tree: &Path, target: &Path) -> Result<(), Error> {
        btrfs(&["subvolume", "snapshot"], &[tree, target])
    }

    fn delete_tree(&self, path: &Path) -> Result<(), Error> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        if is_subvolume(path) {
            return btrfs(&["subvolume", "delete"], &[path]);
        }
        let data: PathBuf = path.join(super::DATA);
        if is_subvolume(&data) {
            btrfs(&["subvolume", "delete"], &[&data])?;
        }
        fs::remove_dir_all(path).context("remove", path)
    }

    fn is_snapshot(&self, path: &Path) -> bool {
        is_subvolume(path)
    }
}

fn take(source: &Path, target: &Path) -> Result<(), Error> {
    btrfs(&["subvolume", "snapshot", "-r"], &[source, target]).map_err(|error| match error {
        // The tool's line alone does not tell a person what to change.
        Error::Tool(Failed { last_words, .. }) if last_words.contains("Invalid cross-device link") => {
            Error::Origin {
                datadir: source.to_owned(),
                reason: format!(
                    "{} is on another file system; the snapshot root must be on the same one",
                    target.display()
                ),
            }
        }
        other => other,
    })
}

fn is_subvolume(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir() && m.ino() == SUBVOLUME_INODE)
}

fn btrfs(words: &[&str], paths: &[&Path]) -> Result<(), Error> {
    let mut argv = vec!["btrfs".to_owned()];
    argv.extend(words.iter().map(|&w| w.to_owned()));
    for path in paths {
        let text = path.to_str().ok_or_else(|| Error::Origin {
            datadir: (*path).to_owned(),
            reason: "its path is not UTF-8".to_owned(),
        })?;
        argv.push(text.to_owned());
    }
    run(&argv, &BTreeMap::new(), LIMIT)?.success()?;
    Ok(())
}
