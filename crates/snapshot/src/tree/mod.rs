//! Snapshots kept as directories: plain copies, reflinked trees and btrfs subvolumes.
//!
//! Layout below the root: `NAME/data` is the frozen tree, `NAME/snapshot.json` its metadata. What is being made is `.new-NAME` and
//! becomes `NAME` by one rename; what is being removed is `.gone-NAME`; `.view-NAME` is a writable view. An entry without metadata was
//! made by someone else, and is the frozen tree itself.

mod backend;
mod btrfs;
mod copy;
mod entry;
mod mirror;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protocol::ids::{AgentId, SnapshotId};
use protocol::snapshot::{Freeze, ProviderKind, Snapshot, SnapshotMeta, SnapshotMount, Validity};
use serde::{Deserialize, Serialize};

use self::backend::Backend;
use crate::error::IoContext as _;
use crate::instant::Instant;
use crate::mountinfo::{self, MountLine};
use crate::names::NamePattern;
use crate::provider::{
    AtInstant, Capability, CreateRequest, Features, MountIdentity, MountMode, Mounted, Observed, Provider,
    kind_name,
};
use crate::settings::TreeConfig;
use crate::{Error, durable};

const META: &str = "snapshot.json";
const DATA: &str = "data";
/// Who makes what has no [`META`] yet.
const MAKER: &str = "maker.json";
const NEW: &str = ".new-";
const GONE: &str = ".gone-";
const VIEW: &str = ".view-";

/// A provider that keeps its snapshots below one directory.
#[derive(Debug)]
pub(crate) struct TreeProvider {
    backend: Box<dyn Backend>,
    root: PathBuf,
    pattern: NamePattern,
    datadir_inside: PathBuf,
}

/// `snapshot.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sidecar {
    origin: PathBuf,
    created_at: Timestamp,
    meta: SnapshotMeta,
}

impl TreeProvider {
    pub(crate) fn directory(config: &TreeConfig) -> Result<Self, Error> {
        Self::new(config, Box::new(copy::Copies { reflink: false }))
    }

    pub(crate) fn reflink(config: &TreeConfig) -> Result<Self, Error> {
        Self::new(config, Box::new(copy::Copies { reflink: true }))
    }

    pub(crate) fn btrfs(config: &TreeConfig) -> Result<Self, Error> {
        Self::new(config, Box::new(btrfs::Subvolumes))
    }

    fn new(config: &TreeConfig, backend: Box<dyn Backend>) -> Result<Self, Error> {
        if !config.root.is_absolute() {
            let why = format!("{} must be an absolute path", config.root.display());
            return Err(Error::Setting { key: "root", why });
        }
        Ok(Self {
            backend,
            root: config.root.clone(),
            pattern: NamePattern::parse(&config.name_pattern)?,
            datadir_inside: crate::settings::checked_inside(&config.datadir_inside)?,
        })
    }

    fn provider_name(&self) -> &'static str {
        kind_name(self.backend.kind())
    }

    /// The snapshot's directory below the root, if it is one that we list.
    fn entry(&self, id: &SnapshotId) -> Result<Entry, Error> {
        let refused = || Error::NotListed { id: id.to_string() };
        if id.as_str().contains('/') || id.as_str().starts_with('.') {
            return Err(refused());
        }
        self.read_entry(id.clone())?.ok_or_else(refused)
    }

    /// `None` for what is no snapshot of this kind.
    fn read_entry(&self, id: SnapshotId) -> Result<Option<Entry>, Error> {
        let dir = self.root.join(id.as_str());
        let Ok(stat) = fs::symlink_metadata(&dir) else { return Ok(None) };
        if !stat.is_dir() {
            return Ok(None);
        }
        let sidecar: Option<Sidecar> = durable::read_json(&dir.join(META))?;
        let data = if sidecar.is_some() { dir.join(DATA) } else { dir.clone() };
        if !self.backend.is_snapshot(&data) {
            return Ok(None);
        }
        let changed = stat.ctime().max(stat.mtime());
        let made_by_hand_at = Timestamp::from_second(changed).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(Some(Entry { id, dir, data, sidecar, made_by_hand_at }))
    }

    /// Keeps creations and removals below one root apart, also those of another agent.
    fn lock_root(&self) -> Result<Flock<fs::File>, Error> {
        let path = self.root.join(".lock");
        let file = fs::OpenOptions::new().create(true).append(true).open(&path).context("open", &path)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).context("lock", &path)
    }

    /// Whether what lies half-made or half-removed below the root is this agent's, or nothing at all.
    fn is_leftover_of(&self, name: &str, host: &AgentId) -> bool {
        let dir = match name.strip_prefix(VIEW) {
            Some(id) => self.root.join(id),
            None => self.root.join(name),
        };
        let made_by = |sidecar: Sidecar| sidecar.meta.host;
        let maker = durable::read_json::<Sidecar>(&dir.join(META)).ok().flatten().map(made_by);
        let maker = maker.or_else(|| durable::read_json::<AgentId>(&dir.join(MAKER)).ok().flatten());
        let is_empty = || fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_none());
        maker.map_or_else(|| !name.starts_with(VIEW) && is_empty(), |maker| maker == *host)
    }

    fn ensure_root(&self) -> Result<(), Error> {
        // Whole databases lie in it, some with files that others may read.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .context("create directory", &self.root)
    }

    fn take_into(
        &self,
        new: &Path,
        host: &AgentId,
        plan: &backend::Plan,
        at_instant: AtInstant<'_>,
    ) -> Result<Observed, Error> {
        DirBuilder::new().mode(0o700).create(new).context("create directory", new)?;
        durable::write_json(&new.join(MAKER), host)?;
        let target = new.join(DATA);
        let mut instant = Instant::new(self.backend.begin(&plan.source, &target)?);
        let observed = instant.run(at_instant)?;
        if !self.backend.features().atomic && (observed.freeze == Freeze::Atomic) {
            let detail = format!("it was neither ({:?})", observed.consistency);
            return Err(Error::NotAtRest { provider: self.provider_name(), detail });
        }
        Ok(observed)
    }

    fn listed(&self, entry: &Entry, mounts: &[MountLine]) -> Snapshot {
        Snapshot {
            id: entry.id.clone(),
            provider: self.backend.kind(),
            origin: entry.sidecar.as_ref().map_or_else(String::new, |s| s.origin.display().to_string()),
            created_at: entry.created_at(),
            size_bytes: None,
            fill_percent: None,
            validity: entry.validity(),
            mounts: entry.mounts(mounts),
            meta: entry.sidecar.as_ref().map(|s| s.meta.clone()),
            foreign: None,
        }
    }
}

impl Provider for TreeProvider {
    fn kind(&self) -> ProviderKind {
        self.backend.kind()
    }

    fn features(&self) -> Features {
        self.backend.features()
    }

    fn probe(&self) -> Capability {
        Capability::unless(self.backend.missing(&self.root), self.features())
    }

    fn list(&self) -> Result<Vec<Snapshot>, Error> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).context("list", &self.root),
        };
        let mounts = mountinfo::read()?;
        let mut found = Vec::new();
        for name in entries.flatten().map(|e| e.file_name()) {
            let id = name.to_str().filter(|n| !n.starts_with('.')).and_then(|n| n.parse::<SnapshotId>().ok());
            let Some(id) = id else { continue };
            match self.read_entry(id) {
                Ok(Some(entry)) => found.push(self.listed(&entry, &mounts)),
                Ok(None) => {}
                Err(error) => tracing::warn!(?name, %error, "a snapshot is left out of the list"),
            }
        }
        found.sort_by(|a, b| a.created_at.cmp(&b.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(found)
    }

    fn origin(&self, datadir: &Path) -> Result<String, Error> {
        Ok(self.backend.origin(datadir)?.display().to_string())
    }

    fn create(&self, request: &CreateRequest, at_instant: AtInstant<'_>) -> Result<Snapshot, Error> {
        if let Some(reason) = self.backend.missing(&self.root) {
            return Err(Error::Unavailable { provider: self.provider_name(), reason });
        }
        self.ensure_root()?;
        let _lock = self.lock_root()?;
        let plan = self.backend.plan(&request.datadir, &self.root)?;
        let created_at = Timestamp::now();
        let origin = plan.source.file_name().map_or_else(|| "root".into(), |n| n.to_string_lossy());
        let taken = |name: &str| {
            ["", NEW, GONE, VIEW]
                .iter()
                .any(|prefix| self.root.join(format!("{prefix}{name}")).symlink_metadata().is_ok())
        };
        let name = self.pattern.expand(request, &origin, created_at, &taken);
        let (new, dir) = (self.root.join(format!("{NEW}{name}")), self.root.join(&name));
        let made = self.take_into(&new, &request.host, &plan, at_instant).and_then(|observed| {
            let meta = crate::instant::meta(request, observed, plan.inside.clone());
            let sidecar = Sidecar { origin: plan.source.clone(), created_at, meta };
            durable::write_json(&new.join(META), &sidecar)?;
            sys::file::remove_file(&new.join(MAKER))?;
            sync_file_system(&new)?;
            fs::rename(&new, &dir).context("put in place", &dir)?;
            Ok(sys::file::sync_dir(&self.root)?)
        });
        if let Err(error) = made {
            if let Err(also) = self.backend.delete_tree(&new) {
                tracing::warn!(path = %new.display(), error = %also, "a half-made snapshot could not be removed");
            }
            return Err(error);
        }
        let id = name
            .parse::<SnapshotId>()
            .map_err(|e| Error::Setting { key: "name_pattern", why: e.to_string() })?;
        Ok(self.listed(&self.entry(&id)?, &mountinfo::read()?))
    }

    fn remove(&self, id: &SnapshotId) -> Result<(), Error> {
        let entry = self.entry(id)?;
        let _lock = self.lock_root()?;
        let table = mountinfo::read()?;
        let mut mounts = entry.mounts(&table);
        mounts.extend(mounts_of(&self.root.join(format!("{VIEW}{id}")), &table));
        if !mounts.is_empty() {
            let holders = mounts.iter().map(|m| format!("the mount at {}", m.path.display())).collect();
            return Err(Error::Held { id: id.to_string(), holders });
        }
        self.backend.delete_tree(&self.root.join(format!("{VIEW}{id}")))?;
        let gone = self.root.join(format!("{GONE}{id}"));
        self.backend.delete_tree(&gone)?;
        fs::rename(&entry.dir, &gone).context("remove", &entry.dir)?;
        sys::file::sync_dir(&self.root)?;
        // What tells whose it is goes last.
        self.backend.delete_tree(&gone.join(DATA))?;
        self.backend.delete_tree(&gone)
    }

    fn mount(&self, id: &SnapshotId, target: &Path, mode: MountMode) -> Result<Mounted, Error> {
        let entry = self.entry(id)?;
        if let Validity::Invalid(reason) = entry.validity() {
            return Err(Error::Invalid { id: id.to_string(), reason });
        }
        let (tree, view) = match mode {
            MountMode::ReadOnly => (entry.data.clone(), None),
            MountMode::Writable => {
                let name = format!("{VIEW}{id}");
                let path = self.root.join(&name);
                self.backend.delete_tree(&path)?;
                self.backend.view(&entry.data, &path)?;
                (path, Some(name))
            }
        };
        let shown = show(&tree, target, mode);
        let path = match shown {
            Ok(path) => path,
            Err(error) => {
                if let Some(name) = &view {
                    self.backend.delete_tree(&self.root.join(name))?;
                }
                return Err(error);
            }
        };
        let inside = entry.sidecar.as_ref().map_or(&self.datadir_inside, |s| &s.meta.datadir);
        Ok(Mounted {
            id: id.clone(),
            datadir: if inside.as_os_str().is_empty() { path.clone() } else { path.join(inside) },
            identity: MountIdentity::of(&path)?,
            path,
            mode,
            view,
        })
    }

    fn unmount(&self, mounted: &Mounted) -> Result<(), Error> {
        // Where the agent may not mount, the path is below our own root and nothing was mounted.
        if !mounted.path.starts_with(&self.root) && mountinfo::is_mount_point(&mounted.path)? {
            mountinfo::unmount(&mounted.path, mountinfo::LOOK)?;
        }
        match mounted.view.as_deref() {
            Some(view) if view == format!("{VIEW}{}", mounted.id) => {
                self.backend.delete_tree(&self.root.join(view))
            }
            _ => Ok(()),
        }
    }

    fn validity(&self, id: &SnapshotId) -> Result<Validity, Error> {
        Ok(self.entry(id)?.validity())
    }

    fn record(&self, id: &SnapshotId, meta: &SnapshotMeta) -> Result<(), Error> {
        let entry = self.entry(id)?;
        let Some(mut sidecar) = entry.sidecar else {
            return Err(Error::Unsupported {
                provider: self.provider_name(),
                operation: "keep metadata of what others made",
            });
        };
        sidecar.meta = meta.clone();
        durable::write_json(&entry.dir.join(META), &sidecar)
    }

    fn sweep(&self, host: &AgentId) -> Result<Vec<String>, Error> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Ok(Vec::new()) };
        let _lock = self.lock_root()?;
        let mounts = mountinfo::read()?;
        let (mut swept, mut first_error) = (Vec::new(), None);
        for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
            let path = self.root.join(&name);
            let in_use = name.starts_with(VIEW) && !mounts_of(&path, &mounts).is_empty();
            if ![NEW, GONE, VIEW].iter().any(|p| name.starts_with(p)) || in_use {
                continue;
            }
            if !self.is_leftover_of(&name, host) {
                tracing::info!(path = %path.display(), "left alone: nothing tells that this agent has made it");
                continue;
            }
            match self.backend.delete_tree(&path) {
                Ok(()) => swept.push(name),
                Err(error) => _ = first_error.get_or_insert(error),
            }
        }
        first_error.map_or(Ok(swept), Err)
    }
}

/// A directory below the root that is a snapshot.
#[derive(Debug)]
struct Entry {
    id: SnapshotId,
    dir: PathBuf,
    data: PathBuf,
    sidecar: Option<Sidecar>,
    made_by_hand_at: Timestamp,
}

impl Entry {
    fn created_at(&self) -> Timestamp {
        self.sidecar.as_ref().map_or(self.made_by_hand_at, |s| s.created_at)
    }

    fn validity(&self) -> Validity {
        let inside = self.sidecar.as_ref().map(|s| self.data.join(&s.meta.datadir));
        match fs::read_dir(inside.as_ref().unwrap_or(&self.data)).map(|mut entries| entries.next().is_some())
        {
            Ok(true) if self.sidecar.is_none() => {
                Validity::Unknown("nothing tells what this directory holds".to_owned())
            }
            Ok(true) => Validity::Valid,
            Ok(false) => Validity::Invalid("its data directory is empty".to_owned()),
            Err(e) => Validity::Invalid(format!("its data directory cannot be read: {e}")),
        }
    }

    fn mounts(&self, table: &[MountLine]) -> Vec<SnapshotMount> {
        mounts_of(&self.data, table)
    }
}

/// Where a directory is bind-mounted.
fn mounts_of(dir: &Path, table: &[MountLine]) -> Vec<SnapshotMount> {
    let Ok(dir) = dir.canonicalize() else { return Vec::new() };
    let Some(home) = mountinfo::covering(table, &dir) else { return Vec::new() };
    let inside = mountinfo::inside_file_system(home, &dir);
    table
        .iter()
        .filter(|l| l.device == home.device && l.root == inside && l.mount_point != dir)
        .map(|l| SnapshotMount { path: l.mount_point.clone(), writable: l.writable, holders: Vec::new() })
        .collect()
}

/// Shows a tree at `target` by a bind mount; without leave to mount, the tree itself is what is shown.
fn show(tree: &Path, target: &Path, mode: MountMode) -> Result<PathBuf, Error> {
    let no_text: Option<&str> = None;
    match mount(Some(tree), target, no_text, MsFlags::MS_BIND, no_text) {
        Ok(()) => {}
        Err(nix::errno::Errno::EPERM) if !nix::unistd::geteuid().is_root() => return Ok(tree.to_owned()),
        Err(e) => return Err(e).context("mount at", target),
    }
    if mode == MountMode::ReadOnly {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        if let Err(e) = mount(no_text, target, no_text, flags, no_text) {
            let _ = umount2(target, MntFlags::empty());
            return Err(e).context("mount read-only at", target);
        }
    }
    Ok(target.to_owned())
}

/// A snapshot that a power cut could take back is none.
fn sync_file_system(dir: &Path) -> Result<(), Error> {
    let handle = fs::File::open(dir).context("open", dir)?;
    nix::unistd::syncfs(&handle).context("sync the file system of", dir)
}
