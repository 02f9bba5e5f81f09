//! What lies in a directory, to see that nothing was touched or that a copy is one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::libc;

/// Entries by their path below the root.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// One file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Inode: another file of the same name has another one.
    pub inode: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// What a file holds; absent where it was not read.
    pub content: Option<Vec<u8>>,
}

/// Names and inodes: what stays as it is also below a running server.
///
/// # Panics
/// When the directory cannot be read.
#[must_use]
pub fn names(root: &Path) -> Tree {
    read(root, false)
}

/// Everything, for a datadir whose server is stopped.
///
/// # Panics
/// When the directory cannot be read.
#[must_use]
pub fn contents(root: &Path) -> Tree {
    read(root, true)
}

fn read(root: &Path, with_content: bool) -> Tree {
    let mut tree = Tree::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        // A server makes and removes temporary files as it runs.
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let content = (with_content && meta.is_file()).then(|| fs::read(&path).unwrap());
        let entry = Entry {
            inode: meta.ino(),
            mode: meta.mode() & (libc::S_IFMT | 0o7777),
            owner: (meta.uid(), meta.gid()),
            content,
        };
        tree.insert(path.strip_prefix(root).unwrap().to_owned(), entry);
    }
    tree
}

/// Fails unless every file of `copy` is in `original` with the same bytes.
///
/// # Panics
/// With the first file that differs.
pub fn assert_copy(copy: &Tree, original: &Tree) {
    for (path, entry) in copy {
        let Some(other) = original.get(path) else { panic!("{} is not in the original", path.display()) };
        assert!(entry.content == other.content, "{} differs from the original", path.display());
        assert_eq!(entry.mode, other.mode, "{}", path.display());
    }
}

/// The inode of a directory, by which another one in its place is known.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn inode(directory: &Path) -> u64 {
    fs::metadata(directory).unwrap().ino()
}

/// Files of a datadir that a server neither makes nor removes as it starts, runs and stops, by their inodes.
///
/// # Panics
/// When the directory cannot be read.
#[must_use]
pub fn lasting(datadir: &Path) -> BTreeMap<PathBuf, u64> {
    const PASSING: [&str; 11] = [
        "binlog.",
        "aria_log",
        "ib_",
        "ibtmp",
        "ddl_",
        "ddl-",
        "ddl.",
        "multi-master",
        "mysql_upgrade",
        "mariadb_upgrade",
        "tc.log",
    ];
    let lasting = |path: &Path| {
        let name = path.to_string_lossy();
        !PASSING.iter().any(|start| name.starts_with(start)) && !name.ends_with(".pid")
    };
    let all = names(datadir).into_iter().filter(|(path, _)| lasting(path));
    all.map(|(path, entry)| (path, entry.inode)).collect()
}
