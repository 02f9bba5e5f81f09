//! The LVM providers on a real device-mapper, inside a VM.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are test code too")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::snapshot::{ProviderKind, Validity};
use snapshot::conformance::{self, Fixture, observed, request};
use snapshot::guardian::{Action, Guardian, GuardianPolicy};
use snapshot::provider::{CreateRequest, MountMode, Observed, Provider, SizePolicy};
use snapshot::registry::{LvmConfig, ProviderConfig, build};
use snapshot::{Error, MountTable, volumes};
use testkit::vm::{DiskSpec, Group, Guest, suite_main};

fn main() -> ExitCode {
    let group = |name| Group::new(name).disk(DiskSpec::mib(2048)).time_limit(Duration::from_secs(240));
    let mut groups = vec![
        group("lvm_classic")
            .setup(classic_on_xfs)
            .case("keeps_the_contract", classic_keeps_the_contract)
            .case("room_is_refused_rather_than_cut", room_is_refused_rather_than_cut)
            .case("ext4_and_read_only_snapshots_mount", ext4_and_read_only_snapshots_mount)
            .case("metadata_survive_a_lost_state", metadata_survive_a_lost_state)
            .case("what_others_made_is_filtered_and_never_the_origin", what_others_made_is_filtered)
            .case("a_half_made_one_is_swept", a_half_made_one_is_swept)
            .case("what_cannot_be_mounted_or_unmounted_says_why", what_cannot_be_mounted),
        group("lvm_overflow")
            .setup(classic_on_xfs)
            .case("seen_with_monitoring_off", overflow_is_seen_with_monitoring_off)
            .case("the_guardian_extends", the_guardian_extends)
            .case("the_guardian_aborts_without_room", the_guardian_aborts_without_room),
        group("lvm_thin")
            .setup(thin_on_xfs)
            .case("keeps_the_contract", thin_keeps_the_contract)
            .case("one_made_by_hand_is_activated", a_thin_snapshot_made_by_hand_is_activated)
            .case("fifty_cost_one_call", fifty_snapshots_cost_one_call),
    ];
    // Hung once in fourteen runs, the guest blocked between dmeventd's forced unmount and the next LVM command; the cause is not
    // found yet. Until then it runs by hand: VM_DMEVENTD=1 make test-vm.
    if std::env::var_os("VM_DMEVENTD").is_some() {
        groups.push(
            group("lvm_overflow_dmeventd")
                .env("VM_DMEVENTD", "1")
                .setup(classic_on_xfs)
                .case("seen_with_monitoring_on", overflow_is_seen_with_monitoring_on),
        );
    }
    suite_main(groups)
}

const ORIGIN: &str = "/srv/origin";

fn datadir() -> PathBuf {
    PathBuf::from(ORIGIN).join("mysql")
}

fn make_group(guest: &Guest, monitoring: bool) -> anyhow::Result<()> {
    set_monitoring(monitoring)?;
    guest.run(&["vgcreate", "-y", "vg0", guest.disk(0)])?;
    Ok(())
}

/// As Debian ships it, or without dmeventd.
fn set_monitoring(on: bool) -> anyhow::Result<()> {
    let config =
        format!("activation {{\n  udev_sync = 0\n  udev_rules = 0\n  monitoring = {}\n}}\n", u8::from(on));
    fs::write("/etc/lvm/lvmlocal.conf", config)?;
    Ok(())
}

fn mount_origin(guest: &Guest, device: &str, mkfs: &[&str]) -> anyhow::Result<()> {
    guest.run(&[mkfs, &[device]].concat())?;
    fs::create_dir_all(ORIGIN)?;
    guest.run(&["mount", device, ORIGIN])?;
    fs::create_dir_all(datadir())?;
    Ok(())
}

fn classic_on_xfs(guest: &Guest) -> anyhow::Result<()> {
    make_group(guest, false)?;
    guest.run(&["lvcreate", "-y", "-L", "512M", "-n", "data", "vg0"])?;
    mount_origin(guest, "/dev/vg0/data", &["mkfs.xfs", "-q"])
}

fn thin_on_xfs(guest: &Guest) -> anyhow::Result<()> {
    make_group(guest, false)?;
    guest.run(&["lvcreate", "-y", "-L", "800M", "-T", "vg0/pool"])?;
    guest.run(&["lvcreate", "-y", "-V", "512M", "-T", "vg0/pool", "-n", "data"])?;
    mount_origin(guest, "/dev/vg0/data", &["mkfs.xfs", "-q"])
}

fn config() -> LvmConfig {
    LvmConfig { size: SizePolicy::FixedBytes(96 << 20), min_size_bytes: 4 << 20, ..LvmConfig::default() }
}

fn provider(config: &ProviderConfig) -> Arc<dyn Provider> {
    Arc::from(build(config, Path::new("/run/agent-state")).unwrap())
}

fn classic() -> Arc<dyn Provider> {
    provider(&ProviderConfig::Lvm(config()))
}

fn thin() -> Arc<dyn Provider> {
    provider(&ProviderConfig::LvmThin(config()))
}

fn conform(make: &dyn Fn() -> Arc<dyn Provider>, work: &str) {
    fs::create_dir_all(work).unwrap();
    conformance::run(&Fixture {
        provider: make,
        datadir: datadir(),
        work: PathBuf::from(work),
        not_a_snapshot: "vg0/data".parse().unwrap(),
    });
}

fn create(provider: &dyn Provider, asked: &CreateRequest) -> Result<protocol::snapshot::Snapshot, Error> {
    provider.create(asked, &mut |take| Ok(take().map(|()| Observed::crash_consistent())?))
}

/// A classic snapshot of so many MiB, mounted and held.
fn small_snapshot(mib: u64, work: &str) -> (Arc<dyn Provider>, snapshot::MountLease) {
    churn(0).unwrap();
    let provider = classic();
    let asked = CreateRequest { size: Some(SizePolicy::FixedBytes(mib << 20)), ..request(&datadir()) };
    let made = create(provider.as_ref(), &asked).unwrap();
    let table = MountTable::open(
        Arc::clone(&provider),
        &Path::new(work).join("mnt"),
        &Path::new(work).join("s.json"),
    );
    let lease = table.unwrap().acquire(&made.id, MountMode::ReadOnly, "seed 1").unwrap();
    (provider, lease)
}

/// Overwrites the first MiB of a file that was there before the snapshot, in place: each is copied to the store once.
fn churn(mib: usize) -> anyhow::Result<()> {
    let path = datadir().join("churn");
    if !path.exists() {
        write_blocks(&fs::File::create(&path)?, 64)?;
    }
    write_blocks(&fs::File::options().write(true).open(&path)?, mib)
}

fn write_blocks(mut file: &fs::File, mib: usize) -> anyhow::Result<()> {
    let block: Vec<u8> = (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for _ in 0..mib {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(())
}

fn clean_up(provider: &dyn Provider) -> anyhow::Result<()> {
    for snapshot in provider.list()? {
        provider.remove(&snapshot.id)?;
    }
    Ok(())
}

fn classic_keeps_the_contract(_guest: &Guest) -> anyhow::Result<()> {
    conform(&classic, "/run/conformance");
    Ok(())
}

fn thin_keeps_the_contract(_guest: &Guest) -> anyhow::Result<()> {
    conform(&thin, "/run/conformance");
    Ok(())
}

fn room_is_refused_rather_than_cut(_guest: &Guest) -> anyhow::Result<()> {
    let provider = classic();
    let fill = CreateRequest { size: Some(SizePolicy::FreePercent(100.0)), ..request(&datadir()) };
    // The largest useful store is cut to, not refused: it can never overflow.
    let made = create(provider.as_ref(), &fill)?;
    assert_eq!(made.size_bytes, Some(516 << 20), "all of a 512 MiB origin and the tables about it");
    create(provider.as_ref(), &fill)?;
    let asked = CreateRequest { size: Some(SizePolicy::FixedBytes(500 << 20)), ..request(&datadir()) };
    let before = provider.list()?.len();
    let error = create(provider.as_ref(), &asked)
        .map(|_| ())
        .and_then(|()| create(provider.as_ref(), &asked).map(|_| ()));
    let error = error.expect_err("the group is full");
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert!(provider.list()?.len() <= before + 1);
    let wrong = provider.create(&request(Path::new("/usr")), &mut |_| panic!("not that far")).unwrap_err();
    assert!(matches!(wrong, Error::Origin { .. }), "{wrong}");
    clean_up(provider.as_ref())
}

fn ext4_and_read_only_snapshots_mount(guest: &Guest) -> anyhow::Result<()> {
    guest.run(&["lvcreate", "-y", "-L", "128M", "-n", "ext", "vg0"])?;
    guest.run(&["mkfs.ext4", "-q", "/dev/vg0/ext"])?;
    fs::create_dir_all("/srv/ext")?;
    guest.run(&["mount", "/dev/vg0/ext", "/srv/ext"])?;
    fs::write("/srv/ext/ibdata1", "x")?;
    fs::write(datadir().join("ibdata1"), "x")?;
    guest.run(&["sync"])?;
    guest.run(&["lvcreate", "-y", "-s", "-pr", "-L", "16M", "-n", "by-hand-xfs", "vg0/data"])?;
    guest.run(&["lvcreate", "-y", "-s", "-pr", "-L", "16M", "-n", "by-hand-ext4", "vg0/ext"])?;
    let provider = classic();
    let made = create(provider.as_ref(), &request(Path::new("/srv/ext")))?;
    assert_eq!(made.origin, "vg0/ext");
    let target = Path::new("/run/target");
    fs::create_dir_all(target)?;
    for (id, file) in
        [("vg0/by-hand-xfs", "mysql/ibdata1"), ("vg0/by-hand-ext4", "ibdata1"), (made.id.as_str(), "ibdata1")]
    {
        let mounted = provider.mount(&id.parse()?, target, MountMode::ReadOnly)?;
        assert_eq!(fs::read_to_string(target.join(file))?, "x", "{id}");
        provider.unmount(&mounted)?;
    }
    clean_up(provider.as_ref())?;
    guest.run(&["umount", "/srv/ext"])?;
    guest.run(&["lvremove", "-y", "vg0/ext"])?;
    Ok(())
}

fn metadata_survive_a_lost_state(guest: &Guest) -> anyhow::Result<()> {
    let provider = classic();
    let made = provider.create(&request(&datadir()), &mut |take| Ok(take().map(|()| observed())?))?;
    fs::remove_dir_all("/run/agent-state")?;
    let listed = classic().list()?;
    assert_eq!(listed[0].meta, made.meta, "tags alone must tell everything");
    assert_eq!(listed[0].meta.as_ref().unwrap().datadir, Path::new("mysql"));
    let tags = guest.run(&["lvs", "--noheadings", "-o", "lv_tags", made.id.as_str()])?;
    assert!(tags.contains("orchestrator-agent") && tags.contains("oa:cluster=orders"), "{tags}");
    clean_up(provider.as_ref())
}

fn what_others_made_is_filtered(guest: &Guest) -> anyhow::Result<()> {
    for name in ["nightly-1", "other-1"] {
        guest.run(&["lvcreate", "-y", "-s", "-L", "16M", "-n", name, "vg0/data"])?;
    }
    let filtered = provider(&ProviderConfig::Lvm(LvmConfig {
        snapshot_volumes_filter: Some("nightly".to_owned()),
        ..config()
    }));
    let names =
        |p: &Arc<dyn Provider>| p.list().unwrap().into_iter().map(|s| s.id.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&filtered), ["vg0/nightly-1"]);
    assert_eq!(names(&classic()).len(), 2);
    for id in ["vg0/other-1", "vg0/data"] {
        let error = filtered.remove(&id.parse()?).unwrap_err();
        assert!(matches!(error, Error::NotListed { .. }), "{id}: {error}");
    }
    let all = volumes::list(None)?;
    assert_eq!(
        all.iter().map(|v| (v.name.as_str(), v.is_snapshot)).collect::<BTreeSet<_>>(),
        BTreeSet::from([("data", false), ("nightly-1", true), ("other-1", true)])
    );
    assert_eq!(volumes::list(Some("^vg0/night"))?.len(), 1);
    clean_up(classic().as_ref())
}

fn a_half_made_one_is_swept(guest: &Guest) -> anyhow::Result<()> {
    let host = request(&datadir()).host;
    for (name, maker) in [("mine", host.as_str()), ("theirs", "another")] {
        let tag = format!("oa:new={maker}");
        let ours = "orchestrator-agent";
        guest.run(&[
            "lvcreate", "-y", "-s", "-L", "16M", "-n", name, "--addtag", &tag, "--addtag", ours, "vg0/data",
        ])?;
    }
    let provider = classic();
    assert_eq!(provider.list()?, [], "what is not finished is not listed");
    assert_eq!(provider.sweep(&host)?, ["vg0/mine"]);
    assert_eq!(
        guest.run(&["lvs", "--noheadings", "-o", "lv_name", "vg0"])?.split_whitespace().collect::<Vec<_>>(),
        ["data", "theirs"]
    );
    guest.run(&["lvremove", "-y", "vg0/theirs"])?;
    Ok(())
}

/// A volume without a file system, and a mount in which someone works.
fn what_cannot_be_mounted(guest: &Guest) -> anyhow::Result<()> {
    guest.run(&["lvcreate", "-y", "-L", "16M", "-n", "blank", "vg0"])?;
    guest.run(&["lvcreate", "-y", "-s", "-L", "8M", "-n", "blank-snap", "vg0/blank"])?;
    let provider = classic();
    let root = Path::new("/run/unmountable/mnt");
    let table = MountTable::open(Arc::clone(&provider), root, Path::new("/run/unmountable/s.json"))?;
    let error = table.acquire(&"vg0/blank-snap".parse()?, MountMode::ReadOnly, "seed 1").unwrap_err();
    assert!(error.to_string().contains("holds no file system"), "{error}");
    assert_eq!((table.held(), fs::read_dir(root)?.count()), (Vec::new(), 0), "nothing half-made is left");

    fs::write(datadir().join("ibdata1"), "x")?;
    let made = create(provider.as_ref(), &request(&datadir()))?;
    let lease = table.acquire(&made.id, MountMode::ReadOnly, "seed 1")?;
    let busy = fs::File::open(lease.mounted().datadir.join("ibdata1"))?;
    lease.prove()?;
    let error = lease.release().unwrap_err();
    assert!(error.to_string().contains("unmount"), "{error}");
    assert_eq!(table.held().len(), 1, "what could not be unmounted is still held");
    assert!(matches!(table.remove_snapshot(&made.id).unwrap_err(), Error::Held { .. }));
    drop(busy);
    table.release(&made.id, "seed 1")?;
    clean_up(provider.as_ref())?;
    guest.run(&["lvremove", "-y", "vg0/blank"])?;
    Ok(())
}

fn overflow_is_seen_with_monitoring_off(_guest: &Guest) -> anyhow::Result<()> {
    let (provider, lease) = small_snapshot(8, "/run/off");
    let id = lease.mounted().id.clone();
    lease.prove()?;
    churn(24)?;
    let error = lease.prove().unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(error.to_string().contains("overflowed"), "{error}");
    let mut guardian = Guardian::new(GuardianPolicy::default());
    let found = guardian.tick(provider.as_ref(), std::slice::from_ref(&id), Duration::ZERO)?;
    assert!(matches!(found[0].1, Action::Lost { .. }), "{found:?}");
    lease.release()?;
    fs::create_dir_all("/run/target")?;
    let error = provider.mount(&id, Path::new("/run/target"), MountMode::ReadOnly).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    clean_up(provider.as_ref())
}

fn overflow_is_seen_with_monitoring_on(_guest: &Guest) -> anyhow::Result<()> {
    set_monitoring(true)?;
    let (provider, lease) = small_snapshot(8, "/run/on");
    fs::write(datadir().join("ibdata1"), "x")?;
    churn(24)?;
    // dmeventd unmounts it by force some seconds later, and from then on it is an empty directory.
    let started = Instant::now();
    while fs::read_dir(&lease.mounted().path)?.next().is_some() {
        assert!(started.elapsed() < Duration::from_secs(60), "dmeventd has not unmounted it");
        std::thread::sleep(Duration::from_millis(100));
    }
    let error = lease.prove().unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    lease.release()?;
    set_monitoring(false)?;
    clean_up(provider.as_ref())
}

fn the_guardian_extends(_guest: &Guest) -> anyhow::Result<()> {
    let (provider, lease) = small_snapshot(16, "/run/extend");
    let id = lease.mounted().id.clone();
    let mut guardian =
        Guardian::new(GuardianPolicy { extend_by_percent: 200.0, ..GuardianPolicy::default() });
    let started = Instant::now();
    churn(8)?;
    let mut tick = || guardian.tick(provider.as_ref(), std::slice::from_ref(&id), started.elapsed());
    tick()?;
    churn(13)?;
    let found = tick()?;
    assert_eq!(found[0].1, Action::Extended { size_bytes: 48 << 20 }, "{found:?}");
    churn(24)?;
    lease.prove()?;
    assert_eq!(provider.validity(&id)?, Validity::Valid);
    lease.release()?;
    clean_up(provider.as_ref())
}

fn the_guardian_aborts_without_room(guest: &Guest) -> anyhow::Result<()> {
    let (provider, lease) = small_snapshot(16, "/run/abort");
    guest.run(&["lvcreate", "-y", "-l", "100%FREE", "-n", "ballast", "vg0"])?;
    churn(13)?;
    let mut guardian = Guardian::new(GuardianPolicy { abort_at_percent: 80.0, ..GuardianPolicy::default() });
    let found =
        guardian.tick(provider.as_ref(), std::slice::from_ref(&lease.mounted().id), Duration::ZERO)?;
    let Action::Abort { reason } = &found[0].1 else { panic!("{found:?}") };
    assert!(reason.contains("full") && reason.contains("no room"), "{reason}");
    lease.prove()?;
    lease.release()?;
    guest.run(&["lvremove", "-y", "vg0/ballast"])?;
    clean_up(provider.as_ref())
}

fn a_thin_snapshot_made_by_hand_is_activated(guest: &Guest) -> anyhow::Result<()> {
    fs::write(datadir().join("ibdata1"), "x")?;
    guest.run(&["lvcreate", "-y", "-s", "-n", "by-hand", "vg0/data"])?;
    let provider = thin();
    let listed = provider.list()?;
    assert_eq!((listed[0].provider, listed[0].meta.is_none()), (ProviderKind::LvmThin, true));
    assert!(matches!(listed[0].validity, Validity::Unknown(_)), "inactive is not valid: {listed:?}");
    let target = Path::new("/run/target");
    fs::create_dir_all(target)?;
    let mounted = provider.mount(&listed[0].id, target, MountMode::ReadOnly)?;
    assert_eq!(fs::read_to_string(target.join("mysql/ibdata1"))?, "x");
    assert_eq!(provider.validity(&listed[0].id)?, Validity::Valid);
    provider.unmount(&mounted)?;
    clean_up(provider.as_ref())
}

fn fifty_snapshots_cost_one_call(guest: &Guest) -> anyhow::Result<()> {
    // One process for all: starting fifty costs more here than what they do.
    let script: String = (0..50).map(|n| format!("lvcreate -y -s -n s{n} vg0/data\n")).collect();
    fs::write("/run/fifty", script)?;
    let status = Command::new("lvm").stdin(fs::File::open("/run/fifty")?).stdout(Stdio::null()).status()?;
    assert!(status.success(), "lvm: {status}");
    let started = Instant::now();
    guest.run(&["lvs", "vg0"])?;
    let one_call = started.elapsed();
    let started = Instant::now();
    assert_eq!(thin().list()?.len(), 50);
    let listing = started.elapsed();
    println!("list of 50: {listing:?}, one lvs: {one_call:?}");
    assert!(
        listing < one_call * 3 + Duration::from_millis(500),
        "{listing:?} for the list, {one_call:?} for one lvs"
    );
    Ok(())
}
