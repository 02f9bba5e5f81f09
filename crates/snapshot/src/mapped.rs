//! Which files some process writes to through its memory.

use std::collections::HashSet;
use std::fs;

/// Inodes that are mapped for shared writing, on whatever file system: a write to such a page need not show in the
/// file's times, and on persistent memory it never does. Processes that this one may not look at are left out.
pub(crate) fn inodes_mapped_for_writing() -> HashSet<u64> {
    let Ok(processes) = fs::read_dir("/proc") else { return HashSet::new() };
    processes
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit))
        .filter_map(|entry| fs::read(entry.path().join("maps")).ok())
        .flat_map(|maps| in_maps(&String::from_utf8_lossy(&maps)))
        .collect()
}

/// From `/proc/PID/maps`: address, permissions, offset, device, inode, path.
fn in_maps(maps: &str) -> HashSet<u64> {
    let inode = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let permissions = fields.next()?.as_bytes();
        let is_shared_for_writing = permissions.get(1) == Some(&b'w') && permissions.get(3) == Some(&b's');
        fields.nth(2)?.parse().ok().filter(|&inode| is_shared_for_writing && inode != 0)
    };
    maps.lines().filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::fs::MetadataExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_shared_writable_maps_of_files_count() {
        let maps = "\
            7f01-7f02 rw-s 00000000 103:02 4711 /var/lib/mysql/ib_logfile0\n\
            7f02-7f03 rw-p 00000000 103:02 12 /usr/sbin/mariadbd\n\
            7f03-7f04 r--s 00000000 103:02 13 /usr/share/mysql/errmsg.sys\n\
            7f04-7f05 rw-s 00000000 00:01 0\n\
            nonsense\n";
        assert_eq!(in_maps(maps), HashSet::from([4711]));
    }

    #[test]
    fn a_file_that_another_process_has_mapped_is_found() {
        const MAPS: &str = "
import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDWR); m = mmap.mmap(f, 4096); os.close(f)
print('mapped', flush=True); sys.stdin.read()
";
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let inode = file.as_file().metadata().unwrap().ino();
        assert!(!inodes_mapped_for_writing().contains(&inode));
        let mut command = Command::new("python3");
        command.args(["-c", MAPS]).arg(file.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mapped\n");
        assert!(inodes_mapped_for_writing().contains(&inode));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
