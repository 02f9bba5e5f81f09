//! Faults that strike in one place, and those that need hosts of their own: networks, clocks, disks, spoilt snapshots,
//! servers and commands that misbehave. `faults::table` has the cells, `reliability.rs` those of every stage.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use e2e::faults::arena::{Arena, ArenaOptions, Before};
use e2e::faults::points::{Moment, Point};
use e2e::faults::record;
use e2e::faults::table::{Cell, Fault, Outcome};
use e2e::volume::{Kind, Volume};
use e2e::world::{Configure, PATIENCE, Provider, slowly, swiftly};
use protocol::error::ErrorCode;
use protocol::ids::JobId;
use protocol::params::*;
use protocol::seed::{SeedOptions, SeedStage};
use tempfile::TempDir;
use testkit::netns::{self, Network};
use testkit::poll;

/// A transfer at this rate can be met half-way.
const SLOW: u64 = 4 << 20;
const MIB: u64 = 1 << 20;

fn point(cell: &Cell) -> Point {
    let stage = SeedStage::ALL.into_iter().find(|stage| stage.as_str() == cell.stage).unwrap();
    let moment = if cell.moment == "end" { Moment::End } else { Moment::Begin };
    Point::stage(stage, moment)
}

/// A fresh seed succeeds, and the cell is kept.
async fn passed(arena: &mut Arena, cell: &Cell, begun: Instant) {
    arena.again().await;
    record::passed(cell, begun.elapsed().as_millis(), None);
}

/// Starts a seed that stands at the cell's point.
async fn stand(arena: &mut Arena, cell: &Cell, options: SeedOptions) -> (Before, JobId) {
    println!("{}", cell.key());
    let before = arena.before().await;
    arena.points.close(point(cell));
    let job = arena.seed_with(options).await;
    arena.points.reached(point(cell)).await;
    (before, job)
}

/// Two hosts whose agents are on networks of their own, joined by a bridge.
struct Apart {
    arena: Arena,
    network: Network,
    hosts: [netns::Host; 2],
}

impl Apart {
    async fn start(stall_s: i64, offer_s: i64, data_mib: u32) -> Option<Self> {
        if let Some(reason) = netns::unavailable_reason() {
            eprintln!("skipped, because {reason}");
            return None;
        }
        let network = Network::new().unwrap();
        let bus_address = Some(network.attach_test().unwrap());
        let hosts = ["db1", "db2"].map(|name| network.host(name).unwrap());
        let places = hosts.clone();
        let configure: Configure = Box::new(move |id, agent| {
            let host = places.iter().find(|host| host.name() == id).unwrap();
            agent.prefix(host.argv_prefix());
            agent.set("seed.listen", format!("{}:0", host.address()));
            agent.set("seed.stall_s", stall_s);
            agent.set("seed.offer_s", offer_s);
        });
        let options =
            ArenaOptions { configure: Some(configure), bus_address, data_mib, ..ArenaOptions::default() };
        Some(Self { arena: Arena::start(options).await, network, hosts })
    }

    fn cut(&self) {
        self.network.cut_between(&self.hosts[0], &self.hosts[1]).unwrap();
    }

    fn heal(&self) {
        self.network.heal_between(&self.hosts[0], &self.hosts[1]).unwrap();
    }
}

/// How long a cut lasts: seconds here, 60 s and more by hand.
fn cut() -> Duration {
    let seconds = std::env::var("OA_CUT_S").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

fn wait_out(since: Instant, outage: Duration) {
    poll::until_true(outage + Duration::from_secs(60), "the outage", || since.elapsed() >= outage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_comes_back_costs_no_seed() {
    let stall_s = i64::try_from(cut().as_secs()).unwrap() + 40;
    let Some(mut apart) = Apart::start(stall_s, 600, 16).await else { return };
    for cell in Fault::CutForATime.cells() {
        let begun = Instant::now();
        let (before, job) = stand(&mut apart.arena, &cell, swiftly()).await;
        let end = Point::stage(stage(&cell), Moment::End);
        apart.arena.points.close(end);
        apart.cut();
        let since = Instant::now();
        apart.arena.points.open(point(&cell));
        if cell.stage == "transfer" {
            wait_out(since, cut());
            apart.heal();
            apart.arena.points.reached(end).await;
        } else {
            apart.arena.points.reached(end).await;
            apart.heal();
        }
        apart.arena.points.open(end);
        apart.arena.judge(&before, job, cell.outcome, "").await;
        passed(&mut apart.arena, &cell, begun).await;
    }
    let [cell] = Fault::CutMidway.cells().try_into().unwrap();
    let begun = Instant::now();
    let before = apart.arena.before().await;
    let job = apart.arena.seed_with(slowly(SLOW)).await;
    apart.arena.world.in_transfer(job, 3 * MIB).await;
    apart.cut();
    wait_out(Instant::now(), cut());
    apart.heal();
    apart.arena.world.hurry(job).await;
    apart.arena.judge(&before, job, cell.outcome, "").await;
    passed(&mut apart.arena, &cell, begun).await;
}

fn stage(cell: &Cell) -> SeedStage {
    SeedStage::ALL.into_iter().find(|stage| stage.as_str() == cell.stage).unwrap()
}

/// The clock that libfaketime shows to both agents and their servers.
struct Clock {
    dir: TempDir,
}

impl Clock {
    const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("oa-clock-").tempdir().unwrap();
        // Servers run as another user and look at it too.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let clock = Self { dir };
        clock.show("+0");
        clock
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("offset")
    }

    /// Jumps by an offset from the true time, for the running processes.
    fn show(&self, offset: &str) {
        let half = self.dir.path().join("half");
        fs::write(&half, format!("{offset}\n")).unwrap();
        fs::set_permissions(&half, Permissions::from_mode(0o644)).unwrap();
        fs::rename(half, self.path()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_jump_a_day_do_not_matter() {
    if !Path::new(Clock::LIBRARY).exists() {
        eprintln!("skipped, because {} is missing (package libfaketime)", Clock::LIBRARY);
        return;
    }
    let clock = Clock::new();
    let offset = clock.path().display().to_string();
    // Only what tells the date jumps: the kernel's monotonic clock cannot.
    let configure: Configure = Box::new(move |_, agent| {
        agent.env("LD_PRELOAD", Clock::LIBRARY).env("FAKETIME_TIMESTAMP_FILE", &offset);
        agent.env("FAKETIME_NO_CACHE", "1").env("DONT_FAKE_MONOTONIC", "1");
    });
    let mut arena =
        Arena::start(ArenaOptions { configure: Some(configure), ..ArenaOptions::default() }).await;
    for (fault, jump) in [(Fault::ClockAhead, "+1d"), (Fault::ClockBack, "-1d")] {
        for cell in fault.cells() {
            let begun = Instant::now();
            let (before, job) = stand(&mut arena, &cell, swiftly()).await;
            let last = Point::stage(SeedStage::Cleanup, Moment::Done);
            arena.points.close(last);
            clock.show(jump);
            arena.points.open(point(&cell));
            arena.points.reached(last).await;
            // Commands of a person whose clock is right would be refused as too old or too new until here.
            clock.show("+0");
            arena.points.open(last);
            arena.judge(&before, job, cell.outcome, "").await;
            passed(&mut arena, &cell, begun).await;
        }
    }
}

/// Takes what is free on the recipient's file system, until dropped.
struct Ballast {
    path: PathBuf,
}

impl Ballast {
    fn fill(directory: &Path) -> Self {
        let path = directory.join("ballast");
        let file = File::create(&path).unwrap();
        let mut length = 0;
        let mut step = 64 * MIB;
        while step >= 4096 {
            let (from, more) = (i64::try_from(length).unwrap(), i64::try_from(step).unwrap());
            match nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), from, more) {
                Ok(()) => length += step,
                Err(_) => step /= 2,
            }
        }
        Self { path }
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_on_the_recipient_costs_no_data() {
    let volume = Volume::make(Kind::Ext4, 400);
    let place = volume.path().to_owned();
    // A server without space may neither stop nor start, and waits.
    let configure: Configure = Box::new(|_, agent| {
        agent.set("mysql.start_patience_ms", 8_000).set("mysql.stop_patience_ms", 8_000);
    });
    let options = ArenaOptions {
        data_mib: 24,
        recipient_volume: Some(volume),
        configure: Some(configure),
        ..ArenaOptions::default()
    };
    let mut arena = Arena::start(options).await;
    for cell in Fault::DiskFull.cells() {
        let begun = Instant::now();
        let (before, job) = stand(&mut arena, &cell, swiftly()).await;
        let ballast = Ballast::fill(&place);
        arena.points.open(point(&cell));
        let cause = if cell.stage == "transfer" { "No space left" } else { "" };
        arena.judge(&before, job, cell.outcome, cause).await;
        drop(ballast);
        passed(&mut arena, &cell, begun).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_not_what_it_was_is_never_called_a_seed() {
    let options = ArenaOptions { provider: Provider::Directory, data_mib: 24, ..ArenaOptions::default() };
    let mut arena = Arena::start(options).await;
    for cell in Fault::TruncatedFile.cells() {
        println!("{}", cell.key());
        let begun = Instant::now();
        let before = arena.before().await;
        let snapshot = arena.world.snapshot().await;
        let directory = arena.world.donor.db.base().join("snapshots").join(snapshot.as_str());
        let job = arena.seed_with(slowly(SLOW)).await;
        arena.world.in_transfer(job, MIB).await;
        let file = File::options().write(true).open(directory.join("data/shop/items.ibd")).unwrap();
        file.set_len(2 * MIB).unwrap();
        arena.judge(&before, job, cell.outcome, "").await;
        arena.server_ran_on(&before);
        let _ = fs::remove_dir_all(&directory);
        arena.world.snapshot().await;
        passed(&mut arena, &cell, begun).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lapsed_offer_and_a_second_seed_are_told_and_harm_nothing() {
    let configure: Configure = Box::new(|_, agent| {
        agent.set("seed.offer_s", 6).set("seed.stall_s", 6);
    });
    let mut arena =
        Arena::start(ArenaOptions { configure: Some(configure), ..ArenaOptions::default() }).await;

    let [cell] = Fault::OfferLapsed.cells().try_into().unwrap();
    let begun = Instant::now();
    let before = arena.before().await;
    let offer = arena.world.offer(false).await;
    let lapsed = arena.world.ended(&arena.world.donor, offer.job).await;
    assert!(lapsed.error.is_some(), "an offer that nobody came for says so");
    let start = SeedStartParams { offer, options: swiftly(), plan_digest: None };
    let job = arena.world.call(&arena.world.recipient, start).await.job;
    arena.judge(&before, job, cell.outcome, "").await;
    arena.server_ran_on(&before);
    passed(&mut arena, &cell, begun).await;

    let [cell] = Fault::TwoSeeds.cells().try_into().unwrap();
    let begun = Instant::now();
    let before = arena.before().await;
    let world = &arena.world;
    let offers = [world.offer(false).await, world.offer(false).await];
    let start = |offer: &protocol::seed::Offer| {
        let params = SeedStartParams { offer: offer.clone(), options: swiftly(), plan_digest: None };
        world.try_call(&world.recipient, params)
    };
    let answers: [_; 2] = tokio::join!(start(&offers[0]), start(&offers[1])).into();
    let accepted: Vec<JobId> = answers.iter().flatten().map(|accepted| accepted.job).collect();
    assert_eq!(accepted.len(), 1, "one of two seeds is taken: {answers:?}");
    for (offer, answer) in offers.iter().zip(&answers) {
        if let Err(error) = answer {
            assert!(matches!(error.code, ErrorCode::Busy | ErrorCode::Refused), "{error:?}");
            world.call(&world.donor, SeedReleaseParams { offer: offer.id }).await;
        }
    }
    arena.judge(&before, accepted[0], cell.outcome, "").await;
    passed(&mut arena, &cell, begun).await;
}

/// What the recipient's post-copy command does, and whether its server comes up on what it leaves.
struct Hook {
    dir: TempDir,
}

impl Hook {
    fn new() -> Self {
        let hook = Self { dir: tempfile::Builder::new().prefix("oa-hook-").tempdir().unwrap() };
        hook.does("nothing");
        let dir = hook.dir.path().display();
        hook.script(
            "post-copy",
            &format!(
                "case $(cat {dir}/does) in\n\
                 fail) echo 'the site says no' >&2; exit 3 ;;\n\
                 hang) sleep 600 & sleep 600 ;;\n\
                 flood) head -c 1073741824 /dev/zero ;;\n\
                 hang-server) touch \"$1/hang\" ;;\n\
                 esac\n"
            ),
        );
        // A server that stands still from its first moment on: it neither becomes ready nor heeds a SIGTERM.
        hook.script(
            "server",
            "datadir=$1; shift\n\
             [ -e \"$datadir/hang\" ] && (until grep -q mariadbd /proc/$$/comm; do :; done; kill -STOP $$) &\n\
             exec \"$@\"\n",
        );
        hook
    }

    fn script(&self, name: &str, lines: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{lines}")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn does(&self, what: &str) {
        fs::write(self.dir.path().join("does"), what).unwrap();
    }
}

async fn with_hook() -> (Arena, Hook) {
    let hook = Hook::new();
    let mut arena = Arena::start(ArenaOptions::default()).await;
    let db = &arena.world.recipient.db;
    let datadir = db.datadir().display().to_string();
    let server = [vec![hook.path("server"), datadir.clone()], db.argv()].concat();
    let agent = &mut arena.world.recipient.agent;
    agent.options().set("seed.post_copy", vec![hook.path("post-copy"), datadir]);
    agent.options().set("seed.post_copy_limit_s", 3).set("mysql.service.direct.argv", server);
    agent.options().set("mysql.start_patience_ms", 6_000).set("mysql.stop_patience_ms", 6_000);
    agent.options().set("mysql.connect_timeout_ms", 1_000);
    agent.restart().unwrap();
    arena.world.serving(&arena.world.recipient.id()).await;
    (arena, hook)
}

/// The cells of these faults under a misbehaving command or server.
async fn misbehave(arena: &mut Arena, hook: &Hook, options: SeedOptions, faults: &[(Fault, &str, &str)]) {
    for (fault, does, cause) in faults {
        let [cell] = fault.cells().try_into().unwrap();
        println!("{}", cell.key());
        let begun = Instant::now();
        let before = arena.before().await;
        hook.does(does);
        let job = arena.seed_with(options.clone()).await;
        let view = arena.world.ended(&arena.world.recipient, job).await;
        hook.does("nothing");
        let shown = serde_json::to_string(&view).unwrap();
        assert!(shown.len() < 256 << 10, "{} bytes of a job are shown", shown.len());
        let hung = arena.world.recipient.db.datadir().join("hang");
        let _ = fs::remove_file(hung);
        arena.judge(&before, job, cell.outcome, cause).await;
        passed(arena, &cell, begun).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_servers_that_misbehave_cost_no_data() {
    let (mut arena, hook) = with_hook().await;
    let faults = [
        (Fault::PostCopyFails, "fail", "the site says no"),
        (Fault::PostCopyHangs, "hang", "was stopped after its limit"),
        (Fault::PostCopyFloods, "flood", ""),
    ];
    misbehave(&mut arena, &hook, swiftly(), &faults).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_ends_with_new_data_or_says_that_there_are_none() {
    let (mut arena, hook) = with_hook().await;
    let replace = || SeedOptions { replace: true, ..swiftly() };
    for cell in Fault::ReplaceAborted.cells() {
        let begun = Instant::now();
        let (before, job) = stand(&mut arena, &cell, replace()).await;
        arena.world.call(&arena.world.recipient, JobsAbortParams { job }).await;
        let cause = match cell.outcome {
            Outcome::NoData => "seed again",
            Outcome::NewDataKept => "mysql start",
            _ => "asked by tester",
        };
        arena.judge(&before, job, cell.outcome, cause).await;
        passed(&mut arena, &cell, begun).await;
    }
    for cell in Fault::ReplaceKilled.cells() {
        let begun = Instant::now();
        let (before, job) = stand(&mut arena, &cell, replace()).await;
        arena.points.open(point(&cell));
        arena.world.recipient.agent.kill9().unwrap();
        arena.world.recipient.agent.boot().unwrap();
        arena.world.serving(&arena.world.recipient.id()).await;
        arena.judge(&before, job, cell.outcome, "").await;
        passed(&mut arena, &cell, begun).await;
    }
    let faults = [(Fault::ReplacePostCopyFails, "fail", "the site says no")];
    misbehave(&mut arena, &hook, replace(), &faults).await;
    arena.world.nothing_left(PATIENCE).await;
}
