//! Faults that strike in one place, and those that need hosts of their own: networks, clocks, disks, spoilt snapshots,
//! servers and commands that misbehave. `faults::table` has the cells, `reliability.rs` those of every stage.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::fs::{self, File};
use std::time::{Duration, Instant};

use e2e::faults::apart::Apart;
use e2e::faults::arena::{Arena, ArenaOptions, Before};
use e2e::faults::clock::Clock;
use e2e::faults::hook::{Hook, with_hook};
use e2e::faults::points::{Moment, Point};
use e2e::faults::record;
use e2e::faults::stream::with_stream;
use e2e::faults::table::{Cell, Fault, Outcome};
use e2e::volume::{Ballast, Kind, Volume};
use e2e::world::{Configure, PATIENCE, Party, Provider, slowly, swiftly};
use protocol::error::ErrorCode;
use protocol::ids::JobId;
use protocol::params::*;
use protocol::seed::{SeedOptions, SeedStage};
use testkit::poll;

/// A transfer at this rate can be met half-way.
const SLOW: u64 = 4 << 20;
const MIB: u64 = 1 << 20;

fn stage(cell: &Cell) -> SeedStage {
    SeedStage::ALL.into_iter().find(|stage| stage.as_str() == cell.stage).unwrap()
}

fn point(cell: &Cell) -> Point {
    let moment = if cell.moment == "end" { Moment::End } else { Moment::Begin };
    Point::stage(stage(cell), moment)
}

/// A fresh seed succeeds, and the cell is kept.
async fn passed(arena: &mut Arena, cell: &Cell, begun: Instant) {
    arena.again().await;
    record::passed(cell, begun.elapsed().as_millis(), None);
}

/// Leave to replace what the arena has just written to.
fn leave() -> SeedOptions {
    SeedOptions { allow_primary: true, ..swiftly() }
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

/// How long a transfer is cut off: seconds, but 60 s and more by `make reliability`.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_stays_away_leaves_both_hosts_as_they_were() {
    let Some(mut apart) = Apart::start(5, 10, 0).await else { return };
    for cell in Fault::CutForEver.cells() {
        let begun = Instant::now();
        let (before, job) = stand(&mut apart.arena, &cell, swiftly()).await;
        apart.cut();
        apart.arena.points.open(point(&cell));
        // Both let go of everything while the other is still out of reach.
        let cause = if cell.outcome == Outcome::Undone { "no progress for" } else { "" };
        apart.arena.judge(&before, job, cell.outcome, cause).await;
        apart.heal();
        passed(&mut apart.arena, &cell, begun).await;
    }
    let [cell] = Fault::DonorGone.cells().try_into().unwrap();
    let begun = Instant::now();
    let (before, job) = stand(&mut apart.arena, &cell, swiftly()).await;
    apart.arena.world.donor.agent.kill9().unwrap();
    apart.arena.points.open(point(&cell));
    apart.arena.world.ended(&apart.arena.world.recipient, job).await;
    apart.arena.world.donor.agent.boot().unwrap();
    apart.arena.world.serving(&apart.arena.world.donor.id()).await;
    apart.arena.judge(&before, job, cell.outcome, "").await;
    passed(&mut apart.arena, &cell, begun).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_jump_a_day_do_not_matter() {
    let Some(clock) = Clock::new() else { return };
    let configure = clock.configure();
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
    for fault in [Fault::TruncatedFile, Fault::LostSnapshot] {
        let [cell] = fault.cells().try_into().unwrap();
        println!("{}", cell.key());
        let begun = Instant::now();
        let before = arena.before().await;
        let snapshot = arena.world.snapshot().await;
        let directory = arena.world.donor.db.base().join("snapshots").join(snapshot.as_str());
        let job = arena.seed_with(slowly(SLOW)).await;
        arena.world.in_transfer(job, MIB).await;
        if fault == Fault::TruncatedFile {
            let file = File::options().write(true).open(directory.join("data/shop/items.ibd")).unwrap();
            file.set_len(2 * MIB).unwrap();
        } else {
            arena.world.donor.agent.expect_error("it was removed");
            fs::remove_dir_all(&directory).unwrap();
        }
        arena.judge(&before, job, cell.outcome, "").await;
        arena.server_ran_on(&before);
        let _ = fs::remove_dir_all(&directory);
        arena.world.snapshot().await;
        passed(&mut arena, &cell, begun).await;
    }
}

/// An offer lapses before a seed is started from it, or before its transfer begins.
async fn lapse(arena: &mut Arena, cell: &Cell) {
    let before = arena.before().await;
    let world = &arena.world;
    let offer = world.offer(false).await;
    let (given, offered) = (offer.job, SeedStartParams { offer, options: leave(), plan_digest: None });
    let lapsed = async {
        let view = world.ended(&world.donor, given).await;
        assert!(view.error.is_some(), "an offer that nobody came for says so");
    };
    if cell.outcome == Outcome::Refused {
        lapsed.await;
        let error = world.refused(&world.recipient, offered).await;
        assert!(error.message.contains("its offer lapsed at"), "{error:?}");
        arena.nothing_left().await;
        arena.is_as_it_was(&before).await;
    } else {
        arena.points.close(point(cell));
        let job = world.call(&world.recipient, offered).await.job;
        arena.points.reached(point(cell)).await;
        lapsed.await;
        arena.points.open(point(cell));
        arena.judge(&before, job, cell.outcome, "no progress for").await;
    }
    arena.server_ran_on(&before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lapsed_offer_and_a_second_seed_are_told_and_harm_nothing() {
    let configure: Configure = Box::new(|_, agent| {
        agent.set("seed.offer_s", 6).set("seed.stall_s", 6);
    });
    let mut arena =
        Arena::start(ArenaOptions { configure: Some(configure), ..ArenaOptions::default() }).await;

    for cell in Fault::OfferLapsed.cells() {
        println!("{}", cell.key());
        let begun = Instant::now();
        Box::pin(lapse(&mut arena, &cell)).await;
        passed(&mut arena, &cell, begun).await;
    }

    let [cell] = Fault::TwoSeeds.cells().try_into().unwrap();
    let begun = Instant::now();
    let before = arena.before().await;
    let world = &arena.world;
    let offers = [world.offer(false).await, world.offer(false).await];
    let start = |offer: &protocol::seed::Offer| {
        let params = SeedStartParams { offer: offer.clone(), options: leave(), plan_digest: None };
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
        (Fault::NeverReady, "hang-server", "no sign of progress"),
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
        arena.world.crash(Party::RecipientsAgent).await;
        arena.judge(&before, job, cell.outcome, "").await;
        passed(&mut arena, &cell, begun).await;
    }
    let faults = [
        (Fault::ReplacePostCopyFails, "fail", "the site says no"),
        (Fault::ReplaceNeverReady, "hang-server", "no sign of progress"),
    ];
    misbehave(&mut arena, &hook, replace(), &faults).await;
    arena.world.nothing_left(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_off_costs_no_data() {
    let mut arena = with_stream(None).await;
    let faults = [Fault::StreamAborted, Fault::StreamKillDonor, Fault::StreamKillRecipient];
    for cell in faults.into_iter().flat_map(Fault::cells) {
        println!("{}", cell.key());
        let begun = Instant::now();
        let before = arena.before().await;
        let midway = cell.moment == "midway";
        if !midway {
            arena.points.close(point(&cell));
        }
        let options = if midway { slowly(SLOW) } else { swiftly() };
        let options = SeedOptions { allow_primary: true, ..options };
        let job = arena.world.seed_from_stream("files", options).await;
        if midway {
            arena.world.in_transfer(job, 2 * MIB).await;
        } else {
            arena.points.reached(point(&cell)).await;
        }
        let world = &mut arena.world;
        let mut cause = "";
        match cell.fault {
            Fault::StreamAborted => {
                world.call(&world.recipient, JobsAbortParams { job }).await;
                cause = "asked by tester";
            }
            Fault::StreamKillDonor => {
                world.donor.agent.kill9().and_then(|()| world.donor.agent.boot()).unwrap();
            }
            _ => world.recipient.agent.kill9().and_then(|()| world.recipient.agent.boot()).unwrap(),
        }
        if (cell.fault, cell.stage) == (Fault::StreamKillRecipient, "verify") {
            cause = "nobody can tell how far it came";
        }
        arena.points.open_all();
        for host in [&arena.world.donor, &arena.world.recipient] {
            arena.world.serving(&host.id()).await;
        }
        arena.judge(&before, job, cell.outcome, cause).await;
        passed(&mut arena, &cell, begun).await;
    }
}
