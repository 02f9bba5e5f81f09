//! What must lie on one volume, so that one atomic snapshot holds a whole database.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use protocol::mysql::{Flavor, Layout, ServerInfo};

use crate::datadir::{is_system_file, stays_at_home};
use crate::error::{Error, Result};
use crate::lock::LockScope;

/// A part of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// System tablespace (`innodb_data_home_dir`, `innodb_data_file_path`).
    SystemTablespace,
    /// Redo log (`innodb_log_group_home_dir`).
    Redo,
    /// Undo tablespaces (`innodb_undo_directory`).
    Undo,
    /// Binary log (`log_bin`): elsewhere, commits must be blocked for the instant of the snapshot.
    BinaryLog,
    /// A database directory or table file that is a link or a mount of its own; another engine's directory.
    Data,
}

/// A file or directory that lies on another volume than the datadir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// What it is.
    pub part: Part,
    /// Where it is.
    pub path: PathBuf,
}

/// Where the parts of a database lie, seen from the volume of its datadir.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Everything that a snapshot of the datadir's volume would miss.
    pub elsewhere: Vec<Elsewhere>,
}

/// What a snapshot of the datadir's volume needs to be consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All on one volume: crash recovery makes it whole, without a lock.
    OneVolume,
    /// Only the binary log is elsewhere: block commits for the instant, and record the coordinates.
    BlockCommits,
    /// InnoDB's own files or tables are elsewhere: a snapshot of this volume alone is not a database.
    Impossible(Vec<Elsewhere>),
}

impl Placement {
    /// Looks at the files of an instance. Blocking: it looks at every database directory and table file once.
    ///
    /// # Errors
    /// [`Error::NotFound`] without a datadir, [`Error::Io`] when it cannot be read.
    pub fn check(info: &ServerInfo) -> Result<Self> {
        let datadir = info.datadir.as_deref().ok_or(Error::NotFound { what: "the datadir" })?;
        Self::check_layout(datadir, info.layout.as_ref())
    }

    /// Like [`check`](Self::check), of a datadir and its layout.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_layout(datadir: &Path, layout: Option<&Layout>) -> Result<Self> {
        let device = fs::metadata(datadir).map_err(Error::io("read", datadir))?.dev();
        let mut placement = Self::default();
        if let Some(layout) = layout {
            for (part, path) in parts(datadir, layout) {
                placement.add(device, part, &path);
            }
        }
        placement.add_links(device, datadir)?;
        Ok(placement)
    }

    /// What this placement means for a snapshot.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let lost: Vec<_> = self.elsewhere.iter().filter(|e| e.part != Part::BinaryLog).cloned().collect();
        match (lost.is_empty(), self.elsewhere.is_empty()) {
            (true, true) => Verdict::OneVolume,
            (true, false) => Verdict::BlockCommits,
            (false, _) => Verdict::Impossible(lost),
        }
    }

    fn add(&mut self, device: u64, part: Part, path: &Path) {
        // The nearest existing ancestor tells the volume: a base name such as `…/binlog` is no file itself.
        let found = path.ancestors().find_map(|p| fs::metadata(p).ok());
        if found.is_some_and(|meta| meta.dev() != device) {
            self.elsewhere.push(Elsewhere { part, path: path.to_owned() });
        }
    }

    /// Database directories and table files of the datadir that are links or mounts to another volume.
    fn add_links(&mut self, device: u64, datadir: &Path) -> Result<()> {
        let top = fs::read_dir(datadir).map_err(Error::io("list", datadir))?;
        for entry in top.filter_map(std::result::Result::ok) {
            // Such as a link to the socket, which containers have.
            if stays_at_home(&entry.file_name()) {
                continue;
            }
            let path = entry.path();
            let Ok(meta) = fs::metadata(&path) else { continue };
            if meta.dev() != device {
                let part = entry.file_name().to_str().and_then(part_of).unwrap_or(Part::Data);
                self.elsewhere.push(Elsewhere { part, path });
            } else if meta.is_dir() {
                self.add_linked_files(device, &path);
            }
        }
        Ok(())
    }

    /// Links only: a plain file lies where its directory lies. `.isl` files name tables that lie elsewhere.
    fn add_linked_files(&mut self, device: u64, dir: &Path) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.filter_map(std::result::Result::ok) {
            let path = entry.path();
            let is_link = entry.file_type().is_ok_and(|t| t.is_symlink());
            if is_link {
                self.add(device, Part::Data, &path);
            } else if path.extension().is_some_and(|e| e == "isl")
                && let Ok(target) = fs::read_to_string(&path)
            {
                self.add(device, Part::Data, Path::new(target.trim()));
            }
        }
    }
}

/// The narrowest lock under which a snapshot of the datadir is a whole database whose position is known. Blocking: it lists every
/// database directory.
///
/// To block commits MySQL has `FLUSH TABLES WITH READ LOCK` alone, which waits for the longest statement while all commits wait
/// for it. It is left out, as xtrabackup leaves it out, where the data tell their position themselves: InnoDB's tables only, and
/// the binary log among them.
#[must_use]
pub fn scope(server: &ServerInfo) -> LockScope {
    let (Some(datadir), Some(layout), Some(version)) = (&server.datadir, &server.layout, &server.version)
    else {
        return LockScope::Commits;
    };
    let is_mysql = version.flavor == Flavor::Mysql && version.number[0] >= MYSQL_WITH_DICTIONARY;
    let comes_along = layout.log_bin.as_ref().is_none_or(|log| {
        let mut index = log.clone().into_os_string();
        index.push(".index");
        // A log is found by its index, which may lie elsewhere too.
        log.starts_with(datadir) && Path::new(&index).is_file()
    });
    if is_mysql && comes_along && has_innodb_only(datadir).unwrap_or(false) {
        LockScope::Ddl
    } else {
        LockScope::Commits
    }
}

/// The first that keeps tables in InnoDB's own dictionary, one `.ibd` file and nothing else for each, and has `log_status`.
const MYSQL_WITH_DICTIONARY: u16 = 8;
/// What MySQL's own schemas have of other engines is written by nobody, or nothing that a replica needs.
const SERVERS_OWN: [&str; 3] = ["mysql", "performance_schema", "sys"];

fn has_innodb_only(datadir: &Path) -> std::io::Result<bool> {
    for entry in fs::read_dir(datadir)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_schema = entry.file_type()?.is_dir()
            && !name.as_encoded_bytes().starts_with(b"#")
            && !SERVERS_OWN.iter().any(|own| name == *own)
            && !stays_at_home(&name);
        if !is_schema {
            continue;
        }
        for file in fs::read_dir(entry.path())? {
            if file?.path().extension().is_none_or(|extension| extension != "ibd") {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn parts(datadir: &Path, layout: &Layout) -> Vec<(Part, PathBuf)> {
    let mut parts = Vec::new();
    let home = layout.innodb_data_home_dir.as_deref().unwrap_or(datadir);
    parts.push((Part::SystemTablespace, home.to_owned()));
    for spec in layout.innodb_data_file_path.iter().flat_map(|p| p.split(';')) {
        if let Some(file) = spec.split(':').next().filter(|f| !f.is_empty()) {
            parts.push((Part::SystemTablespace, home.join(file)));
        }
    }
    parts.extend(layout.innodb_log_group_home_dir.iter().map(|p| (Part::Redo, p.clone())));
    parts.extend(layout.innodb_undo_directory.iter().map(|p| (Part::Undo, p.clone())));
    parts.extend(layout.log_bin.iter().map(|p| (Part::BinaryLog, p.clone())));
    parts.extend(layout.further_dirs.iter().map(|p| (Part::Data, p.clone())));
    parts
}

/// What a file at the top of a datadir is, by its name.
fn part_of(name: &str) -> Option<Part> {
    if name.starts_with("ib_logfile") || name == "#innodb_redo" {
        Some(Part::Redo)
    } else if name.starts_with("undo") {
        Some(Part::Undo)
    } else if is_system_file(name) {
        Some(Part::SystemTablespace)
    } else {
        None
    }
}
