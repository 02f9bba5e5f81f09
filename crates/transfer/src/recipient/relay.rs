//! Hands on what this recipient has proven to other recipients of the same tree.

use std::fs::File;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use socket2::SockRef;

use super::shared::Shared;
use crate::circle::Card;
use crate::frame::{
    HEADER_LEN, Header, MEMBERS_MAX, PIECE_HEADER_LEN, PIECE_MAX, Piece, WANT_MAX, kind, le_u32,
};
use crate::handshake::{Hello, token_id};
use crate::link::{Link, listen, wait_readable};
use crate::meeting::{Door, Met, Porter, meet};
use crate::strangers::Strangers;
use crate::tls::Identity;
use crate::{Cancel, DigestKind, Error, Result, Throttle, Token};

/// A peer on whose connection nothing moves for this long is dropped.
const STALL: Duration = Duration::from_secs(30);

/// Connections of one peer at once: a new one while the old one is not known to be dead.
const OF_ONE: usize = 2;

/// Where others fetch what this recipient has.
pub(super) struct Relay {
    listener: TcpListener,
    addr: SocketAddr,
    identity: Arc<Identity>,
    card: Card,
    strangers: Arc<Strangers>,
    /// Connections of those who have proven themselves, by their sessions.
    guests: Mutex<Vec<[u8; 16]>>,
    /// As much may be handed on as received.
    limit: Throttle,
    stop: Arc<Cancel>,
}

/// A peer's place; given back when dropped.
struct Place<'a>(&'a Relay, [u8; 16]);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut guests = self.0.guests();
        if let Some(at) = guests.iter().position(|session| *session == self.1) {
            guests.swap_remove(at);
        }
    }
}

impl Relay {
    /// Listens there; port 0 takes a free one. `stop` ends it.
    pub(super) fn open(addr: SocketAddr, stop: Arc<Cancel>) -> Result<Self> {
        let identity = Arc::new(Identity::generate()?);
        let listener = listen(addr).map_err(Error::network("listen for other recipients"))?;
        listener.set_nonblocking(true).map_err(Error::network("listen for other recipients"))?;
        let addr = listener.local_addr().map_err(Error::network("listen for other recipients"))?;
        let card = Card { fingerprint: identity.fingerprint, secret: Token::generate() };
        Ok(Self {
            listener,
            addr,
            identity,
            card,
            strangers: Arc::default(),
            guests: Mutex::default(),
            limit: Throttle::unlimited(),
            stop,
        })
    }

    /// What the donor tells others.
    pub(super) fn card(&self) -> &Card {
        &self.card
    }

    /// Cancelled when there is nothing to hand on any more.
    pub(super) fn stop(&self) -> &Cancel {
        &self.stop
    }

    pub(super) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Serves until it is stopped.
    pub(super) fn serve<'scope>(
        &'scope self,
        shared: &'scope Shared<'scope>,
        scope: &'scope Scope<'scope, '_>,
    ) {
        while !self.stop.is_cancelled() {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    let body = move || drop(self.receive(socket, shared));
                    let _ = std::thread::Builder::new().name("seed-relay".into()).spawn_scoped(scope, body);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => wait_readable(&self.listener),
                Err(_) => drop(self.stop.sleep(Duration::from_millis(100))),
            }
        }
    }

    /// Whether others are connected.
    pub(super) fn is_visited(&self) -> bool {
        !self.guests().is_empty()
    }

    fn guests(&self) -> MutexGuard<'_, Vec<[u8; 16]>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all of it; nothing of the tree is read from then on.
    pub(super) fn close(&self) {
        self.stop.cancel();
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
    }

    /// Waits until the next piece may go, under this limit: how long it is.
    fn await_leave(&self, link: &mut Link, limit: u64, rest: usize) -> Result<usize> {
        self.limit.set(limit);
        let len = self.limit.piece_len(self.guests().len(), PIECE_MAX).min(rest);
        if limit != 0 {
            link.flush(false)?;
            self.limit.acquire(len, &self.stop);
        }
        Ok(len)
    }

    fn enter(&self, session: [u8; 16]) -> Option<Place<'_>> {
        let mut guests = self.guests();
        let is_free = guests.iter().filter(|guest| **guest == session).count() < OF_ONE;
        (is_free && guests.len() < MEMBERS_MAX * OF_ONE).then(|| {
            guests.push(session);
            Place(self, session)
        })
    }

    fn receive(&self, socket: TcpStream, shared: &Shared<'_>) -> Result<()> {
        let door = Door {
            identity: Some(&self.identity),
            strangers: &self.strangers,
            cancel: &self.stop,
            progress: &Arc::default(),
            stall: STALL,
            paces: true,
            features: 0,
            digests: DigestKind::Blake3.bit(),
        };
        let Ok(Met { link, hello, .. }) = meet(socket, &door, self)? else { return Ok(()) };
        let Some(_place) = self.enter(hello.session) else { return Ok(()) };
        Serving { shared, link, relay: self, file: None }.run()
    }
}

impl Porter for Relay {
    fn token(&self, hello: &Hello) -> Option<Token> {
        let token = self.card.token_for(&hello.session);
        (token_id(&token) == hello.token_id).then_some(token)
    }

    fn admit(&self, _: &Hello) -> bool {
        true
    }
}

/// One peer's connection.
struct Serving<'a> {
    shared: &'a Shared<'a>,
    link: Link,
    relay: &'a Relay,
    /// The file that was read last, by its number.
    file: Option<(u32, File)>,
}

impl Serving<'_> {
    fn run(&mut self) -> Result<()> {
        while !self.relay.stop.is_cancelled() {
            if !self.link.poll(HEADER_LEN)? {
                continue;
            }
            let header = self.link.read_header()?;
            match header.kind {
                kind::WANT_PROVEN => self.tell_proven(header.value)?,
                kind::WANT => self.send_chunks(header.len as usize)?,
                _ => return Err(Error::Protocol("a question for a donor")),
            }
        }
        Ok(())
    }

    fn tell_proven(&mut self, from: u64) -> Result<()> {
        let chunks = self.shared.proven_since(from, WANT_MAX);
        let header = Header {
            value: from.saturating_add(chunks.len() as u64),
            len: chunks.len() as u32 * 4,
            ..Header::new(kind::PROVEN)
        };
        self.link.queue(&header.encode())?;
        chunks.iter().try_for_each(|chunk| self.link.queue(&chunk.to_le_bytes()))?;
        self.link.flush(false)
    }

    fn send_chunks(&mut self, len: usize) -> Result<()> {
        self.link.need(len)?;
        let chunks: Vec<u32> =
            self.link.received()[..len].as_chunks::<4>().0.iter().map(|bytes| le_u32(bytes)).collect();
        self.link.consume(len);
        chunks.into_iter().try_for_each(|chunk| self.send_chunk(chunk))?;
        self.link.flush(false)
    }

    fn send_chunk(&mut self, chunk: u32) -> Result<()> {
        let unknown = Error::Protocol("a question for a chunk that is not proven");
        let Some(digest) = self.shared.proven_digest(chunk) else { return Err(unknown) };
        let Some(place) = self.shared.manifest.locate(chunk) else { return Err(unknown) };
        let header = Header { chunk, value: u64::from(place.len), ..Header::new(kind::CHUNK) };
        self.link.queue(&header.encode())?;
        if self.file.as_ref().is_none_or(|(entry, _)| *entry != place.entry) {
            let entry = self.shared.manifest.entry(place.entry);
            self.file = Some((place.entry, self.shared.staging.open_to_read(&entry)?));
        }
        let Some((_, file)) = &self.file else { return Err(unknown) };
        let (mut sent, set) = (0, self.shared.options.throttle.bytes_per_s());
        while sent < place.len as usize {
            let len = self.relay.await_leave(&mut self.link, set, place.len as usize - sent)?;
            self.link.reserve(PIECE_HEADER_LEN + len)?;
            self.link.queue(&Piece::raw(len).encode())?;
            self.link.queue_with(len, |buffer| {
                let read = file.read_exact_at(buffer, place.offset + sent as u64);
                read.map_err(Error::network("read what was received"))
            })?;
            sent += len;
        }
        self.link.queue(&digest)
    }
}
