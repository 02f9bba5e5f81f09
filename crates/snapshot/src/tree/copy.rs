//! Copies of trees, file by file: plain, or with shared blocks.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use protocol::snapshot::ProviderKind;

use super::backend::{Backend, Plan, Take, check_tree, nearest_existing};
use super::entry::errno;
use super::mirror::Mirror;
use crate::Error;
use crate::error::IoContext as _;
use crate::provider::Features;

/// Copies that are made file after file: the server must stand still while the last of them are made.
#[derive(Debug)]
pub(super) struct Copies {
    pub(super) reflink: bool,
}

impl Backend for Copies {
    fn kind(&self) -> ProviderKind {
        if self.reflink { ProviderKind::Reflink } else { ProviderKind::Directory }
    }

    fn features(&self) -> Features {
        Features { atomic: false, private_views: true, extendable: false, shares_blocks: self.reflink }
    }

    fn missing(&self, root: &Path) -> Option<String> {
        let dir = nearest_existing(root);
        if self.reflink {
            return clone_probe(dir).err().map(|e| match e {
                Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOTTY => {
                    format!("the file system of {} cannot share blocks between files (XFS with reflink=1 and btrfs can)", dir.display())
                }
                e => format!("{} cannot be written: {e}", dir.display()),
            });
        }
        nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK)
            .err()
            .map(|e| format!("{} cannot be written: {e}", dir.display()))
    }

    fn origin(&self, datadir: &Path) -> Result<PathBuf, Error> {
        Ok(datadir.to_owned())
    }

    fn plan(&self, datadir: &Path, root: &Path) -> Result<Plan, Error> {
        check_tree(datadir, datadir, root)?;
        Ok(Plan { source: datadir.to_owned(), inside: PathBuf::new() })
    }

    fn begin<'a>(&'a self, source: &'a Path, target: &'a Path) -> Result<Take<'a>, Error> {
        let mut mirror = Mirror::new(source, target, self.reflink);
        mirror.ahead()?;
        Ok(Box::new(|| mirror.complete()))
    }

    fn view(&self, tree: &Path, target: &Path) -> Result<(), Error> {
        Mirror::new(tree, target, self.reflink).complete()
    }

    fn delete_tree(&self, path: &Path) -> Result<(), Error> {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("remove", path),
            _ => Ok(()),
        }
    }

    fn is_snapshot(&self, path: &Path) -> bool {
        path.is_dir()
    }
}

/// Shares blocks between two files without a name, which no crash can leave behind.
fn clone_probe(dir: &Path) -> Result<(), Errno> {
    let unnamed = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlag::O_TMPFILE.bits())
            .open(dir)
            .map_err(errno)
    };
    let (original, copy) = (unnamed()?, unnamed()?);
    sys::file::share_blocks(&original, &copy).map_err(errno)
}
