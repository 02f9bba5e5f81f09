//! The donor's end: serves one tree to who knows the token.
//!
//! One thread walks the tree and then watches over it, one accepts, and one serves each connection. The recipient decides
//! what it wants; the donor proves that what it sent was the snapshot: a file that is not as the manifest says, a read error, a
//! mount that is no longer the same, or a guard that says no, fails the seed on both ends with that cause.

mod circle;
mod inodes;
mod serve;
mod shelf;
mod since;
mod source;
mod state;

use std::net::{Shutdown, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::tls::Identity;
use crate::{
    BadPage, DigestKind, Error, Exclude, Fingerprint, Manifest, PagePolicy, Progress, Result, Throttle, Token,
};
use socket2::SockRef;
use source::Source;
use state::Shared;

/// Says whether the snapshot is still good. Asked while chunks move, and after the last read before "done".
pub trait SourceGuard: Send + Sync {
    /// `Err` with a message for people when the bytes read so far must not be trusted.
    fn prove(&self) -> Result<(), String>;
}

/// Always content: for trees that cannot become invalid.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGuard;

impl SourceGuard for NoGuard {
    fn prove(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Another tree that was given once, for the comparison with the one that is given now.
#[expect(missing_debug_implementations, reason = "holds a dyn Any")]
pub struct BaseTree {
    /// Where it lies, on the same file system.
    pub root: PathBuf,
    /// What of it stayed at home.
    pub exclude: Exclude,
    /// [`DonorReport::stamp`] of when it was given: it is believed only if nobody has written to it since.
    pub stamp: [u8; 32],
    /// Keeps it there; dropped when it has been compared.
    pub hold: Box<dyn std::any::Any + Send>,
}

/// Finds trees that were given before.
pub trait Bases: Send + Sync {
    /// The tree with this root digest.
    ///
    /// # Errors
    /// Why there is none, for people.
    fn find(&self, root_digest: &[u8; 32]) -> Result<BaseTree, String>;
}

/// How a donor offers its tree.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "holds a dyn SourceGuard")]
pub struct DonorOptions {
    /// The tree to serve, usually a mounted snapshot.
    pub root: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The secret that the recipient must know; good for one seed.
    pub token: Token,
    /// Encrypt with TLS 1.3. Plain TCP only when this is false and the recipient has no fingerprint either.
    pub tls: bool,
    /// The certificate to serve with, for an offer that is served again after a restart; `None` makes a new one.
    pub identity: Option<Arc<Identity>>,
    /// What stays at home.
    pub exclude: Exclude,
    /// The limit on bytes sent.
    pub throttle: Arc<Throttle>,
    /// Asked whether the snapshot is still good.
    pub source_guard: Arc<dyn SourceGuard>,
    /// How often it is asked while chunks move.
    pub guard_interval: Duration,
    /// Connections served at once; more are turned away.
    pub connections_max: usize,
    /// A connection on which nothing moves for this long is dropped.
    pub stall_timeout: Duration,
    /// The offer ends when no recipient is connected for this long.
    pub idle_timeout: Duration,
    /// Digests to agree to, best first.
    pub digests: Vec<DigestKind>,
    /// What to do about InnoDB pages with wrong checksums.
    pub pages: PagePolicy,
    /// Read from the disk only what nobody else wants to read at that moment, where its scheduler knows priorities.
    pub idle_io: bool,
    /// On a path of a long round trip, send by what the path delivers (bbr) rather than by what it loses, where the kernel lets us.
    pub pace_long_paths: bool,
    /// Whether to compress what travels, for recipients that ask for it.
    pub compression: bool,
    /// The trees that this one may be compared with, for recipients that have kept one; `None`: none.
    pub bases: Option<Arc<dyn Bases>>,
    /// Size of a chunk in bytes, a power of two of at least 256 KiB; `None` chooses by the size of the tree.
    pub chunk_size: Option<u32>,
}

impl DonorOptions {
    /// The usual offer of `root` to who knows `token`: TLS on a free port of all addresses.
    pub fn new(root: impl Into<PathBuf>, token: Token) -> Self {
        Self {
            root: root.into(),
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            token,
            tls: true,
            identity: None,
            exclude: Exclude::none(),
            throttle: Arc::default(),
            source_guard: Arc::new(NoGuard),
            guard_interval: Duration::from_secs(5),
            connections_max: 64,
            stall_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
            digests: vec![DigestKind::Xxh3, DigestKind::Blake3],
            pages: PagePolicy::Warn,
            idle_io: false,
            pace_long_paths: true,
            compression: true,
            bases: None,
            chunk_size: None,
        }
    }
}

/// What a donor has done when its seed is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DonorReport {
    /// Bytes put on sockets.
    pub bytes_sent: u64,
    /// Content of the tree, in bytes.
    pub bytes_total: u64,
    /// BLAKE3 over the manifest and all chunk digests, the same on both ends.
    pub root_digest: [u8; 32],
    /// Names the tree as it was before its first byte was read; see [`BuildReport::stamp`](crate::manifest::BuildReport::stamp).
    pub stamp: [u8; 32],
    /// How many InnoDB pages had wrong checksums.
    pub bad_pages: u64,
    /// The first of them, at most 100.
    pub bad_pages_shown: Vec<BadPage>,
}

/// How long a stop waits for recipients to hear of a failure.
const TELL_LIMIT: Duration = Duration::from_millis(500);

/// A running offer. Dropping it stops it.
#[derive(Debug)]
pub struct Donor {
    addr: SocketAddr,
    fingerprint: Option<Fingerprint>,
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Donor {
    /// Listens and begins to walk the tree; returns as soon as recipients may connect.
    pub fn start(options: DonorOptions) -> Result<Self> {
        if options.digests.is_empty() {
            return Err(Error::Options("digests must not be empty"));
        }
        let source = Source::open(&options.root)?;
        let identity = match (&options.identity, options.tls) {
            (_, false) => None,
            (Some(identity), true) => Some(Arc::clone(identity)),
            (None, true) => Some(Arc::new(Identity::generate()?)),
        };
        let fingerprint = identity.as_ref().map(|identity| identity.fingerprint);
        let listener =
            crate::link::listen(options.listen).map_err(Error::network("listen for recipients"))?;
        listener.set_nonblocking(true).map_err(Error::network("listen for recipients"))?;
        let listener = Arc::new(listener);
        let addr = listener.local_addr().map_err(Error::network("listen for recipients"))?;
        let shared = Arc::new(Shared::new(options, source, identity));
        let watcher = Arc::clone(&shared);
        let (acceptor, accepting) = (Arc::clone(&shared), Arc::clone(&listener));
        let threads = vec![
            spawn("donor-watch", move || watch(&watcher))?,
            spawn("donor-accept", move || serve::accept_all(&accepting, &acceptor))?,
        ];
        Ok(Self { addr, fingerprint, shared, listener, threads: Mutex::new(threads) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The certificate's fingerprint for the offer; `None` on plain TCP.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// Live counters.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.shared.progress)
    }

    /// Admits one more recipient of the same tree (fan-out), with a token of its own.
    pub fn add_token(&self, token: Token) {
        self.shared.add_token(token);
    }

    /// Waits until the tree is walked.
    pub fn wait_ready(&self) -> Result<Arc<Manifest>> {
        self.shared.wait_ready()
    }

    /// After a failure: goes on listening until a recipient has heard of it, for `limit` at the most. One that is
    /// in the middle of many bytes comes to it late, one whose connection broke asks again.
    pub fn tell(&self, limit: Duration) {
        if self.shared.failure().is_some() {
            self.shared.wait_told(limit);
        }
    }

    /// Ends the offer: closes all sockets and frees the tree in less than a second. [`Donor::wait`] gives `Cancelled`
    /// unless the seed was over before.
    pub fn stop(&self) {
        self.shared.fail(Error::Cancelled);
        if self.shared.failure().is_some() {
            // Recipients should hear why; a blocked one does not hold this up.
            self.shared.wait_connections_closed(Some(TELL_LIMIT));
        }
        self.close();
    }

    /// As [`Donor::stop`], of an offer that another process will serve again: recipients hear nothing, and come back.
    pub fn leave(&self) {
        self.shared.cancel.cancel();
        self.shared.fail(Error::Cancelled);
        self.close();
    }

    fn close(&self) {
        self.shared.cancel.cancel();
        // Wakes who waits for recipients to come.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
        self.shared.wait_connections_closed(None);
        // After the connections: one of them may have begun it.
        self.shared.wait_compared();
    }

    /// Waits until every admitted recipient has everything and agrees on it, or until the seed failed.
    ///
    /// The donor goes on listening until [`Donor::stop`], so that a recipient that died before it learned of the end, or must
    /// learn of a failure, can still ask.
    pub fn wait(&self) -> Result<DonorReport> {
        self.shared.wait()
    }
}

impl Drop for Donor {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map_err(Error::network("start a thread"))
}

/// Walks the tree, then asks from time to time whether it is still the one that was walked.
fn watch(shared: &Shared) {
    match crate::manifest::build(
        &shared.options.root,
        &shared.options.exclude,
        shared.options.chunk_size,
        &shared.cancel,
    ) {
        Ok((manifest, left_out)) => {
            tracing::info!(
                root = %shared.options.root.display(),
                files = manifest.files(),
                bytes = manifest.bytes_total(),
                excluded = left_out.excluded,
                special = left_out.special,
                "tree walked"
            );
            shared.set_stamp(left_out.stamp);
            shared.set_manifest(Arc::new(manifest));
        }
        Err(error) => {
            shared.fail(shared.cause_of(error));
            return;
        }
    }
    let mut next_guard = Instant::now() + shared.options.guard_interval;
    while !shared.cancel.sleep(Duration::from_millis(200)) && !shared.is_over() {
        shared.check_idle();
        if Instant::now() >= next_guard {
            if let Err(error) = shared.check_source() {
                tracing::warn!(error = %sys::error::line(&error), "the source is no longer good");
                shared.fail(error);
            }
            next_guard = Instant::now() + shared.options.guard_interval;
        }
    }
}
