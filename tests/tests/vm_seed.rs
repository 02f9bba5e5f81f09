//! Whole seeds from real LVM snapshots, inside a VM: two agents beside their MariaDB, the bus, and ctl, all in the guest.
//!
//! One world per boot, on the file system that the group names; the cases share it, in order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use e2e::events::{await_event, stored};
use e2e::rows::{self, Writer};
use e2e::tree;
use e2e::volume::Volume;
use e2e::world::{Provider, Said, World, WorldOptions, slowly};
use jiff::Timestamp;
use protocol::error::ErrorCode;
use protocol::event::EventData;
use protocol::ids::{JobId, SnapshotId};
use protocol::job::{JobState, JobView};
use protocol::params::*;
use protocol::snapshot::{Snapshot, Validity};
use testkit::agent::{AgentOptions, Program};
use testkit::mysqld::{Mysqld, MysqldOptions};
use testkit::poll;
use testkit::vm::{DiskSpec, Group, Guest, suite_main};
use tokio::runtime::Runtime;

/// The donor's volume is mounted here.
const ORIGIN: &str = "/srv/db1";
/// The recipient's disk is mounted here.
const TARGET: &str = "/srv/db2";
/// An emulated host takes its time: a server starts within half a minute, twice in a seed.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks of an agent at its host.
const RECONCILE: Duration = Duration::from_secs(4);
/// Slow enough for a store to overflow while a seed reads.
const SLOW: u64 = 512 << 10;
const MIB: u64 = 1 << 20;
/// Of InnoDB.
const PAGE: u64 = 16 << 10;

fn main() -> ExitCode {
    let group = |name| {
        Group::new(name)
            .disk(DiskSpec::mib(3072))
            .disk(DiskSpec::mib(1024))
            .memory_mib(1536)
            .time_limit(Duration::from_secs(1000))
            .on_host(prepare_on_host)
    };
    suite_main(vec![
        group("seed_on_xfs")
            .setup(on_xfs)
            .case("rows_are_equal_at_the_recorded_position", rows_are_equal)
            .case("what_a_person_makes_and_removes_is_told", by_hand)
            .case("volumes_are_listed_by_pattern", volumes_are_listed_by_pattern)
            .case("verify_tells_sound_from_damaged", verify)
            .case("agents_end_in_good_order", end),
        group("seed_on_ext4")
            .setup(on_ext4)
            .case("rows_are_equal_at_the_recorded_position", rows_are_equal)
            .case("an_overflow_fails_the_seed_and_nothing_else", overflow)
            .case("agents_end_in_good_order", end),
        group("seed_from_a_store_that_grows")
            .setup(on_ext4)
            .case("the_guardian_extends_and_the_seed_succeeds", extended)
            .case("agents_end_in_good_order", end),
    ])
}

/// The programs, and a datadir to begin with: both take the guest far longer.
fn prepare_on_host() -> anyhow::Result<Vec<(OsString, OsString)>> {
    let agent = Program::Agent.path()?;
    drop(Mysqld::prepare(MysqldOptions::default())?);
    let directory = agent.parent().expect("a program lies in a directory");
    Ok(vec![("OA_PROGRAMS".into(), directory.into())])
}

/// Two agents with their servers; the runtime drives them between the cases too.
struct Stage {
    runtime: Runtime,
    world: World,
}

static STAGE: Mutex<Option<Stage>> = Mutex::new(None);

/// Runs a case on the world of this boot.
fn on_stage(case: impl AsyncFnOnce(&mut World)) -> anyhow::Result<()> {
    let mut stage = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let Stage { runtime, world } = stage.as_mut().expect("the setup has made it");
    runtime.block_on(case(world));
    Ok(())
}

fn on_xfs(guest: &Guest) -> anyhow::Result<()> {
    start(guest, &["mkfs.xfs", "-q"])
}

fn on_ext4(guest: &Guest) -> anyhow::Result<()> {
    start(guest, &["mkfs.ext4", "-q"])
}

fn start(guest: &Guest, mkfs: &[&str]) -> anyhow::Result<()> {
    let quiet = "activation {\n  udev_sync = 0\n  udev_rules = 0\n  monitoring = 0\n}\n";
    fs::write("/etc/lvm/lvmlocal.conf", quiet)?;
    guest.run(&["vgcreate", "-y", "vg0", guest.disk(0)])?;
    guest.run(&["lvcreate", "-y", "-L", "1G", "-n", "data", "vg0"])?;
    for (device, directory) in [("/dev/vg0/data", ORIGIN), (guest.disk(1), TARGET)] {
        guest.run(&[mkfs, &[device]].concat())?;
        fs::create_dir_all(directory)?;
        guest.run(&["mount", device, directory])?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    }
    let runtime = Runtime::new()?;
    let world = runtime.block_on(World::start(WorldOptions {
        provider: Provider::Lvm(ORIGIN),
        data_mib: 12,
        recipient_volume: Some(Volume::mounted(TARGET)),
        configure: Some(Box::new(configure)),
        patience: Some(PATIENCE),
        ..WorldOptions::default()
    }));
    *STAGE.lock().unwrap() = Some(Stage { runtime, world });
    Ok(())
}

fn configure(_: &str, options: &mut AgentOptions) {
    options.set("agent.reconcile_s", RECONCILE.as_secs_f64());
    options.set("snapshot.guardian.interval_s", 0.5);
}

/// Ends the world: an agent that logged an error which no case expected fails here.
fn end(_: &Guest) -> anyhow::Result<()> {
    let stage = STAGE.lock().unwrap_or_else(PoisonError::into_inner).take().expect("the setup has made it");
    stage.runtime.block_on(async {
        let mut world = stage.world;
        world.nothing_left(PATIENCE).await;
        world.recipient.agent.stop().unwrap();
        world.donor.agent.stop().unwrap();
    });
    Ok(())
}

/// Prints how long something took, for the report of the suite.
fn told<T>(what: &str, begun: Instant, value: T) -> T {
    println!("{what}: {:.1} s", begun.elapsed().as_secs_f64());
    value
}

fn rows_are_equal(_: &Guest) -> anyhow::Result<()> {
    on_stage(async |world| {
        let writer = Writer::start(&world.donor.db).await;
        poll::until_async(PATIENCE, "some writes", || async {
            (rows::last_write(&world.donor.db).await > 20).then_some(())
        })
        .await;
        let begun = Instant::now();
        let said = ctl(world, &["snapshot", "create", "db1"]).await;
        assert!(said.status.success(), "{said:?}");
        told("snapshot", begun, ());
        let snapshot = newest(world).await;
        let begun = Instant::now();
        let said = ctl(world, &["seed", "start", "db2", "--stop-mysql"]).await;
        let written = writer.stop().await;
        assert!(said.status.success(), "{said:?}");
        told("seed", begun, ());

        assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
        let meta = snapshot.meta.as_ref().expect("it is ours");
        let gtid = meta.coordinates.as_ref().and_then(|c| c.gtid.clone()).expect("a position");
        let position = rows::sequence_of(&gtid);
        let last = written.iter().filter(|(_, gtid)| *gtid <= position).map(|(id, _)| *id).max().unwrap();
        assert_eq!(rows::last_write(&world.recipient.db).await, last, "rows at the position {gtid}");
        assert!(rows::last_write(&world.donor.db).await > last, "the writer went on");
        assert_eq!(
            rows::writes_up_to(&world.recipient.db, last).await,
            rows::writes_up_to(&world.donor.db, last).await
        );
        println!("rows are equal up to {last}, GTID {gtid}; the donor wrote {} rows", written.len());
        world.nothing_left(PATIENCE).await;
        remove(world, &snapshot.id).await;
    })
}

/// An emulated host may take long for each answer.
async fn ctl(world: &World, arguments: &[&str]) -> Said {
    let mut all = vec!["--timeout", "280s"];
    all.extend(arguments);
    world.ctl(&all).await
}

async fn newest(world: &World) -> Snapshot {
    world.call(&world.donor, SnapshotListParams { usable: false }).await.swap_remove(0)
}

async fn create(world: &World, size_bytes: Option<u64>) -> SnapshotId {
    let job = world.call(&world.donor, SnapshotCreateParams { keep_s: None, size_bytes }).await.job;
    world.succeeded(&world.donor, job).await;
    newest(world).await.id
}

async fn remove(world: &World, snapshot: &SnapshotId) {
    let params = SnapshotRemoveParams { snapshot: snapshot.clone(), foreign: false };
    let job = world.call(&world.donor, params).await.job;
    world.succeeded(&world.donor, job).await;
}

/// What a person does is an event within one interval, beside the time that the look itself takes.
fn by_hand(guest: &Guest) -> anyhow::Result<()> {
    on_stage(async |world| {
        guest.run(&["lvcreate", "-y", "-s", "-L", "64M", "-n", "by-hand", "vg0/data"]).unwrap();
        told_in_time(guest, world, "lvcreate", |data| match data {
            EventData::SnapshotCreated(e) => (e.snapshot.id.as_str() == "vg0/by-hand").then(|| e.by.clone()),
            _ => None,
        })
        .await;
        guest.run(&["lvremove", "-y", "vg0/by-hand"]).unwrap();
        told_in_time(guest, world, "lvremove", |data| match data {
            EventData::SnapshotRemoved(e) => (e.id.as_str() == "vg0/by-hand").then(|| e.by.clone()),
            _ => None,
        })
        .await;

        // Of the two only what the provider lists is ever removed.
        for (name, why) in [("vg0/data", "the origin"), ("vg0/by-hand", "what is gone")] {
            let snapshot = name.parse().unwrap();
            let job = world.call(&world.donor, SnapshotRemoveParams { snapshot, foreign: false }).await.job;
            let error = world.ended(&world.donor, job).await.error.expect(why);
            assert_eq!(error.code, ErrorCode::NotFound, "{error:?}");
        }
        guest.run(&["mountpoint", "-q", ORIGIN]).unwrap();
    })
}

/// What the original's `lvs`, `lvs/:pattern`, `lv` and `lv/:lv` told.
fn volumes_are_listed_by_pattern(guest: &Guest) -> anyhow::Result<()> {
    on_stage(async |world| {
        guest.run(&["lvcreate", "-y", "-s", "-L", "64M", "-n", "nightly", "vg0/data"]).unwrap();
        let listed = async |pattern: Option<&str>| {
            let params = HostVolumesParams { pattern: pattern.map(str::to_owned) };
            let mut volumes = world.call(&world.donor, params).await;
            volumes.sort_by(|a, b| a.name.cmp(&b.name));
            volumes
        };
        let all = listed(None).await;
        let names: Vec<_> = all.iter().map(|volume| (volume.name.as_str(), volume.is_snapshot)).collect();
        assert_eq!(names, [("data", false), ("nightly", true)]);
        assert!(all.iter().all(|volume| volume.group == "vg0"), "{all:?}");
        assert_eq!((all[0].size_bytes, all[1].origin.as_deref()), (1 << 30, Some("data")), "{all:?}");
        for (pattern, names) in [("^vg0/night", &["nightly"][..]), ("^vg0/data$", &["data"]), ("^vg1/", &[])]
        {
            let found = listed(Some(pattern)).await;
            assert_eq!(found.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), names, "{pattern}");
        }
        guest.run(&["lvremove", "-y", "vg0/nightly"]).unwrap();
    })
}

/// Waits for the event of what was done just now and looks at its time. How long an `lvs` takes meanwhile tells how slow
/// this machine is at this moment; a look of the agent is one and some more.
async fn told_in_time(guest: &Guest, world: &World, what: &str, by: impl Fn(&EventData) -> Option<String>) {
    let done = Timestamp::now();
    let deadline = Instant::now() + PATIENCE;
    let mut slowest = Duration::ZERO;
    let (told, by) = loop {
        let begun = Instant::now();
        guest.run(&["lvs", "vg0"]).unwrap();
        slowest = slowest.max(begun.elapsed());
        let events = stored(&world.client).await;
        if let Some(found) = events.iter().find_map(|event| Some((event.time, by(&event.known()?)?))) {
            break found;
        }
        assert!(Instant::now() < deadline, "{what} by hand is never told");
    };
    assert_eq!(by, "outside");
    let late = told.duration_since(done).as_secs_f64();
    let within = RECONCILE + slowest * 6 + Duration::from_secs(2);
    println!("{what} by hand was told {late:.1} s later; allowed are {:.1} s", within.as_secs_f64());
    assert!(late < within.as_secs_f64(), "{what} was told only {late:.1} s later");
}

fn verify(_: &Guest) -> anyhow::Result<()> {
    on_stage(async |world| {
        let sound = create(world, None).await;
        let begun = Instant::now();
        let said = ctl(world, &["snapshot", "verify", "db1", sound.as_str()]).await;
        assert!(said.status.success(), "{said:?}");
        told("verify of a sound snapshot", begun, ());
        let proof = proof_of(world, &sound).await;
        assert!(proof.passed && proof.recovered.is_some(), "{proof:?}");
        println!("{}; recovered in {} ms", proof.detail, proof.recovery_ms);

        let damaged = create(world, None).await;
        damage(world, &damaged).await;
        let said = ctl(world, &["snapshot", "verify", "db1", damaged.as_str()]).await;
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        assert!(said.stderr.contains("not proven"), "{said:?}");
        let proof = proof_of(world, &damaged).await;
        assert!(!proof.passed, "{proof:?}");
        println!("{}", proof.detail);
        // A donor prefers the proven one, though the other is newer.
        let survey =
            world.call(&world.donor, SeedSurveyParams { snapshot: None, foreign: false, stream: None }).await;
        assert_eq!(survey.snapshot.map(|snapshot| snapshot.id), Some(sound.clone()));
        for snapshot in [&sound, &damaged] {
            remove(world, snapshot).await;
        }
    })
}

async fn proof_of(world: &World, id: &SnapshotId) -> protocol::snapshot::Proof {
    let all = world.call(&world.donor, SnapshotListParams { usable: false }).await;
    let found = all.into_iter().find(|s| s.id == *id).expect("it is listed");
    found.meta.expect("it is ours").proof.expect("it was verified")
}

/// Overwrites pages of a table in the snapshot itself, by a writable mount.
async fn damage(world: &World, id: &SnapshotId) {
    let named = Some(id.clone());
    let mount = SnapshotMountParams {
        snapshot: named.clone(),
        writable: true,
        at_mount_point: false,
        foreign: false,
    };
    let mounted = world.call(&world.donor, mount).await;
    let inside = world.donor.db.datadir().strip_prefix(ORIGIN).unwrap();
    let datadir = mounted.path.join(inside);
    let overwrite = |name: &str, pages: std::ops::Range<u64>, with: u8| {
        let mut file = File::options().write(true).open(datadir.join(name)).unwrap();
        file.seek(SeekFrom::Start(pages.start * PAGE)).unwrap();
        let bytes = (pages.end - pages.start) * PAGE;
        file.write_all(&vec![with; usize::try_from(bytes).unwrap()]).unwrap();
        file.sync_all().unwrap();
    };
    // All but the header: of what CHECK TABLE does not read, such as BLOBs, it can tell nothing.
    let pages = fs::metadata(datadir.join("shop/items.ibd")).unwrap().len() / PAGE;
    overwrite("shop/items.ibd", 3..pages, 0xAB);
    // The doublewrite buffer could mend some of them.
    overwrite("ibdata1", 64..192, 0);
    world.call(&world.donor, SnapshotUnmountParams { snapshot: named }).await;
}

/// A file on the origin whose blocks were there before a snapshot: each MiB written anew fills the store by one.
struct Churn {
    file: File,
    written: u64,
}

impl Churn {
    const SIZE_MIB: u64 = 64;

    fn path() -> PathBuf {
        Path::new(ORIGIN).join("churn")
    }

    /// Made before the snapshot.
    fn prepare() -> Self {
        let file = File::options().create(true).truncate(false).write(true).open(Self::path()).unwrap();
        let mut churn = Self { file, written: 0 };
        churn.write(Self::SIZE_MIB);
        churn.file.rewind().unwrap();
        churn.written = 0;
        churn
    }

    fn write(&mut self, mib: u64) {
        let block: Vec<u8> =
            (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for _ in 0..mib {
            self.file.write_all(&block).unwrap();
        }
        self.file.sync_all().unwrap();
        self.written += mib;
    }
}

/// Who keeps a seed slow.
#[derive(Debug, Clone, Copy)]
enum Slowed {
    /// The donor: nothing is on the way that the recipient would have to read first.
    ByDonor,
    /// The recipient: the limit can be lifted while the seed runs.
    ByRecipient,
}

/// Changes the guardian's policy of the donor and begins a slow seed from a small snapshot.
async fn seed_from_small(
    world: &mut World,
    policy: &[(&str, f64)],
    slowed: Slowed,
) -> (SnapshotId, JobId, Churn) {
    for (key, value) in policy {
        world.donor.agent.options().set(&format!("snapshot.guardian.policy.{key}"), *value);
    }
    let (donor, recipient) = match slowed {
        Slowed::ByDonor => (SLOW, 0),
        Slowed::ByRecipient => (0, SLOW),
    };
    let options = world.donor.agent.options();
    options.set("snapshot.provider.min_size_bytes", 4 << 20);
    options.set("seed.donor_bytes_per_s", donor.cast_signed());
    world.donor.agent.restart().unwrap();
    world.serving(&world.donor.id()).await;
    let churn = Churn::prepare();
    let snapshot = create(world, Some(16 * MIB)).await;
    let job = world.seed(slowly(recipient)).await;
    world.in_transfer(job, MIB).await;
    (snapshot, job, churn)
}

fn overflow(guest: &Guest) -> anyhow::Result<()> {
    on_stage(async |world| {
        // A recipient as it was before anyone seeded it: its own row is what must stay.
        world.recipient.db.exec("CREATE DATABASE IF NOT EXISTS own").await.unwrap();
        world.recipient.db.exec("CREATE OR REPLACE TABLE own.marker (id INT PRIMARY KEY)").await.unwrap();
        world.recipient.db.exec("INSERT INTO own.marker VALUES (4711)").await.unwrap();
        let never = [("extend_by_percent", 0.0), ("abort_at_percent", 101.0), ("abort_within_seconds", 0.0)];
        let (snapshot, job, mut churn) = seed_from_small(world, &never, Slowed::ByDonor).await;
        world.donor.agent.expect_error("must not be read any further");
        let (files, pid) = (tree::names(world.recipient.db.datadir()), world.recipient.db.pid());

        let begun = Instant::now();
        guest.run(&["lvs", "vg0"]).unwrap();
        let one_call = begun.elapsed();
        churn.write(24);
        let full = Instant::now();
        let view = world.ended(&world.recipient, job).await;
        let took = full.elapsed();
        assert_failed_by_overflow(&view, &snapshot);
        println!(
            "overflow: the seed had failed {:.1} s after it; one lvs takes {:.1} s",
            took.as_secs_f64(),
            one_call.as_secs_f64()
        );
        // On a machine that is busy with other things a single lvs takes seconds.
        let within = Duration::from_secs(5).max(one_call * 8);
        assert!(took < within, "the seed failed only {took:?} after the overflow, {within:?} are allowed");

        assert_eq!(tree::names(world.recipient.db.datadir()), files, "the recipient's datadir was touched");
        assert_eq!(world.recipient.db.pid(), pid, "MySQL of the recipient ran on");
        world.recipient_is_as_it_was().await;
        world.nothing_left(PATIENCE).await;
        assert!(matches!(newest(world).await.validity, Validity::Invalid(_)));
        let invalid = |data: &EventData| matches!(data, EventData::SnapshotInvalid(e) if e.id == snapshot);
        // An event follows its cause: a seed that failed at once is ended before the loss has reached the stream.
        await_event(&world.client, "the loss of the snapshot", |event| {
            event.known().is_some_and(|data| invalid(&data))
        })
        .await;
        remove(world, &snapshot).await;
    })
}

fn assert_failed_by_overflow(view: &JobView, snapshot: &SnapshotId) {
    assert_eq!(view.state, JobState::Failed, "{view:?}");
    let error = view.error.as_ref().expect("a failure has a reason");
    let said = format!("{} {}", error.message, error.causes.join(" "));
    assert!(said.contains("overflow"), "the cause of {snapshot}'s loss is not named: {said}");
}

fn extended(_: &Guest) -> anyhow::Result<()> {
    on_stage(async |world| {
        let policy = [("extend_at_percent", 60.0), ("extend_by_percent", 100.0), ("abort_at_percent", 97.0)];
        let (snapshot, job, mut churn) = seed_from_small(world, &policy, Slowed::ByRecipient).await;
        // As much as overflowed it before, at a pace that leaves the guardian its time on any machine.
        while churn.written < 40 {
            poll::until_async(PATIENCE, "the guardian to make room", || async {
                newest(world).await.fill_percent.filter(|fill| *fill < 62.0)
            })
            .await;
            churn.write(2);
        }
        let grown = newest(world).await;
        println!("extended from 16 MiB to {} MiB", grown.size_bytes.unwrap() / MIB);
        assert!(grown.size_bytes.unwrap() > 40 * MIB, "{grown:?}");
        world.hurry(job).await;
        world.succeeded(&world.recipient, job).await;
        assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
        world.nothing_left(PATIENCE).await;
        remove(world, &snapshot).await;
    })
}
