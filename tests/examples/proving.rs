//! Prints what a scheduled proof costs the queries of the donor's server: their 99th percentile while a snapshot is being proven,
//! beside that of the time just before.
//!
//! `make bench-verify` runs it beside the release programs. Everything is real and on this machine, so the private server of the proof
//! and the live one share its processors and its disk. Statements come at a fixed rate whether or not the last one was answered, and
//! are timed from when they were due: a server that stands still for a moment is seen in all that wait for it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement fails by a panic"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e::world::{World, WorldOptions};
use parking_lot::Mutex;
use protocol::params::{JobsListParams, SnapshotListParams};
use testkit::agent::AgentOptions;
use testkit::mysqld::mysql_async::Conn;
use testkit::mysqld::mysql_async::prelude::Queryable as _;
use tokio::sync::watch;

const ROUNDS: usize = 7;
const CONNECTIONS: u32 = 4;
/// Of each connection.
const PAUSE: Duration = Duration::from_millis(5);
/// Rows of the table that is asked and changed.
const ROWS: u32 = 200_000;
/// Rows of a table with two more indexes beside it, so that a proof takes a while: it is checked whole.
const HISTORY: u32 = 4_000_000;
/// MiB of the volume that they lie on: what changes below a snapshot is kept twice.
const VOLUME_MIB: u64 = 8192;
/// The time before a proof that it is compared with.
const BEFORE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(180);

/// When a statement was due, and how long after that it was answered.
type Timed = (Instant, Duration);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let schedule = |id: &str, agent: &mut AgentOptions| {
        if id == "db1" {
            agent.set("snapshot.verify_schedule", "* * * * *").set("snapshot.jitter_s", 0);
            // However busy the statements keep the machine: what is measured must happen.
            agent.set("seed.donor_limits.io_pressure_percent", 0.0);
        }
    };
    let options = WorldOptions {
        donor_volume_mib: VOLUME_MIB,
        configure: Some(Box::new(schedule)),
        ..WorldOptions::default()
    };
    let world = World::start(options).await;
    beside_one_another(world.donor.db.base());
    let rows = format!(
        "CREATE TABLE own.asked (id INT PRIMARY KEY, n INT NOT NULL, pad CHAR(200) NOT NULL) \
         SELECT seq AS id, 0 AS n, REPEAT('x', 200) AS pad FROM own.seq_1_to_{ROWS}"
    );
    let history = format!(
        "CREATE TABLE own.history (id INT PRIMARY KEY, at INT NOT NULL, who CHAR(32) NOT NULL, pad CHAR(64) NOT NULL, KEY (at), KEY (who)) \
         SELECT seq AS id, CRC32(seq) DIV 2 AS at, MD5(seq) AS who, REPEAT('h', 64) AS pad FROM own.seq_1_to_{HISTORY}"
    );
    for statement in ["CREATE DATABASE IF NOT EXISTS own", &rows, &history] {
        world.donor.db.exec(statement).await.unwrap();
    }
    // What has just been written is on its way to the disk for a while, and everything waits behind it.
    nix::unistd::sync();
    let (timed, stop) = (Arc::new(Mutex::new(Vec::new())), watch::Sender::new(false));
    let mut asking = Vec::new();
    for number in 0..CONNECTIONS {
        let connection = world.donor.db.connect().await.unwrap();
        asking.push(tokio::spawn(ask(connection, number, Arc::clone(&timed), stop.subscribe())));
    }
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        ratios.push(compare(&world, &timed, round).await);
    }
    stop.send_replace(true);
    for task in asking {
        task.await.unwrap();
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "median of {ROUNDS}: the 99th percentile is {:.2} times that of the time before",
        ratios[ROUNDS / 2]
    );
}

/// Lets requests of the donor's volume go to the disk side by side, as on a host: through the page cache a loop device serves them one after
/// the other, and each flush waits for all that anybody has written.
fn beside_one_another(on: &Path) {
    let found = Command::new("findmnt").args(["-n", "-o", "SOURCE", "--target"]).arg(on).output().unwrap();
    let device = String::from_utf8(found.stdout).unwrap();
    let status = Command::new("losetup").args(["--direct-io=on", device.trim()]).status().unwrap();
    assert!(status.success(), "losetup --direct-io=on {device}: {status}");
}

/// One proof, and how the 99th percentile in it compares with that of the time before.
async fn compare(world: &World, timed: &Mutex<Vec<Timed>>, round: usize) -> f64 {
    let snapshot = world.snapshot().await;
    let begun = Instant::now();
    let deadline = begun + PATIENCE;
    let mut from = None;
    let until = loop {
        assert!(Instant::now() < deadline, "no proof came to its end");
        let jobs = world.call(&world.donor, JobsListParams { limit: 5, unfinished: true }).await;
        let proving = jobs.iter().any(|job| job.kind == "snapshot.verify");
        match from {
            None if proving => from = Some(Instant::now()),
            Some(_) if !proving => break Instant::now(),
            _ => {}
        }
        tokio::time::sleep(LOOK).await;
    };
    let from = from.unwrap();
    let all = world.call(&world.donor, SnapshotListParams { usable: false }).await;
    let proven = all.iter().any(|other| other.id == snapshot && other.is_proven());
    assert!(proven, "{snapshot} is not proven: {all:?}");
    let timed = timed.lock();
    let between = |from: Instant, until: Instant| {
        let mut times: Vec<Duration> =
            timed.iter().filter(|(due, _)| (from..until).contains(due)).map(|(_, took)| *took).collect();
        (times.len(), e2e::measure::p50_p99(&mut times))
    };
    let (calm, before) = between(begun.max(from - BEFORE), from);
    let (busy, during) = between(from, until);
    let ratio = during.1.as_secs_f64() / before.1.as_secs_f64();
    println!(
        "{round}: before {calm} statements, p50 {:.2?}, p99 {:.2?}; in a proof of {:.1} s {busy}, p50 {:.2?}, p99 {:.2?}: {ratio:.2}",
        before.0,
        before.1,
        (until - from).as_secs_f64(),
        during.0,
        during.1
    );
    ratio
}

/// Four of five statements read a row, the fifth changes one.
async fn ask(
    mut connection: Conn,
    number: u32,
    timed: Arc<Mutex<Vec<Timed>>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut random = fastrand::Rng::with_seed(u64::from(number));
    let mut due = tokio::time::Instant::now();
    for turn in 0_u64.. {
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            _ = stop.changed() => return,
        }
        let id = random.u32(1..=ROWS);
        let statement = match turn % 5 {
            0 => format!("UPDATE own.asked SET n = n + 1 WHERE id = {id}"),
            _ => format!("SELECT n, pad FROM own.asked WHERE id = {id}"),
        };
        connection.query_drop(statement).await.unwrap();
        timed.lock().push((due.into_std(), due.elapsed()));
        due += PAUSE;
    }
}
