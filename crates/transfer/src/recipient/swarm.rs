//! Which chunks to fetch where, when several recipients of one tree hand on to one another.
//!
//! Each fetches its own share from the donor, so that the donor sends the tree about once, and everything else from whoever has it.
//! All compute the same shares from the same list of members; a list that differs for a moment costs a chunk that travels
//! twice, never one that is left out: who runs out of work takes over from the others' shares. Each run of chunks has an order of
//! deputies for that, so that not all of those who wait for a slow one fetch the same.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::rates::Rates;
use crate::Manifest;
use crate::digest::DigestTable;

/// A share is cut into runs of at most so many chunks: neighbours are read together.
const RUN_MOST: u32 = 32;
/// Each member's share has about so many runs at the least.
const RUNS: u32 = 8;
/// How long there must be nothing to do before the first deputy takes over work that nobody has asked the donor for, and then
/// the next. What somebody has asked for must also be late.
const PATIENCE: Duration = Duration::from_secs(1);
/// Late is what takes so many times as long as others usually need from the question to handing on, and anything that takes so
/// long where they hand on more slowly than the donor gives.
const LATE: u32 = 2;
const LATE_MOST: Duration = Duration::from_secs(5);
/// Longer by this while others offer what is left: the donor is faster then.
const WHILE_OFFERED: Duration = Duration::from_secs(4);

/// What may be taken over is looked for this often.
const LOOK: Duration = Duration::from_millis(100);

/// The chunks that are neither proven nor on their way.
#[derive(Debug)]
pub(super) struct Swarm {
    /// One bit for each chunk.
    open: Bits,
    /// What this one has asked the donor for.
    asked: Bits,
    /// When others have, in milliseconds since `begun_at`; 0: not that it is known.
    asked_by_others: Vec<u32>,
    begun_at: Instant,
    /// How long it usually takes until they hand on what they have asked for.
    usual_ms: f64,
    rates: Rates,
    /// When one of them went away last: what that one has asked for may be lost.
    left_ms: u32,
    chunks: u32,
    /// Content bytes of all that is open.
    left: u64,
    /// How many share the work, and which of them this one is.
    members: (u32, u32),
    /// When it was found out that one of them cannot be believed: its share comes from nobody else.
    liars: HashMap<u32, u32>,
    /// Where the own share is looked through next, and whether that was in vain: a tree may have a million chunks.
    cursor: u32,
    own_is_asked: bool,
    /// Not looked through again for what may be taken over before then.
    look_at: Instant,
    /// Since when there is nothing left of the own share, though something is of the others'.
    idle_since: Option<Instant>,
    /// Where something unproven may have been written.
    touched: HashSet<u32>,
}

impl Swarm {
    /// All that is not proven; `start` is where this recipient begins, another place for each.
    pub(super) fn new(manifest: &Manifest, proven: &DigestTable, start: u64) -> Self {
        let chunks = manifest.chunks();
        let mut swarm = Self {
            open: Bits::new(chunks),
            asked: Bits::new(chunks),
            asked_by_others: vec![0; chunks as usize],
            begun_at: Instant::now(),
            usual_ms: 0.0,
            rates: Rates::new(),
            left_ms: 0,
            chunks,
            left: 0,
            members: (1, 0),
            liars: HashMap::new(),
            cursor: (start % u64::from(chunks.max(1))) as u32,
            own_is_asked: false,
            look_at: Instant::now(),
            idle_since: None,
            touched: HashSet::new(),
        };
        let missing = (0..chunks).filter(|&chunk| !proven.knows(chunk));
        missing.for_each(|chunk| swarm.open(manifest, chunk));
        swarm
    }

    /// Content bytes of the own share that are open, about.
    pub(super) fn own_left(&self) -> u64 {
        self.left / u64::from(self.members.0)
    }

    /// These of those who share the work hand on what is not the donor's.
    pub(super) fn distrust(&mut self, liars: impl Iterator<Item = u32>) {
        let now_ms = self.now_ms();
        for liar in liars {
            self.liars.entry(liar).or_insert(now_ms);
        }
    }

    /// Tells how many share the work now, and which of them this one is.
    pub(super) fn shared_by(&mut self, count: u32, own: u32) {
        if self.members != (count.max(1), own) {
            if count < self.members.0 {
                self.left_ms = self.now_ms();
            }
            self.members = (count.max(1), own);
            self.idle_since = None;
            self.liars.clear();
            self.cursor = self.start_of(own);
            self.own_is_asked = false;
        }
    }

    fn run_of(&self, chunk: u32) -> u32 {
        chunk / (self.chunks / (self.members.0 * RUNS)).clamp(1, RUN_MOST)
    }

    fn owner_of(&self, chunk: u32) -> u32 {
        self.run_of(chunk) % self.members.0
    }

    /// Where a member begins; it ends right before.
    fn start_of(&self, member: u32) -> u32 {
        (u64::from(self.chunks) * u64::from(member) / u64::from(self.members.0)) as u32
    }

    /// Which deputy this one is for a chunk of another's share, from 0 on.
    fn rank_for(&self, chunk: u32) -> u32 {
        let (count, own) = self.members;
        let deputies = (count - 1).max(1);
        let after_owner = (own + count - self.owner_of(chunk) - 1) % count;
        let first = self.run_of(chunk) / count % deputies;
        (after_owner + deputies - first) % deputies
    }

    /// A chunk is to be fetched (again).
    fn open(&mut self, manifest: &Manifest, chunk: u32) {
        // Holes have no place.
        if let Some(place) = manifest.locate(chunk).filter(|_| !self.open.has(chunk)) {
            self.open.set(chunk, true);
            self.own_is_asked = false;
            self.left += u64::from(place.len);
        }
    }

    /// Takes an open chunk; its length in bytes.
    fn take(&mut self, manifest: &Manifest, chunk: u32) -> u64 {
        let len = manifest.locate(chunk).map_or(0, |place| u64::from(place.len));
        self.open.set(chunk, false);
        self.left = self.left.saturating_sub(len);
        len
    }

    /// Takes chunks to fetch from the donor until they make `bytes`, or `count`. `offered`: whether others offer what is open, in
    /// which case there is more time until something is taken over from anybody. Gives their sum in bytes.
    pub(super) fn take_from_donor(
        &mut self,
        manifest: &Manifest,
        (bytes, count): (u64, usize),
        offered: bool,
        out: &mut Vec<u32>,
    ) -> u64 {
        let mut sum = 0;
        while sum < bytes && out.len() < count && !self.own_is_asked {
            let Some(chunk) = self.next_own() else {
                self.own_is_asked = true;
                break;
            };
            self.cursor = chunk + 1;
            sum += self.ask(manifest, chunk, out);
        }
        if sum > 0 || self.left == 0 {
            self.idle_since = None;
            return sum;
        }
        let longer = if offered { WHILE_OFFERED } else { Duration::ZERO };
        let idle = self.idle_since.get_or_insert_with(Instant::now).elapsed().saturating_sub(longer);
        if idle < PATIENCE || Instant::now() < self.look_at {
            return sum;
        }
        // One by one: what each costs is not known yet.
        self.rates.turn();
        match self.next_after(idle) {
            Some(chunk) => sum += self.ask(manifest, chunk, out),
            None => self.look_at = Instant::now() + LOOK,
        }
        sum
    }

    fn ask(&mut self, manifest: &Manifest, chunk: u32, out: &mut Vec<u32>) -> u64 {
        self.asked.set(chunk, true);
        out.push(chunk);
        self.take(manifest, chunk)
    }

    fn now_ms(&self) -> u32 {
        u32::try_from(self.begun_at.elapsed().as_millis()).unwrap_or(u32::MAX).max(1)
    }

    /// The donor was asked for this chunk, maybe by this one itself.
    pub(super) fn asked_by_another(&mut self, chunk: u32) {
        if chunk < self.chunks && !self.asked.has(chunk) && !self.is_asked_by_others(chunk) {
            self.asked_by_others[chunk as usize] = self.now_ms();
        }
    }

    fn is_asked_by_others(&self, chunk: u32) -> bool {
        self.asked_by_others[chunk as usize] != 0
    }

    /// A chunk of so many bytes has come and is proven.
    pub(super) fn came(&mut self, chunk: u32, len: u32) {
        self.rates.came(self.asked.has(chunk), len);
        if self.is_asked_by_others(chunk) && !self.asked.has(chunk) {
            let took_ms = f64::from(self.now_ms() - self.asked_by_others[chunk as usize]);
            self.usual_ms = if self.usual_ms == 0.0 { took_ms } else { 0.9 * self.usual_ms + 0.1 * took_ms };
        }
    }

    fn next_own(&self) -> Option<u32> {
        let (from, own) = (self.cursor.min(self.chunks), self.members.1);
        let is_own = |&chunk: &u32| {
            self.open.has(chunk) && self.owner_of(chunk) == own && !self.is_asked_by_others(chunk)
        };
        (from..self.chunks).chain(0..from).find(is_own)
    }

    /// What this one may take over after having had nothing to do for so long: first what it has waited for longest, and of that
    /// what its owner comes to last.
    fn next_after(&self, idle: Duration) -> Option<u32> {
        let now_ms = self.now_ms();
        let open = (0..self.chunks).filter(|&chunk| self.open.has(chunk));
        let waited = open.filter_map(|chunk| Some((self.waited(chunk, idle, now_ms)?, chunk)));
        let latest = waited.max_by_key(|&(over, chunk)| {
            let start = self.start_of(self.owner_of(chunk));
            (over, (chunk + self.chunks - start) % self.chunks)
        });
        latest.map(|(_, chunk)| chunk)
    }

    /// How much longer than it must this one has waited for a chunk; `None` while it must.
    fn waited(&self, chunk: u32, idle: Duration, now_ms: u32) -> Option<Duration> {
        let owner = self.owner_of(chunk);
        let is_own = owner == self.members.1;
        let rank = if is_own { 0 } else { self.rank_for(chunk) };
        let over = idle.checked_sub(PATIENCE * (rank + 1))?;
        let asked_ms = self.asked_by_others[chunk as usize];
        if asked_ms == 0 {
            return Some(over);
        }
        let lost_ms = self.liars.get(&owner).copied().unwrap_or(0).max(self.left_ms);
        let (since_ms, patience) = if lost_ms > asked_ms || self.liars.contains_key(&owner) {
            (lost_ms.max(asked_ms), PATIENCE)
        } else {
            let late = Duration::from_millis((f64::from(LATE) * self.usual_ms) as u64);
            let most = if self.rates.is_donor_faster() { LATE_MOST } else { Duration::MAX };
            (asked_ms, late.min(most).max(PATIENCE))
        };
        let waited = Duration::from_millis((now_ms - since_ms).into());
        waited.checked_sub(patience + PATIENCE * rank).map(|late| late.min(over))
    }

    /// Takes chunks of those that another one has, as [`Swarm::take_from_donor`] does; what is no longer open is dropped.
    pub(super) fn take_from_peer(
        &mut self,
        manifest: &Manifest,
        (bytes, count): (u64, usize),
        has: &mut VecDeque<u32>,
        out: &mut Vec<u32>,
    ) -> u64 {
        let mut sum = 0;
        while sum < bytes && out.len() < count {
            let Some(chunk) = has.pop_front() else { break };
            if self.open.has(chunk) {
                sum += self.take(manifest, chunk);
                out.push(chunk);
            }
        }
        sum
    }

    /// Whether a chunk that another one has is of use.
    pub(super) fn lacks(&self, chunk: u32) -> bool {
        chunk < self.chunks && self.open.has(chunk)
    }

    /// Gives back what was asked for and did not come.
    pub(super) fn give_back(&mut self, manifest: &Manifest, chunks: impl Iterator<Item = u32>) {
        chunks.for_each(|chunk| self.open(manifest, chunk));
    }

    /// Bytes that nobody vouches for may lie where this chunk belongs.
    pub(super) fn touch(&mut self, chunk: u32) {
        self.touched.insert(chunk);
    }

    /// Whether the chunk's place must be cleared before a sparse write.
    pub(super) fn was_touched(&self, chunk: u32) -> bool {
        self.touched.contains(&chunk)
    }
}

/// One bit for each chunk.
#[derive(Debug)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(chunks: u32) -> Self {
        Self(vec![0; (chunks as usize).div_ceil(64)])
    }

    fn has(&self, chunk: u32) -> bool {
        self.0[chunk as usize / 64] & (1 << (chunk % 64)) != 0
    }

    fn set(&mut self, chunk: u32, on: bool) {
        let bit = 1 << (chunk % 64);
        let word = &mut self.0[chunk as usize / 64];
        *word = if on { *word | bit } else { *word & !bit };
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{Cancel, Exclude};

    const CHUNK: u32 = 256 << 10;

    fn manifest(chunks: usize) -> Manifest {
        let dir = tempfile::TempDir::with_prefix("swarm-test-").unwrap();
        fs::write(dir.path().join("f"), vec![1; CHUNK as usize * chunks]).unwrap();
        crate::manifest::build(dir.path(), &Exclude::none(), Some(CHUNK), &Cancel::new()).unwrap().0
    }

    fn swarm(manifest: &Manifest, start: u64) -> Swarm {
        Swarm::new(manifest, &DigestTable::new(manifest.chunks()), start)
    }

    fn all_own(swarm: &mut Swarm, manifest: &Manifest) -> Vec<u32> {
        let mut out = Vec::new();
        swarm.take_from_donor(manifest, (u64::MAX, usize::MAX), false, &mut out);
        out
    }

    #[test]
    fn each_chunk_belongs_to_one_of_them() {
        let manifest = manifest(100);
        for count in [1, 2, 3, 7, 10] {
            let mut all: Vec<u32> = Vec::new();
            for own in 0..count {
                let mut swarm = swarm(&manifest, 17 * u64::from(own));
                swarm.shared_by(count, own);
                let share = all_own(&mut swarm, &manifest);
                assert!(share.len() as u32 <= 100 / count + 16, "{count}: {}", share.len());
                all.extend(share);
            }
            all.sort_unstable();
            assert_eq!(all, (0..100).collect::<Vec<_>>(), "{count}");
        }
    }

    #[test]
    fn what_another_has_is_fetched_once_and_what_did_not_come_again() {
        let manifest = manifest(8);
        let mut swarm = swarm(&manifest, 0);
        swarm.shared_by(2, 0);
        let mut has = VecDeque::from(vec![4, 5, 6, 7]);
        let mut out = Vec::new();
        swarm.take_from_peer(&manifest, (u64::MAX, 2), &mut has, &mut out);
        assert_eq!((out.len(), has.len()), (2, 2));
        let mut again = VecDeque::from(out.clone());
        assert_eq!(
            swarm.take_from_peer(&manifest, (u64::MAX, 9), &mut again, &mut Vec::new()),
            0,
            "on its way"
        );
        swarm.give_back(&manifest, out.iter().copied());
        assert!(out.iter().all(|&chunk| swarm.lacks(chunk)));
        assert!(!swarm.lacks(8), "no such chunk");
    }

    fn idle_for(swarm: &mut Swarm, duration: Duration) {
        swarm.idle_since = Some(Instant::now() - duration);
        swarm.begun_at -= duration;
        swarm.look_at = Instant::now();
    }

    #[test]
    fn work_is_taken_over_after_a_while_and_not_by_all_at_once() {
        let manifest = manifest(40);
        let mut waiting: Vec<Swarm> = (0..4).map(|_| swarm(&manifest, 0)).collect();
        for (own, swarm) in (0..).zip(&mut waiting) {
            swarm.shared_by(4, own);
            assert_eq!(all_own(swarm, &manifest).len(), 10);
            assert!(all_own(swarm, &manifest).is_empty(), "not at once");
            // Number 3 is slow, all else is there.
            let open: Vec<u32> = (0..40).filter(|&chunk| swarm.lacks(chunk) && chunk % 4 != 3).collect();
            for chunk in open {
                swarm.take(&manifest, chunk);
            }
        }
        let taken_within = |swarm: &mut Swarm, waits: u32| {
            let mut all = Vec::new();
            for _ in 0..40 {
                idle_for(swarm, PATIENCE * waits);
                let mut one = Vec::new();
                swarm.take_from_donor(&manifest, (u64::MAX, 9), false, &mut one);
                all.extend(one);
            }
            all
        };
        let mut all: Vec<u32> = waiting[..3].iter_mut().flat_map(|swarm| taken_within(swarm, 1)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).map(|nth| 4 * nth + 3).collect::<Vec<_>>(), "each by one of them");
        assert_eq!(taken_within(&mut waiting[0], 3).len(), 10 - 4, "by whoever is left in the end");
    }

    #[test]
    fn what_others_have_asked_for_is_left_to_them_until_it_is_late() {
        let manifest = manifest(16);
        let mut swarm = swarm(&manifest, 0);
        swarm.shared_by(2, 0);
        swarm.asked_by_another(0);
        assert_eq!(all_own(&mut swarm, &manifest).len(), 7, "another one had it as its own a moment ago");
        (1..16).step_by(2).for_each(|chunk| swarm.asked_by_another(chunk));
        // Usually it takes them two seconds.
        swarm.begun_at -= 2 * PATIENCE;
        swarm.came(1, 1);
        idle_for(&mut swarm, PATIENCE * 3 / 2);
        assert!(all_own(&mut swarm, &manifest).is_empty(), "three seconds and a half are not late");
        swarm.distrust(std::iter::once(1));
        idle_for(&mut swarm, 2 * PATIENCE);
        assert_eq!(all_own(&mut swarm, &manifest).len(), 1, "of one that lies they are");
    }

    #[test]
    fn what_one_that_left_had_asked_for_is_not_waited_for() {
        let manifest = manifest(30);
        let mut swarm = swarm(&manifest, 0);
        swarm.shared_by(3, 0);
        (0..30).filter(|chunk| chunk % 3 == 1).for_each(|chunk| swarm.asked_by_another(chunk));
        swarm.begun_at -= 20 * PATIENCE;
        swarm.came(1, 1);
        all_own(&mut swarm, &manifest);
        swarm.shared_by(2, 0);
        all_own(&mut swarm, &manifest);
        idle_for(&mut swarm, 2 * PATIENCE);
        assert_eq!(all_own(&mut swarm, &manifest).len(), 1);
    }

    #[test]
    fn while_others_offer_what_is_left_there_is_more_time() {
        let manifest = manifest(16);
        let mut swarm = swarm(&manifest, 0);
        swarm.shared_by(2, 0);
        let own = all_own(&mut swarm, &manifest);
        assert_eq!(own.len(), 8);
        idle_for(&mut swarm, PATIENCE);
        let mut out = Vec::new();
        assert_eq!(swarm.take_from_donor(&manifest, (u64::MAX, 9), true, &mut out), 0);
        idle_for(&mut swarm, PATIENCE + WHILE_OFFERED);
        swarm.take_from_donor(&manifest, (u64::MAX, 9), true, &mut out);
        assert_eq!((out.len(), out[0] % 2), (1, 1), "one by one, and of the other's");
    }
}
