//! How what seeds keep of what came is called, beside their own directories.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use protocol::ids::JobId;

use super::{Layout, PREFIX};

/// What is kept of a seed as it came.
const BASE: &str = ".orch-seed-base-";

impl Layout {
    /// The name of what this seed keeps of what came, beside its directory.
    pub(crate) fn base(&self) -> PathBuf {
        let name = self.root.file_name().and_then(OsStr::to_str).unwrap_or_default();
        PathBuf::from(format!("{BASE}{}", name.strip_prefix(PREFIX).unwrap_or(name)))
    }

    /// As [`Layout::base`], of another seed onto this datadir.
    pub(crate) fn base_of(&self, job: JobId) -> Option<PathBuf> {
        Self::of(&self.datadir, job).ok().map(|layout| layout.base())
    }

    /// The names of all that seeds onto this datadir have kept.
    pub(crate) fn bases(&self) -> Vec<PathBuf> {
        let name = self.base();
        let behind =
            name.to_str().and_then(|name| name.strip_prefix(BASE)?.strip_prefix(&self.job.to_string()));
        let is_base = |name: &OsStr| {
            let job = name.to_str().and_then(|name| name.strip_prefix(BASE)?.strip_suffix(behind?));
            job.is_some_and(|job| job.parse::<JobId>().is_ok())
        };
        let place = self.root.parent().and_then(|place| fs::read_dir(place).ok());
        let names = place.into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.filter(|name| is_base(name)).map(PathBuf::from).collect()
    }
}
