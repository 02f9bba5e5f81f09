//! Seeds through the object store beside `put` then `get` of the NATS client: on loopback and with 24 ms between hosts and server.
//!
//! The kernel of many machines has no netem, so the delay is made by a proxy between client and server that holds every byte back
//! for half the round trip, in both directions, at any rate. Wall time runs from the first byte read to the last one on the other side;
//! a seed's has the handshakes, digests, encryption and flushes in it, the peer's nothing but the copy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark fails by a panic"
)]

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bus::store::{Giver, Taker, WINDOW_BYTES, Way};
use bus::{Bus, BusConfig};
use futures_util::StreamExt as _;
use protocol::ids::{AgentId, JobId};
use serde_json::{Value, json};
use testkit::nats::{NatsOptions, NatsServer};
use transfer::{Donor, DonorOptions, RecipientOptions, Token};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

struct Args {
    rounds: usize,
    loopback_mib: u64,
    far_mib: u64,
    rtt_ms: u64,
    docs: Option<PathBuf>,
    json: Option<PathBuf>,
}

/// What one run took.
#[derive(Debug, Clone, Copy)]
struct Sample {
    wall_s: f64,
    cpu_s: f64,
    /// The most that lay on the server's disk.
    stored: u64,
}

/// One comparison.
struct Lane {
    name: String,
    bytes: u64,
    ours: Vec<Sample>,
    peer: Vec<Sample>,
    floor: f64,
}

fn main() {
    let args = parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut lanes = Vec::new();
    for (name, mib, rtt_ms, floor) in [
        ("object store vs put then get, loopback".to_owned(), args.loopback_mib, 0, 1.5),
        (format!("object store vs put then get, {} ms RTT", args.rtt_ms), args.far_mib, args.rtt_ms, 4.0),
    ] {
        let mut lane = Lane { name, bytes: mib * MIB, ours: Vec::new(), peer: Vec::new(), floor };
        for round in 0..args.rounds {
            let place = Place::new(mib, rtt_ms);
            lane.ours.push(place.measure(&runtime, seed(&place)));
            let place = Place::new(mib, rtt_ms);
            lane.peer.push(place.measure(&runtime, put_then_get(&place)));
            eprintln!("{} round {}: {:?} {:?}", lane.name, round + 1, lane.ours[round], lane.peer[round]);
        }
        lanes.push(lane);
    }
    report(&lanes, &args);
}

fn parse() -> Args {
    let mut args = Args { rounds: 3, loopback_mib: 512, far_mib: 64, rtt_ms: 24, docs: None, json: None };
    let given: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    for pair in given.chunks(2) {
        let [flag, value] = pair else { panic!("{} needs a value", pair[0]) };
        let number = || value.parse::<u64>().unwrap_or_else(|_| panic!("{flag} needs a number"));
        match flag.as_str() {
            "--rounds" => args.rounds = number().max(1) as usize,
            "--mib" => args.loopback_mib = number(),
            "--far-mib" => args.far_mib = number(),
            "--rtt-ms" => args.rtt_ms = number(),
            "--docs" => args.docs = Some(value.into()),
            "--json" => args.json = Some(value.into()),
            other => {
                panic!("unknown {other}: --rounds N --mib N --far-mib N --rtt-ms N --docs FILE --json FILE")
            }
        }
    }
    args
}

/// A server of its own, a tree to move and a place for it, all in memory where that is.
struct Place {
    dir: tempfile::TempDir,
    server: NatsServer,
    url: String,
    stored: Arc<AtomicU64>,
}

impl Place {
    fn new(mib: u64, rtt_ms: u64) -> Self {
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut buffer = vec![0_u8; MIB as usize];
        for number in 0..4 {
            let mut file = File::create(dir.path().join(format!("tree/t{number}.ibd"))).unwrap();
            for _ in 0..mib.div_ceil(4) {
                for word in buffer.chunks_exact_mut(8) {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    word.copy_from_slice(&state.to_le_bytes());
                }
                file.write_all(&buffer).unwrap();
            }
        }
        let server = NatsServer::start(&NatsOptions::jetstream()).unwrap();
        let url = match rtt_ms {
            0 => server.url(),
            _ => format!("nats://{}", delayed(server.port(), Duration::from_millis(rtt_ms) / 2)),
        };
        Self { dir, server, url, stored: Arc::default() }
    }

    fn measure(&self, runtime: &tokio::runtime::Runtime, work: impl Future<Output = ()>) -> Sample {
        let cpu = || cpu_s("self") + cpu_s(&self.server.pid().unwrap_or(0).to_string());
        let before = cpu();
        let begun = Instant::now();
        runtime.block_on(work);
        let sample = Sample {
            wall_s: begun.elapsed().as_secs_f64(),
            cpu_s: cpu() - before,
            stored: self.stored.load(Relaxed),
        };
        for number in 0..4 {
            let name = format!("t{number}.ibd");
            let (from, to) =
                (self.dir.path().join("tree").join(&name), self.dir.path().join("copy").join(&name));
            assert!(fs::read(from).unwrap() == fs::read(to).unwrap(), "{name} is not what it was");
        }
        sample
    }

    async fn bus(&self, url: &str) -> Bus {
        let config =
            BusConfig { servers: vec![url.to_owned()], request_timeout_ms: 20_000, ..BusConfig::default() };
        let bus = Bus::connect(&config, "bench").await.unwrap();
        bus.connected(PATIENCE).await.unwrap();
        bus
    }
}

/// User and system time of a process, in seconds.
fn cpu_s(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// A whole seed as two agents do it.
async fn seed(place: &Place) {
    let id = |name: &str| name.parse::<AgentId>().unwrap();
    let token = Token::generate();
    let mut options = DonorOptions::new(place.dir.path().join("tree"), token.clone());
    options.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let donor = Donor::start(options).unwrap();
    let way =
        Way { donor: id("db1"), recipient: id("db2"), job: JobId::generate(), window_bytes: WINDOW_BYTES };
    let giver = Giver::open(place.bus(&place.url).await, way.clone(), donor.addr()).await.unwrap();
    let taker = Taker::open(place.bus(&place.url).await, way).await.unwrap();
    let (disk, stored) = (place.server.dir().to_owned(), Arc::clone(&place.stored));
    let looker = tokio::spawn(async move {
        loop {
            stored.fetch_max(on_disk(&disk), Relaxed);
            // sleeps because looking all the time would take a core
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mut options = RecipientOptions::new(
        vec![taker.addr()],
        token,
        place.dir.path().join("copy"),
        place.dir.path().join("journal"),
    );
    options.fingerprint = donor.fingerprint();
    options.connections = 1;
    tokio::task::spawn_blocking(move || transfer::receive(options)).await.unwrap().unwrap();
    looker.abort();
    giver.close().await.unwrap();
    tokio::task::spawn_blocking(move || donor.stop()).await.unwrap();
}

/// What a program with the client's own object store does: each file put, then got.
async fn put_then_get(place: &Place) {
    let jetstream = async_nats::jetstream::new(async_nats::connect(&place.url).await.unwrap());
    let config = async_nats::jetstream::object_store::Config { bucket: "peer".into(), ..Default::default() };
    let store = jetstream.create_object_store(config).await.unwrap();
    for number in 0..4 {
        let name = format!("t{number}.ibd");
        let mut file = tokio::fs::File::open(place.dir.path().join("tree").join(&name)).await.unwrap();
        store.put(name.as_str(), &mut file).await.unwrap();
    }
    fs::create_dir(place.dir.path().join("copy")).unwrap();
    let mut list = store.list().await.unwrap();
    while let Some(info) = list.next().await {
        let name = info.unwrap().name;
        let mut object = store.get(&name).await.unwrap();
        let mut file = tokio::fs::File::create(place.dir.path().join("copy").join(&name)).await.unwrap();
        tokio::io::copy(&mut object, &mut file).await.unwrap();
        tokio::io::AsyncWriteExt::flush(&mut file).await.unwrap();
    }
    place.stored.store(on_disk(place.server.dir()), Relaxed);
}

/// Bytes that the files below a directory take.
fn on_disk(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => on_disk(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// A proxy to a local port that holds every byte back for `delay`, in both directions.
fn delayed(port: u16, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
            client.set_nodelay(true).ok();
            server.set_nodelay(true).ok();
            let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else { return };
            hold_back(from_client, server, delay);
            hold_back(from_server, client, delay);
        }
    });
    addr
}

fn hold_back(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, receiver) = mpsc::sync_channel::<(Instant, Vec<u8>)>(4096);
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if sender.send((Instant::now() + delay, buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receiver {
            // sleeps because that is the delay
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
    });
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn report(lanes: &[Lane], args: &Args) {
    let mut text = String::from(
        "\n## Through the object store\n\nA seed (TLS, digests, flush) through a JetStream bucket beside the NATS client's own \
         `put` then `get` of the same files, one nats-server; both trees in memory, the server's store on \
         disk. The round trip is made by a delaying proxy between \
         each client and the server.\n\n\
         | | MiB | seed wall s | put, get wall s | ratio | at least | CPU s | CPU s of put, get | most on the server's disk, MiB |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut entries = Vec::new();
    for lane in lanes {
        let (ours, peer) = (median(&lane.ours, |s| s.wall_s), median(&lane.peer, |s| s.wall_s));
        let cpu = (median(&lane.ours, |s| s.cpu_s), median(&lane.peer, |s| s.cpu_s));
        let stored = lane.ours.iter().map(|s| s.stored).max().unwrap_or(0);
        let mark = if peer / ours >= lane.floor { "" } else { " (missed)" };
        writeln!(
            text,
            "| {} | {} | {ours:.2} | {peer:.2} | {:.2}{mark} | {:.2} | {:.2} | {:.2} | {:.1} of {} |",
            lane.name,
            lane.bytes / MIB,
            peer / ours,
            lane.floor,
            cpu.0,
            cpu.1,
            stored as f64 / MIB as f64,
            WINDOW_BYTES / MIB
        )
        .unwrap();
        entries.push(json!({ "name": lane.name, "ours": ours, "peer": peer, "ratio": peer / ours, "floor": lane.floor }));
        let window = WINDOW_BYTES as f64;
        entries.push(json!({
            "name": format!("server disk, {}", lane.name), "ours": stored, "peer": WINDOW_BYTES,
            "ratio": window / stored.max(1) as f64, "floor": 1.0,
        }));
    }
    println!("{text}");
    if let Some(path) = &args.docs {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
    if let Some(path) = &args.json {
        let known = fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Vec<Value>>(&bytes).ok());
        let all: Vec<Value> = known.unwrap_or_default().into_iter().chain(entries).collect();
        fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).unwrap();
        fs::write(path, serde_json::to_vec_pretty(&all).unwrap()).unwrap();
    }
}
