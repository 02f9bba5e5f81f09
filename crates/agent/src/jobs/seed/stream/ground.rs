//! The ground on which the programs of a stream work: foreign bytes, which they may turn into files of the staged tree and into nothing else.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use mysql::datadir::Ownership;
use mysql::fence::Fence;
use mysql::process::User;
use nix::unistd::Uid;
use protocol::error::{ErrorCode, WireError};
use sys::dir::Dir;

use super::super::swap::{Held, Layout};
use crate::errors::system;

/// The staged tree in the seed's directory.
const STAGED: &str = "data";
/// Where the programs' temporary files go, beside it.
const TEMPORARY: &str = "temporary";
/// Set-uid and set-gid.
const SPECIAL_RIGHTS: u32 = 0o6000;

/// One seed's part of the file system. The directory is held: the data's owner may rename what leads to it.
#[derive(Debug)]
pub(super) struct Ground {
    held: Held,
    layout: Layout,
    /// Whose the new tree will be.
    owner: Ownership,
}

impl Ground {
    /// The ground of a seed whose directory is there.
    pub(super) fn of(layout: &Layout, owner: Ownership) -> Result<Self, WireError> {
        let held = layout.hold().map_err(|e| system("the staging directory cannot be opened", &e))?;
        Ok(Self { held, layout: layout.clone(), owner })
    }

    /// A path to the staged tree, for this process while this is held.
    pub(super) fn path(&self) -> PathBuf {
        self.held.staging()
    }

    /// The staged tree.
    pub(super) fn tree(&self) -> io::Result<Dir> {
        self.held.root().dir(Path::new(STAGED))
    }

    /// Gives the staged tree to its owner, with a directory for temporary files beside it, and makes the fence around both. The
    /// fence is put around a program while this is held.
    pub(super) fn open(&self) -> Result<Fence, WireError> {
        let root = self.held.root();
        let user = Some(User { uid: self.owner.uid, gid: self.owner.gid })
            .filter(|user| Uid::effective().is_root() && user.uid != 0);
        let open = || -> io::Result<()> {
            match root.make_dir(Path::new(TEMPORARY), 0o700) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let Some(user) = user else { return Ok(()) };
            // The user gets through the seed's directory, which stays ours.
            root.set_mode(0o711)?;
            [STAGED, TEMPORARY].iter().try_for_each(|name| root.give(Path::new(name), user.uid, user.gid))
        };
        let place = self.layout.root();
        open().map_err(|e| {
            system(format!("the stream's programs get no place below {}", place.display()), &e)
        })?;
        let writable = [STAGED, TEMPORARY].map(|name| root.by_descriptor().join(name)).to_vec();
        Ok(Fence { user, writable, temporary: Some(place.join(TEMPORARY)) })
    }

    /// Refuses a tree with anything in it that no datadir has: it would be swapped in, and root and the server follow links.
    pub(super) fn close(&self) -> Result<(), WireError> {
        let _ = self.held.root().remove(Path::new(TEMPORARY));
        match self.tree().and_then(|tree| first_intruder(&tree, Path::new(""), 0)) {
            Ok(None) => Ok(()),
            Ok(Some((path, what))) => Err(WireError::new(
                ErrorCode::Refused,
                format!(
                    "the stream has made {} {what}: no datadir has such, so the donor or what it sent is not to be trusted",
                    path.display()
                ),
            )),
            Err(error) => {
                Err(system(format!("cannot look through {}", self.layout.staging().display()), &error))
            }
        }
    }
}

/// What no datadir has, in a directory `depth` levels below the top of the tree, where it is called `below`.
fn first_intruder(dir: &Dir, below: &Path, depth: usize) -> io::Result<Option<(PathBuf, &'static str)>> {
    for name in dir.names()? {
        let name = Path::new(&name);
        let Some(meta) = dir.metadata(name)? else { continue };
        let path = below.join(name);
        if let Some(what) = intrudes(dir, name, &meta, depth)? {
            return Ok(Some((path, what)));
        }
        if meta.is_dir()
            && let Some(found) = first_intruder(&dir.dir(name)?, &path, depth + 1)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// What is wrong with an entry of the tree.
fn intrudes(dir: &Dir, name: &Path, meta: &Metadata, depth: usize) -> io::Result<Option<&'static str>> {
    let kind = meta.file_type();
    Ok(if kind.is_symlink() {
        (!stays_within(&dir.read_link(name)?, depth)).then_some("a link that leads out of it")
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use nix::sys::stat::Mode;
    use nix::unistd::Gid;
    use protocol::ids::JobId;

    use super::*;

    fn ground(root: &Path) -> Ground {
        let owner = Ownership { uid: Uid::effective().as_raw(), gid: Gid::effective().as_raw(), label: None };
        let layout = Layout::of(&root.join("mysql"), JobId::generate()).unwrap();
        layout.prepare().unwrap();
        let staging = layout.staging();
        fs::create_dir_all(staging.join("shop")).unwrap();
        fs::write(staging.join("shop/t.ibd"), "rows").unwrap();
        symlink("../ibdata1", staging.join("shop/near")).unwrap();
        Ground::of(&layout, owner).unwrap()
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
            plant(&ground.layout.staging().join("shop"));
            let error = ground.close().unwrap_err();
            assert!(error.code == ErrorCode::Refused && error.message.contains(what), "{what}: {error:?}");
        }
    }

    /// Attacker: the data's owner, to whom the directory above belongs.
    #[test]
    fn a_seeds_directory_that_is_exchanged_for_a_link_gives_nothing_of_roots_away() {
        if !Uid::effective().is_root() {
            testkit::skip!("only root can give directories away");
        }
        let dir = tempfile::tempdir().unwrap();
        let ground = ground(dir.path());
        let ground = Ground { owner: Ownership { uid: 65_534, gid: 65_534, label: None }, ..ground };
        let roots = tempfile::tempdir().unwrap();
        for name in [STAGED, TEMPORARY] {
            fs::create_dir(roots.path().join(name)).unwrap();
            fs::write(roots.path().join(name).join("precious"), "").unwrap();
        }
        let (place, away) = (ground.layout.root(), dir.path().join("away"));
        fs::rename(place, &away).unwrap();
        symlink(roots.path(), place).unwrap();
        let fence = ground.open().unwrap();
        ground.close().unwrap();
        for name in [STAGED, TEMPORARY] {
            let meta = fs::symlink_metadata(roots.path().join(name)).unwrap();
            assert_eq!(meta.uid(), 0, "{name} of root's was given away");
            assert!(roots.path().join(name).join("precious").exists(), "{name} of root's was emptied");
        }
        assert_eq!(fs::metadata(away.join(STAGED)).unwrap().uid(), 65_534, "the held one was given");
        assert!(fence.writable.iter().all(|path| !path.starts_with(place)), "{fence:?}");
        let again = Ground::of(&ground.layout, ground.owner.clone()).unwrap_err();
        assert!(again.message.contains("cannot be opened"), "{again:?}");
    }
}
