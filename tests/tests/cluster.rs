//! Seeds on a bus of three servers, each of which is lost while they run: killed, its disk wiped, replaced by a newer one, without a leader,
//! without a quorum. No event is lost or doubled, and every seed ends right.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bus::events::EVENT_STREAM;
use bus::store::stream_of;
use e2e::events::{assert_none_lost_none_doubled, await_event, of_job};
use e2e::rows;
use e2e::world::{BusPlace, PATIENCE, World, WorldOptions, slowly};
use protocol::event::{Event, EventData};
use protocol::ids::JobId;
use protocol::seed::Transport;
use testkit::nats::{NatsCluster, NatsOptions, matrix, newest_program};

const MIB: u64 = 1 << 20;
/// At this rate a transfer outlasts three servers, each with the election of another leader.
const SLOW: u64 = 3 * MIB;
/// Bytes between two of the strikes.
const APART: u64 = 6 * MIB;
const SERVERS: usize = 3;

/// Two hosts on a cluster.
struct Place {
    cluster: NatsCluster,
    world: World,
}

impl Place {
    async fn new(program: PathBuf) -> Self {
        let options = NatsOptions { program: Some(program), ..NatsOptions::default() };
        let cluster = NatsCluster::of(SERVERS, &options).unwrap();
        let bus = Some(Box::new(BusPlace::At(cluster.urls())));
        let world = World::start(WorldOptions { data_mib: 32, bus, ..WorldOptions::default() }).await;
        // A controller's first use of ctl makes it, for three servers.
        bus::events::ensure_event_stream(world.client.bus(), &bus::events::event_stream_limits())
            .await
            .unwrap();
        world.snapshot().await;
        Self { cluster, world }
    }

    async fn begin(&self, transport: Transport) -> JobId {
        match transport {
            Transport::Store => self.world.seed_through_store(slowly(SLOW)).await,
            Transport::Tcp | Transport::Auto => self.world.seed(slowly(SLOW)).await,
        }
    }

    /// Both agents and we have found a server that is there.
    async fn back(&self) {
        self.world.serving(&self.world.donor.id()).await;
        self.world.serving(&self.world.recipient.id()).await;
    }

    /// Every server has its copy of each stream again, as an operator waits for before the next one goes: two lost disks of three are
    /// more than the streams can bear.
    async fn whole(&self) {
        let look = || async {
            let seen = bus::status::look(self.world.client.bus()).await.ok()?;
            let is_whole = |stream: &bus::status::StreamStatus| {
                stream.copies.len() == SERVERS
                    && stream.leader.is_some()
                    && stream.copies.iter().all(|copy| copy.state == "current")
            };
            (!seen.streams.is_empty() && seen.streams.iter().all(is_whole)).then_some(())
        };
        testkit::poll::until_async(PATIENCE, "each server to have its copies", look).await;
    }

    /// The seed ends well, the rows are the donor's, and every event is in the stream; gives them.
    async fn ends_right(&self, job: JobId) -> Vec<Event> {
        self.world.hurry(job).await;
        self.world.succeeded(&self.world.recipient, job).await;
        let [here, there] = [&self.world.recipient.db, &self.world.donor.db];
        assert_eq!(rows::checksums(here).await, rows::checksums(there).await);
        self.world.nothing_left(PATIENCE).await;
        let ended =
            |event: &Event| matches!(event.known(), Some(EventData::JobFinished(stage)) if stage.job == job);
        let events = await_event(&self.world.client, "the end of the seed", ended).await;
        assert!(!of_job(&events, job).is_empty());
        events
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeds_go_on_while_each_server_dies_in_turn() {
    for program in matrix() {
        let mut place = Place::new(program).await;
        for (transport, wiped) in [(Transport::Tcp, false), (Transport::Store, true)] {
            let job = place.begin(transport).await;
            for at in 0..SERVERS {
                place.world.in_transfer(job, (at as u64 + 1) * APART).await;
                match wiped {
                    true => place.cluster.wipe(at).unwrap(),
                    false => place.cluster.node_mut(at).kill9(),
                }
                place.back().await;
                place.cluster.node_mut(at).restart().unwrap();
                place.cluster.elected(SERVERS);
                place.back().await;
                place.whole().await;
            }
            assert_none_lost_none_doubled(&place.ends_right(job).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_step_down_cost_a_seed_through_the_bus_nothing() {
    for program in matrix() {
        let place = Place::new(program).await;
        let job = place.begin(Transport::Store).await;
        let bucket = stream_of(&place.world.donor.id());
        for strike in 1..=5 {
            place.world.in_transfer(job, strike * APART / 2).await;
            for stream in [EVENT_STREAM, &bucket] {
                // One that is just being elected cannot: the next strike meets it.
                place.cluster.step_down(stream).await.ok();
            }
        }
        assert_none_lost_none_doubled(&place.ends_right(job).await);
    }
}

/// A newer server that takes over from 2.9 has forgotten which ids the stream holds: agents must not repeat what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_replaced_by_newer_ones_under_a_running_seed() {
    let Some(newest) = newest_program() else {
        testkit::skip!(odd: "scripts/nats-newest was not run");
    };
    let oldest = matrix().swap_remove(0);
    let mut place = Place::new(oldest).await;
    let job = place.begin(Transport::Store).await;
    for at in 0..SERVERS {
        place.world.in_transfer(job, (at as u64 + 1) * APART).await;
        let node = place.cluster.node_mut(at);
        node.upgrade(newest.clone());
        node.stop();
        node.restart().unwrap();
        place.cluster.elected(SERVERS);
        place.back().await;
        place.whole().await;
    }
    assert_none_lost_none_doubled(&place.ends_right(job).await);
}

/// `OA_CUT_S` seconds without a quorum; in CI few, by hand 60.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_a_direct_seed_goes_on_and_its_events_come_later() {
    let cut = std::env::var("OA_CUT_S").ok().and_then(|cut| cut.parse().ok()).map_or(8, |cut: u64| cut);
    let mut place = Place::new(matrix().swap_remove(0)).await;
    let job = place.begin(Transport::Tcp).await;
    place.world.in_transfer(job, APART).await;
    let until = Instant::now() + Duration::from_secs(cut);
    [1, 2].into_iter().for_each(|at| place.cluster.node_mut(at).kill9());
    place.back().await;
    place.world.hurry(job).await;
    // It needs nothing that the cluster keeps.
    place.world.succeeded(&place.world.recipient, job).await;
    tokio::time::sleep_until(until.into()).await;
    [1, 2].into_iter().for_each(|at| place.cluster.node_mut(at).restart().unwrap());
    place.cluster.elected(SERVERS);
    place.back().await;
    assert_none_lost_none_doubled(&place.ends_right(job).await);
}
