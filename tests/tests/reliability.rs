//! Faults at the beginning and end of every stage of a seed, each with real processes; `faults::table` has the cells.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::time::{Duration, Instant};

use e2e::faults::arena::{Arena, ArenaOptions};
use e2e::faults::host;
use e2e::faults::points::{Moment, Point};
use e2e::faults::record;
use e2e::faults::table::{Cell, Fault, Outcome};
use e2e::world::{Configure, World};
use protocol::ids::JobId;
use protocol::params::*;
use protocol::seed::{SeedStage, Transport};

/// An abort has freed both hosts so long after the agent has taken it.
const FREED_WITHIN: Duration = Duration::from_secs(3);

/// Runs all cells of a fault in one world, a fresh seed after each.
async fn every_cell_of(fault: Fault) {
    let arena = Box::pin(Arena::start(ArenaOptions::default())).await;
    every_cell_in(arena, fault).await;
}

async fn every_cell_in(mut arena: Arena, fault: Fault) {
    for cell in fault.cells() {
        println!("{}", cell.key());
        let started = Instant::now();
        let freed = Box::pin(strike(&mut arena, &cell)).await;
        Box::pin(arena.again()).await;
        record::passed(&cell, started.elapsed().as_millis(), freed);
    }
}

/// Makes a cell happen and checks what comes of it; where something was to be freed, the milliseconds that it took.
async fn strike(arena: &mut Arena, cell: &Cell) -> Option<u128> {
    match cell.fault {
        Fault::KillRecipient | Fault::KillDonor | Fault::KillBus | Fault::KillServers => {
            kill_at(arena, cell).await;
        }
        Fault::KillCtl => kill_ctl_at(arena, cell).await,
        Fault::BusAway => take_the_bus_away(arena, cell).await,
        Fault::Abort => return abort_at(arena, cell).await,
        Fault::RunTwice => injected(arena, cell, format!("repeat@seed.start/{}", cell.stage), "").await,
        Fault::StageFails => {
            let cause = if cell.outcome == Outcome::Undone { "a fault was injected" } else { "" };
            injected(arena, cell, format!("fail@seed.start/{}:end=1", cell.stage), cause).await;
        }
        Fault::KillInUndo => kill_in_undo(arena, cell).await,
        Fault::UndoTwice => undo_twice(arena, cell).await,
        Fault::DonorSteps => kill_donor_in_its_step(arena, cell).await,
        other => panic!("{other:?} has a test of its own"),
    }
    None
}

fn stage_of(cell: &Cell) -> SeedStage {
    SeedStage::ALL.into_iter().find(|stage| stage.as_str() == cell.stage).unwrap()
}

fn moment_of(cell: &Cell) -> Moment {
    [Moment::Begin, Moment::End].into_iter().find(|moment| moment.as_str() == cell.moment).unwrap()
}

fn point_of(cell: &Cell) -> Point {
    Point::stage(stage_of(cell), moment_of(cell))
}

async fn kill_at(arena: &mut Arena, cell: &Cell) {
    let (before, point) = (arena.before().await, point_of(cell));
    arena.points.close(point);
    let job = arena.seed().await;
    arena.points.reached(point).await;
    kill(&mut arena.world, cell.fault).await;
    arena.points.open(point);
    arena.judge(&before, job, cell.outcome, "").await;
    if cell.fault == Fault::KillServers {
        arena.world.donor.db.boot().await.unwrap();
        arena.world.donor.db.hand_over();
    }
}

/// Kills a party, and starts it again where nobody else does.
async fn kill(world: &mut World, fault: Fault) {
    match fault {
        Fault::KillRecipient => {
            world.recipient.agent.kill9().and_then(|()| world.recipient.agent.boot()).unwrap();
        }
        Fault::KillDonor => world.donor.agent.kill9().and_then(|()| world.donor.agent.boot()).unwrap(),
        Fault::KillBus => {
            world.nats.kill9();
            world.nats.restart().unwrap();
        }
        _ => {
            world.donor.db.kill9().await.unwrap();
            world.recipient.db.kill9().await.unwrap();
        }
    }
    world.serving(&world.recipient.id()).await;
    world.serving(&world.donor.id()).await;
}

async fn kill_ctl_at(arena: &mut Arena, cell: &Cell) {
    let (before, point) = (arena.before().await, point_of(cell));
    arena.points.close(point);
    let mut ctl = arena
        .world
        .ctl_command(&["seed", "start", "db2", "--from", "db1", "--stop-mysql", "--allow-primary"])
        .spawn()
        .unwrap();
    arena.points.reached(point).await;
    let job = running_seed(&arena.world).await;
    ctl.kill().await.unwrap();
    arena.points.open(point);
    arena.judge(&before, job, cell.outcome, "").await;
}

async fn running_seed(world: &World) -> JobId {
    let jobs = world.call(&world.recipient, JobsListParams { limit: 10, unfinished: true }).await;
    jobs.iter().find(|job| job.kind == "seed.start").unwrap().id
}

async fn take_the_bus_away(arena: &mut Arena, cell: &Cell) {
    let before = arena.before().await;
    let [begin, end] = [Moment::Begin, Moment::End].map(|moment| Point::stage(stage_of(cell), moment));
    arena.points.close(begin);
    arena.points.close(end);
    let job = arena.seed().await;
    arena.points.reached(begin).await;
    arena.world.nats.kill9();
    arena.points.open(begin);
    arena.points.reached(end).await;
    arena.world.nats.restart().unwrap();
    arena.points.open(end);
    // Who was last to lose the bus is last to find it again.
    arena.world.serving(&arena.world.recipient.id()).await;
    arena.world.serving(&arena.world.donor.id()).await;
    arena.judge(&before, job, cell.outcome, "").await;
}

async fn abort_at(arena: &mut Arena, cell: &Cell) -> Option<u128> {
    let (before, point) = (arena.before().await, point_of(cell));
    arena.points.close(point);
    let job = arena.seed().await;
    arena.points.reached(point).await;
    if cell.outcome == Outcome::Seeded {
        let error = arena.world.refused(&arena.world.recipient, JobsAbortParams { job }).await;
        assert!(error.message.contains("point of no return"), "{error:?}");
        arena.points.open(point);
        arena.judge(&before, job, cell.outcome, "").await;
        return None;
    }
    arena.world.call(&arena.world.recipient, JobsAbortParams { job }).await;
    let (answered, waited) = (Instant::now(), host::stalled());
    arena.nothing_left().await;
    let freed = answered.elapsed();
    // What other work on this machine has taken from both agents and their servers is not theirs.
    let own = freed.saturating_sub(host::stalled().saturating_sub(waited));
    assert!(
        own <= FREED_WITHIN && freed <= 3 * FREED_WITHIN,
        "both hosts were freed after {freed:?} ({own:?})"
    );
    arena.judge(&before, job, cell.outcome, "asked by tester").await;
    if stage_of(cell) < SeedStage::Swap {
        arena.server_ran_on(&before);
    }
    Some(freed.as_millis())
}

/// A seed under a further fault, which the recipient's agent must be started with.
async fn injected(arena: &mut Arena, cell: &Cell, fault: String, cause: &str) {
    with_fault(arena, &fault).await;
    let before = arena.before().await;
    let job = arena.seed().await;
    arena.judge(&before, job, cell.outcome, cause).await;
}

async fn with_fault(arena: &mut Arena, fault: &str) {
    let faults = format!("{};{fault}", arena.points.faults());
    let agent = &mut arena.world.recipient.agent;
    agent.options().env("OA_FAULT", faults);
    agent.kill9().and_then(|()| agent.boot()).unwrap();
    arena.world.serving(&arena.world.recipient.id()).await;
}

/// Aborts at the last moment before the commit, so that every stage has something to take back.
async fn abort_before_the_commit(arena: &mut Arena) -> JobId {
    let last = Point::stage(SeedStage::Replicate, Moment::End);
    arena.points.close(last);
    let job = arena.seed().await;
    arena.points.reached(last).await;
    arena.world.call(&arena.world.recipient, JobsAbortParams { job }).await;
    job
}

async fn kill_in_undo(arena: &mut Arena, cell: &Cell) {
    let before = arena.before().await;
    let point = Point::undo(stage_of(cell), moment_of(cell));
    arena.points.close(point);
    let job = abort_before_the_commit(arena).await;
    arena.points.reached(point).await;
    arena.points.open_all();
    kill(&mut arena.world, Fault::KillRecipient).await;
    arena.judge(&before, job, cell.outcome, "asked by tester").await;
}

async fn undo_twice(arena: &mut Arena, cell: &Cell) {
    with_fault(arena, &format!("repeat@seed.start/undo:{}", cell.stage)).await;
    let before = arena.before().await;
    let job = abort_before_the_commit(arena).await;
    arena.judge(&before, job, cell.outcome, "asked by tester").await;
}

async fn kill_donor_in_its_step(arena: &mut Arena, cell: &Cell) {
    let before = arena.before().await;
    let step = e2e::faults::points::DONOR_STEPS.into_iter().find(|step| *step == cell.stage).unwrap();
    let point = Point::donor(step, moment_of(cell));
    arena.points.close(point);
    if cell.outcome == Outcome::Seeded {
        let job = arena.seed().await;
        arena.points.reached(point).await;
        arena.points.open(point);
        kill(&mut arena.world, Fault::KillDonor).await;
        arena.judge(&before, job, cell.outcome, "").await;
        return;
    }
    // Who asked never hears of the offer: the donor serves it again until it lapses.
    let world = &arena.world;
    let asking = SeedOfferParams {
        recipient: world.recipient.id(),
        snapshot: None,
        plain: false,
        foreign: false,
        stream: None,
        transport: Transport::default(),
        seal_to: None,
    };
    tokio::select! {
        () = arena.points.reached(point) => {}
        _ = world.call(&world.donor, asking) => panic!("an offer came although the donor stands at {point}"),
    }
    arena.points.open(point);
    kill(&mut arena.world, Fault::KillDonor).await;
    arena.nothing_left().await;
    arena.is_as_it_was(&before).await;
    arena.server_ran_on(&before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recipients_agent_is_killed_at_every_stage() {
    every_cell_of(Fault::KillRecipient).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_donors_agent_is_killed_at_every_stage() {
    every_cell_of(Fault::KillDonor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctl_is_killed_at_every_stage() {
    every_cell_of(Fault::KillCtl).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_is_killed_at_every_stage() {
    every_cell_of(Fault::KillBus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_servers_are_killed_at_every_stage() {
    every_cell_of(Fault::KillServers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_is_away_during_every_stage() {
    every_cell_of(Fault::BusAway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_is_aborted_at_every_stage() {
    every_cell_of(Fault::Abort).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stage_runs_twice() {
    every_cell_of(Fault::RunTwice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stage_fails() {
    every_cell_of(Fault::StageFails).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recipients_agent_is_killed_in_every_undo() {
    every_cell_of(Fault::KillInUndo).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stage_is_taken_back_twice() {
    every_cell_of(Fault::UndoTwice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_donors_agent_is_killed_in_its_own_steps() {
    // An offer that nobody has heard of holds the snapshot so long.
    let configure: Configure = Box::new(|_, agent| {
        agent.set("seed.offer_s", 6);
    });
    let arena = Arena::start(ArenaOptions { configure: Some(configure), ..ArenaOptions::default() }).await;
    every_cell_in(arena, Fault::DonorSteps).await;
}
