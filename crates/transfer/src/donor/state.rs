//! What the donor's threads share: the tree, who may have it, and how it ended.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::circle::{Circle, Tree};
use super::source::Source;
use super::{DonorOptions, DonorReport};
use crate::digest::{ChunkDigest, DigestKind, DigestTable};
use crate::handshake::{Hello, token_id};
use crate::meeting::Porter;
use crate::progress::Phase;
use crate::strangers::Strangers;
use crate::tls::Identity;
use crate::{BadPage, Cancel, Error, Manifest, PagePolicy, Progress, Result, Token};

/// Bad pages named in the log and the report; the rest is only counted.
const BAD_PAGES_SHOWN: usize = 100;

pub(super) struct Shared {
    pub(super) options: DonorOptions,
    pub(super) source: Source,
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) progress: Arc<Progress>,
    pub(super) cancel: Arc<Cancel>,
    pub(super) strangers: Arc<Strangers>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held by who asks the guard for the cause of an error.
    asking: Mutex<()>,
    /// The thread that compares the tree with another.
    comparing: Mutex<Option<JoinHandle<()>>>,
    /// With the other recipients of this tree, once one of them hands on.
    circle: OnceLock<Arc<Circle>>,
}

/// A connection's place among those that are served; given back when dropped.
pub(super) struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[derive(Default)]
struct State {
    manifest: Option<Arc<Manifest>>,
    digests: Option<Digests>,
    sessions: HashMap<u64, Session>,
    connections: usize,
    idle_since: Option<Instant>,
    failure: Option<Failure>,
    /// A recipient has heard of the failure.
    told: bool,
    bad_pages: u64,
    bad_pages_shown: Vec<BadPage>,
    stamp: [u8; 32],
    /// The tree with this root digest was, or is being, compared with.
    since: Option<[u8; 32]>,
}

struct Failure {
    error: Option<Error>,
    text: Arc<str>,
}

/// What was read so far, by chunk.
struct Digests {
    kind: DigestKind,
    table: DigestTable,
}

/// One token, and what became of it.
struct Session {
    token: Token,
    /// The recipient that came with the token first: no other one is let in.
    recipient: Option<[u8; 16]>,
    root: Option<[u8; 32]>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("root", &self.options.root).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(options: DonorOptions, source: Source, identity: Option<Arc<Identity>>) -> Self {
        let token = options.token.clone();
        let shared = Self {
            options,
            source,
            identity,
            progress: Arc::default(),
            cancel: Arc::default(),
            strangers: Arc::default(),
            state: Mutex::new(State { idle_since: Some(Instant::now()), ..State::default() }),
            changed: Condvar::new(),
            asking: Mutex::default(),
            comparing: Mutex::default(),
            circle: OnceLock::new(),
        };
        shared.add_token(token);
        shared
    }

    pub(super) fn add_token(&self, token: Token) {
        let id = token_id(&token);
        self.lock().sessions.insert(id, Session { token, recipient: None, root: None });
    }

    /// Binds a token to the first recipient that proved to know it; `false` for any other. All recipients of one tree
    /// use the same digest.
    fn bind(&self, id: u64, recipient: [u8; 16], kind: DigestKind) -> bool {
        let mut state = self.lock();
        if state.digests.as_ref().is_some_and(|digests| digests.kind != kind) {
            return false;
        }
        let chunks = state.manifest.as_ref().map(|manifest| manifest.chunks());
        if state.digests.is_none() {
            let table = DigestTable::new(chunks.unwrap_or(0));
            state.digests = Some(Digests { kind, table });
        }
        let Some(session) = state.sessions.get_mut(&id) else { return false };
        *session.recipient.get_or_insert(recipient) == recipient
    }

    pub(super) fn set_stamp(&self, stamp: [u8; 32]) {
        self.lock().stamp = stamp;
    }

    /// Takes the manifest away, to be brought back by [`Shared::set_manifest`] as one of what differs from the tree with this root
    /// digest; `None` when that was done before, or others go by the manifest already.
    pub(super) fn lend_manifest(&self, root: [u8; 32]) -> Option<Arc<Manifest>> {
        let mut state = self.lock();
        let is_unread = state.digests.as_ref().is_none_or(|digests| digests.table.known_count() == 0);
        if state.since.is_some() || state.sessions.len() != 1 || !is_unread || self.circle.get().is_some() {
            return None;
        }
        let manifest = state.manifest.take()?;
        state.since = Some(root);
        Some(manifest)
    }

    pub(super) fn note_comparing(&self, thread: JoinHandle<()>) {
        *self.comparing.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// Waits until no file of another tree is open; soon where the donor is cancelled.
    pub(super) fn wait_compared(&self) {
        let thread = self.comparing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    pub(super) fn set_manifest(&self, manifest: Arc<Manifest>) {
        self.progress.set_totals(manifest.bytes_data(), manifest.files());
        self.progress.enter(Phase::Connecting);
        let mut state = self.lock();
        if let Some(digests) = &mut state.digests {
            digests.table = DigestTable::new(manifest.chunks());
        }
        state.manifest = Some(manifest);
        self.changed.notify_all();
    }

    /// The manifest if it is there within `patience`; `None` when the walk goes on.
    pub(super) fn manifest_within(&self, patience: Duration) -> Result<Option<Arc<Manifest>>> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            if let Some(failure) = &state.failure {
                return Err(Error::DonorFailed(failure.text.to_string()));
            }
            if let Some(manifest) = &state.manifest {
                return Ok(Some(Arc::clone(manifest)));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn wait_ready(&self) -> Result<Arc<Manifest>> {
        loop {
            if let Some(manifest) = self.manifest_within(Duration::from_secs(1))? {
                return Ok(manifest);
            }
        }
    }

    pub(super) fn note_digest(&self, chunk: u32, digest: ChunkDigest, len: u32) {
        let mut state = self.lock();
        if let Some(digests) = &mut state.digests
            && chunk < digests.table.len()
            && digests.table.set(chunk, digest)
        {
            self.progress.add_done(u64::from(len));
        }
        drop(state);
        if let Some(circle) = self.circle.get() {
            circle.note(chunk, digest);
        }
    }

    /// Where the recipients of this tree find one another.
    pub(super) fn circle(&self, manifest: &Manifest, digest: DigestKind) -> &Arc<Circle> {
        self.circle.get_or_init(|| {
            let tree = Tree { root: self.source.root(), manifest: *manifest.digest(), digest };
            Circle::of(tree, manifest.chunks())
        })
    }

    /// This recipient asks for these chunks.
    pub(super) fn note_asked(&self, chunks: impl Iterator<Item = u32>) {
        if let Some(circle) = self.circle.get() {
            chunks.for_each(|chunk| circle.note_asked(chunk));
        }
    }

    /// Tells the circle what was read before there was one.
    pub(super) fn tell_circle(&self, circle: &Circle) {
        if let Some(Digests { table, .. }) = &self.lock().digests {
            let known = (0..table.len()).filter_map(|chunk| Some((chunk, table.get(chunk)?)));
            known.for_each(|(chunk, digest)| circle.note(chunk, digest));
        }
    }

    /// Takes over what another donor has read of this chunk, of the same tree and in this process; `false` when none has.
    pub(super) fn take_over_read(&self, chunk: u32, len: u32) -> bool {
        let read = self.circle.get().and_then(|circle| circle.digest(chunk));
        if let Some(digest) = read {
            self.note_digest(chunk, digest, len);
        }
        read.is_some()
    }

    /// A page with a wrong checksum was read: under the policy to fail, that is the end.
    pub(super) fn note_bad_page(&self, path: &Path, page: u64) -> Result<()> {
        let path = path.to_owned();
        if self.options.pages == PagePolicy::Fail {
            return Err(Error::BadPage { path, page });
        }
        let mut state = self.lock();
        state.bad_pages += 1;
        if state.bad_pages_shown.len() < BAD_PAGES_SHOWN {
            tracing::warn!(file = %path.display(), page, "InnoDB page with a wrong checksum");
            state.bad_pages_shown.push(BadPage { path, page });
        }
        Ok(())
    }

    /// The next chunk from `from` on that no connection has read yet.
    pub(super) fn next_unread(&self, from: u32, manifest: &Manifest) -> Option<u32> {
        let state = self.lock();
        let digests = state.digests.as_ref()?;
        (from..manifest.chunks())
            .find(|&chunk| !digests.table.knows(chunk) && manifest.locate(chunk).is_some())
    }

    pub(super) fn root_digest(&self, manifest: &Manifest) -> Option<[u8; 32]> {
        self.lock().digests.as_ref().map(|digests| digests.table.root(manifest.digest()))
    }

    /// The seed with this token is proven.
    pub(super) fn finish(&self, id: u64, root: [u8; 32]) {
        let mut state = self.lock();
        if let Some(session) = state.sessions.get_mut(&id) {
            session.root = Some(root);
        }
        if state.sessions.values().all(|session| session.root.is_some()) {
            self.progress.enter(Phase::Done);
        }
        self.changed.notify_all();
    }

    /// Ends the seed on this side; the first cause is kept. What is over cannot fail.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.lock();
        let done =
            !state.sessions.is_empty() && state.sessions.values().all(|session| session.root.is_some());
        if state.failure.is_none() && !done {
            let text: Arc<str> = sys::error::line(&error).into();
            if let Some(circle) = self.circle.get().filter(|_| error.is_about_the_source()) {
                circle.spoil(&text);
            }
            state.failure = Some(Failure { error: Some(error), text });
        }
        self.changed.notify_all();
    }

    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.lock().failure.as_ref().map(|failure| Arc::clone(&failure.text))
    }

    pub(super) fn is_over(&self) -> bool {
        let state = self.lock();
        state.failure.is_some() || state.sessions.values().all(|session| session.root.is_some())
    }

    pub(super) fn wait(&self) -> Result<DonorReport> {
        let mut state = self.lock();
        loop {
            if let Some(failure) = &mut state.failure {
                let text = Arc::clone(&failure.text);
                return Err(failure.error.take().unwrap_or_else(|| Error::DonorFailed(text.to_string())));
            }
            if state.sessions.values().all(|session| session.root.is_some())
                && let Some(manifest) = &state.manifest
            {
                return Ok(DonorReport {
                    bytes_sent: self.progress.snapshot().bytes_wire,
                    bytes_total: manifest.bytes_total(),
                    stamp: state.stamp,
                    bad_pages: state.bad_pages,
                    bad_pages_shown: state.bad_pages_shown.clone(),
                    root_digest: state.sessions.values().find_map(|session| session.root).unwrap_or_default(),
                });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the guard is content, and the tree still the one that was walked. The guard comes first: it knows why a
    /// mount went away.
    pub(super) fn check_source(&self) -> Result<()> {
        self.options.source_guard.prove().map_err(Error::SourceInvalid)?;
        if let Some(why) = self.circle.get().and_then(|circle| circle.spoiled()) {
            return Err(Error::SourceInvalid(format!("another seed from this snapshot has found: {why}")));
        }
        self.source.check_identity()
    }

    /// The cause behind an error of this side's files. A snapshot that is lost gives I/O errors, or files that are not the
    /// ones it had, before the guard's next turn comes to say that it is lost.
    pub(super) fn cause_of(&self, error: Error) -> Error {
        if !error.is_about_files() {
            return error;
        }
        // All connections meet such an error at once, and a look at the snapshot may cost the host a process.
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = self.failure() {
            return Error::DonorFailed(text.to_string());
        }
        match self.check_source() {
            Ok(()) => error,
            Err(Error::SourceInvalid(reason)) => {
                let seen = sys::error::line(&error);
                Error::SourceInvalid(format!("{reason}; it was noticed when this failed: {seen}"))
            }
            Err(cause) => cause,
        }
    }

    /// Takes a place for a recipient's connection, if there is one.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut state = self.lock();
        if state.connections >= self.options.connections_max {
            return None;
        }
        state.connections += 1;
        Some(Place(Arc::clone(self)))
    }

    /// Connections that are served.
    pub(super) fn connections(&self) -> usize {
        self.lock().connections
    }

    fn leave(&self) {
        let mut state = self.lock();
        state.connections -= 1;
        if state.connections == 0 {
            // Strangers who come and go do not keep an unused offer alive.
            state.idle_since.get_or_insert_with(Instant::now);
        }
        self.changed.notify_all();
    }

    /// A recipient has proven itself: the offer is in use.
    pub(super) fn in_use(&self) {
        self.lock().idle_since = None;
    }

    pub(super) fn check_idle(&self) {
        let timeout = self.options.idle_timeout;
        let idle = self.lock().idle_since.is_some_and(|since| since.elapsed() >= timeout);
        if idle {
            self.fail(Error::RecipientGone { seconds: timeout.as_secs() });
        }
    }

    /// Waits until no connection is left, or `limit` is over.
    pub(super) fn note_told(&self) {
        self.lock().told = true;
        self.changed.notify_all();
    }

    /// Waits until a recipient has heard of the failure, on a connection that it had or on a new one.
    pub(super) fn wait_told(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while !state.told && !self.cancel.is_cancelled() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn wait_connections_closed(&self, limit: Option<Duration>) {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.lock();
        while state.connections > 0 {
            let left = deadline.map_or(Duration::from_secs(1), |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Porter for Shared {
    fn token(&self, hello: &Hello) -> Option<Token> {
        self.lock().sessions.get(&hello.token_id).map(|session| session.token.clone())
    }

    fn admit(&self, hello: &Hello) -> bool {
        self.bind(hello.token_id, hello.session, hello.digest)
    }
}
