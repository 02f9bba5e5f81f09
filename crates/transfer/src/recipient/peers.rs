//! What other recipients of the same tree have, and this one lacks.
//!
//! The donor names them, and tells the digests of all that it has read for anybody. Each is asked what it has proven, and is
//! believed for what has the donor's digest alone. One that hands on anything else is not asked again; one that dies or dawdles
//! costs what was on its way.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use super::connect::{Connected, connect};
use super::pull::Puller;
use super::relay::Relay;
use super::shared::Shared;
use crate::circle::Member;
use crate::digest::DigestTable;
use crate::frame::{Header, MEMBER_LEN, READ_LEN, WANT_MAX, kind, le_u32};
use crate::link::Link;
use crate::{Cancel, DigestKind, Error, RecipientOptions, Result};

/// The donor is asked who else there is this often, and more often at first, when they come one after the other.
const LOOK: Duration = Duration::from_millis(500);
const AT_FIRST: Duration = Duration::from_secs(3);
/// A peer is asked what it has this often, and the donor for its word on that.
const ASK: Duration = Duration::from_millis(100);
/// Others who begin at the same time are waited for no longer than this.
const MUSTER: Duration = Duration::from_secs(1);
/// Who has everything hands on for so much longer, if anybody asks.
const FAREWELL: Duration = Duration::from_millis(500);
/// Asked of: the next ones after this recipient, in the order of all; what it needs of the others comes by them.
const PEERS: usize = 6;
/// Content that is on its way from one peer.
const AHEAD: u64 = 4 << 20;
/// All that was asked for, or [`AHEAD`] of it, must be here by then, or the peer is slower than the donor would be.
const LIMIT: Duration = Duration::from_secs(10);
/// A peer that cannot be reached, or is lost, is tried so often, with this pause.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// Does the work of a transfer in company: this recipient is shown to the others, which fetch what it has until the work
/// is done, and what they have is fetched until all is there.
pub(super) fn in_company<T>(shared: &Shared<'_>, relay: &Relay, work: impl FnOnce() -> T) -> T {
    let donor = Donor::new(shared, relay.stop());
    shared.share_work();
    let found = donor.wait_for_others(relay);
    thread::scope(|scope| {
        let serving = || relay.serve(shared, scope);
        let keeping = || keep_company(&donor, relay, found, scope);
        let threads = [
            thread::Builder::new().name("seed-relay".into()).spawn_scoped(scope, serving),
            thread::Builder::new().name("seed-circle".into()).spawn_scoped(scope, keeping),
        ];
        if threads.iter().any(Result::is_err) {
            tracing::warn!("no thread can be started to hand on what is received");
        }
        let done = work();
        // Others may lack just what came last.
        let begun = Instant::now();
        while relay.is_visited() && begun.elapsed() < FAREWELL && !relay.stop().sleep(FAREWELL / 10) {}
        relay.close();
        done
    })
}

/// Fetches from those that the donor names, until the transfer is over.
fn keep_company<'scope, 'env>(
    donor: &'scope Donor<'env>,
    relay: &'scope Relay,
    mut found: Vec<Member>,
    scope: &'scope Scope<'scope, 'env>,
) {
    let mut known: HashSet<[u8; 16]> = HashSet::new();
    let begun = Instant::now();
    let mut looked_at = begun;
    loop {
        for member in found.drain(..) {
            if known.insert(member.session) {
                let body = move || fetch_from(donor, &member);
                let _ = thread::Builder::new().name("seed-peer".into()).spawn_scoped(scope, body);
            }
        }
        if donor.shared.is_over_within(ASK) {
            return;
        }
        donor.hear();
        let look = if begun.elapsed() < AT_FIRST { ASK } else { LOOK };
        if looked_at.elapsed() >= look {
            found = donor.look_around(relay);
            looked_at = Instant::now();
        }
    }
}

/// The connection to the donor on which it is asked about others, and its word on what they have.
struct Donor<'a> {
    shared: &'a Shared<'a>,
    stop: &'a Cancel,
    link: Mutex<Option<Link>>,
    word: Mutex<Word>,
    /// Those that have handed on what is not the donor's.
    liars: Mutex<HashSet<[u8; 16]>>,
}

/// The digests of what the donor has read for anybody.
struct Word {
    digests: DigestTable,
    /// So many of its news are known here.
    heard: u64,
}

impl<'a> Donor<'a> {
    fn new(shared: &'a Shared<'a>, stop: &'a Cancel) -> Self {
        let word = Word { digests: DigestTable::new(shared.manifest.chunks()), heard: 0 };
        Self { shared, stop, link: Mutex::new(None), word: Mutex::new(word), liars: Mutex::default() }
    }

    /// Finds out how many share the work; those from whom this one fetches.
    fn look_around(&self, relay: &Relay) -> Vec<Member> {
        // Alone with the donor all is this one's share.
        let (members, own) = self.introduce(relay).unwrap_or_default();
        let (count, own) = (members.len(), own as usize);
        let known = self.liars.lock().unwrap_or_else(PoisonError::into_inner);
        let liars = members.iter().zip(0..).filter(|(member, _)| known.contains(&member.session));
        self.shared.with_swarm(|swarm, _| {
            swarm.shared_by(count as u32, own as u32);
            swarm.distrust(liars.map(|(_, number)| number));
        });
        drop(known);
        let others = members.into_iter().cycle().skip(own + 1).take(count.saturating_sub(1));
        others.take(PEERS).collect()
    }

    /// Looks around until no more have come for a moment: whose share a chunk is depends on how many they are, and what is asked
    /// for before that is known travels several times.
    fn wait_for_others(&self, relay: &Relay) -> Vec<Member> {
        let begun = Instant::now();
        let mut found = self.look_around(relay);
        while begun.elapsed() < MUSTER && !self.stop.sleep(ASK) {
            let before = std::mem::replace(&mut found, self.look_around(relay)).len();
            if found.len() == before {
                break;
            }
        }
        found
    }

    /// Shows the donor how others reach this recipient; who they are, and which of them this one is.
    fn introduce(&self, relay: &Relay) -> Result<(Vec<Member>, u32)> {
        self.asking(|link| {
            let card = relay.card().encode();
            let header =
                Header { value: relay.port().into(), len: card.len() as u32, ..Header::new(kind::JOIN) };
            link.queue(&header.encode())?;
            link.queue(&card)?;
            link.flush(false)?;
            let (header, bytes) = answer(link, kind::CIRCLE)?;
            let members = bytes.as_chunks::<MEMBER_LEN>().0.iter().map(Member::decode);
            let members: Vec<Member> = members.collect::<Result<_>>()?;
            if header.chunk as usize >= members.len() {
                return Err(Error::Protocol("not among those who hand on"));
            }
            Ok((members, header.chunk))
        })
    }

    /// Hears what the donor was asked for and has read since the last time. Without its word nothing is fetched from others; it is asked again.
    fn hear(&self) {
        let mut is_more = true;
        while is_more && !self.stop.is_cancelled() {
            is_more = self.hear_some().unwrap_or(false);
        }
    }

    /// Whether there is more at once.
    fn hear_some(&self) -> Result<bool> {
        let heard = self.word().heard;
        let (header, bytes) = self.asking(|link| {
            link.queue(&Header { value: heard, ..Header::new(kind::WANT_DIGESTS) }.encode())?;
            link.flush(false)?;
            answer(link, kind::DIGESTS)
        })?;
        let read = bytes.as_chunks::<READ_LEN>().0;
        let mut news = Vec::new();
        let mut word = self.word();
        for bytes in read {
            let mut digest = [0; 16];
            digest.copy_from_slice(&bytes[4..]);
            let chunk = le_u32(&bytes[..4]);
            if chunk >= word.digests.len() {
                return Err(Error::Protocol("a chunk that does not exist"));
            }
            if digest != [0; 16] {
                word.digests.set(chunk, digest);
            }
            news.push(chunk);
        }
        word.heard = header.value;
        drop(word);
        self.shared.with_swarm(|swarm, _| {
            news.into_iter().for_each(|chunk| swarm.asked_by_another(chunk));
        });
        Ok(read.len() == WANT_MAX)
    }

    fn word(&self) -> MutexGuard<'_, Word> {
        self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks on the connection that is there, or on a new one; one that fails is given up.
    fn asking<T>(&self, ask: impl FnOnce(&mut Link) -> Result<T>) -> Result<T> {
        let mut kept = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let mut link = match kept.take() {
            Some(link) => link,
            None => {
                let shared = self.shared;
                let connected = connect(shared.options, shared.session, self.stop, 0)?;
                if connected.digest != DigestKind::Blake3 || !connected.introduces {
                    return Err(Error::Protocol("a donor that introduces nobody"));
                }
                // Another process of the donor may answer, which has read nothing yet.
                self.word().heard = 0;
                connected.link
            }
        };
        let answer = ask(&mut link)?;
        *kept = Some(link);
        Ok(answer)
    }
}

/// The answer of this kind, and the bytes that follow its header.
fn answer(link: &mut Link, wanted: u8) -> Result<(Header, Vec<u8>)> {
    loop {
        let header = link.read_header()?;
        match header.kind {
            kind::KEEP_ALIVE => {}
            other if other == wanted => {
                let len = header.len as usize;
                link.need(len)?;
                let bytes = link.received()[..len].to_vec();
                link.consume(len);
                return Ok((header, bytes));
            }
            _ => return Err(Error::Protocol("an answer to no question")),
        }
    }
}

/// Fetches from one peer until the transfer is over or the peer is not worth it.
fn fetch_from(donor: &Donor<'_>, member: &Member) {
    let (shared, stop) = (donor.shared, donor.stop);
    let options = RecipientOptions {
        donor: vec![member.addr],
        fingerprint: Some(member.fingerprint),
        token: member.token.clone(),
        stall_timeout: LIMIT.min(shared.options.stall_timeout),
        ..shared.options.clone()
    };
    for _ in 0..TRIES {
        if stop.is_cancelled() || shared.is_complete() {
            return;
        }
        let error = match connect(&options, shared.session, stop, 0) {
            Ok(connected) => {
                let mut peer = Peer::new(shared, donor, connected);
                let Err(error) = peer.run() else { return };
                peer.leave();
                error
            }
            Err(error) => error,
        };
        if stop.is_cancelled() || shared.is_complete() {
            return;
        }
        if matches!(error, Error::Forged) {
            donor.liars.lock().unwrap_or_else(PoisonError::into_inner).insert(member.session);
        }
        tracing::info!(peer = %member.addr, error = %sys::error::line(&error), "another recipient hands nothing on");
        // A connection may be lost by accident; who is slow or false stays so.
        if !matches!(error, Error::Network { .. }) || stop.sleep(PAUSE) {
            return;
        }
    }
}

struct Peer<'a> {
    shared: &'a Shared<'a>,
    donor: &'a Donor<'a>,
    puller: Puller<'a>,
    /// What it has, with the donor's word for it, and this one lacks.
    has: VecDeque<u32>,
    /// What it has and the donor has not vouched for yet.
    unproven: Vec<u32>,
    /// So much of what it has proven is known here.
    heard: u64,
    asked_at: Instant,
    vouched_at: Instant,
    /// The question what it has is on its way.
    is_asked: bool,
    /// When what is on its way must be here, and how much of that has come.
    due: Instant,
    came: u64,
}

impl<'a> Peer<'a> {
    fn new(shared: &'a Shared<'a>, donor: &'a Donor<'a>, connected: Connected) -> Self {
        let mut puller = Puller::new(shared, connected, usize::MAX);
        puller.word = Some(HashMap::new());
        let asked_at = Instant::now();
        Self {
            shared,
            donor,
            puller,
            has: VecDeque::new(),
            unproven: Vec::new(),
            heard: 0,
            asked_at,
            vouched_at: asked_at,
            is_asked: false,
            due: asked_at,
            came: 0,
        }
    }

    fn run(&mut self) -> Result<()> {
        loop {
            if self.donor.stop.is_cancelled() || self.shared.is_complete() {
                return Ok(());
            }
            if self.vouched_at.elapsed() >= ASK / 2 {
                self.vouch();
                self.vouched_at = Instant::now();
            }
            self.ask_for_chunks()?;
            if !self.is_asked && self.asked_at.elapsed() >= ASK {
                self.ask_what_it_has()?;
            }
            if self.puller.asked.is_empty() && !self.is_asked {
                self.shared.wait_for_work();
                continue;
            }
            self.puller.link.set_deadline(Some(self.due));
            let header = self.puller.link.read_header()?;
            match header.kind {
                kind::KEEP_ALIVE => {}
                kind::CHUNK => {
                    self.puller.receive_chunk(header)?;
                    self.shared.moved();
                    self.came += header.value;
                    if self.came >= AHEAD {
                        self.set_due();
                    }
                }
                kind::PROVEN => self.hear(header)?,
                _ => return Err(Error::Protocol("an answer to no question")),
            }
        }
    }

    /// What is asked for from now on has its time, and what the own limit takes does not count.
    fn set_due(&mut self) {
        let own_limit = self.shared.options.throttle.bytes_per_s();
        let own = if own_limit == 0 { 0.0 } else { (2 * PEERS as u64 * AHEAD) as f64 / own_limit as f64 };
        self.due = Instant::now() + LIMIT + Duration::from_secs_f64(own);
        self.came = 0;
    }

    fn ask_for_chunks(&mut self) -> Result<()> {
        if self.puller.asked.is_empty() {
            self.set_due();
        }
        let before = self.has.len();
        let asked = self.puller.ask_peer(&mut self.has, AHEAD);
        self.shared.drop_offers(before - self.has.len());
        asked
    }

    fn ask_what_it_has(&mut self) -> Result<()> {
        let link = &mut self.puller.link;
        link.queue(&Header { value: self.heard, ..Header::new(kind::WANT_PROVEN) }.encode())?;
        link.flush(false)?;
        (self.is_asked, self.asked_at) = (true, Instant::now());
        Ok(())
    }

    /// Takes in what it has proven since the last time.
    fn hear(&mut self, header: Header) -> Result<()> {
        let len = header.len as usize;
        let link = &mut self.puller.link;
        link.need(len)?;
        let chunks = link.received()[..len].as_chunks::<4>().0;
        let heard = self.heard + chunks.len() as u64;
        // Each chunk is told once: who tells more would fill the memory.
        if header.value != heard || heard > self.shared.manifest.chunks().into() {
            return Err(Error::Protocol("more chunks than there are"));
        }
        self.unproven.extend(chunks.iter().map(|bytes| le_u32(bytes)));
        link.consume(len);
        (self.is_asked, self.heard) = (false, heard);
        if len == WANT_MAX * 4 {
            // There is more.
            self.asked_at = Instant::now() - ASK;
        }
        Ok(())
    }

    /// Sorts out what the peer has and this one lacks, as far as the donor has given its word for it.
    fn vouch(&mut self) {
        let Self { shared, donor, unproven, has, puller, .. } = self;
        let before = has.len();
        shared.with_swarm(|swarm, _| {
            unproven.retain(|&chunk| swarm.lacks(chunk));
            has.retain(|&chunk| swarm.lacks(chunk));
        });
        shared.drop_offers(before - has.len());
        let before = has.len();
        let vouched = puller.word.get_or_insert_default();
        let word = donor.word();
        unproven.retain(|&chunk| match word.digests.get(chunk) {
            Some(digest) => {
                vouched.insert(chunk, digest);
                has.push_back(chunk);
                false
            }
            None => true,
        });
        drop(word);
        shared.add_offers(has.len() - before);
    }

    /// Gives back what has not come, and marks where anything may have been written of it.
    fn leave(&mut self) {
        let asked = &mut self.puller.asked;
        self.shared.with_swarm(|swarm, _| asked.iter().for_each(|&chunk| swarm.touch(chunk)));
        self.shared.give_back(asked);
        self.shared.drop_offers(self.has.len());
        self.has.clear();
    }
}
