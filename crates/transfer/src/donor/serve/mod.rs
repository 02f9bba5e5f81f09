//! Serves one connection: the handshake, then answers in the order of the questions.

mod chunk;
mod introduce;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::compress::{self, Packer};
use crate::digest::{ChunkHasher, DigestKind};
use crate::donor::circle::Membership;
use crate::donor::shelf::Reader;
use crate::donor::source::SourceFile;
use crate::donor::state::Shared;
use crate::donor::{since, spawn};
use crate::frame::{HEADER_LEN, Header, PIECE_MAX, Piece, PieceKind, bounded_text, kind, le_u32, shown_text};
use crate::handshake::{CIRCLES, COMPARES, prove_root};
use crate::link::{Link, wait_readable};
use crate::manifest::ChunkPlace;
use crate::meeting::{self, Door, Met};
use crate::progress::Phase;
use crate::{Error, Manifest, PagePolicy, Result, Token, kernel};

/// A sign of life at least this often.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Most chunks asked for and not yet answered on one connection.
const PENDING_MAX: usize = 64 * 1024;
/// The same for chunks asked for as a difference: each holds memory.
const DELTA_PENDING_MAX: usize = 1024;
/// Further questions are read when fewer are left.
const PENDING_LOW: usize = 64;

/// Accepts until the donor is stopped.
pub(super) fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.cancel.is_cancelled() {
        match listener.accept() {
            Ok((socket, peer)) => {
                let served = Arc::clone(shared);
                let thread = spawn("donor-serve", move || receive(socket, peer, &served));
                if let Err(error) = thread {
                    tell_of_stranger(shared, peer, &sys::error::line(&error));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                wait_readable(listener);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                shared.cancel.sleep(Duration::from_millis(100));
            }
        }
    }
}

/// One connection, from its first byte to its last.
fn receive(socket: TcpStream, peer: SocketAddr, shared: &Arc<Shared>) {
    let is_of_no_concern = || shared.cancel.is_cancelled() || shared.is_over();
    let (link, guest) = match meet(socket, peer, shared) {
        Ok(Some(met)) => met,
        Ok(None) => return,
        Err(error) if is_of_no_concern() => return drop(error),
        Err(error) if error.is_hangup() => {
            return tracing::debug!(%peer, "somebody came and left without a word");
        }
        Err(error) => return tell_of_stranger(shared, peer, &sys::error::line(&error)),
    };
    let Some(_place) = shared.enter() else {
        tracing::warn!(%peer, "connection turned away: too many");
        return;
    };
    if let Err(error) = serve(link, guest, shared)
        && !is_of_no_concern()
    {
        tracing::warn!(%peer, error = %sys::error::line(&error), "connection dropped");
    }
}

/// Anybody can make these lines: they are written at a bounded rate.
fn tell_of_stranger(shared: &Shared, peer: SocketAddr, error: &str) {
    if let Some(untold) = shared.strangers.may_tell() {
        tracing::warn!(%peer, error, untold, "a connection that had proven nothing was dropped");
    }
}

/// The handshake with whoever it is; `None` when it was refused and told so.
fn meet(socket: TcpStream, peer: SocketAddr, shared: &Arc<Shared>) -> Result<Option<(Link, Guest)>> {
    let options = &shared.options;
    let digests = options.digests.iter().fold(0, |set, kind| set | kind.bit());
    let packing = if options.compression { compress::FEATURES } else { 0 };
    // What one hands on to another is proven by a digest that nobody can forge, and their tokens are not for others' eyes.
    let introduces = shared.identity.is_some() && digests & DigestKind::Blake3.bit() != 0;
    let door = Door {
        identity: shared.identity.as_ref(),
        strangers: &shared.strangers,
        cancel: &shared.cancel,
        progress: &shared.progress,
        stall: options.stall_timeout,
        paces: options.pace_long_paths,
        features: packing
            | if introduces { CIRCLES } else { 0 }
            | if options.bases.is_some() { COMPARES } else { 0 },
        digests,
    };
    let Met { link, hello, token } = match meeting::meet(socket, &door, &**shared)? {
        Ok(met) => met,
        Err(verdict) => {
            tell_of_stranger(shared, peer, &format!("refused: {verdict:?}"));
            return Ok(None);
        }
    };
    let guest = Guest {
        peer,
        token,
        token_id: hello.token_id,
        session: hello.session,
        digest: hello.digest,
        packer: Packer::new(hello.features & packing)?,
    };
    Ok(Some((link, guest)))
}

/// Answers a recipient that has proven itself.
fn serve(link: Link, guest: Guest, shared: &Arc<Shared>) -> Result<()> {
    if shared.options.idle_io {
        kernel::read_when_idle();
    }
    shared.in_use();
    shared.progress.connection_opened();
    let mut serving = Serving {
        link,
        shared,
        hasher: ChunkHasher::new(guest.digest),
        reader: shared.source.reader(guest.session),
        guest,
        manifest: None,
        pending: VecDeque::new(),
        file: None,
        scratch: vec![0; PIECE_MAX].into(),
        in_chunk: false,
        membership: None,
    };
    let served = serving.run();
    shared.progress.connection_closed();
    if let Err(error) = served {
        return serving.end(error);
    }
    Ok(())
}

/// A recipient that has proven to know a token.
struct Guest {
    peer: SocketAddr,
    token: Token,
    token_id: u64,
    session: [u8; 16],
    digest: DigestKind,
    packer: Option<Packer>,
}

/// A chunk that was asked for, whole or as the difference to blocks with these digests.
struct Wanted {
    chunk: u32,
    blocks: Option<Box<[u8]>>,
}

struct Serving<'a> {
    link: Link,
    shared: &'a Arc<Shared>,
    guest: Guest,
    hasher: ChunkHasher,
    manifest: Option<Arc<Manifest>>,
    pending: VecDeque<Wanted>,
    file: Option<SourceFile>,
    reader: Reader,
    scratch: Box<[u8]>,
    /// A chunk was announced and is not complete.
    in_chunk: bool,
    /// It hands on what it has, for as long as this connection lasts.
    membership: Option<Membership>,
}

impl Serving<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            if let Some(text) = self.shared.failure() {
                return Err(Error::DonorFailed(text.to_string()));
            }
            if self.pending.is_empty() {
                // Before the last bytes leave: what the recipient then asks on another connection rests on them.
                self.file.as_ref().map_or(Ok(()), SourceFile::check_unchanged)?;
                self.link.flush(false)?;
                self.wait_for_question()?;
            }
            while self.pending.len() < PENDING_LOW && self.link.has_ready(HEADER_LEN)? {
                self.question()?;
            }
            if let Some(wanted) = self.pending.pop_front() {
                self.send_chunk(&wanted)?;
            }
        }
    }

    /// Waits for a header, giving signs of life.
    fn wait_for_question(&mut self) -> Result<()> {
        let mut alive_at = Instant::now();
        while !self.link.poll(HEADER_LEN)? {
            if let Some(text) = self.shared.failure() {
                return Err(Error::DonorFailed(text.to_string()));
            }
            if alive_at.elapsed() >= KEEP_ALIVE {
                self.keep_alive()?;
                alive_at = Instant::now();
            }
        }
        Ok(())
    }

    fn keep_alive(&mut self) -> Result<()> {
        self.link.queue(&Header::new(kind::KEEP_ALIVE).encode())?;
        self.link.flush(false)
    }

    fn question(&mut self) -> Result<()> {
        let header = self.link.read_header()?;
        match header.kind {
            kind::WANT_MANIFEST => self.send_manifest(),
            kind::WANT_SINCE => self.send_manifest_since(),
            kind::WANT => self.note_wanted(header.len as usize),
            kind::WANT_DELTA => self.note_wanted_delta(header),
            kind::PROVE => self.prove(),
            kind::JOIN => self.introduce(header),
            kind::WANT_DIGESTS => self.tell_digests(header.value),
            kind::GIVE_UP => {
                self.link.need(header.len as usize)?;
                let text = shown_text(&self.link.received()[..header.len as usize]);
                self.shared.fail(Error::RecipientFailed(text.clone()));
                Err(Error::RecipientFailed(text))
            }
            _ => Err(Error::Protocol("a frame that only a donor sends")),
        }
    }

    fn manifest(&mut self) -> Result<Arc<Manifest>> {
        if let Some(manifest) = &self.manifest {
            return Ok(Arc::clone(manifest));
        }
        loop {
            if let Some(manifest) = self.shared.manifest_within(KEEP_ALIVE)? {
                self.manifest = Some(Arc::clone(&manifest));
                return Ok(manifest);
            }
            self.keep_alive()?;
        }
    }

    fn send_manifest(&mut self) -> Result<()> {
        let manifest = self.manifest()?;
        let bytes = manifest.as_bytes();
        self.link.queue(&Header { value: bytes.len() as u64, ..Header::new(kind::MANIFEST) }.encode())?;
        for part in bytes.chunks(PIECE_MAX) {
            self.link.queue(part)?;
        }
        self.link.flush(false)?;
        self.shared.progress.enter(Phase::Transfer);
        Ok(())
    }

    fn send_manifest_since(&mut self) -> Result<()> {
        let root: [u8; 32] = self.link.take_array()?;
        self.manifest()?;
        since::begin(self.shared, root)?;
        self.manifest = None;
        self.send_manifest()
    }

    fn note_wanted(&mut self, len: usize) -> Result<()> {
        self.link.need(len)?;
        let chunks = self.link.received()[..len].as_chunks::<4>().0;
        if self.pending.len() + chunks.len() > PENDING_MAX {
            return Err(Error::Protocol("too many questions at once"));
        }
        self.shared.note_asked(chunks.iter().map(|chunk| le_u32(chunk)));
        self.pending.extend(chunks.iter().map(|chunk| Wanted { chunk: le_u32(chunk), blocks: None }));
        self.link.consume(len);
        Ok(())
    }

    fn note_wanted_delta(&mut self, header: Header) -> Result<()> {
        let len = header.len as usize;
        self.link.need(len)?;
        if self.pending.len() >= DELTA_PENDING_MAX {
            return Err(Error::Protocol("too many questions at once"));
        }
        let blocks = Some(self.link.received()[..len].into());
        self.pending.push_back(Wanted { chunk: header.chunk, blocks });
        self.link.consume(len);
        Ok(())
    }

    fn open(&mut self, manifest: &Manifest, index: u32) -> Result<()> {
        if self.file.as_ref().is_some_and(|file| file.entry == index) {
            return Ok(());
        }
        if let Some(file) = self.file.take() {
            file.finish()?;
        }
        let file = self.file.insert(self.shared.source.open_file(index, &manifest.entry(index))?);
        if self.shared.options.pages != PagePolicy::Off {
            file.check_pages();
        }
        Ok(())
    }

    /// Checks the recipient's root digest against what was read here, and gives this side's word for it.
    fn prove(&mut self) -> Result<()> {
        let theirs: [u8; 32] = self.link.take_array()?;
        let manifest = self.manifest()?;
        if let Some(file) = self.file.take() {
            file.finish()?;
        }
        self.read_unread(&manifest)?;
        self.shared.check_source()?;
        let ours = self.shared.root_digest(&manifest).ok_or(Error::RootDigest)?;
        if theirs != ours {
            return Err(Error::RootDigest);
        }
        let proof = prove_root(&self.guest.token, &self.guest.session, &ours);
        self.link.queue(&Header { len: 32, ..Header::new(kind::PROOF) }.encode())?;
        self.link.queue(proof.as_bytes())?;
        self.link.flush(false)?;
        // Only now: who waits for the end may stop the donor at once.
        self.shared.finish(self.guest.token_id, ours);
        Ok(())
    }

    /// Makes up for what this donor has not read: an earlier process of it has sent it, or another recipient has handed it on.
    fn read_unread(&mut self, manifest: &Manifest) -> Result<()> {
        let (mut from, mut alive_at, mut same) = (0, Instant::now(), None);
        while let Some(chunk) = self.shared.next_unread(from, manifest) {
            let place = manifest.locate(chunk).ok_or(Error::RootDigest)?;
            if !self.shared.take_over_read(chunk, place.len) {
                self.read_chunk(manifest, chunk, &place, &mut alive_at)?;
            } else if same.replace(place.entry) != Some(place.entry) {
                // The donor that has read it may not have come to look whether the file is still the same.
                self.shared.source.open_file(place.entry, &manifest.entry(place.entry))?.finish()?;
                self.stay_alive(&mut alive_at)?;
            }
            from = chunk + 1;
        }
        self.file.take().map_or(Ok(()), SourceFile::finish)
    }

    fn read_chunk(
        &mut self,
        manifest: &Manifest,
        chunk: u32,
        place: &ChunkPlace,
        alive_at: &mut Instant,
    ) -> Result<()> {
        self.open(manifest, place.entry)?;
        for run in manifest.runs(place) {
            let mut at = run.start;
            while at < run.end {
                let len = PIECE_MAX.min((run.end - at) as usize);
                self.shared.options.throttle.acquire(len, &self.shared.cancel);
                let Some(file) = &self.file else { return Err(Error::RootDigest) };
                file.read(&mut self.scratch[..len], at)?;
                self.hasher.update(&self.scratch[..len]);
                at += len as u64;
                self.stay_alive(alive_at)?;
            }
        }
        self.shared.note_digest(chunk, self.hasher.finish(), place.len);
        if let Some(file) = &mut self.file {
            manifest.runs(place).for_each(|run| file.drop_behind(run, &self.reader));
        }
        Ok(())
    }

    /// Gives a sign of life when the last one is long ago.
    fn stay_alive(&mut self, alive_at: &mut Instant) -> Result<()> {
        if alive_at.elapsed() >= KEEP_ALIVE {
            self.keep_alive()?;
            *alive_at = Instant::now();
        }
        Ok(())
    }

    /// Decides what an error means for the seed, and tells the recipient if there is something to tell.
    fn end(&mut self, error: Error) -> Result<()> {
        if self.shared.cancel.is_cancelled() && self.shared.failure().is_none() {
            return Ok(());
        }
        let error = self.shared.cause_of(error);
        let text = match &error {
            Error::DonorFailed(text) => text.clone(),
            Error::RecipientFailed(_) => return Ok(()),
            error if error.is_retryable() => {
                let done = self.shared.is_over() && self.shared.failure().is_none();
                return if done { Ok(()) } else { Err(Error::DonorFailed(sys::error::line(error))) };
            }
            error => sys::error::line(error),
        };
        let bytes = bounded_text(&text);
        // In the middle of a chunk the recipient expects a piece, between chunks a frame.
        let told = if self.in_chunk {
            self.link.queue(&Piece { kind: PieceKind::Failed, raw_len: 0, wire_len: bytes.len() }.encode())
        } else {
            self.link.queue(&Header { len: bytes.len() as u32, ..Header::new(kind::FAILURE) }.encode())
        };
        let told =
            told.is_ok() && self.link.queue(bytes).is_ok() && self.link.close_gently(Duration::from_secs(2));
        self.shared.fail(error);
        if told {
            self.shared.note_told();
        }
        Ok(())
    }
}
