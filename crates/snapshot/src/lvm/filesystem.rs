//! Which file system a volume holds, and how its snapshot is mounted.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::Error;
use crate::error::IoContext as _;
use crate::provider::MountMode;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileSystem {
    Xfs,
    /// ext2, ext3 and ext4: one driver mounts all.
    Ext4,
    Btrfs,
}

/// Covers the superblocks of all three.
const HEAD_BYTES: usize = 0x1_0048;

fn detect(head: &[u8]) -> Option<FileSystem> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    if at(0, b"XFSB") {
        Some(FileSystem::Xfs)
    } else if at(0x1_0040, b"_BHRfS_M") {
        Some(FileSystem::Btrfs)
    } else if at(0x438, &[0x53, 0xef]) {
        Some(FileSystem::Ext4)
    } else {
        None
    }
}

/// Type and options. The origin is mounted too, so XFS must be told that the same UUID is meant. Where the device can be written, the log is
/// replayed even for a read-only mount (the writes go to the snapshot's own store): without it files may have yesterday's lengths.
fn options(fs: FileSystem, device_read_only: bool) -> (&'static str, &'static str) {
    match (fs, device_read_only) {
        (FileSystem::Xfs, false) => ("xfs", "nouuid"),
        (FileSystem::Xfs, true) => ("xfs", "nouuid,norecovery"),
        (FileSystem::Ext4, false) => ("ext4", ""),
        (FileSystem::Ext4, true) => ("ext4", "noload"),
        (FileSystem::Btrfs, _) => ("btrfs", ""),
    }
}

/// Mounts a snapshot's device.
pub(crate) fn mount_device(
    device: &Path,
    target: &Path,
    mode: MountMode,
    device_read_only: bool,
) -> Result<(), Error> {
    let mut head = vec![0_u8; HEAD_BYTES];
    let file = File::open(device).context("open", device)?;
    file.read_exact_at(&mut head, 0).context("read the superblock of", device)?;
    drop(file);
    let fs = detect(&head).ok_or_else(|| Error::MountPoint {
        path: target.to_owned(),
        reason: format!("{} holds no file system that is known here (xfs, ext4, btrfs)", device.display()),
    })?;
    let (kind, data) = options(fs, device_read_only);
    let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    if mode == MountMode::ReadOnly {
        flags |= MsFlags::MS_RDONLY;
    }
    mount(Some(device), target, Some(kind), flags, Some(data)).context("mount", device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_are_told_apart() {
        let head = |offset: usize, magic: &[u8]| {
            let mut bytes = vec![0_u8; HEAD_BYTES];
            bytes[offset..offset + magic.len()].copy_from_slice(magic);
            bytes
        };
        assert_eq!(detect(&head(0, b"XFSB")), Some(FileSystem::Xfs));
        assert_eq!(detect(&head(0x438, &[0x53, 0xef])), Some(FileSystem::Ext4));
        assert_eq!(detect(&head(0x1_0040, b"_BHRfS_M")), Some(FileSystem::Btrfs));
        assert_eq!(detect(&head(0, b"nothing")), None);
        assert_eq!(detect(b"XF"), None);
    }

    #[test]
    fn options_are_those_that_were_tried() {
        // mount-xfs-thick-snapshot-variants, mount-xfs-readonly-snapshot-variants, mount-ext4-thick-snapshot-variants.
        assert_eq!(options(FileSystem::Xfs, false), ("xfs", "nouuid"));
        assert_eq!(options(FileSystem::Xfs, true), ("xfs", "nouuid,norecovery"));
        assert_eq!(options(FileSystem::Ext4, true), ("ext4", "noload"));
    }
}
