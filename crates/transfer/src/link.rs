//! One connection between the two ends: plain or TLS, blocking, in fixed buffers.
//!
//! Sockets wake up every [`TICK`] so that a cancel, a stall or a keep-alive is never far away. Content is lent out of the
//! receive buffer and written from there; nothing is allocated after the connection stands.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, send};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::frame::{HEADER_LEN, Header, PIECE_MAX};
use crate::tls::{Opened, RECORD_LEN_MAX, Session, is_tick};
use crate::{Cancel, Error, Progress, Result};

/// How often a blocked socket looks up.
const TICK: Duration = Duration::from_millis(250);
/// Most bytes taken from the socket at once.
const RECEIVE_MAX: usize = 256 * 1024;
const INBOX_LEN: usize = RECEIVE_MAX + 2 * RECORD_LEN_MAX + 4096;
/// Frames are collected up to this much before they are sent.
const OUTBOX_LEN: usize = PIECE_MAX + 4096;
/// Send and receive buffers within one machine; more was slower there (it leaves the processor's cache). Real paths need the
/// kernel's own sizing.
const SOCKET_BUFFER: usize = 1 << 20;

/// Further bytes follow at once.
const MORE: MsgFlags = MsgFlags::from_bits_retain(libc::MSG_MORE);

/// A connection with buffers on both directions.
pub(crate) struct Link {
    socket: Arc<TcpStream>,
    stall: Duration,
    /// All that is waited for must have come and gone by then.
    deadline: Option<Instant>,
    progress: Arc<Progress>,
    inbox: Inbox,
    /// Collected and not yet sent: the first `outbox_len` bytes. Never cleared in between, which would cost as much as a copy.
    outbox: Box<[u8]>,
    outbox_len: usize,
    tls: Option<Session>,
    /// What travels of the outbox, with TLS.
    sealed: Box<[u8]>,
}

/// The receive buffer: content ready to be read at `start..end`. With TLS the first `wire_len` bytes of `wire` are records that
/// are not opened yet.
struct Inbox {
    content: Box<[u8]>,
    start: usize,
    end: usize,
    wire: Box<[u8]>,
    wire_len: usize,
}

impl Link {
    /// Wraps a connected socket that [`tune`] has seen. `stall`: how long nothing may move.
    pub(crate) fn new(
        socket: Arc<TcpStream>,
        tls: Option<Session>,
        stall: Duration,
        progress: Arc<Progress>,
    ) -> Self {
        let buffer = |len: usize| vec![0; len].into_boxed_slice();
        let only_tls = |len: usize| buffer(if tls.is_some() { len } else { 0 });
        Self {
            socket,
            stall,
            deadline: None,
            progress,
            inbox: Inbox {
                content: buffer(INBOX_LEN),
                start: 0,
                end: 0,
                wire: only_tls(RECEIVE_MAX + RECORD_LEN_MAX),
                wire_len: 0,
            },
            outbox: buffer(OUTBOX_LEN),
            outbox_len: 0,
            sealed: only_tls(Session::sealed_len(OUTBOX_LEN)),
            tls,
        }
    }

    /// Changes how long nothing may move.
    pub(crate) fn set_stall(&mut self, stall: Duration) {
        self.stall = stall;
    }

    /// Sets a moment by which everything must have moved, whatever does move until then; `None` lifts it.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    fn check_deadline(&self) -> Result<()> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => {
                Err(Error::Stalled { seconds: self.stall.as_secs(), last: None })
            }
            _ => Ok(()),
        }
    }

    /// Content received and not yet consumed.
    pub(crate) fn received(&self) -> &[u8] {
        &self.inbox.content[self.inbox.start..self.inbox.end]
    }

    pub(crate) fn consume(&mut self, len: usize) {
        self.inbox.start += len;
        debug_assert!(self.inbox.start <= self.inbox.end);
    }

    /// Waits until at least `len` bytes of content are there; `len` must be far below the buffer's size.
    pub(crate) fn need(&mut self, len: usize) -> Result<()> {
        // Counted from the first empty wait: time that the caller spent elsewhere is no silence of the other end.
        let mut silent_since = None;
        while self.inbox.end - self.inbox.start < len {
            self.check_deadline()?;
            if self.receive_once()? {
                silent_since = None;
            } else if silent_since.get_or_insert_with(Instant::now).elapsed() >= self.stall {
                return Err(Error::Stalled { seconds: self.stall.as_secs(), last: None });
            }
        }
        Ok(())
    }

    /// As [`Link::need`], but gives up with `false` after one poll interval without a byte, however long that lasts in all.
    pub(crate) fn poll(&mut self, len: usize) -> Result<bool> {
        while self.inbox.end - self.inbox.start < len {
            if !self.receive_once()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether `len` bytes can be had without waiting.
    pub(crate) fn has_ready(&mut self, len: usize) -> Result<bool> {
        if self.inbox.end - self.inbox.start >= len {
            return Ok(true);
        }
        let mut probe = [0; 1];
        let waiting = nix::sys::socket::recv(
            self.socket.as_raw_fd(),
            &mut probe,
            MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT,
        );
        match waiting {
            Ok(0) | Err(_) => Ok(false),
            Ok(_) => self.poll(len),
        }
    }

    /// The next frame's header.
    pub(crate) fn read_header(&mut self) -> Result<Header> {
        self.need(HEADER_LEN)?;
        Header::decode(&self.take_array()?)
    }

    /// The next `N` bytes.
    pub(crate) fn take_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.need(N)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.received()[..N]);
        self.consume(N);
        Ok(out)
    }

    /// One `recv`, and what can be made of it. `false`: nothing came within the poll interval.
    fn receive_once(&mut self) -> Result<bool> {
        self.inbox.compact();
        let room = if self.tls.is_some() { self.inbox.wire_room() } else { self.inbox.room() };
        match (&*self.socket).read(room) {
            Ok(0) => Err(Error::network("receive: the other end closed the connection")(
                io::ErrorKind::UnexpectedEof.into(),
            )),
            Ok(len) => {
                self.progress.heard(len as u64);
                match &mut self.tls {
                    Some(session) => self.inbox.open(session, len)?,
                    None => self.inbox.end += len,
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) if is_tick(&error) => {
                self.progress.heard_nothing();
                Ok(false)
            }
            Err(error) => Err(Error::network("receive")(error)),
        }
    }

    /// Collects bytes to send.
    pub(crate) fn queue(&mut self, bytes: &[u8]) -> Result<()> {
        if self.outbox_len + bytes.len() > OUTBOX_LEN {
            self.flush(true)?;
        }
        self.outbox[self.outbox_len..][..bytes.len()].copy_from_slice(bytes);
        self.outbox_len += bytes.len();
        Ok(())
    }

    /// Makes sure that `len` bytes can be collected without sending in between.
    pub(crate) fn reserve(&mut self, len: usize) -> Result<()> {
        if self.outbox_len + len > OUTBOX_LEN { self.flush(true) } else { Ok(()) }
    }

    /// Takes back the last `len` collected bytes.
    pub(crate) fn unqueue(&mut self, len: usize) {
        self.outbox_len = self.outbox_len.saturating_sub(len);
    }

    /// Collects `len` bytes that `fill` writes straight into the send buffer; `len` is at most [`PIECE_MAX`].
    pub(crate) fn queue_with<T>(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<T>,
    ) -> Result<T> {
        if self.outbox_len + len > OUTBOX_LEN {
            self.flush(true)?;
        }
        let filled = fill(&mut self.outbox[self.outbox_len..][..len]);
        if filled.is_ok() {
            self.outbox_len += len;
        }
        filled
    }

    /// Sends what is collected. `more`: further bytes follow at once, so that the kernel may wait for them.
    pub(crate) fn flush(&mut self, more: bool) -> Result<()> {
        let collected = &self.outbox[..self.outbox_len];
        if collected.is_empty() {
            return Ok(());
        }
        let bytes = match &mut self.tls {
            Some(session) => {
                let inbox = &mut self.inbox;
                let len = session.seal(collected, &mut inbox.wire[..inbox.wire_len], &mut self.sealed)?;
                &self.sealed[..len]
            }
            None => collected,
        };
        let flags = MsgFlags::MSG_NOSIGNAL | if more { MORE } else { MsgFlags::empty() };
        let mut sent = 0;
        let mut last_moved = Instant::now();
        while sent < bytes.len() {
            match send(self.socket.as_raw_fd(), &bytes[sent..], flags) {
                Ok(len) => {
                    sent += len;
                    last_moved = Instant::now();
                }
                Err(errno) => {
                    self.check_deadline()?;
                    may_wait(errno, last_moved, self.stall)?;
                }
            }
        }
        self.progress.add_wire(bytes.len() as u64);
        self.outbox_len = 0;
        Ok(())
    }

    /// Closes both directions; what is buffered is lost.
    pub(crate) fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Says that nothing more will be sent, and waits a moment for the other end to have read everything: closing
    /// with unread bytes would reset the connection and could destroy the last message.
    pub(crate) fn close_gently(&mut self, patience: Duration) -> bool {
        let mut heard = false;
        let _ = self.flush(false);
        let _ = self.socket.shutdown(Shutdown::Write);
        let deadline = Instant::now() + patience;
        let mut sink = [0; 4096];
        while Instant::now() < deadline {
            match (&*self.socket).read(&mut sink) {
                Ok(0) => {
                    heard = true;
                    break;
                }
                Ok(_) => {}
                Err(error) if is_tick(&error) => {}
                Err(_) => break,
            }
        }
        self.close();
        heard
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inbox {
    /// Makes room at the end by moving what is left to the front.
    fn compact(&mut self) {
        if self.start > 0 {
            self.content.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Where content may come to.
    fn room(&mut self) -> &mut [u8] {
        let room = &mut self.content[self.end..];
        let len = room.len().min(RECEIVE_MAX);
        &mut room[..len]
    }

    /// Where records may come to: as many as there is room for their content.
    fn wire_room(&mut self) -> &mut [u8] {
        let most = (self.content.len() - self.end - self.wire_len).min(RECEIVE_MAX);
        let room = &mut self.wire[self.wire_len..];
        let len = room.len().min(most);
        &mut room[..len]
    }

    /// Turns records into content, after `received` more bytes of them.
    fn open(&mut self, session: &mut Session, received: usize) -> Result<()> {
        self.wire_len += received;
        let mut at = 0;
        while at < self.wire_len {
            match session.open(&mut self.wire[at..self.wire_len], &mut self.content[self.end..])? {
                Opened::Content { content, wire } => {
                    self.end += content;
                    at += wire;
                }
                Opened::Partial => break,
                Opened::Closed => {
                    return Err(Error::network("receive: the other end closed the connection")(
                        io::ErrorKind::UnexpectedEof.into(),
                    ));
                }
            }
        }
        self.wire.copy_within(at..self.wire_len, 0);
        self.wire_len -= at;
        Ok(())
    }
}

/// Decides whether a failed send may be tried again.
fn may_wait(errno: nix::errno::Errno, last_moved: Instant, stall: Duration) -> Result<()> {
    use nix::errno::Errno;
    match errno {
        Errno::EINTR => Ok(()),
        Errno::EAGAIN if last_moved.elapsed() < stall => Ok(()),
        Errno::EAGAIN => Err(Error::Stalled { seconds: stall.as_secs(), last: None }),
        other => Err(Error::network("send")(other.into())),
    }
}

/// Connects within `timeout` and prepares the socket.
pub(crate) fn dial(
    addr: SocketAddr,
    timeout: Duration,
    stall: Duration,
    cancel: &Cancel,
) -> Result<Arc<TcpStream>> {
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let bad = Error::network;
    let what = "connect to the donor";
    let raw = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP)).map_err(bad(what))?;
    if addr.ip().to_canonical().is_loopback() {
        spare_pacing(&raw);
    }
    raw.connect_timeout(&addr.into(), timeout).map_err(bad(what))?;
    let socket = Arc::new(TcpStream::from(raw));
    cancel.watch(&socket);
    tune(&socket, stall)?;
    Ok(socket)
}

/// Sets a socket up for bulk data.
pub(crate) fn tune(socket: &TcpStream, stall: Duration) -> Result<()> {
    let bad = Error::network("set up the socket");
    let set = || -> io::Result<()> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(Some(TICK))?;
        let raw = SockRef::from(socket);
        raw.set_tcp_keepalive(
            &TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2)),
        )?;
        raw.set_tcp_user_timeout(Some(stall))?;
        Ok(())
    };
    set().map_err(bad)?;
    if is_local(socket) {
        let raw = SockRef::from(socket);
        let _ = raw.set_send_buffer_size(SOCKET_BUFFER);
        let _ = raw.set_recv_buffer_size(SOCKET_BUFFER);
    }
    Ok(())
}

/// Whether both ends are on this machine.
fn is_local(socket: &TcpStream) -> bool {
    match (socket.peer_addr(), socket.local_addr()) {
        (Ok(peer), Ok(local)) => peer.ip().to_canonical().is_loopback() || peer.ip() == local.ip(),
        _ => false,
    }
}

/// Waits a moment for somebody to connect.
pub(crate) fn wait_readable(listener: &TcpListener) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd as _;
    let _ = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::from(200_u8));
}

/// Listens at `addr`.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let raw = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    raw.set_reuse_address(true)?;
    if addr.ip().to_canonical().is_loopback() {
        spare_pacing(&raw);
    }
    raw.bind(&addr.into())?;
    raw.listen(128)?;
    Ok(raw.into())
}

/// Within one machine, pacing (bbr) only costs: a timer and a wakeup for every few segments. A connection that began with it is
/// paced for ever, so this comes before it begins. Best effort.
fn spare_pacing(socket: &Socket) {
    let _ = socket.set_tcp_congestion(b"cubic");
}

/// From this round trip on a path is long.
const LONG_PATH: Duration = Duration::from_millis(5);

/// On a long path a lost packet costs cubic half of its window, which it regains over seconds: what sends there paces itself by
/// what the path delivers (bbr), where the kernel has that and lets us (`tcp_available_congestion_control` and
/// `tcp_allowed_congestion_control`, tcp(7)). Whether it does so now.
pub(crate) fn suit_path(socket: &TcpStream) -> bool {
    crate::kernel::round_trip(socket).is_some_and(|rtt| rtt >= LONG_PATH)
        && SockRef::from(socket).set_tcp_congestion(b"bbr").is_ok()
}

/// A socket as a plain reader and writer, for the TLS handshake.
pub(crate) struct Bare<'a>(pub(crate) &'a TcpStream);

impl Read for Bare<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Bare<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
