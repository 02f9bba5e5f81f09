//! Where a server keeps what: the layouts that real hosts have.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::place::give_to_mysql;

/// A layout. In lines, `{base}` is a directory of the server's own beside its datadir, and `{datadir}` the datadir as it is named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// Lines added to `[mysqld]`.
    pub lines: &'static [&'static str],
    /// Directories made for it, relative to its base; the datadir is `data`.
    pub directories: &'static [&'static str],
    /// Files made for it: their paths, relative to its base, and what they say.
    pub files: &'static [(&'static str, &'static str)],
    /// What begins so at the top of its datadir lies in another directory, relative to its base, before its first start.
    pub moved: &'static [(&'static str, &'static str)],
    /// Its datadir is named by a link.
    pub is_linked: bool,
}

impl Shape {
    pub(super) fn datadir(&self, base: &Path, given: Option<&Path>) -> PathBuf {
        match given {
            Some(given) => given.to_owned(),
            None if self.is_linked => base.join("link"),
            None => base.join("data"),
        }
    }

    /// Before anything is copied into the datadir.
    pub(super) fn link(&self, base: &Path) -> Result<()> {
        if self.is_linked {
            fs::create_dir(base.join("data"))?;
            give_to_mysql(&base.join("data"))?;
            symlink(base.join("data"), base.join("link"))?;
        }
        Ok(())
    }

    /// Once the datadir is filled.
    pub(super) fn make(&self, base: &Path, datadir: &Path) -> Result<()> {
        for directory in self.directories {
            let path = base.join(directory);
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o750))?;
            give_to_mysql(&path)?;
        }
        for (file, text) in self.files {
            fs::write(base.join(file), text)?;
        }
        for (prefix, directory) in self.moved {
            for entry in fs::read_dir(datadir)? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().starts_with(prefix) {
                    fs::rename(entry.path(), base.join(directory).join(entry.file_name()))?;
                }
            }
        }
        Ok(())
    }
}

/// A line with the places filled in.
pub(super) fn placed(line: &str, base: &Path, datadir: &Path) -> String {
    line.replace("{base}", &base.display().to_string()).replace("{datadir}", &datadir.display().to_string())
}
