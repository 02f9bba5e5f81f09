//! Snapshots by the user's own programs: a storage array, ZFS, a cloud disk.
//!
//! Each command is an argv list, run without a shell; parameters travel as environment variables, so that none can become an option.
//! `create` gets `SNAPSHOT_NAME SNAPSHOT_DATADIR SNAPSHOT_CLUSTER SNAPSHOT_DC SNAPSHOT_HOST` and, where one is set, `SNAPSHOT_EXPIRES_AT`; the
//! first line that it prints is the id, else the name is. The others get `SNAPSHOT_ID`, and for mounts `SNAPSHOT_TARGET` and `SNAPSHOT_MODE`
//! (`ro` or `rw`). `list` prints a JSON list of objects: `id` and `created_at` (RFC 3339), and optionally `origin`, `valid` (false when the data are
//! lost), `reason`, `size_bytes`, `fill_percent`. Metadata are kept in the agent's state directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::SnapshotId;
use protocol::snapshot::{Freeze, ProviderKind, Snapshot, SnapshotMeta, SnapshotMount, Validity};
use serde::{Deserialize, Serialize};
use sys::process::{Output, Program};

use crate::error::IoContext as _;
use crate::instant::{self, Instant};
use crate::names::{self, NamePattern};
use crate::provider::{
    AtInstant, Capability, CreateRequest, Features, MountIdentity, MountMode, Mounted, Provider, kind_name,
};
use crate::run::run;
use crate::settings::{CommandConfig, checked_inside};
use crate::{Error, durable, mountinfo};

const NAME: &str = "command";

/// The configured programs.
#[derive(Debug)]
pub(crate) struct CommandProvider {
    config: CommandConfig,
    pattern: NamePattern,
    sidecars: PathBuf,
}

/// One object of what `list` prints; fields of the user's own are welcome.
#[derive(Debug, Deserialize)]
struct Listed {
    id: String,
    created_at: Timestamp,
    #[serde(default)]
    origin: String,
    valid: Option<bool>,
    reason: Option<String>,
    size_bytes: Option<u64>,
    fill_percent: Option<f64>,
}

/// What is kept beside: an id that was removed by hand and used again has another time.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sidecar {
    created_at: Timestamp,
    /// The live data directory that it was made of.
    #[serde(default)]
    datadir: Option<PathBuf>,
    meta: SnapshotMeta,
    /// Where it was mounted by us.
    #[serde(default)]
    mounts: Vec<SnapshotMount>,
}

impl CommandProvider {
    pub(crate) fn new(config: &CommandConfig, state_dir: &Path) -> Result<Self, Error> {
        for (key, argv) in [
            ("create", &config.create),
            ("list", &config.list),
            ("mount", &config.mount),
            ("unmount", &config.unmount),
            ("remove", &config.remove),
        ] {
            if argv.first().is_none_or(String::is_empty) {
                return Err(Error::Setting {
                    key,
                    why: "it must be a list of a program and its arguments".to_owned(),
                });
            }
        }
        checked_inside(&config.datadir_inside)?;
        let pattern = NamePattern::parse(&config.name_pattern)?;
        Ok(Self { config: config.clone(), pattern, sidecars: state_dir.join("snapshots") })
    }

    fn run(&self, argv: &[String], parameters: &[(&str, String)]) -> Result<Output, Error> {
        let mut environment: BTreeMap<String, String> = self.config.environment.clone();
        environment.extend(parameters.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        let limit = Duration::from_secs(self.config.timeout_seconds.max(1));
        Ok(run(argv, &environment, limit)?.success()?)
    }

    fn listed(&self) -> Result<Vec<(SnapshotId, Listed)>, Error> {
        let out = self.run(&self.config.list, &[])?;
        let wrong = |detail: String| Error::ToolOutput { program: "list".to_owned(), detail };
        let listed: Vec<Listed> = serde_json::from_slice(&out.stdout).map_err(|e| wrong(e.to_string()))?;
        listed.into_iter().map(|l| Ok((l.id.parse().map_err(|e| wrong(format!("{e}")))?, l))).collect()
    }

    fn find(&self, id: &SnapshotId) -> Result<Listed, Error> {
        let found = self.listed()?.into_iter().find(|(known, _)| known == id);
        found.map(|(_, l)| l).ok_or_else(|| Error::NotListed { id: id.to_string() })
    }

    fn sidecar_path(&self, id: &SnapshotId) -> PathBuf {
        self.sidecars.join(format!("{}.json", names::as_file_name(id)))
    }

    fn sidecar(&self, id: &SnapshotId, listed: &Listed) -> Option<Sidecar> {
        match durable::read_json::<Sidecar>(&self.sidecar_path(id)) {
            Ok(sidecar) => sidecar.filter(|s| s.created_at == listed.created_at),
            Err(error) => {
                tracing::warn!(snapshot = %id, %error, "its metadata cannot be read");
                None
            }
        }
    }

    fn write_sidecar(&self, id: &SnapshotId, sidecar: &Sidecar) -> Result<(), Error> {
        fs::create_dir_all(&self.sidecars).context("create directory", &self.sidecars)?;
        durable::write_json(&self.sidecar_path(id), sidecar)
    }

    fn show(&self, id: SnapshotId, listed: Listed) -> Snapshot {
        let sidecar = self.sidecar(&id, &listed);
        let origin = sidecar.as_ref().and_then(|s| s.datadir.clone());
        let mounted = |m: &SnapshotMount| mountinfo::is_mount_point(&m.path).unwrap_or(true);
        Snapshot {
            mounts: sidecar.iter().flat_map(|s| s.mounts.iter().filter(|m| mounted(m)).cloned()).collect(),
            provider: ProviderKind::Command,
            validity: listed.validity(),
            origin: origin.map_or(listed.origin, |datadir| datadir.display().to_string()),
            created_at: listed.created_at,
            size_bytes: listed.size_bytes,
            fill_percent: listed.fill_percent,
            foreign: None,
            meta: sidecar.map(|s| s.meta),
            id,
        }
    }

    /// The id that `create` printed; the name when it printed none.
    fn made_id(out: &Output, name: &str) -> Result<SnapshotId, Error> {
        let text = String::from_utf8_lossy(&out.stdout);
        let id = text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or(name);
        id.parse().map_err(|e: protocol::ids::InvalidId| Error::ToolOutput {
            program: "create".to_owned(),
            detail: e.to_string(),
        })
    }

    /// Remembers or forgets a mount: a kernel's table cannot tell which mounts of unknown programs are snapshots.
    fn note_mount(&self, id: &SnapshotId, path: &Path, mode: Option<MountMode>) -> Result<(), Error> {
        let Some(mut sidecar) = durable::read_json::<Sidecar>(&self.sidecar_path(id))? else { return Ok(()) };
        sidecar.mounts.retain(|m| m.path != path);
        if let Some(mode) = mode {
            let writable = mode == MountMode::Writable;
            sidecar.mounts.push(SnapshotMount { path: path.to_owned(), writable, holders: Vec::new() });
        }
        self.write_sidecar(id, &sidecar)
    }
}

impl Listed {
    fn validity(&self) -> Validity {
        let reason = || self.reason.clone().unwrap_or_else(|| "the list command says so".to_owned());
        match self.valid {
            Some(false) => Validity::Invalid(reason()),
            Some(true) | None => Validity::Valid,
        }
    }
}

fn as_text(key: &'static str, path: &Path) -> Result<String, Error> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::Setting { key, why: format!("{} is not UTF-8", path.display()) })
}

impl Provider for CommandProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Command
    }

    fn features(&self) -> Features {
        Features { atomic: self.config.atomic, private_views: false, extendable: false, shares_blocks: false }
    }

    fn probe(&self) -> Capability {
        let commands = [
            &self.config.create,
            &self.config.list,
            &self.config.mount,
            &self.config.unmount,
            &self.config.remove,
        ];
        let missing =
            commands.into_iter().filter_map(|argv| argv.first()).find(|p| !Program::is_installed(p));
        let reason = missing.map(|program| format!("the program {program} is not there or may not be run"));
        Capability::unless(reason, self.features())
    }

    fn list(&self) -> Result<Vec<Snapshot>, Error> {
        let mut found: Vec<Snapshot> = self.listed()?.into_iter().map(|(id, l)| self.show(id, l)).collect();
        found.sort_by(|a, b| a.created_at.cmp(&b.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(found)
    }

    fn origin(&self, datadir: &Path) -> Result<String, Error> {
        as_text("datadir", datadir)
    }

    fn create(&self, request: &CreateRequest, at_instant: AtInstant<'_>) -> Result<Snapshot, Error> {
        if let Some(reason) = self.probe().reason {
            return Err(Error::Unavailable { provider: NAME, reason });
        }
        if !request.datadir.starts_with("/")
            || mountinfo::covering(&mountinfo::read()?, &request.datadir).is_none()
        {
            let reason = "it is not an absolute path".to_owned();
            return Err(Error::Origin { datadir: request.datadir.clone(), reason });
        }
        let known = self.listed()?;
        // The tool may dress the name up to an id of its own.
        let taken = |name: &str| known.iter().any(|(id, _)| id.as_str().contains(name));
        let name = self.pattern.expand(request, "data", Timestamp::now(), &taken);
        let mut parameters = vec![
            ("SNAPSHOT_NAME", name.clone()),
            ("SNAPSHOT_DATADIR", as_text("datadir", &request.datadir)?),
            ("SNAPSHOT_CLUSTER", request.cluster.clone()),
            ("SNAPSHOT_DC", request.dc.clone()),
            ("SNAPSHOT_HOST", request.host.to_string()),
        ];
        parameters.extend(request.expires_at.map(|t| ("SNAPSHOT_EXPIRES_AT", t.to_string())));
        let mut made = None;
        let outcome = Instant::new(|| {
            made = Some(Self::made_id(&self.run(&self.config.create, &parameters)?, &name)?);
            Ok(())
        })
        .run(at_instant);
        let finished = outcome.and_then(|observed| {
            if !self.config.atomic && observed.freeze == Freeze::Atomic {
                let detail = format!("it was neither ({:?})", observed.consistency);
                return Err(Error::NotAtRest { provider: NAME, detail });
            }
            let id = made.clone().ok_or_else(|| Error::NotListed { id: name.clone() })?;
            let listed = self.find(&id)?;
            let meta = instant::meta(request, observed, self.config.datadir_inside.clone());
            let datadir = Some(request.datadir.clone());
            let sidecar = Sidecar { created_at: listed.created_at, datadir, meta, mounts: Vec::new() };
            self.write_sidecar(&id, &sidecar)?;
            Ok(self.show(id, listed))
        });
        if finished.is_err() {
            // Also when `create` itself failed: it may have got half-way.
            let id = made.or_else(|| name.parse().ok());
            let half_made = id.filter(|id| !taken(id.as_str()) && self.find(id).is_ok());
            if let Some(Err(also)) = half_made.map(|id| self.remove(&id)) {
                tracing::warn!(name, error = %also, "a half-made snapshot could not be removed");
            }
        }
        finished
    }

    fn remove(&self, id: &SnapshotId) -> Result<(), Error> {
        let listed = self.find(id)?;
        let mounts = self.show(id.clone(), listed).mounts;
        if !mounts.is_empty() {
            let holders = mounts.iter().map(|m| format!("the mount at {}", m.path.display())).collect();
            return Err(Error::Held { id: id.to_string(), holders });
        }
        self.run(&self.config.remove, &[("SNAPSHOT_ID", id.to_string())])?;
        Ok(sys::file::remove_file(&self.sidecar_path(id))?)
    }

    fn mount(&self, id: &SnapshotId, target: &Path, mode: MountMode) -> Result<Mounted, Error> {
        let listed = self.find(id)?;
        if let Validity::Invalid(reason) = listed.validity() {
            return Err(Error::Invalid { id: id.to_string(), reason });
        }
        let word = if mode == MountMode::Writable { "rw" } else { "ro" };
        let parameters = [
            ("SNAPSHOT_ID", id.to_string()),
            ("SNAPSHOT_TARGET", as_text("target", target)?),
            ("SNAPSHOT_MODE", word.to_owned()),
        ];
        self.run(&self.config.mount, &parameters)?;
        if !mountinfo::is_mount_point(target)? {
            let reason = "the mount command succeeded and nothing is mounted there".to_owned();
            return Err(Error::MountPoint { path: target.to_owned(), reason });
        }
        self.note_mount(id, target, Some(mode))?;
        let inside =
            self.sidecar(id, &listed).map_or_else(|| self.config.datadir_inside.clone(), |s| s.meta.datadir);
        Ok(Mounted {
            id: id.clone(),
            path: target.to_owned(),
            datadir: if inside.as_os_str().is_empty() { target.to_owned() } else { target.join(inside) },
            mode,
            identity: MountIdentity::of(target)?,
            view: None,
        })
    }

    fn unmount(&self, mounted: &Mounted) -> Result<(), Error> {
        if mountinfo::is_mount_point(&mounted.path)? {
            let parameters = [
                ("SNAPSHOT_ID", mounted.id.to_string()),
                ("SNAPSHOT_TARGET", as_text("target", &mounted.path)?),
            ];
            self.run(&self.config.unmount, &parameters)?;
        }
        self.note_mount(&mounted.id, &mounted.path, None)
    }

    fn validity(&self, id: &SnapshotId) -> Result<Validity, Error> {
        Ok(self.find(id)?.validity())
    }

    fn record(&self, id: &SnapshotId, meta: &SnapshotMeta) -> Result<(), Error> {
        let listed = self.find(id)?;
        let Some(mut sidecar) = self.sidecar(id, &listed) else {
            let provider = kind_name(ProviderKind::Command);
            return Err(Error::Unsupported { provider, operation: "keep metadata of what others made" });
        };
        sidecar.meta = meta.clone();
        self.write_sidecar(id, &sidecar)
    }
}
