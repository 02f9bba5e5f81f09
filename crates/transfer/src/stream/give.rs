//! The donor's end of a stream.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;

use super::{TICK, ready, set_nonblocking};
use crate::frame::{HEADER_LEN, Header, PIECE_MAX, bounded_text, kind, shown_text};
use crate::handshake::{
    self, Greeting, HELLO_LEN, Hello, VERSIONS, Verdict, encode_welcome, negotiate, prove_root, token_id,
};
use crate::link::{Bare, Link, tune};
use crate::progress::Phase;
use crate::strangers::{PROOF_LIMIT, Strangers};
use crate::{Cancel, DigestKind, Error, Fingerprint, Identity, Progress, Result, Throttle, Token, tls};

/// A sign of life at least this often while the program is silent.
const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// A running program that writes the stream. Dropping it ends it, with all of its children.
pub trait Program: Send {
    /// Its standard output.
    fn output(&self) -> BorrowedFd<'_>;

    /// Waits for its end after the last byte; `Err` with its own words unless it succeeded.
    fn finish(&mut self) -> Result<(), String>;
}

/// How a stream is offered.
#[derive(Debug, Clone)]
pub struct GiveOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The secret that the recipient must know.
    pub token: Token,
    /// The certificate to serve with; `None` is plain TCP.
    pub identity: Option<Arc<Identity>>,
    /// The limit on bytes sent.
    pub throttle: Arc<Throttle>,
    /// Neither the program nor the recipient may stand still for longer.
    pub stall_timeout: Duration,
    /// The offer ends when no recipient is connected for this long.
    pub idle_timeout: Duration,
    /// Ends it.
    pub cancel: Arc<Cancel>,
    /// Live counters; the total is what the caller expects.
    pub progress: Arc<Progress>,
}

/// What was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Bytes of the stream.
    pub bytes: u64,
    /// BLAKE3 of them, the same on both ends.
    pub digest: [u8; 32],
}

/// An offer of a stream that listens.
#[derive(Debug)]
pub struct Giver {
    listener: TcpListener,
    addr: SocketAddr,
    options: GiveOptions,
    /// The recipient that came first; nobody else may come.
    session: Arc<Mutex<Option<[u8; 16]>>>,
    strangers: Arc<Strangers>,
}

impl Giver {
    /// Listens.
    pub fn listen(options: GiveOptions) -> Result<Self> {
        let failed = || Error::network("listen for the recipient");
        let listener = TcpListener::bind(options.listen).map_err(failed())?;
        listener.set_nonblocking(true).map_err(failed())?;
        let addr = listener.local_addr().map_err(failed())?;
        Ok(Self { listener, addr, options, session: Arc::default(), strangers: Arc::default() })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The certificate's fingerprint for the offer; `None` on plain TCP.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.options.identity.as_ref().map(|identity| identity.fingerprint)
    }

    /// Serves until a recipient has the whole stream of one run of the program, or says that nobody will come again.
    ///
    /// Whoever connects is met beside the others: one that proves nothing keeps nobody waiting.
    pub fn give(&mut self, start: &mut dyn FnMut() -> Result<Box<dyn Program>, String>) -> Result<Given> {
        let (proven, come) = mpsc::channel();
        let mut alone_since = Instant::now();
        loop {
            if self.options.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if alone_since.elapsed() > self.options.idle_timeout {
                return Err(Error::RecipientGone { seconds: alone_since.elapsed().as_secs() });
            }
            self.meet_whoever_comes(&proven)?;
            let Ok(Met { link, session }) = come.try_recv() else { continue };
            match self.serve(link, session, start) {
                Ok(given) => return Ok(given),
                Err(error @ (Error::RecipientFailed(_) | Error::DonorFailed(_))) => return Err(error),
                Err(error) => {
                    tracing::warn!(error = %sys::error::line(&error), "connection of a stream dropped");
                }
            }
            alone_since = Instant::now();
        }
    }

    /// Waits a moment for a connection, and has it prove itself on a thread of its own.
    fn meet_whoever_comes(&self, proven: &Sender<Met>) -> Result<()> {
        let (socket, peer) = match self.listener.accept() {
            Ok(come) => come,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return ready(&self.listener, PollFlags::POLLIN)
                    .map(drop)
                    .map_err(Error::network("wait for the recipient"));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                self.options.cancel.sleep(TICK);
                return Ok(());
            }
        };
        let lobby = Lobby {
            options: self.options.clone(),
            strangers: Arc::clone(&self.strangers),
            session: Arc::clone(&self.session),
        };
        let proven = proven.clone();
        let met = std::thread::Builder::new().name("stream-meet".to_owned()).spawn(move || {
            match lobby.meet(socket, peer.ip()) {
                Ok(Some(met)) => drop(proven.send(met)),
                Ok(None) => {}
                Err(error) if lobby.options.cancel.is_cancelled() => drop(error),
                Err(error) if error.is_hangup() => {
                    tracing::debug!(%peer, "somebody came and left without a word");
                }
                Err(error) => lobby.tell(peer.ip(), &sys::error::line(&error)),
            }
        });
        met.map(drop).or_else(|error| {
            tracing::warn!(%error, "a connection of a stream is turned away");
            Ok(())
        })
    }

    /// A recipient that has proven itself.
    fn serve(
        &self,
        mut link: Link,
        session: [u8; 16],
        start: &mut dyn FnMut() -> Result<Box<dyn Program>, String>,
    ) -> Result<Given> {
        heed(&mut link)?;
        let sent = self.send(&mut link, session, start);
        if let Err(Error::DonorFailed(text)) = &sent {
            let bytes = bounded_text(text);
            let header = Header { len: bytes.len() as u32, ..Header::new(kind::FAILURE) };
            if link.queue(&header.encode()).is_ok() && link.queue(bytes).is_ok() {
                link.close_gently(Duration::from_secs(2));
            }
        }
        sent
    }

    fn send(
        &self,
        link: &mut Link,
        session: [u8; 16],
        start: &mut dyn FnMut() -> Result<Box<dyn Program>, String>,
    ) -> Result<Given> {
        let mut program = start().map_err(Error::DonorFailed)?;
        self.options.progress.enter(Phase::Transfer);
        let mut hasher = blake3::Hasher::new();
        let bytes = self.pump(link, program.as_ref(), &mut hasher)?;
        program.finish().map_err(Error::DonorFailed)?;
        link.queue(&Header { value: bytes, ..Header::new(kind::STREAM_END) }.encode())?;
        link.flush(false)?;
        let header = link.read_header()?;
        if header.kind != kind::PROVE {
            return Err(given_up(link, header));
        }
        let theirs: [u8; 32] = link.take_array()?;
        let ours = *hasher.finalize().as_bytes();
        if theirs != ours {
            return Err(Error::DonorFailed(Error::RootDigest.to_string()));
        }
        let proof = prove_root(&self.options.token, &session, &ours);
        link.queue(&Header { len: 32, ..Header::new(kind::PROOF) }.encode())?;
        link.queue(proof.as_bytes())?;
        link.flush(false)?;
        link.close_gently(Duration::from_secs(1));
        self.options.progress.enter(Phase::Done);
        Ok(Given { bytes, digest: ours })
    }

    /// Moves the program's bytes until its end.
    fn pump(&self, link: &mut Link, program: &dyn Program, hasher: &mut blake3::Hasher) -> Result<u64> {
        let pipe = program.output();
        set_nonblocking(pipe)?;
        let mut buffer = vec![0; PIECE_MAX];
        let (mut filled, mut total) = (0, 0);
        let (mut moved_at, mut alive_at) = (Instant::now(), Instant::now());
        loop {
            if self.options.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if link.has_ready(HEADER_LEN)? {
                let header = link.read_header()?;
                return Err(given_up(link, header));
            }
            let read = match nix::unistd::read(pipe, &mut buffer[filled..]) {
                Ok(count) => Some(count),
                Err(Errno::EAGAIN | Errno::EINTR) => None,
                Err(errno) => {
                    return Err(Error::DonorFailed(format!("the program's stream cannot be read: {errno}")));
                }
            };
            if let Some(count) = read {
                (filled, moved_at) = (filled + count, Instant::now());
            }
            let ended = read == Some(0);
            if filled > 0 && (filled == buffer.len() || ended || read.is_none()) {
                self.send_piece(link, &buffer[..filled])?;
                hasher.update(&buffer[..filled]);
                (total, filled, alive_at) = (total + filled as u64, 0, Instant::now());
            }
            if ended {
                return Ok(total);
            }
            if read.is_none() {
                self.wait(link, &pipe, moved_at, &mut alive_at)?;
            }
        }
    }

    fn send_piece(&self, link: &mut Link, piece: &[u8]) -> Result<()> {
        let mut rest = piece;
        while !rest.is_empty() {
            let len = self.options.throttle.piece_len(1, PIECE_MAX).min(rest.len());
            if self.options.throttle.bytes_per_s() != 0 {
                // What is collected does not wait for leave: the other end takes silence for a broken path.
                link.flush(false)?;
            }
            self.options.throttle.acquire(len, &self.options.cancel);
            let (part, after) = rest.split_at(len);
            link.queue(&Header { value: len as u64, ..Header::new(kind::STREAM) }.encode())?;
            link.queue(part)?;
            self.options.progress.add_done(len as u64);
            rest = after;
        }
        link.flush(false)
    }

    /// Waits for the program, giving signs of life, and gives it up when it stands still.
    fn wait(
        &self,
        link: &mut Link,
        pipe: &BorrowedFd<'_>,
        moved_at: Instant,
        alive_at: &mut Instant,
    ) -> Result<()> {
        if moved_at.elapsed() > self.options.stall_timeout {
            let seconds = self.options.stall_timeout.as_secs();
            return Err(Error::DonorFailed(format!("the program gave no byte for {seconds} s")));
        }
        if alive_at.elapsed() >= KEEP_ALIVE {
            link.queue(&Header::new(kind::KEEP_ALIVE).encode())?;
            link.flush(false)?;
            *alive_at = Instant::now();
        }
        ready(pipe, PollFlags::POLLIN).map(drop).map_err(Error::network("wait for the program"))
    }
}

/// What a connection needs to prove itself.
struct Lobby {
    options: GiveOptions,
    strangers: Arc<Strangers>,
    session: Arc<Mutex<Option<[u8; 16]>>>,
}

/// A connection that has proven to be the recipient's.
struct Met {
    link: Link,
    session: [u8; 16],
}

impl Lobby {
    /// The handshake with whoever it is; `None` when it was refused and told so.
    fn meet(&self, socket: TcpStream, address: IpAddr) -> Result<Option<Met>> {
        socket.set_nonblocking(false).map_err(Error::network("set up the socket"))?;
        let socket = Arc::new(socket);
        self.options.cancel.watch(&socket);
        tune(&socket, self.options.stall_timeout)?;
        let visit = self.strangers.admit(address, &socket);
        let tls = match &self.options.identity {
            Some(identity) => Some(tls::accept(identity, &mut Bare(&socket), visit.deadline)?),
            None => None,
        };
        let mut link = Link::new(socket, tls, PROOF_LIMIT, Arc::clone(&self.options.progress));
        link.set_deadline(Some(visit.deadline));
        let Some(session) = self.greet(&mut link, address)? else { return Ok(None) };
        link.set_deadline(None);
        link.set_stall(self.options.stall_timeout);
        Ok(Some(Met { link, session }))
    }

    fn greet(&self, link: &mut Link, address: IpAddr) -> Result<Option<[u8; 16]>> {
        let digests = DigestKind::Blake3.bit() | DigestKind::Xxh3.bit();
        let greeting = Greeting { versions: VERSIONS, features: 0, digests, nonce: rand::random() }.encode();
        link.queue(&greeting)?;
        link.flush(false)?;
        let message: [u8; HELLO_LEN] = link.take_array()?;
        let hello = Hello::decode(&message)?;
        let chosen = handshake::Versions { min: hello.version, max: hello.version };
        let token = &self.options.token;
        let known = hello.token_id == token_id(token) && Hello::is_proven(&message, token, &greeting);
        let verdict = if negotiate(VERSIONS, chosen).is_none() {
            Verdict::Version
        } else if known && self.is_the_recipient(hello.session) {
            Verdict::Welcome
        } else {
            Verdict::Token
        };
        let proof = (verdict == Verdict::Welcome).then_some((token, &message));
        link.queue(&encode_welcome(verdict, proof))?;
        link.flush(false)?;
        if verdict == Verdict::Welcome {
            return Ok(Some(hello.session));
        }
        self.tell(address, &format!("refused: {verdict:?}"));
        link.close_gently(Duration::from_secs(1));
        Ok(None)
    }

    /// The first that has proven itself; nobody else may come.
    fn is_the_recipient(&self, session: [u8; 16]) -> bool {
        let mut first = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        *first.get_or_insert(session) == session
    }

    /// Anybody can make these lines: they are written at a bounded rate.
    fn tell(&self, address: IpAddr, error: &str) {
        if let Some(untold) = self.strangers.may_tell() {
            tracing::warn!(%address, error, untold, "a connection that had proven nothing was dropped");
        }
    }
}

/// Waits for the wish for the stream.
fn heed(link: &mut Link) -> Result<()> {
    let header = link.read_header()?;
    if header.kind == kind::WANT_STREAM { Ok(()) } else { Err(given_up(link, header)) }
}

/// What a recipient says that does not want the stream (any more).
fn given_up(link: &mut Link, header: Header) -> Error {
    if header.kind != kind::GIVE_UP {
        return Error::Protocol("a stream has no such question");
    }
    let len = header.len as usize;
    match link.need(len) {
        Ok(()) => Error::RecipientFailed(shown_text(&link.received()[..len])),
        Err(error) => error,
    }
}
