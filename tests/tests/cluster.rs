//! Seeds on a bus of three servers, each of which is lost while they run: killed, its disk wiped, replaced by a newer one, without a leader,
//! without a quorum. No event is lost or doubled, and every seed ends right.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bus::durable::{COMMAND_STREAM, command_stream_limits, ensure_command_stream};
use bus::events::{EVENT_STREAM, ensure_event_stream, event_stream_limits};
use bus::store::stream_of;
use bus::{Answer, CallOptions};
use e2e::events::{assert_none_lost_none_doubled, await_event, of_job};
use e2e::faults::points::{Moment, Point, Points};
use e2e::rows;
use e2e::world::{BusPlace, Configure, Host, PATIENCE, World, WorldOptions, slowly};
use protocol::event::{Event, EventData};
use protocol::ids::{JobId, RequestId};
use protocol::params::{CustomRunParams, JobsListParams};
use protocol::seed::{SeedStage, Transport};
use testkit::nats::{NatsCluster, NatsOptions, matrix, newest_program};

const MIB: u64 = 1 << 20;
/// At this rate a transfer outlasts three servers, each with the election of another leader.
const SLOW: u64 = 3 * MIB;
/// Bytes between two of the strikes.
const APART: u64 = 6 * MIB;
/// At this rate it outlasts three servers that are replaced, with a command left and all copies made anew before the next.
const VERY_SLOW: u64 = MIB / 2;
const SERVERS: usize = 3;

/// Leaving a command that nobody answers takes as long as the bus takes to elect.
const LEFT_WITHIN: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);
/// More than the longest pause of a stage while a server is lost and comes back.
const STALL_S: i64 = 120;

/// Two hosts on a cluster, and one that is away.
struct Place {
    cluster: NatsCluster,
    world: World,
    points: Points,
    away: Host,
    /// Commands that wait for it.
    left: usize,
}

impl Place {
    async fn new(program: PathBuf) -> Self {
        let options = NatsOptions { program: Some(program), ..NatsOptions::default() };
        let cluster = NatsCluster::of(SERVERS, &options).unwrap();
        let points = Points::new();
        let faults = points.faults();
        let configure: Configure = Box::new(move |_, agent| {
            agent.env("OA_FAULT", &faults).set("seed.stall_s", STALL_S);
        });
        let bus = Some(Box::new(BusPlace::At(cluster.urls())));
        let configure = Some(configure);
        let world =
            World::start(WorldOptions { data_mib: 32, bus, configure, ..WorldOptions::default() }).await;
        // A controller's first use of ctl makes them, for three servers.
        let controller = world.client.bus();
        ensure_event_stream(controller, &event_stream_limits()).await.unwrap();
        ensure_command_stream(controller, &command_stream_limits()).await.unwrap();
        world.snapshot().await;
        let urls = cluster.urls();
        let mut away = world
            .another("db3", |agent| {
                agent.set("bus.servers", urls).set("custom.mark.argv", vec!["/bin/true".to_owned()]);
            })
            .await;
        away.agent.kill9().unwrap();
        Self { cluster, world, points, away, left: 0 }
    }

    /// Leaves a command for the host that is away, as a person does: again, where nothing was promised.
    async fn leave(&mut self) {
        let options =
            CallOptions { timeout: LEFT_WITHIN, queue: Some(HOUR), request_id: Some(RequestId::generate()) };
        let id = self.away.id();
        let left = testkit::poll::until_async(PATIENCE, "a command to be queued", || async {
            let params = CustomRunParams { name: "mark".into() };
            self.world.client.call_or_queue(&id, params, &options).await.ok()
        })
        .await;
        assert!(matches!(left, Answer::Queued(_)), "db3 is away");
        self.left += 1;
    }

    /// Each command that was left runs once, now that its host is back.
    async fn all_left_run_once(&mut self) {
        self.away.agent.boot().unwrap();
        self.world.serving(&self.away.id()).await;
        let empty = || async {
            let stream = self.world.client.bus().jetstream().get_stream(COMMAND_STREAM).await.ok()?;
            (stream.cached_info().state.messages == 0).then_some(())
        };
        testkit::poll::until_async(PATIENCE, "the queue to be empty", empty).await;
        let all = JobsListParams { limit: 1000, unfinished: false };
        let jobs = self.world.call(&self.away, all).await;
        assert_eq!(jobs.iter().filter(|job| job.kind == "custom.run").count(), self.left);
    }

    async fn begin(&self, transport: Transport, bytes_per_s: u64) -> JobId {
        match transport {
            Transport::Store => self.world.seed_through_store(slowly(bytes_per_s)).await,
            Transport::Tcp | Transport::Auto => self.world.seed(slowly(bytes_per_s)).await,
        }
    }

    /// Both agents and we have found a server that is there.
    async fn back(&self) {
        self.world.serving(&self.world.donor.id()).await;
        self.world.serving(&self.world.recipient.id()).await;
    }

    /// Every server has its copy of each stream again, as an operator waits for before the next one goes: two lost disks of three are
    /// more than the streams can bear. What the leader calls current may lack all messages for a moment (2.9.10), so each server is asked.
    async fn whole(&self) {
        let told = std::sync::Mutex::new(String::new());
        let look = || async {
            let seen = bus::status::look(self.world.client.bus()).await.ok()?;
            let kept = seen.streams.iter().map(|stream| (&stream.name, self.cluster.kept(&stream.name)));
            let now = format!("{:?} {:?}", seen.problems, kept.collect::<Vec<_>>());
            let mut told = told.lock().unwrap();
            if *told != now {
                println!("not whole, or just so: {now}");
                *told = now;
            }
            let is_whole = |stream: &bus::status::StreamStatus| {
                let kept = self.cluster.kept(&stream.name);
                stream.copies.len() == SERVERS && kept.iter().all(|copy| copy.is_some() && *copy == kept[0])
            };
            let is_fine = seen.problems.is_empty() && !seen.streams.is_empty();
            (is_fine && seen.streams.iter().all(is_whole)).then_some(())
        };
        testkit::poll::until_async(2 * PATIENCE, "each server to have its copies", look).await;
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

/// When each server is lost in a seed: at the beginning of a stage, or in the middle of its transfer.
fn strikes(seed: usize) -> Vec<(SeedStage, usize)> {
    let stages = SeedStage::ALL.into_iter().enumerate();
    if is_whole() {
        return stages.map(|(at, stage)| (stage, (at + seed) % SERVERS)).collect();
    }
    // Each stage once in the seeds of a run, and in each seed as many as there are servers.
    let due = stages.filter(|(at, _)| at % SEEDS_OF_A_RUN == seed);
    due.enumerate().map(|(nth, (_, stage))| (stage, (nth + seed) % SERVERS)).collect()
}

/// Of each transport on each version of the server.
const SEEDS_OF_A_RUN: usize = 4;

fn is_whole() -> bool {
    std::env::var("OA_CELLS").is_ok_and(|cells| cells == "all")
}

/// With `OA_CELLS=all` each server at each stage, by either way, on each version; else each stage once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeds_go_on_while_a_server_dies_at_each_stage() {
    for (nth, program) in matrix().into_iter().enumerate() {
        let mut place = Place::new(program).await;
        for (way, transport) in [Transport::Tcp, Transport::Store].into_iter().enumerate() {
            let seeds = if is_whole() { 0..SERVERS } else { 2 * nth + way..2 * nth + way + 1 };
            for seed in seeds {
                let job = lose_servers(&mut place, transport, &strikes(seed)).await;
                assert_none_lost_none_doubled(&place.ends_right(job).await);
            }
        }
        place.all_left_run_once().await;
    }
}

/// A seed that loses a server at each of these moments: killed, or with its disk where the data go through the servers.
async fn lose_servers(place: &mut Place, transport: Transport, strikes: &[(SeedStage, usize)]) -> JobId {
    place.points.open_all();
    let point = |stage| Point::stage(stage, Moment::Begin);
    let at_begin = |stage: SeedStage| stage != SeedStage::Transfer;
    for (stage, _) in strikes.iter().filter(|(stage, _)| at_begin(*stage)) {
        place.points.close(point(*stage));
    }
    let is_slow = strikes.iter().any(|(stage, _)| !at_begin(*stage));
    let job = place.begin(transport, if is_slow { SLOW } else { 0 }).await;
    for (stage, server) in strikes {
        println!("{transport:?}: n{server} is lost in {}", stage.as_str());
        match at_begin(*stage) {
            true => place.points.reached(point(*stage)).await,
            false => _ = place.world.in_transfer(job, APART).await,
        }
        match transport {
            Transport::Store => place.cluster.wipe(*server).unwrap(),
            Transport::Tcp | Transport::Auto => place.cluster.node_mut(*server).kill9(),
        }
        place.leave().await;
        if at_begin(*stage) {
            place.points.open(point(*stage));
        } else {
            place.back().await;
            place.world.hurry(job).await;
        }
        place.back().await;
        place.cluster.node_mut(*server).restart().unwrap();
        place.cluster.elected(SERVERS);
        place.back().await;
        place.whole().await;
    }
    job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_step_down_cost_a_seed_through_the_bus_nothing() {
    for program in matrix() {
        let mut place = Place::new(program).await;
        place.leave().await;
        let job = place.begin(Transport::Store, SLOW).await;
        let bucket = stream_of(&place.world.donor.id());
        for strike in 1..=5 {
            place.world.in_transfer(job, strike * APART / 2).await;
            for stream in [EVENT_STREAM, COMMAND_STREAM, &bucket] {
                // One that is just being elected cannot: the next strike meets it.
                place.cluster.step_down(stream).await.ok();
            }
            place.leave().await;
        }
        assert_none_lost_none_doubled(&place.ends_right(job).await);
        place.all_left_run_once().await;
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
    let job = place.begin(Transport::Store, VERY_SLOW).await;
    for at in 0..SERVERS {
        place.world.in_transfer(job, (at as u64 + 1) * MIB).await;
        let node = place.cluster.node_mut(at);
        node.upgrade(newest.clone());
        node.stop();
        place.leave().await;
        place.cluster.node_mut(at).restart().unwrap();
        place.cluster.elected(SERVERS);
        place.back().await;
        place.whole().await;
    }
    assert_none_lost_none_doubled(&place.ends_right(job).await);
    place.all_left_run_once().await;
}

/// `OA_CUT_S` seconds without a quorum; in CI few, by hand 60.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_a_direct_seed_goes_on_and_its_events_come_later() {
    let cut = std::env::var("OA_CUT_S").ok().and_then(|cut| cut.parse().ok()).map_or(8, |cut: u64| cut);
    let mut place = Place::new(matrix().swap_remove(0)).await;
    let job = place.begin(Transport::Tcp, SLOW).await;
    place.world.in_transfer(job, APART).await;
    place.leave().await;
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
    place.leave().await;
    assert_none_lost_none_doubled(&place.ends_right(job).await);
    place.all_left_run_once().await;
}
