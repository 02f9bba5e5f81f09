//! What a new snapshot will be: of which volume, under which name, how large.

use std::path::PathBuf;

use jiff::Timestamp;
use protocol::snapshot::ProviderKind;

use super::host::volume_of;
use super::{Lv, LvmProvider, VIEW_SUFFIX, size};
use crate::Error;
use crate::provider::CreateRequest;

/// What a creation needs to know.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) group: String,
    pub(super) origin: String,
    pub(super) inside: PathBuf,
    pub(super) name: String,
    /// The thin pool, if it is in one.
    pub(super) pool: Vec<Lv>,
    /// For a classic snapshot.
    pub(super) extents: Option<u64>,
    pub(super) size_bytes: u64,
}

impl LvmProvider {
    pub(super) fn plan(&self, request: &CreateRequest) -> Result<Plan, Error> {
        let unavailable = |reason| Error::Unavailable { provider: self.name(), reason };
        let volumes = self.host.volumes().map_err(|error| self.host.missing().map_or(error, unavailable))?;
        if volumes.is_empty() {
            return Err(unavailable(self.host.missing().unwrap_or_else(|| "there is no volume".to_owned())));
        }
        let (origin, inside) = volume_of(&volumes, &request.datadir)?;
        self.check_origin(origin)
            .map_err(|reason| Error::Origin { datadir: request.datadir.clone(), reason })?;
        let (extents, size_bytes) = match self.kind {
            ProviderKind::Lvm => {
                let (extents, size_bytes) = self.store_of(origin, request)?;
                (Some(extents), size_bytes)
            }
            _ => (None, 0),
        };
        let taken = |name: &str| {
            let view = format!("{name}{VIEW_SUFFIX}");
            volumes.iter().any(|l| l.group == origin.group && (l.name == name || l.name == view))
        };
        let name = self.pattern.expand(request, &origin.name, Timestamp::now(), &taken);
        let is_pool = |l: &&Lv| l.group == origin.group && Some(&l.name) == origin.pool.as_ref();
        Ok(Plan {
            group: origin.group.clone(),
            origin: origin.full_name(),
            inside,
            name,
            pool: volumes.iter().filter(is_pool).cloned().collect(),
            extents,
            size_bytes,
        })
    }

    /// Why this kind of snapshot cannot be made of a volume.
    fn check_origin(&self, origin: &Lv) -> Result<(), String> {
        let name = origin.full_name();
        if let Some(configured) = self.config.origin.as_ref().filter(|configured| **configured != name) {
            return Err(format!("it lies on {name}, not on the configured origin {configured}"));
        }
        if origin.is_classic_snapshot() {
            return Err(format!("{name} is itself a classic snapshot, and those have no snapshots"));
        }
        match (self.kind, origin.is_thin()) {
            (ProviderKind::LvmThin, false) => {
                Err(format!("{name} is not a thin volume; use provider = \"lvm\""))
            }
            (ProviderKind::Lvm, true) => Err(format!("{name} is a thin volume; use provider = \"lvm-thin\"")),
            _ => Ok(()),
        }
    }

    /// Extents and bytes of a classic snapshot's store.
    fn store_of(&self, origin: &Lv, request: &CreateRequest) -> Result<(u64, u64), Error> {
        let vg = self.host.group(&origin.group)?;
        let policy = request.size.unwrap_or(self.config.size);
        let smallest = self.config.min_size_bytes;
        let extents = size::classic_extents(policy, smallest, origin.size_bytes, &origin.group, &vg)?;
        Ok((extents, extents * vg.extent_bytes))
    }
}
