//! File systems that share blocks, each in a file of its own and mounted for one test.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

/// Tests that run at once compete for the next free loop device.
const PATIENCE: Duration = Duration::from_secs(10);

/// A mounted file system; it goes when this is dropped.
#[derive(Debug)]
pub struct Mounted {
    dir: TempDir,
}

impl Mounted {
    /// An XFS of some MiB, at least 300; `None` where none can be made and mounted.
    #[must_use]
    pub fn xfs(mib: u64) -> Option<Self> {
        Self::make(&["mkfs.xfs", "-q"], mib, "")
    }

    /// A btrfs, mounted with these options as well; `None` where none can be made and mounted.
    #[must_use]
    pub fn btrfs(mib: u64, options: &str) -> Option<Self> {
        Self::make(&["mkfs.btrfs", "-q"], mib, options)
    }

    fn make(mkfs: &[&str], mib: u64, options: &str) -> Option<Self> {
        let dir = TempDir::with_prefix("testkit-loopfs-").ok()?;
        let (image, place) = (dir.path().join("image"), dir.path().join("mnt"));
        File::create(&image).and_then(|image| image.set_len(mib << 20)).ok()?;
        fs::create_dir(&place).ok()?;
        let ran = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        if !ran(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image)) {
            return None;
        }
        let options = ["loop", options].join(if options.is_empty() { "" } else { "," });
        let mount = || ran(Command::new("mount").args(["-o", &options]).args([&image, &place])).then_some(());
        let patience = if nix::unistd::geteuid().is_root() { PATIENCE } else { Duration::ZERO };
        crate::poll::within(patience, mount).map(|()| Self { dir })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
