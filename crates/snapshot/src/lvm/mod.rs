//! Snapshots by LVM, classic and thin.
//!
//! Metadata are kept twice: in tags on the volume ([`tags`]), which survive the agent's state, and in a sidecar file, which holds what is
//! too long for tags. A volume that is being made carries the tag `oa:new=HOST` until all is known of it; it is never listed, and is removed
//! when its maker finds it again. `lvremove` is only ever called for a volume that `lvs` has just shown to be a snapshot.

mod argv;
mod filesystem;
pub(crate) mod host;
mod parse;
mod plan;
mod size;
mod tags;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use protocol::ids::{AgentId, SnapshotId};
use protocol::snapshot::{ProviderKind, Snapshot, SnapshotMeta, SnapshotMount, Validity};
use regex::Regex;
use serde::{Deserialize, Serialize};

use self::host::{Host, volume_of};
pub(crate) use self::parse::Lv;
use self::plan::Plan;
use crate::error::IoContext as _;
use crate::instant::{self, Instant};
use crate::mountinfo::{self, MountLine};
use crate::names::{self, NamePattern};
use crate::provider::{
    AtInstant, Capability, CreateRequest, Features, MountIdentity, MountMode, Mounted, Provider, SizePolicy,
    kind_name,
};
use crate::settings::LvmConfig;
use crate::{Error, durable};

/// What a view's name ends with.
const VIEW_SUFFIX: &str = "-view";

/// LVM of this host. The kind decides what `create` makes; what is there already is handled by its own kind.
#[derive(Debug)]
pub(crate) struct LvmProvider {
    kind: ProviderKind,
    config: LvmConfig,
    filter: Option<Regex>,
    pattern: NamePattern,
    sidecars: PathBuf,
    host: Host,
    /// Creations and removals one at a time.
    changing: Mutex<()>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sidecar {
    /// Names are used again, uuids are not.
    lv_uuid: String,
    meta: SnapshotMeta,
}

impl LvmProvider {
    pub(crate) fn new(kind: ProviderKind, config: &LvmConfig, state_dir: &Path) -> Result<Self, Error> {
        let filter = config.snapshot_volumes_filter.as_deref().map(Regex::new).transpose().map_err(|e| {
            Error::Setting {
                key: "snapshot_volumes_filter",
                why: format!("it is no regular expression: {e}"),
            }
        })?;
        let sensible = match config.size {
            SizePolicy::OriginPercent(p) | SizePolicy::FreePercent(p) => p > 0.0 && p <= 1000.0,
            SizePolicy::FixedBytes(bytes) => bytes > 0,
        };
        if !sensible {
            return Err(Error::Setting {
                key: "size",
                why: "bytes must be above 0, a percentage above 0 and at most 1000".to_owned(),
            });
        }
        if let Some(origin) =
            config.origin.as_deref().filter(|o| o.split('/').filter(|p| !p.is_empty()).count() != 2)
        {
            return Err(Error::Setting {
                key: "origin",
                why: format!("{origin:?} must be of the form `group/volume`"),
            });
        }
        crate::settings::checked_inside(&config.datadir_inside)?;
        Ok(Self {
            kind,
            config: config.clone(),
            filter,
            pattern: NamePattern::parse(&config.name_pattern)?,
            sidecars: state_dir.join("snapshots"),
            host: Host { limit: Duration::from_secs(config.command_timeout_seconds.max(1)) },
            changing: Mutex::new(()),
        })
    }

    fn name(&self) -> &'static str {
        kind_name(self.kind)
    }

    /// A snapshot that we list, by its id.
    fn find(&self, id: &SnapshotId) -> Result<Lv, Error> {
        let refused = || Error::NotListed { id: id.to_string() };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "+_.-/".contains(c);
        if id.as_str().matches('/').count() != 1 || !id.as_str().chars().all(allowed) {
            return Err(refused());
        }
        self.host.volume(id.as_str())?.filter(|lv| self.is_listed(lv)).ok_or_else(refused)
    }

    fn is_listed(&self, lv: &Lv) -> bool {
        let ours = lv.tags.iter().any(|t| t == tags::OURS);
        let hidden = tags::is_unfinished(&lv.tags) || lv.tags.iter().any(|t| t == tags::VIEW);
        let shown = ours || self.filter.as_ref().is_none_or(|f| f.is_match(&lv.full_name()));
        lv.is_snapshot() && !hidden && shown
    }

    fn sidecar_path(&self, id: &SnapshotId) -> PathBuf {
        self.sidecars.join(format!("{}.json", names::as_file_name(id)))
    }

    fn meta_of(&self, lv: &Lv, id: &SnapshotId) -> Option<SnapshotMeta> {
        if !lv.tags.iter().any(|t| t == tags::OURS) {
            return None;
        }
        match durable::read_json::<Sidecar>(&self.sidecar_path(id)) {
            Ok(Some(sidecar)) if sidecar.lv_uuid == lv.uuid => Some(sidecar.meta),
            Ok(_) => tags::decode(&lv.tags),
            Err(error) => {
                tracing::warn!(snapshot = %id, %error, "metadata are read from the tags instead");
                tags::decode(&lv.tags)
            }
        }
    }

    fn listed(&self, lv: &Lv, all: &[Lv], mounts: &[MountLine]) -> Option<Snapshot> {
        let id: SnapshotId = lv.full_name().parse().ok()?;
        let pool = lv.pool.as_ref().and_then(|p| all.iter().find(|l| l.group == lv.group && l.name == *p));
        let (size_bytes, fill_percent) = if lv.is_classic_snapshot() {
            (Some(lv.size_bytes), lv.data_percent)
        } else {
            let worse = pool.and_then(|p| Some(p.data_percent?.max(p.metadata_percent.unwrap_or(0.0))));
            (pool.map(|p| p.size_bytes), worse)
        };
        Some(Snapshot {
            provider: if lv.is_classic_snapshot() { ProviderKind::Lvm } else { ProviderKind::LvmThin },
            origin: format!("{}/{}", lv.group, lv.origin.as_deref().unwrap_or_default()),
            created_at: lv.created_at.unwrap_or(Timestamp::UNIX_EPOCH),
            size_bytes,
            fill_percent,
            validity: lv.validity(),
            mounts: mounts_of(lv, mounts),
            meta: self.meta_of(lv, &id),
            foreign: None,
            id,
        })
    }

    fn finish(
        &self,
        plan: &Plan,
        id: &SnapshotId,
        meta: &SnapshotMeta,
        unfinished: String,
    ) -> Result<Snapshot, Error> {
        let lv = self.host.volume(id.as_str())?.ok_or_else(|| Error::NotListed { id: id.to_string() })?;
        if lv.size_bytes < plan.size_bytes {
            return Err(Error::NoSpace {
                place: format!("volume group {}", plan.group),
                needed_bytes: plan.size_bytes,
                free_bytes: lv.size_bytes,
                advice: "someone else took the room meanwhile; try again",
            });
        }
        self.write_sidecar(&lv, id, meta)?;
        self.host.run(&argv::retag(id.as_str(), &[unfinished], &tags::encode(meta)))?;
        self.listed(&lv, &plan.pool, &mountinfo::read()?)
            .ok_or_else(|| Error::NotListed { id: id.to_string() })
    }

    fn write_sidecar(&self, lv: &Lv, id: &SnapshotId, meta: &SnapshotMeta) -> Result<(), Error> {
        fs::create_dir_all(&self.sidecars).context("create directory", &self.sidecars)?;
        let sidecar = Sidecar { lv_uuid: lv.uuid.clone(), meta: meta.clone() };
        durable::write_json(&self.sidecar_path(id), &sidecar)
    }

    /// Removes what a failed creation has left, if it is there and this agent's: another one may have taken the name first.
    fn discard(&self, id: &SnapshotId, unfinished: &str) -> Result<(), Error> {
        let half_made = self.host.volume(id.as_str())?.filter(Lv::is_snapshot);
        if let Some(lv) = half_made.filter(|lv| lv.tags.iter().any(|t| t == unfinished)) {
            self.host.run(&argv::remove(&lv.full_name()))?;
        }
        Ok(sys::file::remove_file(&self.sidecar_path(id))?)
    }

    /// The device to mount: the snapshot's own, or that of a new view of a thin one.
    fn device(&self, lv: &Lv, mode: MountMode) -> Result<(Lv, Option<String>), Error> {
        let name = lv.full_name();
        if !lv.is_active() {
            self.host.run(&argv::activate(&name))?;
        }
        let view =
            (mode == MountMode::Writable && lv.is_thin_snapshot()).then(|| format!("{name}{VIEW_SUFFIX}"));
        if let Some(view) = &view {
            self.remove_view(view)?;
            let bare = format!("{}{VIEW_SUFFIX}", lv.name);
            let mut marks = tags::host_tags(&lv.tags);
            marks.push(tags::VIEW.to_owned());
            self.host.run(&argv::create_thin(&name, &bare, &marks))?;
        }
        let shown = view.as_ref().unwrap_or(&name);
        let device = self.host.volume(shown)?.filter(Lv::is_active).ok_or_else(|| {
            Error::ValidityUnknown { id: shown.clone(), reason: "it could not be activated".to_owned() }
        })?;
        Ok((device, view))
    }

    fn remove_view(&self, view: &str) -> Result<(), Error> {
        let ours = |lv: &Lv| lv.is_thin_snapshot() && lv.tags.iter().any(|t| t == tags::VIEW);
        match self.host.volume(view)?.filter(ours) {
            Some(lv) => self.host.run(&argv::remove(&lv.full_name())).map(drop),
            None => Ok(()),
        }
    }
}

impl Provider for LvmProvider {
    fn kind(&self) -> ProviderKind {
        self.kind
    }

    fn features(&self) -> Features {
        let thin = self.kind == ProviderKind::LvmThin;
        Features { atomic: true, private_views: thin, extendable: true, shares_blocks: true }
    }

    fn probe(&self) -> Capability {
        Capability::unless(self.host.missing(), self.features())
    }

    fn list(&self) -> Result<Vec<Snapshot>, Error> {
        let all = self.host.volumes()?;
        let mounts = mountinfo::read()?;
        let mut found: Vec<Snapshot> = all
            .iter()
            .filter(|lv| self.is_listed(lv))
            .filter_map(|lv| self.listed(lv, &all, &mounts))
            .collect();
        found.sort_by(|a, b| a.created_at.cmp(&b.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(found)
    }

    fn origin(&self, datadir: &Path) -> Result<String, Error> {
        Ok(volume_of(&self.host.volumes()?, datadir)?.0.full_name())
    }

    fn create(&self, request: &CreateRequest, at_instant: AtInstant<'_>) -> Result<Snapshot, Error> {
        let _one = self.changing.lock();
        let plan = self.plan(request)?;
        let id: SnapshotId =
            format!("{}/{}", plan.group, plan.name).parse().map_err(|e: protocol::ids::InvalidId| {
                Error::Setting { key: "name_pattern", why: e.to_string() }
            })?;
        let unfinished = tags::unfinished(request.host.as_str());
        let first_tags = [tags::OURS.to_owned(), unfinished.clone()];
        let command = match plan.extents {
            Some(extents) => argv::create_classic(&plan.origin, &plan.name, extents, &first_tags),
            None => argv::create_thin(&plan.origin, &plan.name, &first_tags),
        };
        // What is written now need not be written while the origin is suspended.
        let handle = fs::File::open(&request.datadir).context("open", &request.datadir)?;
        nix::unistd::syncfs(&handle).context("sync the file system of", &request.datadir)?;
        drop(handle);
        let made = Instant::new(|| self.host.run(&command).map(drop)).run(at_instant).and_then(|observed| {
            let meta = instant::meta(request, observed, plan.inside.clone());
            self.finish(&plan, &id, &meta, unfinished.clone())
        });
        if made.is_err()
            && let Err(also) = self.discard(&id, &unfinished)
        {
            tracing::warn!(snapshot = %id, error = %also, "a half-made snapshot could not be removed");
        }
        made
    }

    fn remove(&self, id: &SnapshotId) -> Result<(), Error> {
        let _one = self.changing.lock();
        let lv = self.find(id)?;
        let mounts = mounts_of(&lv, &mountinfo::read()?);
        if !mounts.is_empty() {
            let holders = mounts.iter().map(|m| format!("the mount at {}", m.path.display())).collect();
            return Err(Error::Held { id: id.to_string(), holders });
        }
        self.host.run(&argv::remove(&lv.full_name()))?;
        Ok(sys::file::remove_file(&self.sidecar_path(id))?)
    }

    fn mount(&self, id: &SnapshotId, target: &Path, mode: MountMode) -> Result<Mounted, Error> {
        let lv = self.find(id)?;
        if let Validity::Invalid(reason) = lv.validity() {
            return Err(Error::Invalid { id: id.to_string(), reason });
        }
        let (device, view) = self.device(&lv, mode)?;
        if let Err(error) =
            filesystem::mount_device(Path::new(&device.path), target, mode, device.is_read_only())
        {
            if let Some(Err(also)) = view.map(|v| self.remove_view(&v)) {
                tracing::warn!(snapshot = %id, error = %also, "a view stays");
            }
            return Err(error);
        }
        let inside = self.meta_of(&lv, id).map_or_else(|| self.config.datadir_inside.clone(), |m| m.datadir);
        Ok(Mounted {
            id: id.clone(),
            path: target.to_owned(),
            datadir: if inside.as_os_str().is_empty() { target.to_owned() } else { target.join(inside) },
            mode,
            identity: MountIdentity::of(target)?,
            view,
        })
    }

    fn unmount(&self, mounted: &Mounted) -> Result<(), Error> {
        if mountinfo::is_mount_point(&mounted.path)? {
            mountinfo::unmount(&mounted.path, mountinfo::LOOK)?;
        }
        mounted.view.as_deref().map_or(Ok(()), |view| self.remove_view(view))
    }

    fn validity(&self, id: &SnapshotId) -> Result<Validity, Error> {
        Ok(self.find(id)?.validity())
    }

    fn record(&self, id: &SnapshotId, meta: &SnapshotMeta) -> Result<(), Error> {
        let lv = self.find(id)?;
        if self.meta_of(&lv, id).is_none() {
            return Err(Error::Unsupported {
                provider: self.name(),
                operation: "keep metadata of what others made",
            });
        }
        self.write_sidecar(&lv, id, meta)?;
        let new: BTreeSet<String> = tags::encode(meta).into_iter().collect();
        let old: BTreeSet<String> = lv.tags.iter().filter(|t| t.starts_with("oa:")).cloned().collect();
        let stale: Vec<String> = old.difference(&new).cloned().collect();
        let fresh: Vec<String> = new.iter().filter(|t| !lv.tags.contains(t)).cloned().collect();
        if stale.is_empty() && fresh.is_empty() {
            return Ok(());
        }
        self.host.run(&argv::retag(&lv.full_name(), &stale, &fresh)).map(drop)
    }

    fn sweep(&self, host: &AgentId) -> Result<Vec<String>, Error> {
        let _one = self.changing.lock();
        let mounts = mountinfo::read()?;
        let mine = tags::unfinished(host.as_str());
        let (mut swept, mut first_error) = (Vec::new(), None);
        for lv in self.host.volumes()?.iter().filter(|lv| lv.is_snapshot()) {
            let my_view = lv.tags.iter().any(|t| t == tags::VIEW) && tags::is_of(&lv.tags, host);
            let leftover = my_view || lv.tags.contains(&mine);
            if !leftover || !mounts_of(lv, &mounts).is_empty() {
                continue;
            }
            match self.host.run(&argv::remove(&lv.full_name())) {
                Ok(_) => swept.push(lv.full_name()),
                Err(error) => _ = first_error.get_or_insert(error),
            }
        }
        first_error.map_or(Ok(swept), Err)
    }

    fn extend(&self, id: &SnapshotId, add_bytes: u64) -> Result<u64, Error> {
        let lv = self.find(id)?;
        let store = match &lv.pool {
            Some(pool) => format!("{}/{pool}", lv.group),
            None => lv.full_name(),
        };
        let vg = self.host.group(&lv.group)?;
        let extents = add_bytes.div_ceil(vg.extent_bytes).max(1);
        let needed_bytes = extents.saturating_mul(vg.extent_bytes);
        if needed_bytes > vg.free_bytes {
            let place = format!("volume group {}", lv.group);
            let advice = "remove a snapshot or extend the group";
            return Err(Error::NoSpace { place, needed_bytes, free_bytes: vg.free_bytes, advice });
        }
        self.host.run(&argv::extend(&store, extents))?;
        Ok(self.host.volume(&store)?.map_or(0, |l| l.size_bytes))
    }
}

fn mounts_of(lv: &Lv, table: &[MountLine]) -> Vec<SnapshotMount> {
    let Some(device) = lv.device else { return Vec::new() };
    let here = table.iter().filter(|l| l.device == device);
    here.map(|l| SnapshotMount { path: l.mount_point.clone(), writable: l.writable, holders: Vec::new() })
        .collect()
}
