//! One suite for every provider: what [`Provider`] promises, tried out on a real medium.
//!
//! A test makes a [`Fixture`] and calls [`run`]; each check panics with what a user would notice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "this is test code that other test binaries share"
)]

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use protocol::ids::SnapshotId;
use protocol::mysql::{BinlogPosition, Coordinates, Flavor, LogIdentity, ServerVersion};
use protocol::snapshot::{Consistency, Freeze, Proof, Snapshot, Validity};

use crate::provider::{CreateRequest, Features, MountMode, Observed, Provider, TakeFailed};
use crate::{Error, MountTable};

/// A provider on a medium of its own.
pub struct Fixture<'a> {
    /// Makes the provider anew, as a restarted agent would.
    pub provider: &'a dyn Fn() -> Arc<dyn Provider>,
    /// A live data directory on its origin. The suite writes files there.
    pub datadir: PathBuf,
    /// A directory for mount points and state.
    pub work: PathBuf,
    /// An id that names the origin or something else that is no snapshot.
    pub not_a_snapshot: SnapshotId,
}

impl Debug for Fixture<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fixture").field("datadir", &self.datadir).finish_non_exhaustive()
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Runs every check; the medium holds no snapshot of ours before and after.
///
/// # Panics
/// When the provider breaks a promise.
pub fn run(fixture: &Fixture<'_>) {
    let capability = (fixture.provider)().probe();
    assert!(capability.available, "not available: {capability:?}");
    assert_eq!(ours(fixture), [], "the medium must be empty at first");

    a_snapshot_shows_the_data_as_they_were(fixture, capability.features);
    a_failed_instant_leaves_nothing(fixture, capability.features);
    only_listed_snapshots_are_touched(fixture);
    // Two for all that follows: in a VM each costs seconds.
    write(fixture, "t", "live");
    let (first, second) = metadata_survive_a_restart(fixture);
    mounts_are_held_by_reference(fixture, &first, &second);
    leftovers_of_a_crash_are_released(fixture, &first);
    a_mount_that_is_replaced_is_noticed(fixture, &first);
    a_writable_mount_never_reaches_the_origin(fixture, capability.features, &second);
    table(fixture).remove_snapshot(&first.id).unwrap();
    table(fixture).remove_snapshot(&second.id).unwrap();

    assert_eq!(ours(fixture), [], "the suite must leave nothing");
}

/// A request for the fixture's data directory.
#[must_use]
pub fn request(datadir: &Path) -> CreateRequest {
    CreateRequest {
        cluster: "orders".to_owned(),
        dc: "dc 1/ä".to_owned(),
        host: "db1.example.com:3307".parse().unwrap(),
        datadir: datadir.to_owned(),
        size: None,
        expires_at: Some("2026-12-24T18:00:00Z".parse().unwrap()),
    }
}

/// What an agent reports that stopped the server, with coordinates that are hard to encode.
#[must_use]
pub fn observed() -> Observed {
    Observed {
        consistency: Consistency::Stopped,
        freeze: Freeze::Stopped,
        coordinates: Some(Coordinates {
            flavor: Flavor::Mysql,
            binlog: Some(BinlogPosition { file: "bin log,ü.000042".to_owned(), position: 4711 }),
            gtid: Some(
                (1..60)
                    .map(|n| format!("3e11fa47-71ca-11e1-9e33-c80aa94295{n:02}:1-{n}"))
                    .collect::<Vec<_>>()
                    .join(",\n"),
            ),
        }),
        at_least: None,
        no_position: None,
        log: Some(LogIdentity { server_uuid: None, server_id: Some(7), created_s: Some(1_795_382_706) }),
        server_version: Some(ServerVersion {
            flavor: Flavor::Mysql,
            number: [9, 7, 4],
            text: "9.7.4 (a b)".to_owned(),
        }),
    }
}

/// Makes a snapshot of the fixture's data directory.
///
/// # Errors
/// The provider's.
pub fn create(fixture: &Fixture<'_>) -> Result<Snapshot, Error> {
    (fixture.provider)().create(&request(&fixture.datadir), &mut |take| {
        take()?;
        Ok(observed())
    })
}

fn ours(fixture: &Fixture<'_>) -> Vec<SnapshotId> {
    (fixture.provider)().list().unwrap().into_iter().filter(|s| s.meta.is_some()).map(|s| s.id).collect()
}

fn table(fixture: &Fixture<'_>) -> Arc<MountTable> {
    MountTable::open((fixture.provider)(), &fixture.work.join("mnt"), &fixture.work.join("mounts.json"))
        .unwrap()
}

fn write(fixture: &Fixture<'_>, name: &str, text: &str) {
    let path = fixture.datadir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn a_snapshot_shows_the_data_as_they_were(fixture: &Fixture<'_>, features: Features) {
    write(fixture, "db1/t1.ibd", "before");
    write(fixture, "ibdata1", "system before");
    let snapshot = create(fixture).unwrap();
    write(fixture, "db1/t1.ibd", "after, and longer");
    write(fixture, "db1/t2.ibd", "new");
    fs::remove_file(fixture.datadir.join("ibdata1")).unwrap();

    let table = table(fixture);
    let lease = table.acquire(&snapshot.id, MountMode::ReadOnly, "seed 1").unwrap();
    let seen = &lease.mounted().datadir;
    assert_eq!(fs::read_to_string(seen.join("db1/t1.ibd")).unwrap(), "before");
    assert_eq!(fs::read_to_string(seen.join("ibdata1")).unwrap(), "system before");
    assert!(!seen.join("db1/t2.ibd").exists(), "a file made after the snapshot shows in it");
    let written = fs::write(seen.join("x"), "x");
    assert!(written.is_err(), "a read-only mount could be written");
    lease.prove().unwrap();

    let listed = find(fixture, &snapshot.id);
    assert!(
        listed.mounts.iter().any(|m| m.path == lease.mounted().path && !m.writable),
        "{:?}",
        listed.mounts
    );
    assert_eq!(listed.validity, Validity::Valid);
    assert_eq!(listed.fill_percent.is_some(), features.extendable);
    lease.release().unwrap();
    assert_eq!(find(fixture, &snapshot.id).mounts, []);
    table.remove_snapshot(&snapshot.id).unwrap();
}

fn find(fixture: &Fixture<'_>, id: &SnapshotId) -> Snapshot {
    let listed = (fixture.provider)().list().unwrap();
    listed.into_iter().find(|s| s.id == *id).unwrap_or_else(|| panic!("{id} is not listed"))
}

fn metadata_survive_a_restart(fixture: &Fixture<'_>) -> (Snapshot, Snapshot) {
    let first = create(fixture).unwrap();
    let second = create(fixture).unwrap();
    assert_ne!(first.id, second.id, "two snapshots of one second need two names");
    let mut meta = first.meta.clone().expect("a snapshot of ours has metadata");
    let (asked, seen) = (request(&fixture.datadir), observed());
    assert_eq!((&meta.cluster, &meta.dc, &meta.host), (&asked.cluster, &asked.dc, &asked.host));
    assert_eq!((meta.consistency, meta.freeze), (seen.consistency, seen.freeze));
    assert_eq!((&meta.coordinates, &meta.server_version), (&seen.coordinates, &seen.server_version));
    assert_eq!(meta.log, seen.log);
    assert_eq!(meta.expires_at, asked.expires_at);
    assert_eq!(
        find(fixture, &first.id).meta.as_ref(),
        Some(&meta),
        "metadata must be read back as they were"
    );

    meta.proof = Some(Proof {
        checked_at: Timestamp::from_second(1_795_382_706).unwrap(),
        passed: false,
        detail: "table db1.t1 is corrupt; \"ü\"".to_owned(),
        recovery_ms: 1234,
        recovered: meta.coordinates.clone(),
        unchecked_tables: 0,
    });
    (fixture.provider)().record(&first.id, &meta).unwrap();
    assert_eq!(find(fixture, &first.id).meta.as_ref(), Some(&meta), "a proof must be kept with the snapshot");
    assert_eq!(find(fixture, &second.id).meta, second.meta, "and only with that one");
    (first, second)
}

fn a_failed_instant_leaves_nothing(fixture: &Fixture<'_>, features: Features) {
    let provider = (fixture.provider)();
    let before = provider.list().unwrap();
    let asked = request(&fixture.datadir);
    let error = provider
        .create(&asked, &mut |take| {
            take()?;
            Err("the lock was lost".into())
        })
        .unwrap_err();
    assert!(matches!(error, Error::Instant { .. }), "{error}");
    let error = provider.create(&asked, &mut |_| Ok(observed())).unwrap_err();
    assert!(matches!(error, Error::Instant { .. }), "an instant without a snapshot is none: {error}");
    let error = provider.create(&asked, &mut |_| Err("no lock in time".into())).unwrap_err();
    assert!(matches!(error, Error::Instant { .. }), "{error}");
    let error = provider
        .create(&asked, &mut |take| {
            take()?;
            assert_eq!(take(), Err(TakeFailed), "a second take must be refused");
            Err(BoxError::from(TakeFailed))
        })
        .unwrap_err();
    assert!(matches!(error, Error::Instant { .. }), "{error}");
    if !features.atomic {
        let error = provider
            .create(&asked, &mut |take| {
                take()?;
                Ok(Observed::crash_consistent())
            })
            .unwrap_err();
        assert!(matches!(error, Error::NotAtRest { .. }), "{error}");
    }
    let nowhere = CreateRequest { datadir: PathBuf::from("/proc"), ..asked };
    assert!(provider.create(&nowhere, &mut |take| Ok(take().map(|()| observed())?)).is_err());
    assert_eq!(provider.list().unwrap(), before, "a failed creation must leave nothing");
    assert_eq!(provider.sweep(&nowhere.host).unwrap(), Vec::<String>::new(), "nor anything half-made");
}

fn only_listed_snapshots_are_touched(fixture: &Fixture<'_>) {
    let provider = (fixture.provider)();
    let target = fixture.work.join("nowhere");
    fs::create_dir_all(&target).unwrap();
    for id in [fixture.not_a_snapshot.clone(), "no-such".parse().unwrap(), "vg9/no-such".parse().unwrap()] {
        let refused = |result: Result<(), Error>| {
            let error = result.expect_err("it is no snapshot");
            assert!(matches!(error, Error::NotListed { .. }), "{id}: {error}");
        };
        refused(provider.remove(&id));
        refused(provider.mount(&id, &target, MountMode::ReadOnly).map(drop));
        refused(provider.validity(&id).map(drop));
        if provider.features().extendable {
            refused(provider.extend(&id, 1 << 20).map(drop));
        }
    }
    assert!(fixture.datadir.is_dir(), "the origin is still there");
}

fn a_writable_mount_never_reaches_the_origin(fixture: &Fixture<'_>, features: Features, snapshot: &Snapshot) {
    let table = table(fixture);
    let lease = table.acquire(&snapshot.id, MountMode::Writable, "verify").unwrap();
    fs::write(lease.mounted().datadir.join("t"), "changed by a private server").unwrap();
    assert_eq!(fs::read_to_string(fixture.datadir.join("t")).unwrap(), "live");
    lease.prove().unwrap();
    let error = table.acquire(&snapshot.id, MountMode::Writable, "someone else").unwrap_err();
    assert!(matches!(&error, Error::Held { holders, .. } if holders == &["verify"]), "{error}");
    lease.release().unwrap();
    if features.private_views {
        let lease = table.acquire(&snapshot.id, MountMode::ReadOnly, "seed 2").unwrap();
        assert_eq!(
            fs::read_to_string(lease.mounted().datadir.join("t")).unwrap(),
            "live",
            "a view is private"
        );
    }
}

fn mounts_are_held_by_reference(fixture: &Fixture<'_>, first: &Snapshot, second: &Snapshot) {
    let table = table(fixture);
    let one = table.acquire(&first.id, MountMode::ReadOnly, "seed 1").unwrap();
    let two = table.acquire(&first.id, MountMode::ReadOnly, "operator").unwrap();
    let other = table.acquire(&second.id, MountMode::ReadOnly, "seed 1").unwrap();
    assert_eq!(one.mounted(), two.mounted(), "the second holder joins the mount");
    assert_ne!(one.mounted().path, other.mounted().path, "two snapshots have two mount points");
    drop(one);
    let error = table.remove_snapshot(&first.id).unwrap_err();
    assert!(error.to_string().contains("operator"), "{error}");
    two.prove().unwrap();
    let mut listed = vec![find(fixture, &first.id)];
    table.annotate(&mut listed);
    assert_eq!(listed[0].mounts[0].holders, ["operator"]);
    let error = (fixture.provider)().remove(&first.id).unwrap_err();
    assert!(matches!(error, Error::Held { .. }), "the provider itself refuses a mounted one: {error}");
    let error = table.release(&first.id, "stranger").unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error}");
    let _kept = two.keep();
    table.release(&first.id, "operator").unwrap();
    other.release().unwrap();
    assert_eq!(table.held(), []);
    // The original's one mount point, for the commands that name it.
    let named = fixture.work.join("the mount point");
    let lease = table.acquire_at(&first.id, MountMode::ReadOnly, "operator", &named).unwrap();
    assert_eq!(lease.mounted().path, named);
    let error = table.acquire_at(&second.id, MountMode::ReadOnly, "operator", &named).unwrap_err();
    assert!(matches!(error, Error::MountPoint { .. }), "{error}");
    lease.release().unwrap();
}

fn leftovers_of_a_crash_are_released(fixture: &Fixture<'_>, snapshot: &Snapshot) {
    let crashed = table(fixture);
    let kept = crashed.acquire(&snapshot.id, MountMode::ReadOnly, "seed 7").unwrap().keep();
    let view = crashed.acquire(&snapshot.id, MountMode::Writable, "verify");
    let view = view.ok().map(crate::MountLease::keep);
    // A mount that never came into the table, as when the agent died in between.
    let stray = fixture.work.join("mnt/stray");
    fs::create_dir_all(&stray).unwrap();
    let unrecorded = (fixture.provider)().mount(&snapshot.id, &stray, MountMode::ReadOnly).unwrap();
    drop(crashed);

    let again = table(fixture);
    let released = again.recover(&|holder| holder == "seed 7").unwrap();
    assert!(released.contains(&unrecorded.path), "{released:?}");
    assert_eq!(
        view.is_some(),
        released.iter().any(|p| Some(p) == view.as_ref().map(|v| &v.path)),
        "{released:?}"
    );
    let held = again.held();
    assert_eq!(
        (held.len(), &held[0].mounted, held[0].holders.as_slice()),
        (1, &kept, &["seed 7".to_owned()][..])
    );
    let lease = again.acquire(&snapshot.id, MountMode::ReadOnly, "seed 7").unwrap();
    assert_eq!(lease.mounted(), &kept, "a seed that goes on finds its mount as it was");
    lease.prove().unwrap();
    drop(lease);
    assert_eq!(find(fixture, &snapshot.id).mounts, [], "nothing stays mounted");
    assert_eq!(again.recover(&|_| false).unwrap(), Vec::<PathBuf>::new());
}

fn a_mount_that_is_replaced_is_noticed(fixture: &Fixture<'_>, snapshot: &Snapshot) {
    let table = table(fixture);
    let lease = table.acquire(&snapshot.id, MountMode::ReadOnly, "seed 1").unwrap();
    let path = lease.mounted().path.clone();
    lease.prove().unwrap();
    // As dmeventd does to an invalid snapshot.
    nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::MNT_FORCE).unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "a reader now sees an empty directory and no error");
    let error = lease.prove().unwrap_err();
    assert!(matches!(error, Error::MountChanged { .. }), "{error}");
    // The same snapshot mounted again is another mount: what was read in between is unknown.
    let again = (fixture.provider)().mount(&snapshot.id, &path, MountMode::ReadOnly).unwrap();
    let error = lease.prove().unwrap_err();
    assert!(matches!(error, Error::MountChanged { .. }), "{error}");
    let error = table.acquire(&snapshot.id, MountMode::ReadOnly, "seed 2").unwrap_err();
    assert!(matches!(error, Error::MountChanged { .. }), "no one joins a mount that changed: {error}");
    (fixture.provider)().unmount(&again).unwrap();
    lease.release().unwrap();
    (fixture.provider)().unmount(&again).unwrap();
}
