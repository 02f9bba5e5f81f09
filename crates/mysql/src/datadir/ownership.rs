//! Whose the files of a datadir are, for the system and for SELinux.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;

use nix::unistd::User;
use serde::{Deserialize, Serialize};

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
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(root).to_owned();
            Error::Io { action: "walk", path, source: e.into() }
        })?;
        let path = entry.path();
        let meta = entry.metadata().map_err(|e| Error::Io {
            action: "read",
            path: path.to_owned(),
            source: e.into(),
        })?;
        if (meta.uid(), meta.gid()) != (owner.uid, owner.gid) {
            lchown(path, Some(owner.uid), Some(owner.gid)).map_err(Error::io("change the owner of", path))?;
        }
        if let Some(label) = &owner.label
            && label_of(path).as_ref() != Some(label)
        {
            set_label(path, label).map_err(Error::io("set the SELinux label of", path))?;
        }
    }
    Ok(())
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
}
