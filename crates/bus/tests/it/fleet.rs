//! Discovery: the fleet gathered and watched.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bus::{FleetView, Health, Window};
use futures_util::StreamExt;
use protocol::ids::BootId;
use protocol::subject::ASK_FLEET;
use tokio_util::sync::CancellationToken;

use crate::kit::*;

on_each_server!(a_fleet_of_two_hundred_is_gathered, heartbeats_come_and_forged_ones_are_dropped);

async fn a_fleet_of_two_hundred_is_gathered(program: Option<PathBuf>) {
    let server = start(program);
    let bus = connect(&server).await;
    let mut asks = bus.subscribe(ASK_FLEET.into()).await.unwrap();
    let answering = bus.clone();
    tokio::spawn(async move {
        while let Some(ask) = asks.next().await {
            for n in 0..200 {
                let body = serde_json::to_vec(&heartbeat(&agent(&format!("db{n:03}")))).unwrap();
                let reply = ask.reply.clone().unwrap().into_string();
                answering.publish(reply, None, body.into()).await.unwrap();
            }
        }
    });
    settle(&bus).await;
    let client = client(&server, None).await;
    let window = Window { max: LIMIT, quiet: Duration::from_secs(2) };
    let began = Instant::now();
    let fleet = client.fleet(window).await.unwrap();
    assert_eq!(fleet.len(), 200);
    assert_eq!(fleet[0].agent, agent("db000"));
    assert!(began.elapsed() < LIMIT / 2, "it ends when they fall silent");
}

async fn heartbeats_come_and_forged_ones_are_dropped(program: Option<PathBuf>) {
    let server = start(program);
    let bus = connect(&server).await;
    let client = client(&server, None).await;
    let mut seen = client.watch_heartbeats().await.unwrap();
    settle(client.bus()).await;
    let forged = serde_json::to_vec(&heartbeat(&agent("db2"))).unwrap();
    bus.publish("orch.v1.hb.db1".into(), None, forged.into()).await.unwrap();
    let shutdown = CancellationToken::new();
    let make = || heartbeat(&agent("db1"));
    let task =
        bus::heartbeat::spawn(bus.clone(), agent("db1"), Duration::from_millis(50), make, shutdown.clone());
    for _ in 0..3 {
        let heartbeat = tokio::time::timeout(LIMIT, seen.next()).await.unwrap().unwrap();
        assert_eq!(heartbeat.agent, agent("db1"));
    }
    shutdown.cancel();
    task.await.unwrap();
}

#[test]
fn silence_makes_suspect_then_lost_and_a_second_process_shows() {
    let mut view = FleetView::default();
    let now = Instant::now();
    let at = |s| now + Duration::from_secs(s);
    let db1 = agent("db1");
    let first = heartbeat(&db1);
    view.update(first.clone(), now);
    let health = |view: &FleetView, s| view.get(&db1, at(s)).unwrap().health;
    assert_eq!(health(&view, 29), Health::Alive);
    assert_eq!(health(&view, 30), Health::Suspect);
    assert_eq!(health(&view, 60), Health::Lost);

    let mut restarted = first.clone();
    restarted.boot = BootId::generate();
    restarted.started_at = first.started_at.checked_add(Duration::from_secs(5)).unwrap();
    view.update(restarted.clone(), at(70));
    assert_eq!(view.get(&db1, at(70)).unwrap().duplicate, None, "a restart is no duplicate");
    view.update(first.clone(), at(71));
    let entry = view.get(&db1, at(71)).unwrap();
    assert_eq!(entry.duplicate, Some(first.boot), "the old process lives on");
    assert_eq!(entry.heartbeat.boot, restarted.boot);
    assert_eq!(view.get(&db1, at(102)).unwrap().duplicate, None, "until it is silent");
    // Of two processes the newer one ends: the older one is the host.
    let mut later = first.clone();
    later.sequence = 9;
    view.update(later, at(140));
    let entry = view.get(&db1, at(141)).unwrap();
    assert_eq!((entry.health, entry.heartbeat.boot, entry.duplicate), (Health::Alive, first.boot, None));
    view.forget(Duration::from_secs(600), at(900));
    assert!(view.is_empty());
}
