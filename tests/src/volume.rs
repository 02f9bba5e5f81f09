//! File systems on loop devices, private to one test.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use testkit::poll;

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// XFS with reflinks.
    Xfs,
    /// btrfs.
    Btrfs,
    /// ext4, which has neither.
    Ext4,
}

/// A new file system (a sparse image) mounted in a temporary directory; both go when this is dropped.
#[derive(Debug)]
pub struct Volume {
    /// Absent where someone else has mounted it.
    own: Option<TempDir>,
    mount_point: PathBuf,
}

impl Volume {
    /// Makes and mounts one.
    ///
    /// # Panics
    /// When the tools are missing or mounting is not allowed.
    #[must_use]
    pub fn make(kind: Kind, size_mib: u64) -> Self {
        Self::make_below(&std::env::temp_dir(), kind, size_mib)
    }

    /// As [`make`](Self::make), below a directory that a server in a tree of its own can see.
    ///
    /// # Panics
    /// As [`make`](Self::make).
    #[must_use]
    pub fn make_below(parent: &Path, kind: Kind, size_mib: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("oa-v-").tempdir_in(parent).unwrap();
        // Servers run as another user and must get through.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let (image, mount_point) = (dir.path().join("image"), dir.path().join("fs"));
        File::create(&image).unwrap().set_len(size_mib << 20).unwrap();
        fs::create_dir(&mount_point).unwrap();
        let made = match kind {
            Kind::Xfs => run("mkfs.xfs", &["-q", "-m", "reflink=1"], &[&image]),
            Kind::Btrfs => run("mkfs.btrfs", &["-q"], &[&image]),
            Kind::Ext4 => run("mkfs.ext4", &["-q", "-m", "0"], &[&image]),
        };
        made.unwrap_or_else(|refusal| panic!("{refusal}"));
        // Tests that run at once compete for the next free loop device.
        poll::until_true(Duration::from_secs(30), "a loop mount", || {
            run("mount", &["-o", "loop"], &[&image, &mount_point]).is_ok()
        });
        fs::set_permissions(&mount_point, Permissions::from_mode(0o755)).unwrap();
        Self { own: Some(dir), mount_point }
    }

    /// One that is mounted already, and stays.
    #[must_use]
    pub fn mounted(mount_point: impl Into<PathBuf>) -> Self {
        Self { own: None, mount_point: mount_point.into() }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount_point
    }
}

/// Takes away what is not on the disk of a [`Volume`] of XFS yet, as when the power fails, and mounts it again. Nothing may be open there.
///
/// # Panics
/// When it is another file system, or something on it is in use.
pub fn cut_power(mount_point: &Path) {
    let image = mount_point.with_file_name("image");
    let down = run("xfs_io", &["-x", "-c", "shutdown"], &[mount_point]);
    down.unwrap_or_else(|refusal| panic!("{refusal}"));
    let limit = Duration::from_secs(30);
    poll::until_true(limit, "the end of its users", || run("umount", &[], &[mount_point]).is_ok());
    poll::until_true(limit, "a loop mount", || run("mount", &["-o", "loop"], &[&image, mount_point]).is_ok());
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.own.is_some() {
            let _ = run("umount", &["-R", "-l"], &[&self.mount_point]);
        }
    }
}

/// Takes what is free on a file system, until dropped.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
}

impl Ballast {
    /// Fills the file system of a directory to its last block.
    ///
    /// # Panics
    /// When no file can be made there.
    #[must_use]
    pub fn fill(directory: &Path) -> Self {
        let path = directory.join("ballast");
        let file = File::create(&path).unwrap();
        let (mut length, mut step) = (0, 64 << 20);
        while step >= 4096 {
            match nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), length, step) {
                Ok(()) => length += step,
                Err(_) => step /= 2,
            }
        }
        Self { path }
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn run(program: &str, flags: &[&str], paths: &[&Path]) -> Result<(), String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program)
        .args(flags)
        .args(paths)
        .env("PATH", path)
        .output()
        .map_err(|e| format!("{program} cannot be started ({e}); scripts/install-deps installs it"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)))
}
