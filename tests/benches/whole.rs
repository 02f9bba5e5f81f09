//! What a whole seed costs: how long the recipient's MySQL is away, also with a gigabyte of redo to recover, and MySQL's `CLONE` of
//! the same data beside it on the same disk.
//!
//! Away is from the first connection that gets no greeting to the first that gets one. Both ends run on one machine with warm
//! caches. `CLONE` includes the start of the server afterwards: here nothing restarts it, so the bench does, at once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark fails by a panic"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::replication::vendor;
use e2e::world::{World, WorldOptions, swiftly};
use jiff::Timestamp;
use protocol::ids::JobId;
use protocol::params::JobsRecordParams;
use serde_json::{Value, json};
use testkit::mysqld::mysql_async::prelude::Queryable as _;
use testkit::mysqld::{Mysqld, MysqldOptions};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks whether the server greets.
const LOOK: Duration = Duration::from_millis(2);

struct Args {
    rounds: usize,
    mib: u32,
    redo_mib: u64,
    docs: Option<PathBuf>,
    json: Option<PathBuf>,
}

/// One seed.
#[derive(Debug, Clone)]
struct Seeded {
    away_s: f64,
    whole_s: f64,
    /// Seconds of each stage.
    stages: BTreeMap<String, f64>,
    recovery_s: f64,
}

fn main() {
    let args = parse();
    let Some(_) = vendor("mysql9") else {
        return println!("whole: there is no MySQL 9 here; scripts/server-root mysql9 makes one");
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (seeds, clones) = runtime.block_on(beside_clone(&args));
    let (calm, full) = runtime.block_on(with_redo(&args));
    let page = page(&args, &seeds, &clones, &calm, &full);
    println!("{page}");
    if let Some(path) = &args.docs {
        fs::write(path, &page).unwrap();
    }
    if let Some(path) = &args.json {
        save(path, &seeds, &clones, &calm, &full);
    }
}

fn parse() -> Args {
    let mut args = Args { rounds: 5, mib: 1200, redo_mib: 1024, docs: None, json: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().expect("a value");
        match word.as_str() {
            "--rounds" => args.rounds = value().parse().unwrap(),
            "--mib" => args.mib = value().parse().unwrap(),
            "--redo-mib" => args.redo_mib = value().parse().unwrap(),
            "--docs" => args.docs = Some(value().into()),
            "--json" => args.json = Some(value().into()),
            // Of cargo's.
            "--bench" => {}
            other => panic!("{other} is no option of this benchmark"),
        }
    }
    args
}

async fn world(data_mib: u32, lines: &[&str]) -> World {
    World::start(WorldOptions {
        vendor: vendor("mysql9").unwrap(),
        server_lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        data_mib,
        donor_volume_mib: 12 << 10,
        patience: Some(PATIENCE),
        ..WorldOptions::default()
    })
    .await
}

/// Seeds and clones of one server's data, by turns.
async fn beside_clone(args: &Args) -> (Vec<Seeded>, Vec<f64>) {
    let world = world(args.mib, &[]).await;
    let donor = &world.donor.db;
    for statement in [
        "INSTALL PLUGIN clone SONAME 'mysql_clone.so'",
        "CREATE USER cloner@'127.0.0.1' IDENTIFIED BY 'secret'",
        "GRANT BACKUP_ADMIN ON *.* TO cloner@'127.0.0.1'",
    ] {
        donor.exec(statement).await.unwrap();
    }
    world.snapshot().await;
    let mut cloned =
        Mysqld::start(MysqldOptions { vendor: vendor("mysql9").unwrap(), ..MysqldOptions::default() })
            .await
            .unwrap();
    cloned.exec("INSTALL PLUGIN clone SONAME 'mysql_clone.so'").await.unwrap();
    let (mut seeds, mut clones) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        seeds.push(seed(&world).await);
        clones.push(clone(donor, &mut cloned).await);
        eprintln!("round {}: {:?}, CLONE {:.2} s", round + 1, seeds[round], clones[round]);
    }
    (seeds, clones)
}

async fn clone(donor: &Mysqld, recipient: &mut Mysqld) -> f64 {
    let mut session = recipient.connect().await.unwrap();
    session
        .query_drop(format!("SET GLOBAL clone_valid_donor_list = '127.0.0.1:{}'", donor.port()))
        .await
        .unwrap();
    let begun = Instant::now();
    let sql = format!("CLONE INSTANCE FROM cloner@'127.0.0.1':{} IDENTIFIED BY 'secret'", donor.port());
    // Ends with the server, which finds nobody who would start it again.
    let ended = session.query_drop(sql).await.unwrap_err().to_string();
    assert!(ended.contains("Restart server failed") || ended.contains("closed"), "{ended}");
    drop(recipient.stop().await);
    recipient.boot().await.unwrap();
    begun.elapsed().as_secs_f64()
}

/// Seeds of data with little redo, and of the same with much.
async fn with_redo(args: &Args) -> (Vec<Seeded>, Vec<Seeded>) {
    let world = world(
        64,
        &[
            "innodb-redo-log-capacity=4G",
            "innodb-buffer-pool-size=1G",
            "innodb-max-dirty-pages-pct=99",
            "innodb-max-dirty-pages-pct-lwm=0",
            "innodb-adaptive-flushing=OFF",
            "innodb-idle-flush-pct=0",
        ],
    )
    .await;
    world.snapshot().await;
    let mut calm = Vec::new();
    for round in 0..args.rounds {
        calm.push(seed(&world).await);
        eprintln!("little redo, round {}: {:?}", round + 1, calm[round]);
    }
    fill_redo(&world.donor.db, args.redo_mib * MIB).await;
    world.snapshot().await;
    let mut full = Vec::new();
    for round in 0..args.rounds {
        full.push(seed(&world).await);
        eprintln!("much redo, round {}: {:?}", round + 1, full[round]);
    }
    (calm, full)
}

async fn fill_redo(donor: &Mysqld, bytes: u64) {
    let mut session = donor.connect().await.unwrap();
    for statement in [
        "SET SESSION sql_log_bin = 0",
        "CREATE TABLE shop.hot (id INT PRIMARY KEY AUTO_INCREMENT, pad VARCHAR(900) NOT NULL) ENGINE=InnoDB",
        "INSERT INTO shop.hot (pad) WITH RECURSIVE n AS (SELECT 1 i UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT REPEAT('a', 900) FROM n",
    ] {
        session.query_drop(statement).await.unwrap();
    }
    for _ in 0..6 {
        session.query_drop("INSERT INTO shop.hot (pad) SELECT pad FROM shop.hot").await.unwrap();
    }
    let mut letter = b'b';
    while behind(donor).await < bytes {
        let sql = format!("UPDATE shop.hot SET pad = REPEAT('{}', 900)", char::from(letter));
        session.query_drop(sql).await.unwrap();
        letter = if letter == b'z' { b'a' } else { letter + 1 };
    }
}

/// Bytes of redo behind the last checkpoint.
async fn behind(donor: &Mysqld) -> u64 {
    let rows = donor.query("SHOW GLOBAL STATUS LIKE 'Innodb_redo_log_%_lsn'").await.unwrap();
    let of = |name: &str| -> u64 { rows.iter().find(|row| row[0] == name).unwrap()[1].parse().unwrap() };
    of("Innodb_redo_log_current_lsn") - of("Innodb_redo_log_checkpoint_lsn")
}

async fn seed(world: &World) -> Seeded {
    let watch = Watch::start(world.recipient.db.port());
    let begun = Instant::now();
    let job = world.seed(swiftly()).await;
    let view = world.succeeded(&world.recipient, job).await;
    let whole_s = begun.elapsed().as_secs_f64();
    let away_s = watch.stop().as_secs_f64();
    assert!(view.result.is_some());
    let (stages, recovery_s) = stages(world, job).await;
    Seeded { away_s, whole_s, stages, recovery_s }
}

/// Seconds of each stage, by the journal, and those of crash recovery.
async fn stages(world: &World, job: JobId) -> (BTreeMap<String, f64>, f64) {
    let (mut events, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next {
        let part = world.call(&world.recipient, JobsRecordParams { job, from }).await;
        events.extend(part.lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        next = part.next;
    }
    let (mut stages, mut running, mut recovery_s) = (BTreeMap::new(), None, 0.0);
    for event in &events {
        let record = &event["record"];
        let at: Timestamp = record["at"].as_str().unwrap().parse().unwrap();
        match record["event"]["type"].as_str().unwrap() {
            "step_started" => running = Some(at),
            "step_finished" => {
                let step = record["event"]["step"].as_str().unwrap().to_owned();
                let seconds = at.duration_since(running.take().unwrap()).as_secs_f64();
                if let Some(ms) = record["event"]["output"]["recovery_ms"].as_f64() {
                    recovery_s = ms / 1000.0;
                }
                stages.insert(step, seconds);
            }
            _ => {}
        }
    }
    (stages, recovery_s)
}

/// Connects again and again, and adds up how long nobody greeted.
struct Watch {
    done: Sender<()>,
    thread: JoinHandle<Duration>,
}

impl Watch {
    fn start(port: u16) -> Self {
        let (done, ends) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let (mut away, mut since) = (Duration::ZERO, None);
            while ends.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                match (greets(port), since) {
                    (false, None) => since = Some(Instant::now()),
                    (true, Some(left)) => {
                        away += Instant::elapsed(&left);
                        since = None;
                    }
                    _ => {}
                }
            }
            assert!(since.is_none(), "the server was still away at the end");
            away
        });
        Self { done, thread }
    }

    fn stop(self) -> Duration {
        self.done.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

fn greets(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.read_exact(&mut [0; 5]).is_ok()
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(name: &str, seeds: &[Seeded]) -> String {
    let stage = |name: &str| median(seeds.iter().map(|s| s.stages.get(name).copied().unwrap_or(0.0)));
    let (away, recovery) =
        (median(seeds.iter().map(|s| s.away_s)), median(seeds.iter().map(|s| s.recovery_s)));
    format!(
        "| {name} | {away:.2} s | {recovery:.2} s | {:.2} s | {:.2} s | {:.2} s |\n",
        stage("transfer"),
        stage("recover"),
        median(seeds.iter().map(|s| s.whole_s)),
    )
}

fn page(args: &Args, seeds: &[Seeded], clones: &[f64], calm: &[Seeded], full: &[Seeded]) -> String {
    let (whole, clone) = (median(seeds.iter().map(|s| s.whole_s)), median(clones.iter().copied()));
    let mut page = format!(
        "# What a whole seed costs\n\n\
         MySQL 9, both hosts on one machine and one disk (the donor's data and its snapshots on a loop-mounted XFS), TLS, medians of {}. Written by `make bench-whole`.\n\n\
         *Away* is how long the recipient's MySQL greets nobody: it is stopped, the datadirs are swapped, and it starts on data that\n\
         have been recovered and shut down cleanly before. Without the stage *recover*, which runs while it still serves, crash\n\
         recovery would be a part of it: add the column beside it.\n\n\
         | data | away | crash recovery | stage transfer | stage recover | whole seed |\n| --- | --- | --- | --- | --- | --- |\n",
        args.rounds
    );
    page += &row(&format!("{} MiB", args.mib), seeds);
    page += &row("64 MiB, little redo", calm);
    page += &row(&format!("the same, {} MiB of redo behind the checkpoint", args.redo_mib), full);
    page += &format!(
        "\nMySQL's own `CLONE INSTANCE` of the {} MiB, by turns with the seeds, with the server's start after it: {clone:.2} s; the seed \
         takes {:.2} × as long, and what it brings is proven, recovered and looked at before the old data go. While a server is cloned \
         it serves nobody: its data are dropped first.\n",
        args.mib,
        whole / clone
    );
    page
}

fn save(path: &PathBuf, seeds: &[Seeded], clones: &[f64], calm: &[Seeded], full: &[Seeded]) {
    let of = |seeds: &[Seeded]| -> Value {
        json!({
            "away_s": seeds.iter().map(|s| s.away_s).collect::<Vec<_>>(),
            "whole_s": seeds.iter().map(|s| s.whole_s).collect::<Vec<_>>(),
            "recovery_s": seeds.iter().map(|s| s.recovery_s).collect::<Vec<_>>(),
            "stages": seeds.iter().map(|s| &s.stages).collect::<Vec<_>>(),
        })
    };
    let lanes = json!({
        "beside CLONE": of(seeds),
        "clone_s": clones,
        "little redo": of(calm),
        "much redo": of(full),
    });
    fs::write(path, serde_json::to_vec_pretty(&lanes).unwrap()).unwrap();
}
