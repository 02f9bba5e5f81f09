//! Seeds between neighbouring releases, and seeds that one release begins and the other ends.

use e2e::events::{assert_none_lost_none_doubled, await_event, of_job};
use e2e::rows;
use e2e::world::{Host, PATIENCE, World, assert_resumed, slowly};
use protocol::event::Event;
use protocol::params::SeedUndoParams;
use protocol::seed::SeedOptions;
use testkit::poll;

use super::{Release, is_of, is_there, world};

const MIB: u64 = 1 << 20;
const SLOW: u64 = 12 << 20;

/// Kills an agent and starts that of another release on its state directory.
fn replace(host: &mut Host, by: Release) {
    host.agent.options().programs(by.programs().as_deref());
    host.agent.kill9().and_then(|()| host.agent.boot()).unwrap();
}

async fn is_seeded(world: &World) {
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    world.nothing_left(PATIENCE).await;
}

/// Every event of both agents up to their ends.
async fn all_is_told(world: &mut World) -> Vec<Event> {
    let mut events = Vec::new();
    for host in [&mut world.donor, &mut world.recipient] {
        host.agent.stop().unwrap();
        let id = host.id();
        let stopped = |event: &Event| event.host == id && event.kind == "orch.agent.stopped";
        events = await_event(&world.client, "the agent's stop", stopped).await;
    }
    assert_none_lost_none_doubled(&events);
    events
}

/// The recipient's agent is killed half-way, and that of the other release ends the seed.
async fn ended_by_the_other(donor: Release, begins: Release) {
    if !is_there() {
        return;
    }
    let mut world = world(donor, begins, 24).await;
    world.snapshot().await;
    let job = world.seed(slowly(SLOW)).await;
    let all = world.in_transfer(job, 40 * MIB).await;
    replace(&mut world.recipient, begins.other());
    is_of(&world, &world.recipient, begins.other()).await;
    world.hurry(job).await;
    let view = world.succeeded(&world.recipient, job).await;
    assert_resumed(&view, all);
    is_seeded(&world).await;
    let events = all_is_told(&mut world).await;
    assert!(of_job(&events, job).iter().any(|(event, _)| event.kind == "orch.job.finished"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_before_and_a_recipient_of_this_release_which_the_one_before_ends() {
    ended_by_the_other(Release::Before, Release::This).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_of_this_release_and_a_recipient_before_which_this_one_ends() {
    ended_by_the_other(Release::This, Release::Before).await;
}

/// The donor's agent is killed half-way, and that of the other release keeps its offer.
async fn given_on_by_the_other(begins: Release) {
    if !is_there() {
        return;
    }
    let mut world = world(begins, begins.other(), 24).await;
    world.snapshot().await;
    let job = world.seed(slowly(SLOW)).await;
    world.in_transfer(job, 10 * MIB).await;
    replace(&mut world.donor, begins.other());
    is_of(&world, &world.donor, begins.other()).await;
    world.hurry(job).await;
    world.succeeded(&world.recipient, job).await;
    is_seeded(&world).await;
    all_is_told(&mut world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_of_the_release_before_is_kept_by_this_one() {
    given_on_by_the_other(Release::Before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_of_this_release_is_kept_by_the_one_before() {
    given_on_by_the_other(Release::This).await;
}

/// A whole seed without the bus, whose events the other release finds in the spool and tells; it puts the old data back too.
async fn told_by_the_other(begins: Release) {
    if !is_there() {
        return;
    }
    let mut world = world(begins, begins, 8).await;
    world.snapshot().await;
    let job = world.seed(SeedOptions { keep_old_s: 3_600, ..slowly(SLOW) }).await;
    world.in_transfer(job, 4 * MIB).await;
    world.nats.kill9();
    poll::until_async(PATIENCE, "the donor's rows on the recipient, without a bus", || async {
        world.recipient.db.scalar("SELECT COUNT(*) FROM shop.customers").await.ok()
    })
    .await;
    replace(&mut world.recipient, begins.other());
    replace(&mut world.donor, begins.other());
    world.nats.restart().unwrap();
    is_of(&world, &world.donor, begins.other()).await;
    is_of(&world, &world.recipient, begins.other()).await;
    world.succeeded(&world.recipient, job).await;
    let undo = world.call(&world.recipient, SeedUndoParams { job }).await.job;
    world.succeeded(&world.recipient, undo).await;
    world.recipient_is_as_it_was().await;
    let events = all_is_told(&mut world).await;
    let ends =
        of_job(&events, job).into_iter().filter(|(event, _)| event.kind == "orch.job.finished").count();
    assert_eq!(ends, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_and_the_old_data_of_the_release_before_are_known_to_this_one() {
    told_by_the_other(Release::Before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_and_the_old_data_of_this_release_are_known_to_the_one_before() {
    told_by_the_other(Release::This).await;
}
