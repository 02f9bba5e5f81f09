//! Who has which snapshot mounted.
//!
//! Mounts are held by reference: the first holder mounts, the last one to let go unmounts, and no one removes or unmounts what someone
//! else reads. The table is on disk, so that mounts which a crash left behind are found and released. It knows no seed: a holder is a
//! text such as `seed <id>`, `verify` or `operator`.

mod lease;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::unistd::Uid;
use parking_lot::{Mutex, MutexGuard};
use protocol::ids::SnapshotId;
use protocol::snapshot::{Snapshot, SnapshotMount};
use serde::{Deserialize, Serialize};

use crate::error::IoContext as _;
use crate::provider::{MountIdentity, MountMode, Mounted, Provider};
use crate::{Error, durable, mountinfo, names};

pub use self::lease::{MountLease, prove_same_mount_and_valid};

/// The mounts of one provider's snapshots.
#[derive(Debug)]
pub struct MountTable {
    provider: Arc<dyn Provider>,
    mount_root: PathBuf,
    state_file: PathBuf,
    state: Mutex<State>,
}

/// A mount with those who hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldMount {
    /// The mount point that was asked for.
    pub target: PathBuf,
    /// What is mounted where.
    pub mounted: Mounted,
    /// Who holds it, each once.
    pub holders: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// Mount points that were about to be used; a crash may have left something on them.
    #[serde(default)]
    intents: Vec<PathBuf>,
    #[serde(default)]
    mounts: Vec<HeldMount>,
}

impl MountTable {
    /// Opens the table; what an earlier process held stays held until [`MountTable::recover`] says otherwise.
    ///
    /// # Errors
    /// When the mount root cannot be made, or the state file cannot be read or is damaged.
    pub fn open(
        provider: Arc<dyn Provider>,
        mount_root: &Path,
        state_file: &Path,
    ) -> Result<Arc<Self>, Error> {
        // A server of another user must get through to a snapshot that it shall run on, but need not list them.
        make_dir(mount_root, 0o711)?;
        let mount_root = mount_root.canonicalize().context("resolve", mount_root)?;
        let state = durable::read_json(state_file)?.unwrap_or_default();
        Ok(Arc::new(Self {
            provider,
            mount_root,
            state_file: state_file.to_owned(),
            state: Mutex::new(state),
        }))
    }

    /// Mounts the snapshot below the mount root, or joins the mount that is there. Idempotent for the same holder.
    ///
    /// # Errors
    /// [`Error::Held`] when a writable view is asked for, or in use, by someone else; the provider's refusal.
    pub fn acquire(
        self: &Arc<Self>,
        id: &SnapshotId,
        mode: MountMode,
        holder: &str,
    ) -> Result<MountLease, Error> {
        let mut name = names::as_file_name(id);
        if mode == MountMode::Writable {
            // `@` could end an id, `%` cannot be in one.
            name.push_str("%rw");
        }
        self.acquire_at(id, mode, holder, &self.mount_root.join(name))
    }

    /// As [`MountTable::acquire`], at a mount point of the caller's choice.
    ///
    /// # Errors
    /// Also [`Error::MountPoint`] when something else is there.
    pub fn acquire_at(
        self: &Arc<Self>,
        id: &SnapshotId,
        mode: MountMode,
        holder: &str,
        target: &Path,
    ) -> Result<MountLease, Error> {
        let mut state = self.lock();
        let mounted = match self.join(&mut state, id, mode, holder, target)? {
            Some(mounted) => mounted,
            None => self.mount_anew(&mut state, id, mode, holder, target)?,
        };
        drop(state);
        MountLease::new(self, holder, mounted)
    }

    /// Adds the holder to a mount at this target, if there is one that may be shared.
    fn join(
        &self,
        state: &mut State,
        id: &SnapshotId,
        mode: MountMode,
        holder: &str,
        target: &Path,
    ) -> Result<Option<Mounted>, Error> {
        let Some(at) = state.mounts.iter().position(|m| m.target == target) else { return Ok(None) };
        let entry = &mut state.mounts[at];
        if entry.mounted.id != *id {
            let reason = format!(
                "snapshot {} is mounted there, held by {}",
                entry.mounted.id,
                entry.holders.join(", ")
            );
            return Err(Error::MountPoint { path: target.to_owned(), reason });
        }
        let only_mine = entry.holders.iter().all(|h| h == holder);
        if !only_mine && (mode == MountMode::Writable || entry.mounted.mode != mode) {
            return Err(Error::Held { id: id.to_string(), holders: entry.holders.clone() });
        }
        let same = MountIdentity::of(&entry.mounted.path).is_ok_and(|now| now == entry.mounted.identity);
        if !same && !only_mine {
            let reason = "it was unmounted or replaced under its holders".to_owned();
            return Err(Error::MountChanged { path: target.to_owned(), reason });
        }
        if !same || entry.mounted.mode != mode {
            // Only this holder's own: begin anew, as after a reboot.
            let stale = state.mounts.remove(at);
            self.provider.unmount(&stale.mounted)?;
            return Ok(None);
        }
        let mounted = entry.mounted.clone();
        if !entry.holders.iter().any(|h| h == holder) {
            entry.holders.push(holder.to_owned());
            self.save(state)?;
        }
        Ok(Some(mounted))
    }

    fn mount_anew(
        &self,
        state: &mut State,
        id: &SnapshotId,
        mode: MountMode,
        holder: &str,
        target: &Path,
    ) -> Result<Mounted, Error> {
        let private = self.provider.features().private_views;
        let conflicts = |m: &&HeldMount| {
            let one_writes = mode == MountMode::Writable || m.mounted.mode == MountMode::Writable;
            let both_write = mode == MountMode::Writable && m.mounted.mode == MountMode::Writable;
            m.mounted.id == *id && if private { both_write } else { one_writes }
        };
        if let Some(other) = state.mounts.iter().find(conflicts) {
            return Err(Error::Held { id: id.to_string(), holders: other.holders.clone() });
        }
        self.prepare_target(target)?;
        state.intents.push(target.to_owned());
        self.save(state)?;
        let mounted = self.provider.mount(id, target, mode);
        state.intents.retain(|t| t != target);
        let mounted = match mounted {
            Ok(mounted) => mounted,
            Err(error) => {
                self.remove_target(target);
                self.save(state)?;
                return Err(error);
            }
        };
        let holders = vec![holder.to_owned()];
        state.mounts.push(HeldMount { target: target.to_owned(), mounted: mounted.clone(), holders });
        if let Err(error) = self.save(state) {
            state.mounts.pop();
            self.provider.unmount(&mounted)?;
            return Err(error);
        }
        tracing::info!(snapshot = %id, path = %mounted.path.display(), holder, "mounted");
        Ok(mounted)
    }

    /// Makes the target an empty directory with nothing on it; a leftover of ours is unmounted, anything else refused.
    fn prepare_target(&self, target: &Path) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::MountPoint { path: target.to_owned(), reason });
        let ours = target.starts_with(&self.mount_root);
        nobody_elses(target)?;
        if target.exists() && mountinfo::is_mount_point(target)? {
            if !ours {
                return refuse("something is mounted there already".to_owned());
            }
            mountinfo::unmount(target, mountinfo::LOOK)?;
        }
        make_dir(target, 0o755)?;
        let mut entries = fs::read_dir(target).context("list", target)?;
        if entries.next().is_some() {
            return refuse("it is not empty".to_owned());
        }
        Ok(())
    }

    fn remove_target(&self, target: &Path) {
        if target.starts_with(&self.mount_root) {
            // Fails when something is there, and then it shall stay.
            let _ = fs::remove_dir(target);
        }
    }

    /// Ends every hold of `holder` on the snapshot; unmounts where it was the last.
    ///
    /// # Errors
    /// [`Error::NotHeld`]; the provider's failure to unmount, after which it is still held.
    pub fn release(&self, id: &SnapshotId, holder: &str) -> Result<(), Error> {
        let targets: Vec<PathBuf> = self
            .lock()
            .mounts
            .iter()
            .filter(|m| m.mounted.id == *id && m.holders.iter().any(|h| h == holder))
            .map(|m| m.target.clone())
            .collect();
        if targets.is_empty() {
            return Err(Error::NotHeld { id: id.to_string(), holder: holder.to_owned() });
        }
        targets.iter().try_for_each(|target| self.release_target(target, holder))
    }

    /// Ends the hold of `holder` on what is mounted at `target`, and only on that; unmounts where it was the last.
    ///
    /// # Errors
    /// [`Error::Held`] when only others hold it; [`Error::MountPoint`] when nothing of ours is there; the provider's failure to unmount.
    pub fn release_at(&self, target: &Path, holder: &str) -> Result<SnapshotId, Error> {
        let at = self.lock().mounts.iter().find(|m| m.target == target).cloned();
        let Some(held) = at else {
            let reason = "no snapshot is mounted there".to_owned();
            return Err(Error::MountPoint { path: target.to_owned(), reason });
        };
        if !held.holders.iter().any(|h| h == holder) {
            return Err(Error::Held { id: held.mounted.id.to_string(), holders: held.holders });
        }
        self.release_target(target, holder)?;
        Ok(held.mounted.id)
    }

    fn release_target(&self, target: &Path, holder: &str) -> Result<(), Error> {
        let mut state = self.lock();
        let Some(at) = state.mounts.iter().position(|m| m.target == target) else { return Ok(()) };
        let others = state.mounts[at].holders.iter().filter(|h| *h != holder).count();
        if others > 0 {
            state.mounts[at].holders.retain(|h| h != holder);
            return self.save(&state);
        }
        let mounted = state.mounts[at].mounted.clone();
        self.provider.unmount(&mounted)?;
        state.mounts.remove(at);
        self.remove_target(target);
        tracing::info!(snapshot = %mounted.id, path = %mounted.path.display(), holder, "unmounted");
        self.save(&state)
    }

    /// Removes a snapshot that no one holds.
    ///
    /// # Errors
    /// [`Error::Held`] naming the holders; the provider's refusal.
    pub fn remove_snapshot(&self, id: &SnapshotId) -> Result<(), Error> {
        // The lock is kept, or someone could mount it in between.
        let state = self.lock();
        let holders: Vec<String> =
            state.mounts.iter().filter(|m| m.mounted.id == *id).flat_map(|m| m.holders.clone()).collect();
        if !holders.is_empty() {
            return Err(Error::Held { id: id.to_string(), holders });
        }
        self.provider.remove(id)
    }

    /// All mounts with their holders.
    #[must_use]
    pub fn held(&self) -> Vec<HeldMount> {
        self.lock().mounts.clone()
    }

    /// Adds holders to the mounts of a listing.
    pub fn annotate(&self, snapshots: &mut [Snapshot]) {
        let state = self.lock();
        for entry in &state.mounts {
            let Some(snapshot) = snapshots.iter_mut().find(|s| s.id == entry.mounted.id) else { continue };
            let path = &entry.mounted.path;
            match snapshot.mounts.iter_mut().find(|m| m.path == *path) {
                Some(mount) => mount.holders.clone_from(&entry.holders),
                None => snapshot.mounts.push(SnapshotMount {
                    path: path.clone(),
                    writable: entry.mounted.mode == MountMode::Writable,
                    holders: entry.holders.clone(),
                }),
            }
        }
    }

    /// After a start: ends the holds of those that `is_alive` denies, and unmounts what lies below the mount root unheld. What was released.
    ///
    /// # Errors
    /// When the state file cannot be written; mounts that are busy are logged and kept.
    pub fn recover(&self, is_alive: &dyn Fn(&str) -> bool) -> Result<Vec<PathBuf>, Error> {
        let mut state = self.lock();
        let mut released = Vec::new();
        let mut kept = Vec::new();
        for mut entry in std::mem::take(&mut state.mounts) {
            let same = MountIdentity::of(&entry.mounted.path).is_ok_and(|now| now == entry.mounted.identity);
            if same && entry.holders.iter().any(|h| is_alive(h)) {
                entry.holders.retain(|h| is_alive(h));
                kept.push(entry);
                continue;
            }
            match self.provider.unmount(&entry.mounted) {
                Ok(()) => {
                    self.remove_target(&entry.target);
                    released.push(entry.target);
                }
                Err(error) => {
                    tracing::warn!(path = %entry.target.display(), %error, "a leftover mount stays: it could not be unmounted");
                    kept.push(entry);
                }
            }
        }
        state.mounts = kept;
        let intents = std::mem::take(&mut state.intents);
        for path in self.strangers(&state, &intents)? {
            match umount2(&path, MntFlags::empty()) {
                Ok(()) => {
                    self.remove_target(&path);
                    released.push(path);
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a leftover mount stays: it could not be unmounted");
                }
            }
        }
        self.save(&state)?;
        Ok(released)
    }

    /// Mount points that are ours by place or intent and in no entry, the innermost first.
    fn strangers(&self, state: &State, intents: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
        let known = |p: &Path| state.mounts.iter().any(|m| p.starts_with(&m.mounted.path));
        let mut found: Vec<PathBuf> = mountinfo::read()?
            .into_iter()
            .map(|l| l.mount_point)
            .filter(|p| (p.starts_with(&self.mount_root) && *p != self.mount_root) || intents.contains(p))
            .filter(|p| !known(p))
            .collect();
        found.sort_by_key(|p| std::cmp::Reverse(p.as_os_str().len()));
        Ok(found)
    }

    /// The provider whose snapshots these are.
    #[must_use]
    pub fn provider(&self) -> &Arc<dyn Provider> {
        &self.provider
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is made whole before it can panic, so the state behind a poisoned lock is sound.
        self.state.lock()
    }

    fn save(&self, state: &State) -> Result<(), Error> {
        durable::write_json(&self.state_file, state)
    }
}

/// Refuses a way to a mount point that another user could have laid, or could turn elsewhere: a link, a directory of somebody else's, or
/// one that others may write to and that keeps nobody from renaming what is not his.
fn nobody_elses(target: &Path) -> Result<(), Error> {
    let me = nix::unistd::geteuid().as_raw();
    for part in target.ancestors() {
        let meta = match part.symlink_metadata() {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e).context("look at", part),
        };
        let shown = part.display();
        let reason = if !meta.is_dir() {
            format!("{shown} is no directory; links are not followed there")
        } else if meta.uid() != 0 && meta.uid() != me {
            format!("{shown} belongs to another user (uid {})", meta.uid())
        } else if meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0 {
            format!("{shown} may be written by others")
        } else {
            continue;
        };
        return Err(Error::MountPoint { path: target.to_owned(), reason });
    }
    Ok(())
}

/// Makes a directory, and what is missing above it, with exactly these permission bits, whatever the umask is. One of ours that an
/// earlier process has made narrower is widened: servers of other users get through here.
fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().ok_or(error).context("create directory", path)?;
            make_dir(parent, mode)?;
            return make_dir(path, mode);
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).context("create directory", path);
        }
        _ => {}
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let dir = fs::File::options().read(true).custom_flags(flags.bits()).open(path).context("open", path)?;
    let meta = dir.metadata().context("look at", path)?;
    let wanted = meta.mode() | mode;
    if meta.uid() == Uid::effective().as_raw() && wanted != meta.mode() {
        dir.set_permissions(fs::Permissions::from_mode(wanted & 0o7777)).context("set the mode of", path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::{Mode, umask};

    use super::*;

    /// A service with `UMask=0077` made mount points that the database's user could not enter.
    #[test]
    fn the_umask_keeps_nobody_from_a_mount_point() {
        let dir = tempfile::tempdir().unwrap();
        let (root, point) = (dir.path().join("run/mounts"), dir.path().join("run/mounts/one"));
        let before = umask(Mode::from_bits_truncate(0o077));
        let made = make_dir(&root, 0o711).and_then(|()| make_dir(&point, 0o755));
        umask(before);
        made.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!([mode(&dir.path().join("run")), mode(&root), mode(&point)], [0o711, 0o711, 0o755]);
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
        make_dir(&root, 0o711).unwrap();
        assert_eq!(mode(&root), 0o711, "what was made too narrow is mended");
    }
}
