//! Whole seeds through the object store of the bus: between hosts without a route, and through the death of each party.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use e2e::rows;
use e2e::world::{BusPlace, Configure, PATIENCE, Party, World, WorldOptions, assert_resumed, slowly};
use protocol::job::{JobState, JobView};
use protocol::params::*;
use protocol::seed::{Guard, SeedOptions, Transport, Verdict};
use serde_json::Value;
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;
use testkit::port::Port;

/// A transfer at this rate can be met half-way.
const SLOW: u64 = 12 << 20;
const MIB: u64 = 1 << 20;
const WINDOW: u64 = 8 * MIB;

async fn world(data_mib: u32) -> World {
    let configure: Configure = Box::new(|_, options| {
        options.set("seed.store_window_mib", i64::try_from(WINDOW / MIB).unwrap());
    });
    World::start(WorldOptions { data_mib, configure: Some(configure), ..WorldOptions::default() }).await
}

/// The recipient has the donor's rows, and nothing of the seed is left on either host or on the bus.
async fn assert_seeded(world: &World) {
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    world.nothing_left(PATIENCE).await;
    no_bucket_is_left(world).await;
}

async fn no_bucket_is_left(world: &World) {
    poll::until_async(PATIENCE, "the bucket to go", || async {
        bus::store::buckets(world.client.bus()).await.ok().filter(Vec::is_empty)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_without_a_route_are_seeded_through_the_bus_by_themselves() {
    // Nobody answers there: the address is for documentation (RFC 5737).
    let configure: Configure = Box::new(|id, options| {
        options.set("seed.store_window_mib", i64::try_from(WINDOW / MIB).unwrap());
        if id == "db1" {
            options.set("seed.advertise", vec!["192.0.2.1".to_owned()]);
        }
    });
    let options = WorldOptions { data_mib: 16, configure: Some(configure), ..WorldOptions::default() };
    let world = World::start(options).await;
    world.snapshot().await;
    // Only direct TCP: refused, with the way out named.
    let said = world.ctl(&["seed", "start", "db2", "--stop-mysql", "--transport", "tcp"]).await;
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    assert!(format!("{}{}", said.stdout, said.stderr).contains("--transport store"), "{said:?}");
    world.recipient_is_as_it_was().await;

    let most = Arc::new(AtomicU64::new(0));
    let looker = tokio::spawn(look_at_the_bucket(world.client.bus().clone(), Arc::clone(&most)));
    let said = world.ctl(&["--json", "seed", "start", "db2", "--stop-mysql"]).await;
    looker.abort();
    assert!(said.status.success(), "{said:?}");
    let plan = said.stdout.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let plan = plan.into_iter().find(|line| line["update"] == "plan").unwrap();
    assert_eq!(plan["plan"]["transport"], "store", "{plan}");
    let most = most.load(Relaxed);
    assert!(most > 0 && most <= WINDOW, "{most} bytes lay on the server");
    assert_seeded(&world).await;
}

/// The most that the server held at once.
async fn look_at_the_bucket(bus: bus::Bus, most: Arc<AtomicU64>) {
    let stream = bus::store::stream_of(&"db1".parse().unwrap());
    loop {
        if let Ok(found) = bus.jetstream().get_stream(&stream).await {
            most.fetch_max(found.cached_info().state.bytes, Relaxed);
        }
        tokio::task::yield_now().await;
    }
}

/// Each host knows only its site's own server, a leaf node; events, queued commands and buckets are the hub's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_crosses_from_site_to_site_directly_and_through_the_hub() {
    let port = Port::claim().unwrap();
    let domain = |name: &str, links: String| NatsOptions {
        domain: Some(name.to_owned()),
        config: format!("server_name: {name}\nleafnodes {{ {links} }}\n"),
        ..NatsOptions::jetstream()
    };
    let remote = format!("remotes: [{{ url: \"nats-leaf://127.0.0.1:{}\" }}]", port.number());
    let sites = ["east", "west"].map(|site| NatsServer::start(&domain(site, remote.clone())).unwrap());
    let urls = sites.each_ref().map(NatsServer::url);
    let configure: Configure = Box::new(move |id, options| {
        let [east, west] = &urls;
        options.set("bus.servers", vec![if id == "db1" { east.clone() } else { west.clone() }]);
        options.set("bus.jetstream_domain", "hub");
        options.set("seed.store_window_mib", i64::try_from(WINDOW / MIB).unwrap());
    });
    let hub = domain("hub", format!("listen: \"127.0.0.1:{}\"", port.number()));
    let world = WorldOptions {
        data_mib: 16,
        configure: Some(configure),
        bus: Some(Box::new(BusPlace::Server(hub))),
        ..WorldOptions::default()
    };
    let world = World::start(world).await;
    world.snapshot().await;
    for transport in ["tcp", "store"] {
        let line = ["seed", "start", "db2", "--stop-mysql", "--transport", transport];
        let said = world.ctl(&line).await;
        assert!(said.status.success(), "{transport}: {said:?}");
        assert_seeded(&world).await;
    }
    let told = world.ctl(&["--json", "events", "--kind", "job.finished"]).await;
    for host in ["db1", "db2"] {
        assert!(told.stdout.contains(&format!("\"host\":\"{host}\"")), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_both_ways_work_the_plan_says_which_is_better() {
    let world = world(1).await;
    world.snapshot().await;
    let donor =
        world.call(&world.donor, SeedSurveyParams { snapshot: None, foreign: false, stream: None }).await;
    for (asked, taken, verdict) in [
        (Transport::Auto, Transport::Tcp, Verdict::Pass),
        (Transport::Tcp, Transport::Tcp, Verdict::Pass),
        (Transport::Store, Transport::Store, Verdict::Warn),
    ] {
        let options = SeedOptions { stop_mysql: true, transport: asked, ..SeedOptions::default() };
        let plan = world.call(&world.recipient, SeedPlanParams { donor: donor.clone(), options }).await;
        assert_eq!(plan.transport, taken, "{plan:?}");
        let guard = plan.guards.iter().find(|g| g.guard == Guard::DonorReachable).unwrap();
        assert_eq!(guard.verdict, verdict, "{guard:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recipients_agent_dies_and_only_what_is_missing_travels_again() {
    let (view, all) = crash_in_mid_transfer(Party::RecipientsAgent).await;
    assert_resumed(&view, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_donors_agent_dies_and_serves_on() {
    crash_in_mid_transfer(Party::DonorsAgent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_dies_and_the_seed_goes_on_when_it_is_back() {
    crash_in_mid_transfer(Party::Bus).await;
}

/// A seed that loses a party and succeeds; its end, and all bytes that had to travel.
async fn crash_in_mid_transfer(party: Party) -> (JobView, u64) {
    let mut world = world(24).await;
    world.snapshot().await;
    let job = world.seed_through_store(slowly(SLOW)).await;
    let ended = world.succeeds_despite_a_crash(job, party).await;
    assert_seeded(&world).await;
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_seed_leaves_no_bucket_and_the_old_data() {
    let world = world(24).await;
    world.snapshot().await;
    let job = world.seed_through_store(slowly(SLOW)).await;
    world.in_transfer(job, 10 * MIB).await;
    // A second one would mix its data with these.
    let (recipient, transport) = (world.recipient.id(), Transport::Store);
    let second = SeedOfferParams {
        recipient,
        snapshot: None,
        foreign: false,
        stream: None,
        plain: false,
        transport,
        seal_to: None,
    };
    let refused = world.refused(&world.donor, second).await;
    assert!(refused.message.contains("object store"), "{refused:?}");
    world.call(&world.recipient, JobsAbortParams { job }).await;
    let view = world.ended(&world.recipient, job).await;
    assert_eq!(view.state, JobState::Aborted);
    world.recipient_is_as_it_was().await;
    world.nothing_left(Duration::from_secs(30)).await;
    no_bucket_is_left(&world).await;
}
