//! The donor's end: opens connections to the local service for the recipient and keeps the window.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::bucket::{Way, bucket_of, fresh, purge, remove_bucket, stream_of};
use super::call::{Answer, Call, Kind};
use super::channel::{FromRecipient, Upload, hand_over};
use super::ledger::Ledger;
use crate::conn::{Bus, ConnState};
use crate::error::Result;

/// Connections carried at once.
const CHANNELS_MAX: usize = 64;
/// Parts of a question that wait for a busy service.
const QUEUE: usize = 64;
/// A recipient that does not take the last words within this is gone.
const LAST_WORDS: Duration = Duration::from_secs(10);
const SERVICE_LIMIT: Duration = Duration::from_secs(5);

/// A running donor's end. Dropping it stops it and leaves the bucket; [`Giver::close`] removes that too.
#[derive(Debug)]
pub struct Giver {
    bus: Bus,
    way: Way,
    stop: CancellationToken,
    last: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Giver {
    /// Has the bucket there, empty, and serves the recipient's connections to `service` from now on.
    ///
    /// The bus should be a connection of its own: a seed's data would delay everything else.
    pub async fn open(bus: Bus, way: Way, service: SocketAddr) -> Result<Self> {
        let connects = bus.connects();
        let next = fresh(&bus, &way).await?;
        let calls = bus.subscribe(way.requests()).await?;
        let ledger = Arc::new(Ledger::new(way.window()));
        ledger.restart(next);
        let (stop, last) = (CancellationToken::new(), CancellationToken::new());
        let (broken, breaks) = mpsc::channel(1);
        let serving = Serving {
            bus: bus.clone(),
            way: way.clone(),
            service,
            ledger,
            taker: None,
            channels: HashMap::new(),
            tasks: JoinSet::new(),
            is_fresh: true,
            connects,
            broken,
        };
        let task = tokio::spawn(serving.run(calls, breaks, stop.clone(), last.clone()));
        Ok(Self { bus, way, stop, last, task: Some(task) })
    }

    /// Lets the recipient take the last words of connections that the service has ended, then stops and removes the bucket.
    pub async fn close(mut self) -> Result<()> {
        self.last.cancel();
        if let Some(task) = self.task.take() {
            task.await.ok();
        }
        remove_bucket(&self.bus, &self.way.donor).await.map(drop)
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One connection that is carried.
struct Channel {
    queue: mpsc::Sender<FromRecipient>,
    received: u64,
    stop: CancellationToken,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Serving {
    bus: Bus,
    way: Way,
    service: SocketAddr,
    ledger: Arc<Ledger>,
    taker: Option<u64>,
    channels: HashMap<u64, Channel>,
    tasks: JoinSet<()>,
    /// The bucket holds nothing but what this process has stored, without a gap.
    is_fresh: bool,
    /// The connection to the server with which that is so.
    connects: u64,
    broken: mpsc::Sender<u64>,
}

impl Serving {
    async fn run(
        mut self,
        mut calls: Subscriber,
        mut breaks: mpsc::Receiver<u64>,
        stop: CancellationToken,
        last: CancellationToken,
    ) {
        let mut state = self.bus.state();
        let cleaning = tokio::spawn(remove_taken(
            self.bus.clone(),
            stream_of(&self.way.donor),
            Arc::clone(&self.ledger),
            self.broken.clone(),
            stop.clone(),
        ));
        let mut until = None;
        while until.is_none() || !self.channels.is_empty() {
            tokio::select! {
                () = stop.cancelled() => break,
                () = last.cancelled(), if until.is_none() => until = Some(Instant::now() + LAST_WORDS),
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
                Some(era) = breaks.recv() => if era == self.ledger.era() { self.start_over() },
                changed = state.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    if *state.borrow_and_update() != ConnState::Connected || self.reconnected() {
                        self.start_over();
                    }
                }
                Some(_) = self.tasks.join_next() => {}
                call = calls.next() => {
                    let Some(message) = call else { break };
                    let Some(reply) = message.reply else { continue };
                    let answer = match Call::decode(&message.payload) {
                        Some(call) => self.answer(call).await,
                        None => continue,
                    };
                    let sending = self.bus.client().publish(reply, answer.encode());
                    tokio::time::timeout(SERVICE_LIMIT, sending).await.ok();
                }
            }
        }
        self.channels.clear();
        self.tasks.shutdown().await;
        cleaning.abort();
    }

    /// Breaks all connections: something of them may be lost. The bucket is emptied before the next one begins.
    fn start_over(&mut self) {
        self.channels.clear();
        self.is_fresh = false;
    }

    /// Whether the server that answers now may be another one, or may have forgotten, since the last look.
    fn reconnected(&mut self) -> bool {
        let before = std::mem::replace(&mut self.connects, self.bus.connects());
        before != self.connects
    }

    async fn answer(&mut self, call: Call) -> Answer {
        if self.reconnected() {
            self.start_over();
        }
        if self.taker != Some(call.taker) {
            if call.kind != Kind::Open {
                return Answer::unknown();
            }
            self.start_over();
            self.taker = Some(call.taker);
        }
        if call.kind == Kind::Open && !self.channels.contains_key(&call.channel) {
            return self.open(call.channel).await;
        }
        let Some(channel) = self.channels.get_mut(&call.channel) else {
            return Answer::unknown();
        };
        match call.kind {
            Kind::Open => {}
            Kind::Close => {
                self.channels.remove(&call.channel);
                self.ledger.over(call.channel);
                return Answer::done(0);
            }
            Kind::Data => {
                self.ledger.took(call.channel, call.taken);
                let known = usize::try_from(channel.received.saturating_sub(call.at)).unwrap_or(usize::MAX);
                if call.at <= channel.received && known <= call.body.len() {
                    let bytes = call.body.slice(known..);
                    let len = bytes.len() as u64;
                    let from = FromRecipient { bytes, last: call.last };
                    // A full queue takes nothing; the recipient asks again.
                    if (len > 0 || call.last) && channel.queue.try_send(from).is_ok() {
                        channel.received += len;
                    }
                }
            }
        }
        Answer::done(channel.received)
    }

    async fn open(&mut self, number: u64) -> Answer {
        if self.channels.len() >= CHANNELS_MAX {
            return Answer::refused("too many connections".to_owned());
        }
        if !self.is_fresh {
            self.tasks.shutdown().await;
            match fresh(&self.bus, &self.way).await {
                Ok(next) => self.ledger.restart(next),
                Err(error) => return Answer::refused(error.to_string()),
            }
            self.is_fresh = true;
        }
        let connecting = tokio::time::timeout(SERVICE_LIMIT, TcpStream::connect(self.service)).await;
        let Ok(Ok(service)) = connecting else {
            return Answer::refused("the donor's service does not answer".to_owned());
        };
        service.set_nodelay(true).ok();
        let (read, write) = service.into_split();
        let (queue, waiting) = mpsc::channel(QUEUE);
        let stop = CancellationToken::new();
        let bucket = bucket_of(&self.way.donor);
        let upload = Upload::new(self.bus.clone(), Arc::clone(&self.ledger), bucket, number, stop.clone());
        let (broken, era) = (self.broken.clone(), self.ledger.era());
        let stopped = stop.clone();
        self.tasks.spawn(async move {
            let handing = stopped.run_until_cancelled_owned(hand_over(write, waiting));
            let (_, result) = tokio::join!(handing, upload.run(read));
            if let Err(error) = result {
                tracing::debug!(%error, "a connection through the object store broke");
                broken.send(era).await.ok();
            }
        });
        self.channels.insert(number, Channel { queue, received: 0, stop });
        Answer::done(0)
    }
}

/// Removes what the recipient has taken, while the next is on its way.
async fn remove_taken(
    bus: Bus,
    stream: String,
    ledger: Arc<Ledger>,
    broken: mpsc::Sender<u64>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = ledger.taken.notified() => {}
        }
        while let Some(removable) = ledger.removable() {
            match purge(&bus, &stream, Some(removable.before)).await {
                Ok(()) => ledger.removed(&removable),
                Err(error) => {
                    tracing::debug!(%error, "taken segments could not be removed");
                    broken.send(removable.era).await.ok();
                    break;
                }
            }
        }
    }
}
