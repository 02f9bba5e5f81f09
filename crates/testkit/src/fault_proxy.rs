//! A TCP proxy that spoils connections on purpose: a flipped byte, a cut, silence, delay, a slow line.
//!
//! Plain threads, so that tests of blocking code and of tokio code use it alike. It knows bytes only, no protocol.
//!
//! ```no_run
//! use testkit::fault_proxy::{Direction, FaultProxy};
//! # fn main() -> std::io::Result<()> {
//! # let donor = "127.0.0.1:9".parse().unwrap();
//! let proxy = FaultProxy::start(donor)?;          // clients go to proxy.address()
//! proxy.flip_byte(Direction::ToClient, 1_000_000); // once, the millionth byte that passes from now on
//! proxy.cut();                                     // all connections, by reset
//! # Ok(()) }
//! ```

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

/// How long a pump stays in one system call before it looks at its orders again.
const TICK: Duration = Duration::from_millis(10);

/// The unit in which bytes are held, delayed and counted.
const CHUNK_BYTES: usize = 32 << 10;

/// Seen from who opened the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// Forwards connections to its target until told otherwise. Everything ends on drop.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    orders: Mutex<Orders>,
    connections: Mutex<Vec<Arc<Connection>>>,
    accepted: AtomicUsize,
    lanes: [Lane; 2],
    black_hole: AtomicBool,
    refuse: AtomicBool,
    stop: AtomicBool,
}

/// What one direction of all connections together has seen and is to suffer.
#[derive(Debug, Default)]
struct Lane {
    passed_bytes: AtomicU64,
    faults: Mutex<Vec<(u64, Fault)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Flip,
    Cut,
}

#[derive(Debug, Default)]
struct Orders {
    delay: Duration,
    bytes_per_second: Option<u64>,
    /// When the line is free again, under a rate.
    free_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Connection {
    is_cut: AtomicBool,
    open_pumps: AtomicUsize,
}

impl FaultProxy {
    /// Listens on a free port of the loopback.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(target: SocketAddr) -> std::io::Result<Self> {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into(), target)
    }

    /// As [`Self::start`], on a given address.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn start_on(listen: SocketAddr, target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            orders: Mutex::default(),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
            lanes: [Lane::default(), Lane::default()],
            black_hole: AtomicBool::new(false),
            refuse: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let acceptor = Arc::clone(&shared);
        thread::Builder::new().name("fault-proxy".into()).spawn(move || accept(&listener, &acceptor))?;
        Ok(Self { address, shared })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where connections made from now on go to.
    pub fn set_target(&self, target: SocketAddr) {
        *lock(&self.shared.target) = target;
    }

    /// Inverts the byte that lies `offset` bytes after what has passed in this direction so far, all connections
    /// counted together, once.
    pub fn flip_byte(&self, direction: Direction, offset: u64) {
        self.add_fault(direction, offset, Fault::Flip);
    }

    /// Cuts all connections when `bytes` more have passed in this direction.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.add_fault(direction, bytes, Fault::Cut);
    }

    fn add_fault(&self, direction: Direction, offset: u64, fault: Fault) {
        let lane = self.shared.lane(direction);
        let mut faults = lock(&lane.faults);
        faults.push((lane.passed_bytes.load(Ordering::SeqCst) + offset, fault));
    }

    /// Faults that have not happened yet.
    pub fn pending_faults(&self) -> usize {
        self.shared.lanes.iter().map(|lane| lock(&lane.faults).len()).sum()
    }

    /// Resets all connections now, and tells how many there were. New ones are accepted.
    pub fn cut(&self) -> usize {
        self.shared.cut()
    }

    /// While set, new connections are closed at once.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refuse.store(refuse, Ordering::SeqCst);
    }

    /// While set, nothing is forwarded and nothing is closed; what was sent meanwhile passes afterwards.
    pub fn black_hole(&self, black_hole: bool) {
        self.shared.black_hole.store(black_hole, Ordering::SeqCst);
    }

    /// Holds every chunk (up to 32 KiB) of every connection for this long.
    pub fn delay(&self, delay: Duration) {
        lock(&self.shared.orders).delay = delay;
    }

    /// Limits all connections and directions together; `None` lifts the limit.
    pub fn limit_rate(&self, bytes_per_second: Option<u64>) {
        let mut orders = lock(&self.shared.orders);
        orders.bytes_per_second = bytes_per_second;
        orders.free_at = None;
    }

    /// Bytes that have passed in this direction since the start.
    pub fn passed_bytes(&self, direction: Direction) -> u64 {
        self.shared.lane(direction).passed_bytes.load(Ordering::SeqCst)
    }

    /// Connections that were ever accepted and forwarded.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        let connections = lock(&self.shared.connections);
        connections.iter().filter(|connection| connection.open_pumps.load(Ordering::SeqCst) > 0).count()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.cut();
        // Wakes the acceptor, which then sees the order to stop.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

impl Shared {
    fn lane(&self, direction: Direction) -> &Lane {
        &self.lanes[direction as usize]
    }

    fn cut(&self) -> usize {
        let mut connections = lock(&self.connections);
        let mut cut = 0;
        for connection in connections.drain(..) {
            cut += usize::from(connection.open_pumps.load(Ordering::SeqCst) > 0);
            connection.is_cut.store(true, Ordering::SeqCst);
        }
        cut
    }

    /// Waits as delay and rate demand, in ticks; false when the connection was cut meanwhile.
    fn hold(&self, connection: &Connection, size: usize) -> bool {
        let until = {
            let mut orders = lock(&self.orders);
            let now = Instant::now();
            let mut until = now + orders.delay;
            if let Some(rate) = orders.bytes_per_second {
                let start = orders.free_at.map_or(now, |free_at| free_at.max(now));
                let free_at = start + Duration::from_secs_f64(size as f64 / rate.max(1) as f64);
                orders.free_at = Some(free_at);
                until = until.max(free_at);
            }
            until
        };
        while Instant::now() < until || self.black_hole.load(Ordering::SeqCst) {
            if connection.is_cut.load(Ordering::SeqCst) {
                return false;
            }
            thread::sleep(
                until.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), TICK),
            );
        }
        !connection.is_cut.load(Ordering::SeqCst)
    }

    /// Counts a chunk and spoils it as ordered; false when the order is to cut.
    fn pass(&self, direction: Direction, chunk: &mut [u8]) -> bool {
        let lane = self.lane(direction);
        let mut faults = lock(&lane.faults);
        let begin = lane.passed_bytes.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        let end = begin + chunk.len() as u64;
        let mut goes_on = true;
        faults.retain(|(at, fault)| {
            let is_due = match fault {
                Fault::Flip => (begin..end).contains(at),
                Fault::Cut => *at <= end,
            };
            match (is_due, fault) {
                (true, Fault::Flip) => chunk[(at - begin) as usize] ^= 0xff,
                (true, Fault::Cut) => goes_on = false,
                (false, _) => {}
            }
            !is_due
        });
        goes_on
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        if shared.refuse.load(Ordering::SeqCst) {
            reset_on_close(&client);
            continue;
        }
        let shared = Arc::clone(shared);
        // Connecting may take long where the target is silent: never in the acceptor.
        thread::spawn(move || connect(client, &shared));
    }
}

fn connect(client: TcpStream, shared: &Arc<Shared>) {
    let target = *lock(&shared.target);
    let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else {
        reset_on_close(&client);
        return;
    };
    let connection = Arc::new(Connection { open_pumps: AtomicUsize::new(2), ..Connection::default() });
    let (Ok(client_again), Ok(server_again)) = (client.try_clone(), server.try_clone()) else { return };
    lock(&shared.connections).push(Arc::clone(&connection));
    if shared.stop.load(Ordering::SeqCst) {
        return;
    }
    shared.accepted.fetch_add(1, Ordering::SeqCst);
    for (from, to, direction) in
        [(client, server, Direction::ToServer), (server_again, client_again, Direction::ToClient)]
    {
        let (shared, connection) = (Arc::clone(shared), Arc::clone(&connection));
        thread::spawn(move || {
            if pump(&from, &to, direction, &shared, &connection).is_err() {
                connection.is_cut.store(true, Ordering::SeqCst);
                reset_on_close(&from);
                reset_on_close(&to);
            }
            connection.open_pumps.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Forwards one direction to its end of file; an error means that the connection is to be reset.
fn pump(
    mut from: &TcpStream,
    mut to: &TcpStream,
    direction: Direction,
    shared: &Shared,
    connection: &Connection,
) -> std::io::Result<()> {
    from.set_read_timeout(Some(TICK))?;
    to.set_write_timeout(Some(TICK))?;
    to.set_nodelay(true)?;
    let cut = || std::io::Error::from(ErrorKind::ConnectionAborted);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        if connection.is_cut.load(Ordering::SeqCst) {
            return Err(cut());
        }
        let size = match from.read(&mut buffer) {
            Ok(0) => {
                if !shared.hold(connection, 0) {
                    return Err(cut());
                }
                // The peer may have gone already; then there is nobody to tell.
                let _ = to.shutdown(Shutdown::Write);
                return Ok(());
            }
            Ok(size) => size,
            Err(error) if is_pause(&error) => continue,
            Err(error) => return Err(error),
        };
        if !shared.hold(connection, size) {
            return Err(cut());
        }
        if !shared.pass(direction, &mut buffer[..size]) {
            shared.cut();
        }
        let mut rest = &buffer[..size];
        while !rest.is_empty() {
            if connection.is_cut.load(Ordering::SeqCst) {
                return Err(cut());
            }
            match to.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// The peer then sees a reset, as from a crashed machine, and no orderly end.
fn reset_on_close(stream: &TcpStream) {
    let _ = setsockopt(stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A server that sends back what it gets, for as many connections as come.
    fn echo_server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    }

    fn client_of(proxy: &FaultProxy) -> TcpStream {
        let client = TcpStream::connect(proxy.address()).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client
    }

    fn echoed(mut client: &TcpStream, sent: &[u8]) -> Vec<u8> {
        client.write_all(sent).unwrap();
        let mut got = vec![0; sent.len()];
        client.read_exact(&mut got).unwrap();
        got
    }

    #[test]
    fn bytes_pass_and_are_counted() {
        let proxy = FaultProxy::start(echo_server()).unwrap();
        let client = client_of(&proxy);
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        assert_eq!(echoed(&client, &sent), sent);
        assert_eq!(proxy.passed_bytes(Direction::ToServer), 100_000);
        assert_eq!(proxy.passed_bytes(Direction::ToClient), 100_000);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&client).read(&mut [0]).unwrap(), 0, "the end of file passes too");
    }

    #[test]
    fn one_byte_is_flipped_once() {
        let proxy = FaultProxy::start(echo_server()).unwrap();
        let client = client_of(&proxy);
        echoed(&client, b"before");
        proxy.flip_byte(Direction::ToClient, 2);
        assert_eq!(echoed(&client, b"abcde"), [b'a', b'b', !b'c', b'd', b'e']);
        assert_eq!(proxy.pending_faults(), 0);
        assert_eq!(echoed(&client, b"abcde"), b"abcde");
    }

    #[test]
    fn a_cut_resets_and_a_new_connection_works() {
        let proxy = FaultProxy::start(echo_server()).unwrap();
        let client = client_of(&proxy);
        echoed(&client, b"hello");
        assert_eq!(proxy.cut(), 1);
        let error = (&client).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(echoed(&client_of(&proxy), b"again"), b"again");
        assert_eq!(proxy.accepted(), 2);
    }

    #[test]
    fn the_line_is_cut_after_so_many_bytes() {
        let proxy = FaultProxy::start(echo_server()).unwrap();
        let mut client = client_of(&proxy);
        proxy.cut_after(Direction::ToServer, 50_000);
        let _ = client.write_all(&vec![7; 200_000]);
        let ended = std::io::copy(&mut client, &mut std::io::sink());
        assert!(ended.is_err() && proxy.passed_bytes(Direction::ToServer) < 150_000, "{ended:?}");
        poll::until_true(LIMIT, "no open connection", || proxy.open() == 0);
    }

    #[test]
    fn a_black_hole_holds_bytes_without_closing() {
        let proxy = FaultProxy::start(echo_server()).unwrap();
        let mut client = client_of(&proxy);
        echoed(&client, b"hello");
        proxy.black_hole(true);
        client.write_all(b"silence").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(is_pause(&client.read(&mut [0]).unwrap_err()));
        client.set_read_timeout(Some(LIMIT)).unwrap();
        proxy.black_hole(false);
        let mut got = [0; 7];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"silence");
    }

    #[test]
    fn delay_and_rate_slow_the_line() {
        let proxy = FaultProxy::start(echo_server()).unwrap();
        let client = client_of(&proxy);
        proxy.delay(Duration::from_millis(100));
        let started = Instant::now();
        echoed(&client, b"ping");
        assert!(started.elapsed() >= Duration::from_millis(200));

        proxy.delay(Duration::ZERO);
        proxy.limit_rate(Some(1_000_000));
        let started = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| (&client).write_all(&vec![1; 150_000]).unwrap());
            (&client).read_exact(&mut vec![0; 150_000]).unwrap();
        });
        assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
    }

    #[test]
    fn refused_connections_end_at_once() {
        let proxy = FaultProxy::start(echo_server()).unwrap();
        proxy.refuse(true);
        let ended = TcpStream::connect(proxy.address()).and_then(|mut client| {
            client.set_read_timeout(Some(LIMIT))?;
            client.read(&mut [0])
        });
        assert!(matches!(ended, Ok(0) | Err(_)) && proxy.accepted() == 0);
    }
}
