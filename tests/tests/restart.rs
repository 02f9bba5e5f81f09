//! An agent that is stopped in good order in the middle of a seed, as by an upgrade, comes back and the seed goes on: it costs no more
//! than one that was killed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use e2e::rows;
use e2e::world::{Configure, PATIENCE, World, WorldOptions, slowly, swiftly};

const MIB: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// The donor gives slowly: its connections wait for leave to send.
    Donor,
    /// The recipient takes slowly: the donor's connections are full.
    Recipient,
}

/// By which way the data come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tcp,
    Store,
}

/// Restarts these hosts' agents one after the other in mid-transfer.
async fn goes_on(way: Way, limit: Limit, hosts: &[&str]) {
    let configure: Configure = Box::new(move |id, agent| {
        if id == "db1" && limit == Limit::Donor {
            agent.set("seed.donor_bytes_per_s", (4 * MIB).cast_signed());
        }
    });
    let mut world =
        World::start(WorldOptions { data_mib: 24, configure: Some(configure), ..WorldOptions::default() })
            .await;
    world.snapshot().await;
    let options = if limit == Limit::Recipient { slowly(4 * MIB) } else { swiftly() };
    let job = match way {
        Way::Tcp => world.seed(options).await,
        Way::Store => world.seed_through_store(options).await,
    };
    world.in_transfer(job, 6 * MIB).await;
    for name in hosts {
        let host = if *name == "db1" { &mut world.donor } else { &mut world.recipient };
        host.agent.restart().unwrap();
        let id = host.id();
        world.serving(&id).await;
    }
    world.succeeded(&world.recipient, job).await;
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    world.nothing_left(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_that_gives_slowly_may_be_restarted() {
    goes_on(Way::Tcp, Limit::Donor, &["db1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_of_a_slow_recipient_may_be_restarted() {
    goes_on(Way::Tcp, Limit::Recipient, &["db1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_may_be_restarted_one_after_the_other() {
    goes_on(Way::Tcp, Limit::Donor, &["db2", "db1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_through_the_bus_may_be_restarted() {
    goes_on(Way::Store, Limit::Donor, &["db1"]).await;
}
