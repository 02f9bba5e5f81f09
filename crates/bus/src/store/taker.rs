//! The recipient's end: a local port whose connections lead to the donor's service.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_nats::jetstream::Message;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::bucket::{Way, consumer_of, stream_of};
use super::call::{Answer, BODY_MAX, Call, Kind, Verdict};
use super::channel::place_of;
use super::{CHUNK_BYTES, HEADER_AT, HEADER_END};
use crate::conn::{Bus, ConnState};
use crate::error::{BusError, Result};
use crate::streams;

/// Asked of the server at once, in bytes and messages; the next pull goes out when half of it is there.
const PULL_BYTES: usize = 16 << 20;
const PULL_MESSAGES: usize = 256;
const PULL_EXPIRES: Duration = Duration::from_secs(20);
const PULL_HEARTBEAT: Duration = Duration::from_secs(5);
/// Chunks that wait for a busy disk, per connection.
const QUEUE: usize = 8;
/// One call, and how long it is tried.
const CALL_LIMIT: Duration = Duration::from_secs(2);
const CALL_PATIENCE: Duration = Duration::from_secs(8);
/// Who connects tries again by itself, and should soon know when the donor is gone for good.
const OPEN_PATIENCE: Duration = Duration::from_secs(1);
const CALL_AGAIN: Duration = Duration::from_millis(50);
/// The donor is asked so often whether it still knows a connection on which nothing happens.
const STILL_THERE: Duration = Duration::from_secs(2);
/// The donor is told how far this end is after so many parts of the window.
const TELL_PARTS: u64 = 16;

/// A running recipient's end; dropping it stops it.
#[derive(Debug)]
pub struct Taker {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Taker {
    /// Opens a port on 127.0.0.1; what connects there reaches the donor's service, while there is one.
    ///
    /// The bus should be a connection of its own: a seed's data would delay everything else.
    pub async fn open(bus: Bus, way: Way) -> Result<Self> {
        let failed = |source| BusError::Local { action: "listen on 127.0.0.1", source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            requests: way.requests(),
            tell_bytes: way.window() / TELL_PARTS,
            way,
            bus,
            number: rand::random(),
            incoming: Mutex::default(),
            trouble: Mutex::default(),
        });
        tokio::spawn(accept(listener, Arc::clone(&shared), stop.clone()));
        tokio::spawn(take_in(Arc::clone(&shared), stop.clone()));
        Ok(Self { addr, shared, stop })
    }

    /// Why the last connection broke or was not carried, in words for people: who connected sees only that it ended. `None`
    /// while a later one is carried.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().clone()
    }

    /// Where to connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Debug)]
struct Shared {
    bus: Bus,
    way: Way,
    requests: String,
    tell_bytes: u64,
    number: u64,
    incoming: Mutex<HashMap<u64, Incoming>>,
    /// Why the last connection broke.
    trouble: Mutex<Option<String>>,
}

/// The direction from the donor of one connection.
#[derive(Debug)]
struct Incoming {
    queue: mpsc::Sender<Bytes>,
    /// Where the next chunk must begin.
    at: u64,
}

/// How much the local end has taken.
#[derive(Default)]
struct Taken {
    bytes: AtomicU64,
    more: Notify,
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => drop(tasks.spawn(carry(socket, Arc::clone(&shared)))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a local connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    shared.lock().clear();
    // Connections end by themselves when nothing comes in; the donor is told.
    while tokio::time::timeout(CALL_LIMIT, tasks.join_next()).await.is_ok_and(|next| next.is_some()) {}
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Incoming>> {
        self.incoming.lock()
    }

    fn note_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock() = trouble;
    }

    fn call(&self, kind: Kind, channel: u64) -> Call {
        Call { kind, last: false, taker: self.number, channel, at: 0, taken: 0, body: Bytes::new() }
    }

    /// Asks until there is an answer, or for too long.
    async fn ask(&self, call: &Call, patience: Duration) -> Result<Answer> {
        let until = Instant::now() + patience;
        loop {
            let answer = self.bus.request(self.requests.clone(), None, call.encode(), CALL_LIMIT).await;
            match answer {
                Ok(message) => {
                    return Answer::decode(&message.payload).ok_or_else(|| BusError::BadReply {
                        from: self.way.donor.to_string(),
                        why: "no answer of a donor's object store".to_owned(),
                    });
                }
                Err(error) if error.is_transient() && Instant::now() < until => {
                    tokio::time::sleep(CALL_AGAIN * 4).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Carries one local connection.
async fn carry(socket: TcpStream, shared: Arc<Shared>) {
    socket.set_nodelay(true).ok();
    // In the order of time, so that the objects' names are in sequence too.
    let seconds = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
    let channel = seconds << 32 | u64::from(rand::random::<u32>());
    let (queue, chunks) = mpsc::channel(QUEUE);
    shared.lock().insert(channel, Incoming { queue, at: 0 });
    let carried = async {
        let opened = shared.ask(&shared.call(Kind::Open, channel), OPEN_PATIENCE).await?;
        if opened.verdict != Verdict::Done {
            return Err(BusError::Refused { by: shared.way.donor.to_string(), why: opened.text });
        }
        shared.note_trouble(None);
        let (read, write) = socket.into_split();
        let taken = Taken::default();
        tokio::select! {
            () = write_down(write, chunks, &taken) => Ok(()),
            asked = pass_on(read, &shared, channel, &taken) => asked,
        }
    };
    if let Err(error) = carried.await {
        tracing::warn!(%error, "a connection through the object store broke");
        shared.note_trouble(Some(error.to_string()));
    }
    shared.lock().remove(&channel);
    // Until the donor has heard it: what nobody takes would fill its window.
    while shared.ask(&shared.call(Kind::Close, channel), CALL_PATIENCE).await.is_err_and(|e| e.is_transient())
    {
    }
}

/// What the donor says, to who connected. Ends when it has said all, when what it says is lost, or when nobody listens.
async fn write_down(mut local: OwnedWriteHalf, mut chunks: mpsc::Receiver<Bytes>, taken: &Taken) {
    while let Some(bytes) = chunks.recv().await {
        if local.write_all(&bytes).await.is_err() {
            return;
        }
        taken.bytes.fetch_add(bytes.len() as u64, Relaxed);
        taken.more.notify_one();
    }
    local.shutdown().await.ok();
}

/// What who connected says, to the donor, and how far this end is. Ends only by a failure.
async fn pass_on(mut local: OwnedReadHalf, shared: &Shared, channel: u64, taken: &Taken) -> Result<()> {
    let mut call = shared.call(Kind::Data, channel);
    let mut waiting = BytesMut::with_capacity(BODY_MAX);
    let mut ended = false;
    let mut ended_told = false;
    let mut said = Instant::now();
    loop {
        let nothing = waiting.is_empty() && ended == ended_told;
        tokio::select! {
            biased;
            read = read_some(&mut local, &mut waiting), if !ended && waiting.len() < BODY_MAX => {
                ended = !read;
            }
            () = taken.more.notified(), if nothing => {}
            () = std::future::ready(()), if !nothing => {}
            () = sleep_until(said + STILL_THERE) => {}
        }
        let now = taken.bytes.load(Relaxed);
        let nothing = waiting.is_empty() && ended == ended_told;
        if nothing && now < call.taken + shared.tell_bytes && said.elapsed() < STILL_THERE {
            continue;
        }
        call.taken = now;
        call.last = ended && waiting.len() <= BODY_MAX;
        call.body = Bytes::copy_from_slice(&waiting[..waiting.len().min(BODY_MAX)]);
        let answer = shared.ask(&call, CALL_PATIENCE).await?;
        said = Instant::now();
        if answer.verdict != Verdict::Done {
            return Err(BusError::Refused {
                by: shared.way.donor.to_string(),
                why: "it does not know the connection any more".to_owned(),
            });
        }
        let arrived = answer.received.saturating_sub(call.at).min(call.body.len() as u64);
        if arrived == 0 && !call.body.is_empty() {
            tokio::time::sleep(CALL_AGAIN).await;
        }
        call.at += arrived;
        let _ = waiting.split_to(arrived as usize);
        ended_told = ended && waiting.is_empty();
    }
}

/// Whether more may come.
async fn read_some(local: &mut OwnedReadHalf, buffer: &mut BytesMut) -> bool {
    local.read_buf(buffer).await.is_ok_and(|read| read > 0)
}

/// Takes from the bucket what comes, in its order, until `stop`.
async fn take_in(shared: Arc<Shared>, stop: CancellationToken) {
    let (stream, name) = (stream_of(&shared.way.donor), consumer_of(&shared.way.recipient));
    let mut state = shared.bus.state();
    loop {
        let connected = async {
            state.wait_for(|s| *s == ConnState::Connected).await.ok()?;
            let connects = shared.bus.connects();
            let consumer = streams::find_consumer(&shared.bus, &stream, &name).await.ok().flatten()?;
            Some((connects, consumer))
        };
        let found = tokio::select! {
            () = stop.cancelled() => return,
            found = connected => found,
        };
        if let Some((connects, consumer)) = found {
            let pull = consumer
                .stream()
                .max_messages_per_batch(PULL_MESSAGES)
                .max_bytes_per_batch(PULL_BYTES)
                .expires(PULL_EXPIRES)
                .heartbeat(PULL_HEARTBEAT);
            if let Ok(mut messages) = pull.messages().await {
                state.mark_unchanged();
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        changed = state.changed() => {
                            let same = shared.bus.connects() == connects && *state.borrow() == ConnState::Connected;
                            if changed.is_err() || !same { break }
                        }
                        message = messages.next() => match message {
                            Some(Ok(message)) => dispatch(&shared, message).await,
                            Some(Err(error)) => {
                                tracing::debug!(%error, "reading the bucket was interrupted");
                                break;
                            }
                            None => break,
                        }
                    }
                }
            }
        }
        // What was on its way is lost.
        shared.lock().clear();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CALL_AGAIN * 4) => {}
        }
    }
}

/// Gives a message to its connection. A gap breaks the connection, what came before is left out.
async fn dispatch(shared: &Shared, message: Message) {
    let header = |name| {
        message.headers.as_ref().and_then(|headers| headers.get(name)).map(async_nats::HeaderValue::as_str)
    };
    if let Some(ended) = header(HEADER_END).and_then(|text| u64::from_str_radix(text, 16).ok()) {
        shared.lock().remove(&ended);
        return;
    }
    let Some((channel, at)) = header(HEADER_AT).and_then(place_of) else { return };
    let queue = {
        let mut incoming = shared.lock();
        let Some(known) = incoming.get_mut(&channel) else { return };
        if at > known.at || message.payload.len() > CHUNK_BYTES {
            tracing::debug!(channel, at, expected = known.at, "a chunk is missing in the bucket");
            incoming.remove(&channel);
            return;
        }
        if at < known.at {
            return;
        }
        known.at += message.payload.len() as u64;
        known.queue.clone()
    };
    if queue.send(message.message.payload).await.is_err() {
        shared.lock().remove(&channel);
    }
}
