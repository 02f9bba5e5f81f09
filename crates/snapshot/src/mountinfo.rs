//! Reads the kernel's mount table, and takes mounts out of it.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::Error;
use crate::error::IoContext as _;

const TABLE: &str = "/proc/self/mountinfo";
/// Who only looks at all mounts, as monitoring does, or ends just now, is out again within this.
pub(crate) const LOOK: Duration = Duration::from_secs(3);

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountLine {
    /// Device of the file system as (major, minor).
    pub(crate) device: (u32, u32),
    /// What of the file system is mounted.
    pub(crate) root: PathBuf,
    /// Where.
    pub(crate) mount_point: PathBuf,
    /// True without the mount option `ro`.
    pub(crate) writable: bool,
}

/// Unmounts; while somebody is in there it tries again, for as long as `patience`. What is lazily detached is not
/// unmounted, so that is never done.
///
/// # Errors
/// [`Error::Io`] with the kernel's reason: `EBUSY` when somebody still is in there.
pub fn unmount(path: &Path, patience: Duration) -> Result<(), Error> {
    unmount_pausing(path, patience, || std::thread::sleep(Duration::from_millis(50)))
}

fn unmount_pausing(path: &Path, patience: Duration, mut pause: impl FnMut()) -> Result<(), Error> {
    let deadline = Instant::now() + patience;
    loop {
        match umount2(path, MntFlags::empty()) {
            Err(Errno::EBUSY) if Instant::now() < deadline => pause(),
            done => return done.context("unmount", path),
        }
    }
}

/// The mounts of this process's namespace, in the kernel's order.
pub(crate) fn read() -> Result<Vec<MountLine>, Error> {
    let bytes = fs::read(TABLE).context("read", Path::new(TABLE))?;
    Ok(parse(&bytes))
}

/// Lines that do not look like a mount are left out: a later kernel may add some.
fn parse(bytes: &[u8]) -> Vec<MountLine> {
    bytes.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountLine> {
    let mut fields = line.split(|&b| b == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let root = unescape(fields.next()?);
    let mount_point = unescape(fields.next()?);
    let writable = !fields.next()?.split(|&b| b == b',').any(|o| o == b"ro");
    Some(MountLine { device: (major.parse().ok()?, minor.parse().ok()?), root, mount_point, writable })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        if let Some(digits) = octal {
            let value = digits.iter().fold(0_u32, |v, d| v * 8 + u32::from(d - b'0'));
            out.push(u8::try_from(value & 0xff).unwrap_or(b'?'));
            rest = &tail[3..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// The mount that a path is on: the last of the longest matching mount points.
pub(crate) fn covering<'a>(table: &'a [MountLine], path: &Path) -> Option<&'a MountLine> {
    let mut best: Option<&MountLine> = None;
    for line in table.iter().filter(|l| path.starts_with(&l.mount_point)) {
        let longer = |b: &MountLine| line.mount_point.as_os_str().len() >= b.mount_point.as_os_str().len();
        if best.is_none_or(longer) {
            best = Some(line);
        }
    }
    best
}

/// Where a path is inside its file system, as the mount table's `root` field would write it.
pub(crate) fn inside_file_system(line: &MountLine, path: &Path) -> PathBuf {
    let below = path.strip_prefix(&line.mount_point).unwrap_or(Path::new(""));
    if below.as_os_str().is_empty() { line.root.clone() } else { line.root.join(below) }
}

/// True when something is mounted exactly there.
pub(crate) fn is_mount_point(path: &Path) -> Result<bool, Error> {
    Ok(read()?.iter().any(|l| l.mount_point == path))
}

/// The kernel's id of the mount that a path is on.
pub(crate) fn mount_id(path: &Path) -> Result<u64, Error> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY).bits())
        .open(path)
        .context("open", path)?;
    let info = PathBuf::from(format!("/proc/self/fdinfo/{}", file.as_raw_fd()));
    let text = fs::read_to_string(&info).context("read", &info)?;
    text.lines()
        .find_map(|l| l.strip_prefix("mnt_id:"))
        .and_then(|v| v.trim().parse().ok())
        .ok_or_else(|| Error::Damaged { path: info, detail: "it has no line `mnt_id:`".to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &[u8] = b"22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
        36 22 253:4 / /snap\\040shots/vg0%2Fa ro,relatime shared:5 - xfs /dev/mapper/vg0-a ro,nouuid\n\
        37 22 253:0 /mysql /var/lib/mysql rw - xfs /dev/mapper/vg0-data rw\n\
        nonsense\n";

    #[test]
    fn who_only_looks_at_a_mount_does_not_keep_it() {
        let dir = tempfile::tempdir().unwrap();
        let none: Option<&str> = None;
        if let Err(error) = nix::mount::mount(
            Some("looked-at"),
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            none,
        ) {
            testkit::skip!("tmpfs cannot be mounted: {error}");
        }
        let mut look = fs::File::open(dir.path()).ok();
        unmount_pausing(dir.path(), LOOK, || look = None).unwrap();
        assert!(look.is_none(), "it was busy at first");
    }

    #[test]
    fn lines_are_read_with_their_escapes() {
        let table = parse(SAMPLE);
        assert_eq!(table.len(), 3);
        assert_eq!(table[1].mount_point, Path::new("/snap shots/vg0%2Fa"));
        assert_eq!((table[1].device, table[1].writable), ((253, 4), false));
    }

    #[test]
    fn a_path_belongs_to_the_innermost_mount() {
        let table = parse(SAMPLE);
        let line = covering(&table, Path::new("/var/lib/mysql/db1")).unwrap();
        assert_eq!(line.device, (253, 0));
        assert_eq!(inside_file_system(line, Path::new("/var/lib/mysql/db1")), Path::new("/mysql/db1"));
        assert_eq!(covering(&table, Path::new("/var/lib/mysqlx")).unwrap().device, (8, 1));
    }

    #[test]
    fn the_real_table_has_a_root_and_ids() {
        let table = read().unwrap();
        assert!(covering(&table, Path::new("/")).is_some());
        assert!(mount_id(Path::new("/")).unwrap() > 0);
        assert_ne!(mount_id(Path::new("/")).unwrap(), mount_id(Path::new("/proc")).unwrap());
    }

    proptest! {
        #[test]
        fn no_line_breaks_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn fuzz_tables_of_mounts() {
        let samples =
            [&b"36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"[..]];
        testkit::fuzz::run("mountinfo", &samples, 5000, |bytes| {
            let lines = bytes.split(|&b| b == b'\n').count();
            assert!(parse(bytes).len() <= lines);
        });
    }
}
