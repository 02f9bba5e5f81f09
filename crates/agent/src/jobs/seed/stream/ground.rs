//! The ground on which the programs of a stream work: foreign bytes, which they may turn into files of the staged tree and into nothing else.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use mysql::datadir::Ownership;
use mysql::fence::Fence;
use mysql::process::User;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown};
use protocol::error::{ErrorCode, WireError};

use crate::errors::system;

/// Set-uid and set-gid.
const SPECIAL_RIGHTS: u32 = 0o6000;

/// One seed's part of the file system.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    /// The directory with everything of this seed, ours.
    pub(super) root: PathBuf,
    /// The new tree, below it.
    pub(super) staging: PathBuf,
    /// Whose the new tree will be.
    pub(super) owner: Ownership,
}

impl Ground {
    fn temporary(&self) -> PathBuf {
        self.root.join("temporary")
    }

    /// Gives the staged tree to its owner, with a directory for temporary files beside it, and makes the fence around both.
    pub(super) fn open(&self) -> Result<Fence, WireError> {
        let temporary = self.temporary();
        let user = Some(User { uid: self.owner.uid, gid: self.owner.gid })
            .filter(|user| Uid::effective().is_root() && user.uid != 0);
        let open = || -> io::Result<()> {
            match DirBuilder::new().mode(0o700).create(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let Some(user) = user else { return Ok(()) };
            // The user gets through the seed's directory, which stays ours.
            let root = open_dir(&self.root)?;
            let mode = root.metadata()?.mode() | 0o011;
            fchmod(root.as_fd(), Mode::from_bits_truncate(mode & 0o7777))?;
            for path in [&self.staging, &temporary] {
                let dir = open_dir(path)?;
                fchown(dir.as_fd(), Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
            }
            Ok(())
        };
        open().map_err(|e| {
            system(format!("the stream's programs get no place below {}", self.root.display()), &e)
        })?;
        let writable = vec![self.staging.clone(), temporary.clone()];
        Ok(Fence { user, writable, temporary: Some(temporary) })
    }

    /// Refuses a tree with anything in it that no datadir has: it would be swapped in, and root and the server follow links.
    pub(super) fn close(&self) -> Result<(), WireError> {
        let _ = fs::remove_dir_all(self.temporary());
        match self.first_intruder(&self.staging) {
            Ok(None) => Ok(()),
            Ok(Some((path, what))) => Err(WireError::new(
                ErrorCode::Refused,
                format!(
                    "the stream has made {} {what}: no datadir has such, so the donor or what it sent is not to be trusted",
                    path.strip_prefix(&self.staging).unwrap_or(&path).display()
                ),
            )),
            Err(error) => Err(system(format!("cannot look through {}", self.staging.display()), &error)),
        }
    }

    fn first_intruder(&self, dir: &Path) -> io::Result<Option<(PathBuf, &'static str)>> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            if let Some(what) = self.intrudes(&path, &meta)? {
                return Ok(Some((path, what)));
            }
            if meta.is_dir()
                && let Some(found) = self.first_intruder(&path)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// What is wrong with an entry of the tree.
    fn intrudes(&self, path: &Path, meta: &Metadata) -> io::Result<Option<&'static str>> {
        let kind = meta.file_type();
        Ok(if kind.is_symlink() {
            let leads = fs::read_link(path)?;
            let depth = path.strip_prefix(&self.staging).map_or(0, |below| below.components().count() - 1);
            (!stays_within(&leads, depth)).then_some("a link that leads out of it")
        } else if kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket() {
            Some("a device, pipe or socket")
        } else if meta.is_file() && meta.mode() & SPECIAL_RIGHTS != 0 {
            Some("a file with the set-uid or set-gid bit")
        } else if meta.is_file() && meta.nlink() > 1 {
            Some("a file that has another name elsewhere")
        } else {
            None
        })
    }
}

/// Whether a link in a directory `depth` levels below the top of a tree stays in it.
fn stays_within(leads: &Path, mut depth: usize) -> bool {
    leads.components().all(|part| match part {
        Component::CurDir => true,
        Component::Normal(_) => {
            depth += 1;
            true
        }
        Component::ParentDir if depth > 0 => {
            depth -= 1;
            true
        }
        _ => false,
    })
}

fn open_dir(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    File::options().read(true).custom_flags(flags.bits()).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn ground(root: &Path) -> Ground {
        let owner = Ownership { uid: Uid::effective().as_raw(), gid: Gid::effective().as_raw(), label: None };
        let ground = Ground { root: root.to_owned(), staging: root.join("data"), owner };
        fs::create_dir_all(ground.staging.join("shop")).unwrap();
        fs::write(ground.staging.join("shop/t.ibd"), "rows").unwrap();
        symlink("../ibdata1", ground.staging.join("shop/near")).unwrap();
        ground
    }

    #[test]
    fn what_no_datadir_has_is_refused() {
        type Plant = fn(&Path);
        let plants: [(&str, Plant); 7] = [
            ("link", |dir| symlink("/etc/passwd", dir.join("x")).unwrap()),
            ("link", |dir| symlink("../../outside", dir.join("x")).unwrap()),
            ("link", |dir| symlink("a/../../../outside", dir.join("x")).unwrap()),
            ("pipe", |dir| nix::unistd::mkfifo(&dir.join("x"), Mode::S_IRWXU).unwrap()),
            ("socket", |dir| drop(std::os::unix::net::UnixListener::bind(dir.join("x")).unwrap())),
            ("set-uid", |dir| {
                fs::write(dir.join("x"), "").unwrap();
                fs::set_permissions(dir.join("x"), fs::Permissions::from_mode(0o4755)).unwrap();
            }),
            ("another name", |dir| fs::hard_link(dir.join("t.ibd"), dir.join("x")).unwrap()),
        ];
        for (what, plant) in plants {
            let dir = tempfile::tempdir().unwrap();
            let ground = ground(dir.path());
            ground.close().unwrap();
            plant(&ground.staging.join("shop"));
            let error = ground.close().unwrap_err();
            assert!(error.code == ErrorCode::Refused && error.message.contains(what), "{what}: {error:?}");
        }
    }
}
