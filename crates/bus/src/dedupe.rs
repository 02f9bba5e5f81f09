//! Request ids that were served, with their replies: the same id again gets the same reply, also across a restart.
//!
//! A signed command can be captured and sent again until its deadline; so an entry lives as long as its deadline and a
//! margin for clocks, and is never pushed out by newer ones: when the cache is full, new changes are refused.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use protocol::ids::RequestId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::error::{BusError, Result};
use crate::frames;

/// Entries outlive their deadline by this much.
const MARGIN: Duration = Duration::from_secs(600);
/// The file may hold this many dead bytes, beyond as many as live ones, before it is written anew.
const SLACK_BYTES: usize = 1 << 20;

/// Bounds of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheLimits {
    /// Most entries; with more unexpired ones new changes are refused as busy.
    pub max_entries: usize,
    /// Most bytes of kept replies; likewise.
    pub max_bytes: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { max_entries: 50_000, max_bytes: 64 << 20 }
    }
}

/// Replies by request id, kept until the deadline and a margin, in a file that survives a crash.
#[derive(Debug)]
pub struct ReplyCache {
    path: PathBuf,
    limits: CacheLimits,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    entries: HashMap<RequestId, Entry>,
    reply_bytes: usize,
    file: File,
    file_bytes: usize,
    /// Half a frame may lie at the file's end: it would hide all that is written behind it.
    torn: bool,
}

#[derive(Debug)]
struct Entry {
    fingerprint: Fingerprint,
    keep_until: Timestamp,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Running(watch::Receiver<()>),
    Done(Bytes),
}

/// What makes two requests of one id the same: who asks for what. The deadline may differ, so that a client can ask
/// again for the reply that it missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(actor: &str, command: &str, params: &serde_json::Value) -> Self {
        let mut hash = Sha256::new();
        for part in [actor, command, &params.to_string()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

/// What to do with a request.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Run it, then finish the ticket.
    Run(Ticket),
    /// It ran; this is its reply.
    Known(Bytes),
    /// The id was used for something else.
    Conflict,
    /// No room for one more.
    Full,
}

/// The right to run a request. Dropped unfinished (a panic, a crash of the runner), the next one with this id runs.
#[derive(Debug)]
pub(crate) struct Ticket {
    id: RequestId,
    path: PathBuf,
    state: Arc<Mutex<State>>,
    finished: bool,
    _wake: watch::Sender<()>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    id: RequestId,
    fingerprint: Fingerprint,
    keep_until: Timestamp,
    reply: String,
}

impl ReplyCache {
    /// Opens or makes the file. A torn end is cut off; blocking.
    pub fn open(path: &Path, limits: CacheLimits) -> Result<Self> {
        let failed = |source| BusError::File { action: "open", path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let now = Timestamp::now();
        let mut entries = HashMap::new();
        for payload in frames::all(&bytes) {
            let Ok(record) = serde_json::from_slice::<Record>(payload) else { continue };
            if record.keep_until > now {
                entries.insert(
                    record.id,
                    Entry {
                        fingerprint: record.fingerprint,
                        keep_until: record.keep_until,
                        stage: Stage::Done(record.reply.into()),
                    },
                );
            }
        }
        let (file, file_bytes) = rewrite(path, &entries).map_err(failed)?;
        let reply_bytes = entries.values().map(Entry::bytes).sum();
        let state = State { entries, reply_bytes, file, file_bytes, torn: false };
        Ok(Self { path: path.to_owned(), limits, state: Arc::new(Mutex::new(state)) })
    }

    /// Number of requests remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.state).entries.len()
    }

    /// True when nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Decides on a request; waits while the same one runs.
    pub(crate) async fn admit(
        &self,
        id: RequestId,
        fingerprint: Fingerprint,
        deadline: Timestamp,
    ) -> Admission {
        loop {
            let mut running = {
                let mut state = lock(&self.state);
                match state.entries.get(&id) {
                    Some(entry) if entry.fingerprint != fingerprint => return Admission::Conflict,
                    Some(Entry { stage: Stage::Done(reply), .. }) => return Admission::Known(reply.clone()),
                    Some(Entry { stage: Stage::Running(end), .. }) => end.clone(),
                    None => return self.begin(&mut state, id, fingerprint, deadline),
                }
            };
            // Ends with the ticket, whether it was finished or dropped.
            running.changed().await.ok();
        }
    }

    fn begin(
        &self,
        state: &mut State,
        id: RequestId,
        fingerprint: Fingerprint,
        deadline: Timestamp,
    ) -> Admission {
        let full =
            |s: &State| s.entries.len() >= self.limits.max_entries || s.reply_bytes >= self.limits.max_bytes;
        if full(state) {
            state.forget_expired();
            if full(state) {
                return Admission::Full;
            }
        }
        let (wake, end) = watch::channel(());
        let keep_until = deadline.checked_add(MARGIN).unwrap_or(Timestamp::MAX);
        state.entries.insert(id, Entry { fingerprint, keep_until, stage: Stage::Running(end) });
        let (path, shared) = (self.path.clone(), self.state.clone());
        Admission::Run(Ticket { id, path, state: shared, finished: false, _wake: wake })
    }
}

impl Ticket {
    /// Keeps the reply on disk, then gives it to whoever waits for it.
    pub(crate) async fn finish(mut self, reply: Bytes) -> Result<()> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || {
            // The whole ticket moves in here: the closure must not take its fields one by one.
            let ticket = &mut self;
            let kept = lock(&ticket.state).keep(&ticket.path, ticket.id, &reply);
            ticket.finished = true;
            kept
        })
        .await
        .unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
        .map_err(|source| BusError::File { action: "append to", path, source })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.finished {
            lock(&self.state).entries.remove(&self.id);
        }
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        match &self.stage {
            Stage::Running(_) => 0,
            Stage::Done(reply) => reply.len(),
        }
    }
}

impl State {
    fn keep(&mut self, path: &Path, id: RequestId, reply: &Bytes) -> std::io::Result<()> {
        let Some(entry) = self.entries.get_mut(&id) else { return Ok(()) };
        let mut frame = Vec::new();
        push_record(&mut frame, id, entry.fingerprint, entry.keep_until, reply);
        entry.stage = Stage::Done(reply.clone());
        self.reply_bytes += reply.len();
        if self.torn {
            // What was not kept before is in it too.
            self.rewrite(path)?;
            return Ok(());
        }
        self.append(&frame)?;
        if self.file_bytes > SLACK_BYTES + 2 * (self.reply_bytes + 200 * self.entries.len()) {
            self.rewrite(path)?;
        }
        Ok(())
    }

    /// On a full disk the file ends where it did, or counts as torn until it was written anew.
    fn append(&mut self, frame: &[u8]) -> std::io::Result<()> {
        let written = self.file.write_all(frame).and_then(|()| self.file.sync_data());
        if written.is_ok() {
            self.file_bytes += frame.len();
        } else {
            self.torn = self.file.set_len(self.file_bytes as u64).is_err();
        }
        written
    }

    fn rewrite(&mut self, path: &Path) -> std::io::Result<()> {
        self.forget_expired();
        (self.file, self.file_bytes) = rewrite(path, &self.entries)?;
        self.torn = false;
        Ok(())
    }

    fn forget_expired(&mut self) {
        let now = Timestamp::now();
        self.entries.retain(|_, e| matches!(e.stage, Stage::Running(_)) || e.keep_until > now);
        self.reply_bytes = self.entries.values().map(Entry::bytes).sum();
    }
}

fn push_record(
    buffer: &mut Vec<u8>,
    id: RequestId,
    fingerprint: Fingerprint,
    keep_until: Timestamp,
    reply: &[u8],
) {
    let record = Record { id, fingerprint, keep_until, reply: String::from_utf8_lossy(reply).into_owned() };
    if let Ok(payload) = serde_json::to_vec(&record) {
        frames::push(buffer, &payload);
    }
}

fn rewrite(path: &Path, entries: &HashMap<RequestId, Entry>) -> std::io::Result<(File, usize)> {
    let mut content = Vec::new();
    for (id, entry) in entries {
        if let Stage::Done(reply) = &entry.stage {
            push_record(&mut content, *id, entry.fingerprint, entry.keep_until, reply);
        }
    }
    sys::file::write(path, &content, 0o600)?;
    let file = OpenOptions::new().append(true).mode(0o600).open(path)?;
    Ok((file, content.len()))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn soon() -> Timestamp {
        Timestamp::now().checked_add(Duration::from_secs(60)).unwrap()
    }

    fn print(text: &str) -> Fingerprint {
        Fingerprint::of("alice", "seed.start", &json!({"x": text}))
    }

    async fn run(cache: &ReplyCache, id: RequestId, reply: &'static str) {
        let Admission::Run(ticket) = cache.admit(id, print("a"), soon()).await else { panic!("not new") };
        ticket.finish(reply.into()).await.unwrap();
    }

    async fn known(cache: &ReplyCache, id: RequestId) -> Bytes {
        let Admission::Known(reply) = cache.admit(id, print("a"), soon()).await else { panic!("not known") };
        reply
    }

    #[tokio::test]
    async fn a_reply_is_kept_across_a_restart_and_a_torn_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replies");
        let id = RequestId::generate();
        let cache = ReplyCache::open(&path, CacheLimits::default()).unwrap();
        run(&cache, id, "first").await;
        assert_eq!(known(&cache, id).await, "first");
        drop(cache);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&[9, 0, 0, 0, 1]).unwrap();
        let cache = ReplyCache::open(&path, CacheLimits::default()).unwrap();
        assert_eq!(known(&cache, id).await, "first");
        assert!(matches!(cache.admit(id, print("b"), soon()).await, Admission::Conflict));
        let second = RequestId::generate();
        run(&cache, second, "second").await;
        drop(cache);
        let cache = ReplyCache::open(&path, CacheLimits::default()).unwrap();
        assert_eq!(known(&cache, second).await, "second");
    }

    /// A small file system of its own; absent without the right to mount one.
    struct Tiny(tempfile::TempDir);

    impl Tiny {
        fn mount() -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let mut mount = std::process::Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(dir.path());
            mount.status().is_ok_and(|status| status.success()).then_some(Self(dir))
        }
    }

    impl Drop for Tiny {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
        }
    }

    #[tokio::test]
    async fn what_comes_after_a_full_disk_is_remembered() {
        let Some(tiny) = Tiny::mount() else {
            testkit::skip!("no file system can be mounted here");
        };
        let path = tiny.0.path().join("replies");
        let cache = ReplyCache::open(&path, CacheLimits::default()).unwrap();
        run(&cache, RequestId::generate(), "before").await;
        let ballast = tiny.0.path().join("ballast");
        let mut filling = File::create(&ballast).unwrap();
        while filling.write_all(&[0; 512]).is_ok() {}
        let Admission::Run(ticket) = cache.admit(RequestId::generate(), print("a"), soon()).await else {
            panic!("not new")
        };
        ticket.finish(vec![b'x'; 9000].into()).await.unwrap_err();
        drop(filling);
        fs::remove_file(&ballast).unwrap();
        let id = RequestId::generate();
        run(&cache, id, "after").await;
        drop(cache);
        let cache = ReplyCache::open(&path, CacheLimits::default()).unwrap();
        assert_eq!(known(&cache, id).await, "after");
    }

    #[tokio::test]
    async fn a_double_waits_for_the_first_and_runs_when_it_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Arc::new(ReplyCache::open(&dir.path().join("r"), CacheLimits::default()).unwrap());
        let id = RequestId::generate();
        let Admission::Run(first) = cache.admit(id, print("a"), soon()).await else { panic!() };
        let double = tokio::spawn({
            let cache = cache.clone();
            async move { cache.admit(id, print("a"), soon()).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        let Admission::Run(second) = double.await.unwrap() else { panic!("must run") };
        let double = tokio::spawn({
            let cache = cache.clone();
            async move { known(&cache, id).await }
        });
        second.finish("done".into()).await.unwrap();
        assert_eq!(double.await.unwrap(), "done");
    }

    #[tokio::test]
    async fn a_full_cache_refuses_and_expired_entries_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let limits = CacheLimits { max_entries: 2, ..CacheLimits::default() };
        let cache = ReplyCache::open(&dir.path().join("r"), limits).unwrap();
        let long_ago = Timestamp::now().checked_sub(Duration::from_secs(7_200)).unwrap();
        run(&cache, RequestId::generate(), "x").await;
        let Admission::Run(old) = cache.admit(RequestId::generate(), print("a"), long_ago).await else {
            panic!()
        };
        old.finish("old".into()).await.unwrap();
        run(&cache, RequestId::generate(), "y").await;
        assert!(matches!(cache.admit(RequestId::generate(), print("a"), soon()).await, Admission::Full));
    }
}
