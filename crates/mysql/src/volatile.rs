//! Tables whose rows lie in memory alone: a copy of the datadir has them empty, as the server itself has after a restart.
//!
//! They are found by their definitions, without the server: to list tables by their engine MariaDB opens every table there is.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sys::dir::Dir;

use crate::error::{Error, Result};

/// More need not be named for a person to understand.
const NAMED: usize = 20;
/// `DB_TYPE_HEAP` and `DB_TYPE_PARTITION_DB` of MariaDB's `handler.h`, as the header of a `.frm` file names engines.
const HEAP: u8 = 6;
const PARTITIONED: u8 = 20;
/// What a `.frm` file of a table begins with; one of a view begins with text.
const FRM_MAGIC: [u8; 2] = [0xfe, 0x01];
/// Where the header has the engine, and where that of the partitions.
const FRM_ENGINE: usize = 3;
const FRM_PARTITION_ENGINE: usize = 61;
const FRM_HEADER_BYTES: u64 = 64;
/// MySQL writes the definition of each table without an InnoDB file as JSON; of a table with very many columns it is longer.
const SDI_LIMIT_BYTES: u64 = 4 << 20;
/// Their own, of which nothing is replicated.
const SERVERS_OWN: [&str; 4] = ["mysql", "performance_schema", "sys", "information_schema"];

/// The first few tables of the engine `MEMORY` in a datadir, as `schema/table` in the form of file names. Blocking: it lists
/// every directory of a schema, and opens the definitions beside which no data lie.
///
/// # Errors
/// [`Error::Io`] when the datadir cannot be listed.
pub fn memory_tables(datadir: &Path) -> Result<Vec<String>> {
    let failed = || Error::io("list", datadir);
    let root = Dir::open(datadir).map_err(failed())?;
    let mut found = BTreeSet::new();
    for schema in root.names().map_err(failed())? {
        if SERVERS_OWN.iter().any(|own| schema == *own) {
            continue;
        }
        // What is no directory, is a link, or is dropped meanwhile has no tables here.
        let Ok(dir) = root.dir(Path::new(&schema)) else { continue };
        let Ok(names) = dir.names() else { continue };
        for name in without_data(&names) {
            if is_volatile(&dir, &name) {
                let stem = Path::new(&name).file_stem().unwrap_or_default();
                found.insert(format!("{}/{}", schema.display(), stem.display()));
            }
        }
    }
    Ok(found.into_iter().take(NAMED).collect())
}

/// The definitions that have no file of data beside them.
fn without_data(names: &[OsString]) -> Vec<OsString> {
    let extension = |name: &OsString| Path::new(name).extension().map(OsString::from);
    let stem = |name: &OsString| Path::new(name).file_stem().map(OsString::from);
    let is_definition =
        |name: &&OsString| extension(name).is_some_and(|extension| extension == "frm" || extension == "sdi");
    let others: BTreeSet<_> = names.iter().filter(|name| !is_definition(name)).filter_map(stem).collect();
    let bare = |name: &&OsString| stem(name).is_some_and(|stem| !others.contains(&stem));
    names.iter().filter(is_definition).filter(bare).cloned().collect()
}

fn is_volatile(dir: &Dir, name: &OsString) -> bool {
    let is_sdi = Path::new(name).extension().is_some_and(|extension| extension == "sdi");
    let limit = if is_sdi { SDI_LIMIT_BYTES } else { FRM_HEADER_BYTES };
    // The mysql user may have put anything there, a pipe too.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let Ok(file) = dir.open_below(Path::new(name), flags, Mode::empty()) else { return false };
    let mut bytes = Vec::new();
    if !file.metadata().is_ok_and(|meta| meta.is_file()) || file.take(limit).read_to_end(&mut bytes).is_err()
    {
        return false;
    }
    if is_sdi { sdi_is_volatile(&bytes) } else { frm_is_volatile(&bytes) }
}

fn frm_is_volatile(header: &[u8]) -> bool {
    let at = |place: usize| header.get(place).copied();
    let partitions = at(FRM_ENGINE) == Some(PARTITIONED) && at(FRM_PARTITION_ENGINE) == Some(HEAP);
    header.starts_with(&FRM_MAGIC) && (at(FRM_ENGINE) == Some(HEAP) || partitions)
}

fn sdi_is_volatile(json: &[u8]) -> bool {
    let engine = serde_json::from_slice::<serde_json::Value>(json)
        .ok()
        .and_then(|sdi| sdi.pointer("/dd_object/engine")?.as_str().map(str::to_owned));
    engine.is_some_and(|engine| engine.eq_ignore_ascii_case("MEMORY"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn tables_in_memory_are_told_by_their_definitions_alone() {
        let dir = tempfile::tempdir().unwrap();
        let shop = dir.path().join("shop");
        fs::create_dir_all(&shop).unwrap();
        fs::create_dir(dir.path().join("mysql")).unwrap();
        let frm = |engine: u8, of_partitions: u8| {
            let mut header = [0_u8; 64];
            header[..2].copy_from_slice(&FRM_MAGIC);
            (header[FRM_ENGINE], header[FRM_PARTITION_ENGINE]) = (engine, of_partitions);
            header
        };
        fs::write(shop.join("cache.frm"), frm(HEAP, 0)).unwrap();
        fs::write(shop.join("parts.frm"), frm(PARTITIONED, HEAP)).unwrap();
        fs::write(shop.join("sold.frm"), frm(HEAP, 0)).unwrap();
        fs::write(shop.join("sold.ibd"), "").unwrap();
        fs::write(shop.join("seen.frm"), "TYPE=VIEW\n").unwrap();
        fs::write(shop.join("hole.frm"), frm(11, 0)).unwrap();
        fs::write(shop.join("queue_363.sdi"), r#"{"dd_object": {"name": "queue", "engine": "MEMORY"}}"#)
            .unwrap();
        fs::write(shop.join("torn_1.sdi"), r#"{"dd_object": {"engine": "MEM"#).unwrap();
        fs::write(dir.path().join("mysql/own.frm"), frm(HEAP, 0)).unwrap();
        nix::unistd::mkfifo(&shop.join("pipe.frm"), Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink(&shop, dir.path().join("link")).unwrap();
        assert_eq!(memory_tables(dir.path()).unwrap(), ["shop/cache", "shop/parts", "shop/queue_363"]);
        assert!(memory_tables(&dir.path().join("none")).is_err());
    }
}
