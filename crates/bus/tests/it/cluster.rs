//! Three servers as one bus: what is kept outlives any of them.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream::consumer::Consumer;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::stream::{ClusterInfo, Config};
use bus::durable::{COMMAND_STREAM, command_stream_limits, consumer_of, ensure_command_stream};
use bus::events::{EVENT_STREAM, ensure_event_stream, event_stream_limits};
use bus::store::{make_bucket, stream_of};
use bus::{Answer, Authority, Bus, BusConfig, BusError, CallOptions, Client, Made, Replicas, StreamLimits};
use protocol::ids::{JobId, RequestId};
use protocol::params::MysqlStartParams;
use serde_json::json;
use testkit::nats::{NatsCluster, NatsOptions};

use crate::kit::*;

on_each_server!(
    a_queued_command_runs_while_the_server_that_led_its_stream_is_away,
    what_has_fewer_replicas_is_raised_unless_somebody_wanted_it_so,
    many_commands_wait_through_lost_disks_and_run_in_order,
);

const HOUR: Duration = Duration::from_secs(3_600);

fn cluster(size: usize, program: Option<PathBuf>) -> NatsCluster {
    NatsCluster::of(size, &NatsOptions { program, ..NatsOptions::default() }).unwrap()
}

async fn join(cluster: &NatsCluster) -> Bus {
    let servers = cluster.urls();
    let config = BusConfig { servers, request_timeout_ms: 3_000, ..config(cluster.node(0)) };
    let bus = Bus::connect(&config, "test").await.unwrap();
    bus.connected(LIMIT).await.unwrap();
    bus
}

async fn leave(client: &Client, host: &str) -> RequestId {
    let options = CallOptions { timeout: LIMIT, queue: Some(HOUR), ..CallOptions::default() };
    match client.call_or_queue(&agent(host), MysqlStartParams {}, &options).await.unwrap() {
        Answer::Queued(queued) => queued.request,
        Answer::Result(_) => panic!("nobody is there"),
    }
}

async fn replicas(bus: &Bus, stream: &str) -> usize {
    bus.jetstream().get_stream(stream).await.unwrap().cached_info().config.num_replicas
}

/// Runs what waits for `db1`; the ids in the order in which they ran, when `count` have and the queue is empty.
async fn run(bus: &Bus, count: usize) -> Vec<RequestId> {
    let (dir, id) = (tempfile::tempdir().unwrap(), agent("db1"));
    let handler = TestHandler::new(&id, |_| Ok(json!({"job": JobId::generate()})));
    let db1 = TestAgent::start(bus, &id, &dir, handler, Authority::accept_all()).await;
    testkit::poll::until_async(LIMIT, "the queued commands to run and the queue to be empty", || async {
        let stream = bus.jetstream().get_stream(COMMAND_STREAM).await.ok()?;
        (db1.handler.calls() >= count && stream.cached_info().state.messages == 0).then_some(())
    })
    .await;
    let ran = db1.handler.calls.lock().unwrap().iter().map(|call| call.request.id).collect();
    db1.stop().await;
    ran
}

async fn a_queued_command_runs_while_the_server_that_led_its_stream_is_away(program: Option<PathBuf>) {
    let mut cluster = cluster(3, program);
    let bus = join(&cluster).await;
    let client = Client::new(bus.clone(), None, "tester");
    let mut left = vec![leave(&client, "db1").await];
    assert_eq!(replicas(&bus, COMMAND_STREAM).await, 3);
    let leader = cluster.leader_of(COMMAND_STREAM).unwrap();
    cluster.node_mut(leader).kill9();
    // Another one, while the others elect.
    left.push(leave(&client, "db1").await);
    // With one of three away each of the others takes everything along, for as long as it is away.
    let seen = testkit::poll::until_async(LIMIT, "the copy to be missed", || async {
        let seen = bus::status::look(&bus).await.ok()?;
        let away = format!("its copy on n{leader} is ");
        seen.problems.iter().any(|problem| problem.what.contains(&away)).then_some(seen)
    })
    .await;
    let waiting = &seen.streams[0].waiting;
    assert!(waiting.iter().any(|w| w.host == agent("db1") && w.undelivered == 2), "{seen:?}");
    let others: Vec<_> = seen.servers.iter().filter(|server| server.name != format!("n{leader}")).collect();
    assert!(others.len() == 2 && others.iter().all(|s| s.stands_still == ["queued commands"]), "{seen:?}");
    assert_eq!(run(&bus, 2).await, left, "each once and in order, with the server away");

    // Its disk is lost, and then another server dies: the copy has been made anew.
    cluster.wipe(leader).unwrap();
    let more = leave(&client, "db1").await;
    cluster.node_mut(leader).restart().unwrap();
    // Of the commands, and of how far the host has come: without the second nobody could go on after the next loss.
    testkit::poll::until_async(
        LIMIT * 2,
        "the server with the new disk to have its copies again",
        || async {
            let stream = bus.jetstream().get_stream(COMMAND_STREAM).await.ok()?;
            let queue: Consumer<PullConfig> = stream.get_consumer(&consumer_of(&agent("db1"))).await.ok()?;
            let all = [stream.cached_info().cluster.clone()?, queue.cached_info().cluster.clone()?];
            let whole = |cluster: &ClusterInfo| {
                cluster.replicas.len() == 2
                    && cluster.replicas.iter().all(|copy| copy.current && !copy.offline)
            };
            all.iter().all(whole).then_some(())
        },
    )
    .await;
    let next = testkit::poll::until(LIMIT, "a leader", || cluster.leader_of(COMMAND_STREAM));
    cluster.node_mut(next).kill9();
    assert_eq!(run(&bus, 1).await, [more]);
}

/// More than any client fetches at once; with each server's disk lost once while they wait.
async fn many_commands_wait_through_lost_disks_and_run_in_order(program: Option<PathBuf>) {
    let mut cluster = cluster(3, program);
    let bus = join(&cluster).await;
    let client = Client::new(bus.clone(), None, "tester");
    let mut left = Vec::new();
    for at in 0..3 {
        for _ in 0..12 {
            left.push(leave(&client, "db1").await);
        }
        cluster.wipe(at).unwrap();
        cluster.node_mut(at).restart().unwrap();
        cluster.elected(3);
        let whole = || async {
            let seen = bus::status::look(&bus).await.ok()?;
            let kept = cluster.kept(COMMAND_STREAM);
            // No controller has made the other stream here.
            let is_fine = seen.problems.iter().all(|problem| problem.what.contains("no stream of events"));
            (is_fine && kept.iter().all(|copy| copy.is_some() && *copy == kept[0])).then_some(())
        };
        testkit::poll::until_async(LIMIT * 2, "all copies, by `bus status` and each server's word", whole)
            .await;
    }
    assert_eq!(run(&bus, left.len()).await, left);
}

async fn what_has_fewer_replicas_is_raised_unless_somebody_wanted_it_so(program: Option<PathBuf>) {
    let cluster = cluster(3, program);
    let bus = join(&cluster).await;
    let (events, commands) = (event_stream_limits(), command_stream_limits());
    // As an earlier version, or a cluster of one, made them.
    let old = StreamLimits { replicas: Replicas::Exactly(1), ..commands.clone() };
    assert_eq!(ensure_command_stream(&bus, &old).await.unwrap(), Made::Now);
    assert_eq!(ensure_command_stream(&bus, &commands).await.unwrap(), Made::Before, "asked for is asked for");
    assert_eq!(replicas(&bus, COMMAND_STREAM).await, 1);
    let three = StreamLimits { replicas: Replicas::Exactly(3), ..commands };
    assert_eq!(ensure_command_stream(&bus, &three).await.unwrap(), Made::Raised { from: 1, to: 3 });

    assert_eq!(ensure_event_stream(&bus, &events).await.unwrap(), Made::Now);
    let jetstream = bus.jetstream();
    let mut ours = jetstream.get_stream(EVENT_STREAM).await.unwrap().cached_info().config.clone();
    assert_eq!(ours.num_replicas, 3);
    // Fewer, and a limit of the operator's own.
    (ours.num_replicas, ours.max_messages) = (1, 123_456);
    jetstream.update_stream(&ours).await.unwrap();
    assert_eq!(ensure_event_stream(&bus, &events).await.unwrap(), Made::Raised { from: 1, to: 3 });
    let raised = jetstream.get_stream(EVENT_STREAM).await.unwrap().cached_info().config.clone();
    assert_eq!((raised.num_replicas, raised.max_messages), (3, 123_456));
    // Made or described by the operator: his.
    jetstream
        .update_stream(&Config { num_replicas: 1, description: Some("one will do".into()), ..raised })
        .await
        .unwrap();
    assert_eq!(ensure_event_stream(&bus, &events).await.unwrap(), Made::Before);
    assert_eq!(replicas(&bus, EVENT_STREAM).await, 1);

    make_bucket(&bus, &agent("db1"), &agent("db2"), 1 << 20).await.unwrap();
    assert_eq!(replicas(&bus, &stream_of(&agent("db1"))).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_keep_one_copy_and_without_quorum_it_is_told_in_a_line_what_waits() {
    let mut cluster = cluster(2, None);
    let bus = join(&cluster).await;
    let made = ensure_event_stream(&bus, &event_stream_limits()).await.unwrap();
    assert_eq!((made, replicas(&bus, EVENT_STREAM).await), (Made::Now, 1));
    let made = ensure_event_stream(&bus, &event_stream_limits()).await.unwrap();
    assert!(
        matches!(&made, Made::Short { replicas: 1, why } if why.contains("no suitable peers")),
        "{made:?}"
    );
    cluster.node_mut(1).kill9();
    let error = testkit::poll::until_async(LIMIT, "JetStream to be refused", || async {
        ensure_command_stream(&bus, &command_stream_limits()).await.err()
    })
    .await;
    assert!(matches!(error, BusError::NoJetStream { .. }), "{error}");
    let told = error.to_string();
    assert!(told.contains("commands, heartbeats and direct seeds go on") && !told.contains('\n'), "{told}");
    // As they do.
    let (dir, id) = (tempfile::tempdir().unwrap(), agent("db1"));
    let handler = TestHandler::new(&id, |_| Ok(json!({"job": JobId::generate()})));
    let _db1 = TestAgent::start(&bus, &id, &dir, handler, Authority::accept_all()).await;
    let client = Client::new(bus.clone(), None, "tester");
    client
        .call(&id, MysqlStartParams {}, &CallOptions { timeout: LIMIT, ..CallOptions::default() })
        .await
        .unwrap();
}
