//! Whose the files of a datadir are, for the system and for SELinux.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::User;
use serde::{Deserialize, Serialize};
use sys::dir::Dir;

use crate::error::{Error, Result};

/// Extended attribute of the label that SELinux judges by (selinux(8)); other systems have none.
const SELINUX: &str = "security.selinux";

/// What every file of a datadir must have, or its server may not open it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// SELinux context, such as `system_u:object_r:mysqld_db_t:s0`; absent where the system has none.
    #[serde(default)]
    pub label: Option<String>,
}

impl Ownership {
    /// That of the old datadir, else of the user that the options name, else of `mysql`; those have no label.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is neither a datadir nor such a user.
    pub fn find(old_datadir: &Path, user_option: Option<&str>) -> Result<Self> {
        if let Ok(meta) = fs::metadata(old_datadir) {
            return Ok(Self { uid: meta.uid(), gid: meta.gid(), label: label_of(old_datadir) });
        }
        let user = User::from_name(user_option.unwrap_or("mysql")).ok().flatten();
        let user = user.ok_or(Error::NotFound { what: "the operating system user" })?;
        Ok(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), label: None })
    }
}

/// Gives a whole tree to its owner, links themselves and not what they point at. Blocking.
///
/// Files made below a directory have its label or the policy's for that place, and keep it when they are moved: a tree
/// that was received beside the datadir would be out of its server's reach.
///
/// # Errors
/// [`Error::Io`] for the first file that cannot be given away.
pub fn give_to(root: &Path, owner: &Ownership) -> Result<()> {
    let top = Dir::open(root).map_err(Error::io("open", root))?;
    give_all(&top, owner)?;
    // Last: until then nobody else comes in.
    let itself = || {
        std::os::unix::fs::fchown(&top, Some(owner.uid), Some(owner.gid))?;
        label(&top.by_descriptor().join("."), owner)
    };
    itself().map_err(Error::io("change the owner or label of", root))
}

fn give_all(dir: &Dir, owner: &Ownership) -> Result<()> {
    for name in dir.names().map_err(Error::io("list", dir.path()))? {
        let path = dir.path().join(&name);
        let below = match dir.metadata(Path::new(&name)).map_err(Error::io("read", &path))? {
            Some(meta) if meta.is_dir() => Some(dir.dir(Path::new(&name)).map_err(Error::io("open", &path))?),
            Some(_) => None,
            None => continue,
        };
        if let Some(below) = below {
            give_all(&below, owner)?;
        }
        give(dir, &name, owner).map_err(Error::io("change the owner or label of", &path))?;
    }
    Ok(())
}

/// One entry of a directory, itself if it is a link.
fn give(dir: &Dir, name: &OsStr, owner: &Ownership) -> io::Result<()> {
    let Some(meta) = dir.metadata(Path::new(name))? else { return Ok(()) };
    if (meta.uid(), meta.gid()) != (owner.uid, owner.gid) {
        dir.give(Path::new(name), owner.uid, owner.gid)?;
    }
    // No call labels what lies in a directory that is given by its descriptor.
    label(&dir.by_descriptor().join(name), owner)
}

fn label(path: &Path, owner: &Ownership) -> io::Result<()> {
    match &owner.label {
        Some(label) if label_of(path).as_ref() != Some(label) => set_label(path, label),
        _ => Ok(()),
    }
}

/// The label of a file or link itself.
fn label_of(path: &Path) -> Option<String> {
    let mut bytes = xattr::get(path, SELINUX).ok().flatten()?;
    // The kernel counts the terminating NUL as a part of the value.
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    String::from_utf8(bytes).ok()
}

fn set_label(path: &Path, label: &str) -> io::Result<()> {
    xattr::set(path, SELINUX, &[label.as_bytes(), b"\0"].concat())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::lchown;

    use super::*;

    const MYSQL: &str = "system_u:object_r:mysqld_db_t:s0";

    #[test]
    fn a_tree_gets_the_owner_and_the_label_of_the_old_datadir() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir_all(new.join("shop")).unwrap();
        fs::create_dir(&old).unwrap();
        fs::write(new.join("shop/items.ibd"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", new.join("link")).unwrap();
        if let Err(error) = lchown(&old, Some(4711), Some(4712)).and_then(|()| set_label(&old, MYSQL)) {
            testkit::skip!("only root may give files away and label them: {error}");
        }
        set_label(&new, "system_u:object_r:var_lib_t:s0").unwrap();
        let before = label_of(Path::new("/etc/passwd"));
        let owner = Ownership::find(&old, None).unwrap();
        assert_eq!(owner, Ownership { uid: 4711, gid: 4712, label: Some(MYSQL.to_owned()) });
        give_to(&new, &owner).unwrap();
        for path in [new.clone(), new.join("shop"), new.join("shop/items.ibd"), new.join("link")] {
            let meta = fs::symlink_metadata(&path).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (4711, 4712), "{}", path.display());
            assert_eq!(label_of(&path).as_deref(), Some(MYSQL), "{}", path.display());
        }
        assert_eq!(label_of(Path::new("/etc/passwd")), before, "a link was followed");
    }

    #[test]
    fn a_datadir_that_is_not_there_belongs_to_the_servers_user() {
        let missing = Path::new("/no/such/datadir");
        let root = Ownership::find(missing, Some("root")).unwrap();
        assert_eq!(root, Ownership { uid: 0, gid: 0, label: None });
        assert!(Ownership::find(missing, Some("no-such-user")).is_err());
    }

    #[test]
    fn a_directory_that_was_exchanged_for_a_link_gives_nothing_away() {
        let (tree, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("shadow"), "x").unwrap();
        let before = fs::metadata(outside.path().join("shadow")).unwrap().uid();
        std::os::unix::fs::symlink(outside.path(), tree.path().join("shop")).unwrap();
        let owner = Ownership { uid: 4711, gid: 4712, label: None };
        if give_to(tree.path(), &owner).is_err() {
            testkit::skip!("only root may give files away");
        }
        assert_eq!(fs::metadata(outside.path().join("shadow")).unwrap().uid(), before);
        assert_eq!(fs::symlink_metadata(tree.path().join("shop")).unwrap().uid(), 4711, "the link itself");
    }
}
