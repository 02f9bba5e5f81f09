//! Connections through the object store: whole, within the window, readable by the usual tools, broken by what is lost.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bus::Bus;
use bus::store::{Giver, Taker, Way, bucket_of, buckets, stream_of};
use futures_util::StreamExt;
use protocol::ids::JobId;
use testkit::nats::NatsServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::kit::*;

on_each_server!(
    a_connection_is_carried_whole_and_within_the_window,
    segments_are_objects_that_the_usual_tools_read,
    what_is_lost_breaks_the_connection_and_the_next_one_works,
    a_new_recipient_goes_on_where_one_died,
    connections_that_are_broken_off_leave_the_window_to_others,
    a_connection_that_the_donor_forgot_ends_in_seconds,
    messages_that_a_killed_server_forgot_are_not_waited_for,
);

const MIB: u64 = 1 << 20;

/// Bytes that show when they are moved, lost or doubled.
fn pattern(from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(|at| (at ^ (at >> 9) ^ (at >> 17)) as u8).collect()
}

/// Says `len` bytes to who asks with one byte, then ends when the other end does.
pub(crate) async fn service(len: u64) -> std::net::SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut question = [0; 1];
                if socket.read_exact(&mut question).await.is_err() {
                    return;
                }
                let mut at = 0;
                while at < len {
                    let part = pattern(at, (len - at).min(200_000) as usize);
                    at += part.len() as u64;
                    if socket.write_all(&part).await.is_err() {
                        return;
                    }
                }
                let mut rest = Vec::new();
                socket.read_to_end(&mut rest).await.ok();
            });
        }
    });
    addr
}

fn way(window_bytes: u64) -> Way {
    Way { donor: agent("db1"), recipient: agent("db2"), job: JobId::generate(), window_bytes }
}

async fn ends(server: &NatsServer, way: &Way, service: std::net::SocketAddr) -> (Giver, Taker) {
    let giver = Giver::open(connect(server).await, way.clone(), service).await.unwrap();
    let taker = Taker::open(connect(server).await, way.clone()).await.unwrap();
    (giver, taker)
}

/// Asks, and reads until `len` bytes are there or the connection ends; how many there were, all of them right.
pub(crate) async fn ask(taker: &Taker, len: u64, seen: &AtomicU64) -> u64 {
    let mut socket = TcpStream::connect(taker.addr()).await.unwrap();
    socket.write_all(b"?").await.unwrap();
    let mut buffer = vec![0; 1 << 18];
    let mut at = 0;
    while at < len {
        let read = tokio::time::timeout(LIMIT, socket.read(&mut buffer)).await.expect("no byte comes");
        let Ok(read) = read else { break };
        if read == 0 {
            break;
        }
        assert!(buffer[..read] == pattern(at, read), "wrong bytes after {at}");
        at += read as u64;
        seen.store(at, Relaxed);
    }
    at
}

async fn stored(bus: &Bus) -> u64 {
    bus.jetstream().get_stream(stream_of(&agent("db1"))).await.map_or(0, |s| s.cached_info().state.bytes)
}

async fn a_connection_is_carried_whole_and_within_the_window(program: Option<PathBuf>) {
    let server = start(program);
    let len = 40 * MIB + 12_345;
    let way = way(8 * MIB);
    let (giver, taker) = ends(&server, &way, service(len).await).await;
    let looking = connect(&server).await;
    let most = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&most);
    let looker = tokio::spawn(async move {
        loop {
            seen.fetch_max(stored(&looking).await, Relaxed);
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(ask(&taker, len, &AtomicU64::new(0)).await, len);
    looker.abort();
    let most = most.load(Relaxed);
    assert!(most > 0 && most <= 8 * MIB, "{most} bytes on the server");
    let bus = connect(&server).await;
    assert_eq!(buckets(&bus).await.unwrap(), ["db1"]);
    drop(taker);
    giver.close().await.unwrap();
    assert!(buckets(&bus).await.unwrap().is_empty());
}

async fn segments_are_objects_that_the_usual_tools_read(program: Option<PathBuf>) {
    let server = start(program);
    let len = 3 * MIB + 77;
    let (giver, taker) = ends(&server, &way(64 * MIB), service(len).await).await;
    let mut socket = TcpStream::connect(taker.addr()).await.unwrap();
    socket.write_all(b"?").await.unwrap();
    let bus = connect(&server).await;
    let store = bus.jetstream().get_object_store(bucket_of(&agent("db1"))).await.unwrap();
    let object = testkit::poll::until_async(LIMIT, "a segment", || async {
        let mut list = store.list().await.ok()?;
        list.next().await?.ok()
    })
    .await;
    assert!(object.digest.as_ref().unwrap().starts_with("SHA-256="), "{object:?}");
    assert!(object.chunks > 0 && object.name.ends_with("/00000001"), "{object:?}");
    let mut bytes = Vec::new();
    // Fails when the digest is not that of the bytes.
    store.get(&object.name).await.unwrap().read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.len(), object.size);
    assert!(bytes == pattern(0, bytes.len()));
    giver.close().await.unwrap();
}

async fn what_is_lost_breaks_the_connection_and_the_next_one_works(program: Option<PathBuf>) {
    let mut server = start(program);
    let len = 200 * MIB;
    let (giver, taker) = ends(&server, &way(8 * MIB), service(len).await).await;
    let taker = Arc::new(taker);
    let asking = |seen: &Arc<AtomicU64>| {
        let (taker, seen) = (Arc::clone(&taker), Arc::clone(seen));
        tokio::spawn(async move { ask(&taker, len, &seen).await })
    };
    let under_way = async |seen: &Arc<AtomicU64>| {
        testkit::poll::until_async(LIMIT, "bytes to come", || async {
            (seen.load(Relaxed) > MIB).then_some(())
        })
        .await;
    };
    // The server dies.
    let seen = Arc::default();
    let first = asking(&seen);
    under_way(&seen).await;
    server.kill9();
    server.restart().unwrap();
    assert!(tokio::time::timeout(LIMIT, first).await.unwrap().unwrap() < len);
    // Someone empties the bucket, then removes it.
    let bus = connect(&server).await;
    for remove in [false, true] {
        let seen = Arc::default();
        let asked = testkit::poll::until_async(LIMIT, "a connection after a break", || async {
            let asked = asking(&seen);
            let until = tokio::time::Instant::now() + LIMIT;
            while seen.load(Relaxed) <= MIB && !asked.is_finished() && tokio::time::Instant::now() < until {
                tokio::task::yield_now().await;
            }
            (!asked.is_finished()).then_some(asked)
        })
        .await;
        let stream = bus.jetstream().get_stream(stream_of(&agent("db1"))).await.unwrap();
        if remove {
            bus.jetstream().delete_stream(stream_of(&agent("db1"))).await.unwrap();
        } else {
            stream.purge().await.unwrap();
        }
        let got = tokio::time::timeout(LIMIT, asked).await.expect("the connection goes on for ever").unwrap();
        // Emptied between two chunks that were both taken it may go on; it is never wrong.
        assert!(got <= len);
    }
    let small = service(MIB).await;
    drop(taker);
    giver.close().await.unwrap();
    let (giver, taker) = ends(&server, &way(8 * MIB), small).await;
    assert_eq!(ask(&taker, MIB, &AtomicU64::new(0)).await, MIB);
    giver.close().await.unwrap();
}

/// As [`connect`], without holding on to the server.
fn async_connect(server: &NatsServer) -> impl Future<Output = Bus> + Send + 'static {
    let config = config(server);
    async move {
        let bus = Bus::connect(&config, "dying").await.unwrap();
        bus.connected(LIMIT).await.unwrap();
        bus
    }
}

async fn a_new_recipient_goes_on_where_one_died(program: Option<PathBuf>) {
    let server = start(program);
    let len = 24 * MIB;
    let way = way(8 * MIB);
    let giver = Giver::open(connect(&server).await, way.clone(), service(len).await).await.unwrap();
    // A process of its own, as far as the bus can see: it dies without a word while its connection hangs and the bucket is full.
    let dying = std::thread::scope(|scope| {
        let made = scope
            .spawn(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build());
        made.join().unwrap().unwrap()
    });
    let bus = dying.spawn(async_connect(&server)).await.unwrap();
    let taker = {
        let way = way.clone();
        dying.spawn(async move { Taker::open(bus, way).await.unwrap() }).await.unwrap()
    };
    let mut hanging = TcpStream::connect(taker.addr()).await.unwrap();
    hanging.write_all(b"?").await.unwrap();
    let bus = connect(&server).await;
    testkit::poll::until_async(LIMIT, "the window to fill", || async {
        (stored(&bus).await > 6 * MIB).then_some(())
    })
    .await;
    dying.shutdown_background();
    let next = Taker::open(connect(&server).await, way.clone()).await.unwrap();
    // What the server still sends to the dead one is missed by the first connections, which break: who connects tries again.
    testkit::poll::until_async(LIMIT, "a whole connection", || async {
        (ask(&next, len, &AtomicU64::new(0)).await == len).then_some(())
    })
    .await;
    giver.close().await.unwrap();
}

async fn connections_that_are_broken_off_leave_the_window_to_others(program: Option<PathBuf>) {
    let server = start(program);
    let len = 16 * MIB;
    let (giver, taker) = ends(&server, &way(8 * MIB), service(len).await).await;
    // Each at another place, with some of what follows on its way.
    for part in 1..=30 {
        let asked = part * 300_000;
        assert!(ask(&taker, asked, &AtomicU64::new(0)).await >= asked);
    }
    assert_eq!(ask(&taker, len, &AtomicU64::new(0)).await, len);
    giver.close().await.unwrap();
}

async fn a_connection_that_the_donor_forgot_ends_in_seconds(program: Option<PathBuf>) {
    let server = start(program);
    let way = way(8 * MIB);
    let (giver, taker) = ends(&server, &way, service(MIB).await).await;
    let seen = Arc::new(AtomicU64::new(0));
    let waiting = {
        let seen = Arc::clone(&seen);
        tokio::spawn(async move { ask(&taker, MIB + 1, &seen).await })
    };
    testkit::poll::until_async(LIMIT, "all that the service says", || async {
        (seen.load(Relaxed) == MIB).then_some(())
    })
    .await;
    // Another recipient's process makes the donor forget those of the first.
    let next = Taker::open(connect(&server).await, way).await.unwrap();
    let mut socket = TcpStream::connect(next.addr()).await.unwrap();
    socket.write_all(b"?").await.unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, waiting).await.expect("it is never told").unwrap(), MIB);
    giver.close().await.unwrap();
}

/// What a server that is killed has not written yet, here all of the bucket's messages; what its consumers have had it still knows.
fn forget_messages(server: &NatsServer) {
    let stream = stream_of(&agent("db1"));
    let mut dirs = vec![server.dir().to_owned()];
    while let Some(dir) = dirs.pop() {
        if dir.ends_with(format!("{stream}/msgs")) {
            for file in std::fs::read_dir(dir).unwrap() {
                std::fs::remove_file(file.unwrap().path()).unwrap();
            }
            return;
        }
        let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
        dirs.extend(entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()));
    }
    panic!("the server has no messages of {stream}");
}

async fn messages_that_a_killed_server_forgot_are_not_waited_for(program: Option<PathBuf>) {
    let mut server = start(program);
    let len = 16 * MIB;
    let (giver, taker) = ends(&server, &way(8 * MIB), service(len).await).await;
    for _ in 0..4 {
        assert_eq!(ask(&taker, len, &AtomicU64::new(0)).await, len);
    }
    server.kill9();
    forget_messages(&server);
    server.restart().unwrap();
    testkit::poll::until_async(LIMIT, "a whole connection", || async {
        (ask(&taker, len, &AtomicU64::new(0)).await == len).then_some(())
    })
    .await;
    giver.close().await.unwrap();
}
