//! Prints what a scheduled proof costs the queries of the donor's server: their 99th percentile while a snapshot is being proven, beside that
//! of moments in between in which the proof is halted.
//!
//! `make bench-verify` runs it beside the release programs. Everything is real and on this machine, so the private server of the proof
//! and the live one share its processors and its disk. Statements come at a fixed rate whether or not the last one was answered, and
//! are timed from when they were due: a server that stands still for a moment is seen in all that wait for it. Slow moments of a machine that
//! others share last for seconds, and are worse than what is looked for; so the proof runs and is halted in turns that are shorter, each turn's
//! percentile is compared with that of its neighbour, and what counts is the median of these ratios.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement fails by a panic"
)]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e::world::{World, WorldOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use protocol::params::{JobsListParams, SnapshotListParams};
use testkit::agent::AgentOptions;
use testkit::mysqld::mysql_async::Conn;
use testkit::mysqld::mysql_async::prelude::Queryable as _;
use tokio::sync::watch;

const ROUNDS: usize = 6;
const CONNECTIONS: u32 = 4;
/// Of each connection.
const PAUSE: Duration = Duration::from_millis(5);
/// Rows of the table that is asked and changed.
const ROWS: u32 = 200_000;
/// Rows of a table with two more indexes beside it, so that a proof takes a while: it is checked whole.
const HISTORY: u32 = 3_000_000;
/// MiB of the volume that they lie on: what changes below a snapshot is kept twice.
const VOLUME_MIB: u64 = 4096;
/// The proof runs so long, is halted as long, and so on.
const TURN: Duration = Duration::from_millis(1500);
/// The beginning of each turn counts for neither: what was asked before is still being done.
const SETTLES: Duration = Duration::from_millis(200);
/// The beginning of a proof, with the start of its server and crash recovery, which no turn divides.
const BEGINNING: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(900);

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
    filled_once(world.donor.db.base());
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
    let mut all = Compared::default();
    for round in 1..=ROUNDS {
        let of_round = compare(&world, &timed).await;
        of_round.print(&format!("{round}: "));
        all.proving.extend(of_round.proving);
        all.halted.extend(of_round.halted);
    }
    stop.send_replace(true);
    for task in asking {
        task.await.unwrap();
    }
    all.print("median of all: ");
}

/// The 99th percentile of each turn.
#[derive(Default)]
struct Compared {
    proving: Vec<Duration>,
    halted: Vec<Duration>,
}

impl Compared {
    fn print(&self, of: &str) {
        let (proving, halted) = (middle(&self.proving), middle(&self.halted));
        let pairs = self.proving.iter().zip(&self.halted);
        let mut ratios: Vec<f64> =
            pairs.map(|(one, other)| one.as_secs_f64() / other.as_secs_f64()).collect();
        ratios.sort_by(f64::total_cmp);
        // By the signs alone: nothing is assumed of how the ratios are spread.
        let off = 0.98 * (ratios.len() as f64).sqrt();
        let at = |place: f64| ratios[(place.max(0.0) as usize).min(ratios.len() - 1)];
        let half = ratios.len() as f64 / 2.0;
        println!(
            "{of}p99 {proving:.2?} while it is proven, {halted:.2?} while it is halted: \
             {:.3} ({:.3} to {:.3} at 95 %, {} pairs of turns)",
            at(half),
            at(half - off),
            at(half + off),
            ratios.len()
        );
    }
}

fn middle(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

/// Lets requests of the donor's volume go to the disk side by side, as on a host: through the page cache a loop device serves them one after
/// the other, and each flush waits for all that anybody has written.
fn beside_one_another(on: &Path) {
    let found = Command::new("findmnt").args(["-n", "-o", "SOURCE", "--target"]).arg(on).output().unwrap();
    let device = String::from_utf8(found.stdout).unwrap();
    let status = Command::new("losetup").args(["--direct-io=on", device.trim()]).status().unwrap();
    assert!(status.success(), "losetup --direct-io=on {device}: {status}");
}

/// Has every block of the volume written once. Its image has holes where it has none, and to fill one the file system below waits for all that is
/// read from the image just then: no disk does that.
fn filled_once(on: &Path) {
    let free = nix::sys::statvfs::statvfs(on).unwrap();
    let bytes = free.blocks_available() * free.fragment_size();
    let (path, block) = (on.join("filled"), vec![1; 1 << 20]);
    let mut file = File::create(&path).unwrap();
    for _ in 0..(bytes >> 20).saturating_sub(64) {
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
    std::fs::remove_file(path).unwrap();
}

/// One proof: the 99th percentile of each turn in which it runs, and of each in which it does not.
async fn compare(world: &World, timed: &Mutex<Vec<Timed>>) -> Compared {
    let snapshot = world.snapshot().await;
    let deadline = Instant::now() + PATIENCE;
    let begun = until(deadline, async || is_proving(world).await.then(Instant::now)).await;
    let server = until(deadline, async || private_server()).await;
    tokio::time::sleep_until((begun + BEGINNING).into()).await;
    let (halting, mut turns) = (Halting::new(server), Vec::new());
    while is_proving(world).await {
        assert!(Instant::now() < deadline, "no proof came to its end");
        let runs = turns.len() % 2 == 0;
        let from = Instant::now();
        let is_whole = halting.turn(runs).await;
        if is_whole {
            turns.push((from + SETTLES, Instant::now()));
        }
    }
    let all = world.call(&world.donor, SnapshotListParams { usable: false }).await;
    let proven = all.iter().any(|other| other.id == snapshot && other.is_proven());
    assert!(proven, "{snapshot} is not proven: {all:?}");
    let timed = timed.lock();
    let mut of = Compared::default();
    // Two by two: the last one may have no neighbour.
    turns.truncate(turns.len() / 2 * 2);
    for (at, (from, until)) in turns.iter().enumerate() {
        let times = timed.iter().filter(|(due, _)| (*from..*until).contains(due));
        let mut times: Vec<Duration> = times.map(|(_, took)| *took).collect();
        let side = if at % 2 == 0 { &mut of.proving } else { &mut of.halted };
        side.push(e2e::measure::p50_p99(&mut times).1);
    }
    of
}

async fn is_proving(world: &World) -> bool {
    let jobs = world.call(&world.donor, JobsListParams { limit: 5, unfinished: true }).await;
    jobs.iter().any(|job| job.kind == "snapshot.verify")
}

async fn until<T>(deadline: Instant, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "no proof began");
        tokio::time::sleep(LOOK).await;
    }
}

/// The private server of the proof that is under way.
fn private_server() -> Option<Pid> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_private = |pid: &i32| {
        let told = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&told).contains("/private/oa-sandbox-")
    };
    pids.find(is_private).map(Pid::from_raw)
}

/// Halts a private server in turns. Its pacing lets it go on whenever its rate allows, so it is halted again and again.
struct Halting {
    server: Pid,
}

impl Halting {
    fn new(server: Pid) -> Self {
        Self { server }
    }

    /// One turn; false when the server ended in it.
    async fn turn(&self, runs: bool) -> bool {
        let until = Instant::now() + TURN;
        while Instant::now() < until {
            let signal = (!runs).then_some(Signal::SIGSTOP);
            if kill(self.server, signal).is_err() {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        kill(self.server, Signal::SIGCONT).is_ok()
    }
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
