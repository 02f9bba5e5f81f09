//! The recipients of one tree that hand on to one another, and what all donors of that tree have read of it.
//!
//! Offers of one snapshot are donors of their own, so this is found by the tree's root and manifest and lives as long as one of them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::circle::{Card, Member};
use crate::digest::{ChunkDigest, DigestKind, DigestTable};
use crate::frame::MEMBERS_MAX;

/// What makes trees the same: device and inode of the root, the manifest's digest, and how chunks are digested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) root: (u64, u64),
    pub(super) manifest: [u8; 32],
    pub(super) digest: DigestKind,
}

static CIRCLES: Mutex<Vec<(Tree, Weak<Circle>)>> = Mutex::new(Vec::new());

#[derive(Debug)]
pub(super) struct Circle {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    members: Vec<Joined>,
    digests: DigestTable,
    /// One bit for each chunk that somebody has asked for.
    asked: Vec<u64>,
    /// Chunks, as they were asked for and read.
    log: Vec<u32>,
    /// Why what was read of this tree must not be trusted.
    spoiled: Option<Arc<str>>,
}

#[derive(Debug)]
struct Joined {
    id: u64,
    session: [u8; 16],
    addr: SocketAddr,
    card: Card,
}

/// A recipient's place in the circle; given back when dropped.
#[derive(Debug)]
pub(super) struct Membership {
    circle: Arc<Circle>,
    id: u64,
}

impl Circle {
    /// The circle of this tree of so many chunks.
    pub(super) fn of(tree: Tree, chunks: u32) -> Arc<Self> {
        let mut circles = CIRCLES.lock().unwrap_or_else(PoisonError::into_inner);
        circles.retain(|(_, circle)| circle.strong_count() > 0);
        let known = circles.iter().find(|(known, _)| *known == tree).and_then(|(_, circle)| circle.upgrade());
        known.unwrap_or_else(|| {
            let digests = DigestTable::new(chunks);
            let state = State {
                next: 0,
                members: Vec::new(),
                digests,
                asked: vec![0; (chunks as usize).div_ceil(64)],
                log: Vec::new(),
                spoiled: None,
            };
            let circle = Arc::new(Self { state: Mutex::new(state) });
            circles.push((tree, Arc::downgrade(&circle)));
            circle
        })
    }

    /// Takes a recipient in, in place of an earlier connection of its own; `None` when there are enough.
    pub(super) fn join(
        self: &Arc<Self>,
        session: [u8; 16],
        addr: SocketAddr,
        card: Card,
    ) -> Option<Membership> {
        let mut state = self.lock();
        state.members.retain(|member| member.session != session);
        if state.members.len() >= MEMBERS_MAX {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.members.push(Joined { id, session, addr, card });
        // All see them in the same order, and so agree on who fetches what.
        state.members.sort_by_key(|member| member.session);
        Some(Membership { circle: Arc::clone(self), id })
    }

    /// All members with the tokens that `session` has for them, and which of them it is itself.
    pub(super) fn members(&self, session: &[u8; 16]) -> (Vec<Member>, u32) {
        let state = self.lock();
        let own = state.members.iter().position(|member| member.session == *session);
        let members = state.members.iter().map(|member| Member {
            session: member.session,
            addr: member.addr,
            fingerprint: member.card.fingerprint,
            token: member.card.token_for(session),
        });
        (members.collect(), own.map_or(u32::MAX, |at| at as u32))
    }

    /// A donor has read this chunk.
    pub(super) fn note(&self, chunk: u32, digest: ChunkDigest) {
        let mut state = self.lock();
        if chunk < state.digests.len() && state.digests.set(chunk, digest) {
            state.log.push(chunk);
        }
    }

    /// Somebody asks a donor for this chunk.
    pub(super) fn note_asked(&self, chunk: u32) {
        let mut state = self.lock();
        if chunk < state.digests.len() && state.asked[chunk as usize / 64] & (1 << (chunk % 64)) == 0 {
            state.asked[chunk as usize / 64] |= 1 << (chunk % 64);
            state.log.push(chunk);
        }
    }

    /// What was asked for and read after the first `from` such news, at most `most` of them; what was only asked for has no digest.
    pub(super) fn news_since(&self, from: u64, most: usize) -> Vec<(u32, Option<ChunkDigest>)> {
        let state = self.lock();
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(state.log.len());
        let chunks = state.log[from..].iter().take(most);
        chunks.map(|&chunk| (chunk, state.digests.get(chunk))).collect()
    }

    /// What a donor has read, if any has.
    pub(super) fn digest(&self, chunk: u32) -> Option<ChunkDigest> {
        let state = self.lock();
        if chunk < state.digests.len() { state.digests.get(chunk) } else { None }
    }

    /// One of the donors has found that the tree is not what it was: nothing that any of them has read is worth more.
    pub(super) fn spoil(&self, why: &Arc<str>) {
        self.lock().spoiled.get_or_insert_with(|| Arc::clone(why));
    }

    /// Why nothing of this tree must be trusted.
    pub(super) fn spoiled(&self) -> Option<Arc<str>> {
        self.lock().spoiled.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.circle.lock().members.retain(|member| member.id != self.id);
    }
}
