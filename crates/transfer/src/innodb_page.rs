//! Checks the checksums of InnoDB's pages while they pass: a torn or rotten page on the donor is named before it becomes a
//! replica's problem.
//!
//! Knows the formats `crc32` (MySQL, MariaDB), the older `innodb` and `none`, and MariaDB's `full_crc32`, for pages of 4 to
//! 64 KiB. What cannot be judged without unpacking or a key is left alone: files in `ROW_FORMAT=COMPRESSED`, compressed pages, and
//! encrypted pages of formats that do not sum the encrypted bytes.
//!
//! A snapshot of a running server may hold pages that were half written at that instant; crash recovery mends them from the doublewrite
//! buffer. Hence the usual policy is to warn.

use crate::frame::le_u32;

/// What to do about a page whose checksum is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PagePolicy {
    /// Do not look.
    Off,
    /// Name it in the log and in the donor's report, and go on.
    #[default]
    Warn,
    /// Fail the seed.
    Fail,
}

/// A page with a wrong checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPage {
    /// The file, relative to the root; for a table in its own file this names schema and table.
    pub path: std::path::PathBuf,
    /// The page's number in the file.
    pub page: u64,
}

/// Bytes of a file's start that tell its format.
pub(crate) const HEAD_LEN: usize = 64;

/// Offsets in a page, and in the first page of a file.
const SPACE_ID: usize = 34;
const PAGE_NUMBER: usize = 4;
const PAGE_TYPE: usize = 24;
const KEY_VERSION: usize = 26;
const BODY: usize = 38;
const TRAILER_LEN: usize = 8;
const SPACE_FLAGS: usize = 54;

/// Page types whose bytes are packed or encrypted: MySQL's, then MariaDB's.
const PACKED_TYPES: [u16; 6] = [14, 15, 16, 17, 34354, 37401];
/// What stands instead of a checksum under `innodb_checksum_algorithm=none`.
const NO_CHECKSUM: u32 = 0xdead_beef;

/// How the pages of one file are to be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) page_size: usize,
    full_crc32: bool,
    space_id: u32,
}

/// Whether a file's name is one of InnoDB's tablespaces.
pub(crate) fn is_tablespace(path: &std::path::Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    name.ends_with(".ibd") || name.ends_with(".ibu") || name.starts_with("ibdata") || name.starts_with("undo")
}

impl Format {
    /// Reads the format from the first [`HEAD_LEN`] bytes of a file; `None` when there is nothing that could be checked.
    pub(crate) fn of(head: &[u8]) -> Option<Self> {
        if head.len() < HEAD_LEN || be_u32(head, PAGE_NUMBER) != 0 {
            return None;
        }
        let flags = be_u32(head, SPACE_FLAGS);
        let space_id = be_u32(head, SPACE_ID);
        let full_crc32 = flags & 0x10 != 0 && matches!(flags & 0xf, 3..=7);
        let shift = if full_crc32 {
            flags & 0xf
        } else {
            let packed = flags >> 1 & 0xf != 0;
            match flags >> 6 & 0xf {
                _ if packed => return None,
                0 => 5,
                shift @ 3..=7 => shift,
                _ => return None,
            }
        };
        // Unused bits of either format are zero: anything else is not a tablespace.
        if flags >> 24 != 0 && !full_crc32 {
            return None;
        }
        Some(Self { page_size: 512 << shift, full_crc32, space_id })
    }

    /// Checks the page with this number. `true`: whole, or not to be judged.
    pub(crate) fn is_good(&self, page: &[u8], number: u64) -> bool {
        if page.iter().all(|&byte| byte == 0) {
            return true;
        }
        // The doublewrite buffer in the system tablespace holds copies of other pages, old and torn ones among them.
        let is_copy = self.space_id == 0 && u64::from(be_u32(page, PAGE_NUMBER)) != number;
        is_copy || if self.full_crc32 { is_good_full(page) } else { is_good_classic(page, number) }
    }
}

/// One CRC over all but itself, made after encryption; packed pages are marked by the highest bit of their type.
fn is_good_full(page: &[u8]) -> bool {
    let end = page.len() - 4;
    page[PAGE_TYPE] & 0x80 != 0 || be_u32(page, end) == crc32c::crc32c(&page[..end])
}

fn is_good_classic(page: &[u8], number: u64) -> bool {
    let kind = u16::from_be_bytes([page[PAGE_TYPE], page[PAGE_TYPE + 1]]);
    let encrypted = number != 0 && be_u32(page, KEY_VERSION) != 0;
    if encrypted || PACKED_TYPES.contains(&kind) {
        return true;
    }
    let trailer = page.len() - TRAILER_LEN;
    let (first, last) = (be_u32(page, 0), be_u32(page, trailer));
    if (first, last) == (NO_CHECKSUM, NO_CHECKSUM) {
        return true;
    }
    let (head, body) = (&page[PAGE_NUMBER..KEY_VERSION], &page[BODY..trailer]);
    first == crc32c::crc32c(head) ^ crc32c::crc32c(body)
        || first == (fold(head).wrapping_add(fold(body))) as u32
}

/// The sum of `innodb_checksum_algorithm=innodb`, which pages keep until they are written anew.
fn fold(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0_u64, |sum, &byte| {
        let byte = u64::from(byte);
        (((sum ^ byte ^ 1_653_893_711) << 8).wrapping_add(sum) ^ 1_463_735_687).wrapping_add(byte)
    })
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    le_u32(&bytes[at..at + 4]).swap_bytes()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    use super::*;

    /// Makes a datadir with a real server in bootstrap mode.
    fn datadir(dir: &Path, algorithm: &str, page_size: &str, packed_rows: bool) {
        let mut server = Command::new("mariadbd")
            .args(["--no-defaults", "--bootstrap", "--user=root", "--innodb-buffer-pool-size=32M"])
            .args(["--innodb-log-file-size=8M", "--loose-skip-log-bin", "--lc-messages-dir=/usr/share/mysql"])
            .arg(format!("--datadir={}", dir.display()))
            .arg(format!("--innodb-page-size={page_size}"))
            .arg(format!("--innodb-checksum-algorithm={algorithm}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut sql = "create database t;\nuse t;\n".to_owned();
        let mut tables = vec![("plain", ""), ("squeezed", "page_compressed=1")];
        if packed_rows {
            tables.push(("packed", "row_format=compressed key_block_size=4"));
        }
        for (table, options) in tables {
            sql += &format!(
                "create table {table} (id int primary key auto_increment, v varchar(500)) engine=innodb {options};\n"
            );
            sql += &format!("insert into {table} (v) values (repeat('row', 150));\n");
            for _ in 0..10 {
                sql += &format!("insert into {table} (v) select v from {table};\n");
            }
        }
        server.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        assert!(server.wait().unwrap().success(), "mariadbd --bootstrap");
    }

    /// Checks all pages of all tablespaces: how many there are, and which are bad.
    fn check(dir: &Path) -> (u64, Vec<(PathBuf, u64)>) {
        let (mut seen, mut bad) = (0, Vec::new());
        for sub in [dir.to_owned(), dir.join("t")] {
            for entry in fs::read_dir(sub).unwrap() {
                let path = entry.unwrap().path();
                if !path.is_file() || !is_tablespace(&path) {
                    continue;
                }
                let bytes = fs::read(&path).unwrap();
                let Some(format) = Format::of(&bytes) else { continue };
                for (number, page) in bytes.chunks_exact(format.page_size).enumerate() {
                    seen += 1;
                    if !format.is_good(page, number as u64) {
                        bad.push((path.clone(), number as u64));
                    }
                }
            }
        }
        (seen, bad)
    }

    fn real_pages_are_good_and_torn_ones_are_not(algorithm: &str, page_size: &str, bytes: usize) {
        let dir = tempfile::tempdir().unwrap();
        datadir(dir.path(), algorithm, page_size, bytes <= 16 << 10);
        let (seen, bad) = check(dir.path());
        assert!(seen > 50, "{seen} pages");
        assert_eq!(bad, []);
        let plain = dir.path().join("t/plain.ibd");
        let whole = fs::read(&plain).unwrap();
        assert_eq!(Format::of(&whole).unwrap().page_size, bytes);
        for (damage, at) in [
            ("in the body", bytes * 3 + 200),
            ("in the header", bytes * 3 + 17),
            ("in its second half", bytes * 4 - 600),
        ] {
            let mut torn = whole.clone();
            torn[at] ^= 0x04;
            fs::write(&plain, torn).unwrap();
            assert_eq!(check(dir.path()).1, [(plain.clone(), 3)], "damage {damage}");
        }
    }

    #[test]
    fn full_crc32_pages_of_16k() {
        real_pages_are_good_and_torn_ones_are_not("full_crc32", "16k", 16 << 10);
    }

    #[test]
    fn full_crc32_pages_of_4k() {
        real_pages_are_good_and_torn_ones_are_not("full_crc32", "4k", 4 << 10);
    }

    #[test]
    fn crc32_pages_of_16k() {
        real_pages_are_good_and_torn_ones_are_not("crc32", "16k", 16 << 10);
    }

    #[test]
    fn crc32_pages_of_64k() {
        real_pages_are_good_and_torn_ones_are_not("crc32", "64k", 64 << 10);
    }

    #[test]
    fn what_is_no_tablespace_is_left_alone() {
        assert_eq!(Format::of(&[0xff; HEAD_LEN]), None);
        assert_eq!(Format::of(b"short"), None);
        for (name, expected) in
            [("a.ibd", true), ("ibdata1", true), ("undo_001", true), ("a.MYD", false), ("ib_logfile0", false)]
        {
            assert_eq!(is_tablespace(Path::new(name)), expected, "{name}");
        }
    }
}
