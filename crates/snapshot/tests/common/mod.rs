//! File systems on loop devices, private to one test.
#![allow(dead_code, reason = "no test binary uses every file system")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A new file system of some MiB (sparse) mounted in a temporary directory; both go when this is dropped.
#[derive(Debug)]
pub(crate) struct LoopFs {
    _dir: TempDir,
    mount_point: PathBuf,
}

impl LoopFs {
    pub(crate) fn make(mkfs: &[&str], size_mib: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("oa-snapshot-").tempdir().unwrap();
        let image = dir.path().join("image");
        let mount_point = dir.path().join("fs");
        File::create(&image).unwrap().set_len(size_mib << 20).unwrap();
        fs::create_dir(&mount_point).unwrap();
        run(mkfs[0], mkfs[1..].iter().map(AsRef::as_ref).chain([image.as_path()]));
        // Test processes that run at once compete for the next free loop device.
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(refusal) = try_run("mount", [Path::new("-o"), Path::new("loop"), &image, &mount_point])
        {
            assert!(Instant::now() < deadline, "no loop mount: {refusal}");
            thread::sleep(Duration::from_millis(50));
        }
        Self { _dir: dir, mount_point }
    }

    pub(crate) fn xfs() -> Self {
        Self::make(&["mkfs.xfs", "-q", "-m", "reflink=1"], 320)
    }

    pub(crate) fn btrfs() -> Self {
        Self::make(&["mkfs.btrfs", "-q"], 160)
    }

    pub(crate) fn ext4() -> Self {
        Self::make(&["mkfs.ext4", "-q"], 64)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mount_point
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        // A test that failed may have left mounts on top; the loop device goes with the last of them.
        let _ = try_run("umount", [Path::new("-R"), Path::new("-l"), &self.mount_point]);
    }
}

fn try_run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a Path>) -> Result<(), String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let out = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .output()
        .map_err(|e| format!("{program} cannot be started ({e}); scripts/install-deps installs it"))?;
    if out.status.success() {
        Ok(())
    } else {
        Err(format!("{program}: {}", String::from_utf8_lossy(&out.stderr)))
    }
}

#[track_caller]
pub(crate) fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a Path>) {
    if let Err(refusal) = try_run(program, arguments) {
        panic!("{refusal}");
    }
}

/// True when this process may mount; says so loudly otherwise.
pub(crate) fn may_mount(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        testkit::skip::lacking(format_args!("mounting needs root ({test})"));
    }
    root
}
