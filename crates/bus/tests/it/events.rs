//! Events: none lost, none doubled, in order, read back from any point.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bus::events::{EVENT_STREAM, EventFilter, Since, StoredEvent, ensure_event_stream, event_stream_limits};
use bus::outbox::{EventSource, OutboxLimits};
use bus::{Bus, Client, Outbox, StreamLimits};
use futures_util::StreamExt;
use protocol::event::{AgentStopped, EventData, SnapshotGone};
use testkit::nats::{NatsOptions, NatsServer};
use tokio_util::sync::CancellationToken;

use crate::kit::*;

on_each_server!(
    none_is_lost_or_doubled_when_the_server_is_killed,
    what_a_stream_has_is_not_sent_again_though_it_has_forgotten_the_ids,
    what_a_server_lost_with_its_disk_is_sent_again,
    what_a_stream_lost_that_was_made_anew_is_sent_again,
    the_spool_waits_for_jetstream_and_survives_a_restart,
    events_are_read_by_time_sequence_and_filter,
    a_small_store_gets_a_smaller_stream,
);

pub(crate) fn outbox(dir: &Path, host: &str) -> Outbox {
    let source = EventSource { agent: agent(host), cluster: format!("c-{host}"), dc: "east".into() };
    Outbox::open(dir, source, OutboxLimits::default()).unwrap()
}

fn stopped(n: u64) -> EventData {
    EventData::AgentStopped(AgentStopped { reason: n.to_string() })
}

pub(crate) async fn all(bus: &Bus) -> Vec<StoredEvent> {
    let client = Client::new(bus.clone(), None, "reader");
    let filter = EventFilter { since: Since::All, until_end: true, ..EventFilter::default() };
    client.events(filter).await.unwrap().map(|event| event.unwrap()).collect().await
}

/// Each event once, in order, none missing; as stored, without the reader's own eye for doubles.
async fn assert_complete(bus: &Bus, count: u64) {
    let events = all(bus).await;
    let sequences: Vec<u64> = events.iter().map(|e| e.event.sequence).collect();
    assert_eq!(sequences, (1..=count).collect::<Vec<_>>());
    let last = events.last().unwrap();
    assert_eq!(last.stream_sequence, count, "the stream holds {count} messages, not one more");
}

async fn none_is_lost_or_doubled_when_the_server_is_killed(program: Option<PathBuf>) {
    let mut server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let bus = connect(&server).await;
    ensure_event_stream(&bus, &event_stream_limits()).await.unwrap();
    ensure_event_stream(&bus, &event_stream_limits()).await.unwrap();
    let outbox = outbox(dir.path(), "db1");
    let shutdown = CancellationToken::new();
    let sender = outbox.spawn_sender(bus.clone(), shutdown.clone());
    let publishing = tokio::spawn({
        let outbox = outbox.clone();
        async move {
            for n in 1..=400 {
                outbox.publish(stopped(n)).await.unwrap();
            }
        }
    });
    for kill_after in [40, 150] {
        testkit::poll::until_async(LIMIT, "events to be sent", || async {
            (outbox.stats().sent_sequence >= kill_after).then_some(())
        })
        .await;
        server.kill9();
        server.restart().unwrap();
    }
    publishing.await.unwrap();
    assert!(outbox.flush(LIMIT * 2).await, "{:?}", outbox.stats());
    shutdown.cancel();
    sender.await.unwrap();
    assert_complete(&bus, 400).await;
}

/// So many more events, until the stream has them all.
async fn publish(outbox: &Outbox, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        outbox.publish(stopped(n)).await.unwrap();
    }
    assert!(outbox.flush(LIMIT * 2).await, "{:?}", outbox.stats());
}

async fn what_a_stream_has_is_not_sent_again_though_it_has_forgotten_the_ids(program: Option<PathBuf>) {
    let mut server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let bus = connect(&server).await;
    // The shortest window that there is: over before a server that was killed is back.
    let config = async_nats::jetstream::stream::Config {
        name: EVENT_STREAM.into(),
        subjects: vec![protocol::subject::ALL_EVENTS.into()],
        duplicate_window: Duration::from_millis(100),
        allow_direct: true,
        ..Default::default()
    };
    async_nats::jetstream::new(bus.client().clone()).create_stream(config).await.unwrap();
    let outbox = outbox(dir.path(), "db1");
    let shutdown = CancellationToken::new();
    let sender = outbox.spawn_sender(bus.clone(), shutdown.clone());
    publish(&outbox, 1..=20).await;
    server.kill9();
    server.restart().unwrap();
    publish(&outbox, 21..=21).await;
    assert_complete(&bus, 21).await;
    shutdown.cancel();
    sender.await.unwrap();
}

async fn what_a_server_lost_with_its_disk_is_sent_again(program: Option<PathBuf>) {
    let mut server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let bus = connect(&server).await;
    ensure_event_stream(&bus, &event_stream_limits()).await.unwrap();
    let outbox = outbox(&dir.path().join("spool"), "db1");
    let shutdown = CancellationToken::new();
    let sender = outbox.spawn_sender(bus.clone(), shutdown.clone());
    let (store, before) = (server.dir().join("store"), dir.path().join("before"));
    let copy = |from: &Path, to: &Path| {
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    };
    publish(&outbox, 1..=10).await;
    server.stop();
    copy(&store, &before);
    server.restart().unwrap();
    publish(&outbox, 11..=20).await;
    server.kill9();
    std::fs::remove_dir_all(&store).unwrap();
    copy(&before, &store);
    server.restart().unwrap();
    publish(&outbox, 21..=21).await;
    assert_complete(&bus, 21).await;
    shutdown.cancel();
    sender.await.unwrap();
}

/// Under a connection that stays: nothing but the stream's own count tells.
async fn what_a_stream_lost_that_was_made_anew_is_sent_again(program: Option<PathBuf>) {
    let server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let bus = connect(&server).await;
    ensure_event_stream(&bus, &event_stream_limits()).await.unwrap();
    let outbox = outbox(dir.path(), "db1");
    let shutdown = CancellationToken::new();
    let sender = outbox.spawn_sender(bus.clone(), shutdown.clone());
    publish(&outbox, 1..=10).await;
    async_nats::jetstream::new(bus.client().clone()).delete_stream(EVENT_STREAM).await.unwrap();
    ensure_event_stream(&bus, &event_stream_limits()).await.unwrap();
    publish(&outbox, 11..=11).await;
    let stored = testkit::poll::until_async(LIMIT, "the lost events", || async {
        let events = all(&bus).await;
        (events.len() >= 11).then_some(events)
    })
    .await;
    let mut sequences: Vec<u64> = stored.iter().map(|stored| stored.event.sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=11).collect::<Vec<_>>());
    assert_eq!(stored.last().unwrap().stream_sequence, 11, "none is there twice");
    shutdown.cancel();
    sender.await.unwrap();
}

async fn the_spool_waits_for_jetstream_and_survives_a_restart(program: Option<PathBuf>) {
    let server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let bus = connect(&server).await;
    let first = outbox(dir.path(), "db1");
    let shutdown = CancellationToken::new();
    let sender = first.spawn_sender(bus.clone(), shutdown.clone());
    for n in 1..=20 {
        first.publish(stopped(n)).await.unwrap();
    }
    assert!(!first.flush(Duration::from_millis(300)).await, "there is no stream yet");
    assert_eq!(first.stats().pending, 20);
    shutdown.cancel();
    sender.await.unwrap();
    drop(first);
    let outbox = outbox(dir.path(), "db1");
    let shutdown = CancellationToken::new();
    let sender = outbox.spawn_sender(bus.clone(), shutdown.clone());
    ensure_event_stream(&bus, &event_stream_limits()).await.unwrap();
    outbox.publish(stopped(21)).await.unwrap();
    assert!(outbox.flush(LIMIT * 2).await);
    assert_complete(&bus, 21).await;
    shutdown.cancel();
    sender.await.unwrap();
}

async fn events_are_read_by_time_sequence_and_filter(program: Option<PathBuf>) {
    let server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let bus = connect(&server).await;
    ensure_event_stream(&bus, &event_stream_limits()).await.unwrap();
    let shutdown = CancellationToken::new();
    let hosts = [outbox(&dir.path().join("1"), "db1"), outbox(&dir.path().join("2"), "db2")];
    for host in &hosts {
        host.spawn_sender(bus.clone(), shutdown.clone());
    }
    let gone = || EventData::SnapshotRemoved(SnapshotGone { id: "vg0/s".parse().unwrap(), by: "x".into() });
    for n in 1..=5 {
        for host in &hosts {
            host.publish(stopped(n)).await.unwrap();
            host.publish(gone()).await.unwrap();
            assert!(host.flush(LIMIT).await);
        }
    }
    let client = Client::new(bus.clone(), None, "reader");
    let count = async |filter: EventFilter| {
        client.events(EventFilter { until_end: true, ..filter }).await.unwrap().count().await
    };
    let from_start = || EventFilter { since: Since::All, ..EventFilter::default() };
    assert_eq!(count(from_start()).await, 20);
    assert_eq!(count(EventFilter { host: Some(agent("db2")), ..from_start() }).await, 10);
    assert_eq!(count(EventFilter { cluster: Some("c-db1".into()), ..from_start() }).await, 10);
    assert_eq!(count(EventFilter { kind: Some("snapshot.*".into()), ..from_start() }).await, 10);
    assert_eq!(count(EventFilter { since: Since::Sequence(16), ..EventFilter::default() }).await, 5);
    assert_eq!(count(EventFilter::default()).await, 0, "nothing new");
    let middle = all(&bus).await[10].event.time;
    let since_then = count(EventFilter { since: Since::Time(middle), ..EventFilter::default() }).await;
    assert!((10..=20).contains(&since_then), "{since_then}");
    assert!(
        count(EventFilter { since: Since::Time(jiff::Timestamp::now()), ..EventFilter::default() }).await
            == 0
    );

    let mut following = client.events(EventFilter::default()).await.unwrap();
    hosts[0].publish(stopped(99)).await.unwrap();
    let next = tokio::time::timeout(LIMIT, following.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.stream_sequence, 21);
    shutdown.cancel();
}

async fn a_small_store_gets_a_smaller_stream(program: Option<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let config = format!("jetstream {{ store_dir: {:?}, max_mem: 16MB, max_file: 20MB }}\n", dir.path());
    let server = NatsServer::start(&NatsOptions { program, config, ..NatsOptions::default() }).unwrap();
    let bus = connect(&server).await;
    ensure_event_stream(&bus, &event_stream_limits()).await.unwrap();
    let info = bus.jetstream().get_stream("orch_events").await.unwrap();
    let bytes = info.cached_info().config.max_bytes;
    assert_eq!(bytes, 16 << 20, "the largest half, quarter, … that fits");
    // Little is left.
    let tiny = StreamLimits { max_bytes: 8 << 20, ..bus::durable::command_stream_limits() };
    bus::durable::ensure_command_stream(&bus, &tiny).await.unwrap();
    let info = bus.jetstream().get_stream("orch_commands").await.unwrap();
    assert_eq!(info.cached_info().config.max_bytes, 4 << 20);
}
