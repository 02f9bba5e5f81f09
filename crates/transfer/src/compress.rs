//! Pieces made smaller on the way, where that makes the seed faster.
//!
//! Every piece is judged for itself: one that hardly shrinks travels as it is, and after such pieces fewer are tried, so that
//! compressed and encrypted tables cost next to nothing. Digests are over the content, never over what is packed. Whoever unpacks
//! says how much room there is: a piece that would become larger, or smaller, than its header says is refused.

use std::time::{Duration, Instant};

use crate::frame::{PIECE_MAX, PieceKind};
use crate::{Error, Result};

/// How pieces may be compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard where the path is so slow that it helps, judged while the seed runs.
    #[default]
    Auto,
    /// Never.
    None,
    /// LZ4, whatever the path.
    Lz4,
    /// Zstandard at its fastest level, whatever the path.
    Zstd,
}

const LZ4: u32 = 1;
const ZSTD: u32 = 2;
/// The donor decides from moment to moment.
const ADAPTIVE: u32 = 4;
/// The handshake's features that are about compression, all of which this build knows.
pub(crate) const FEATURES: u32 = LZ4 | ZSTD | ADAPTIVE;

/// Zstandard's level: higher ones are slower than any network that a seed would wait for.
const ZSTD_LEVEL: i32 = 1;
/// Room for a packed piece, also one that grows.
const PACKED_MAX: usize = PIECE_MAX + PIECE_MAX / 8 + 64;
/// After a piece that did not shrink so many are not tried, doubled up to [`SKIP_MOST`].
const SKIP_FIRST: u32 = 2;
const SKIP_MOST: u32 = 64;
/// Smaller pieces gain nothing.
const WORTH_MIN: usize = 4096;

impl Compression {
    /// What to ask for, of what the donor `offered`.
    pub(crate) fn ask(self, offered: u32) -> u32 {
        let wanted = match self {
            Self::None => 0,
            Self::Auto => ZSTD | ADAPTIVE,
            Self::Lz4 => LZ4,
            Self::Zstd => ZSTD,
        };
        if offered & wanted == wanted { wanted } else { 0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Lz4,
    Zstd,
}

/// The donor's side of one connection.
pub(crate) struct Packer {
    codec: Codec,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    packed: Box<[u8]>,
    pace: Option<Pace>,
    skip: u32,
    skip_next: u32,
}

impl Packer {
    /// For what a recipient asked for; `None` without compression.
    pub(crate) fn new(asked: u32) -> Result<Option<Self>> {
        let codec = match asked & FEATURES & !ADAPTIVE {
            0 => return Ok(None),
            LZ4 => Codec::Lz4,
            ZSTD => Codec::Zstd,
            _ => return Err(Error::Protocol("two compressions at once")),
        };
        let zstd = match codec {
            Codec::Lz4 => None,
            Codec::Zstd => Some(zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(Error::network("compress"))?),
        };
        Ok(Some(Self {
            codec,
            zstd,
            packed: vec![0; PACKED_MAX].into(),
            pace: (asked & ADAPTIVE != 0).then(Pace::new),
            skip: 0,
            skip_next: SKIP_FIRST,
        }))
    }

    /// Whether the next piece, of `len` bytes, should be tried. To be asked once for every piece.
    pub(crate) fn wants(&mut self, len: usize) -> bool {
        if let Some(pace) = &mut self.pace
            && !pace.packs(len as u64, Instant::now())
        {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        len >= WORTH_MIN
    }

    /// The piece made smaller; `None` when it does not shrink by an eighth.
    pub(crate) fn pack(&mut self, piece: &[u8]) -> Option<(PieceKind, &[u8])> {
        let most = piece.len() - piece.len() / 8;
        let (kind, len) = match &mut self.zstd {
            // It gives up by itself when there is too little room.
            Some(zstd) => (PieceKind::Zstd, zstd.compress_to_buffer(piece, &mut self.packed[..most]).ok()),
            None => (PieceKind::Lz4, lz4_flex::block::compress_into(piece, &mut self.packed).ok()),
        };
        match len.filter(|&len| len > 0 && len <= most) {
            Some(len) => {
                self.skip_next = SKIP_FIRST;
                Some((kind, &self.packed[..len]))
            }
            None => {
                self.skip = self.skip_next;
                self.skip_next = (self.skip_next * 2).min(SKIP_MOST);
                None
            }
        }
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("codec", &self.codec).finish_non_exhaustive()
    }
}

/// Judges whether packing makes this connection faster: tries both ways in turn and stays with the better one for a while.
struct Pace {
    packing: bool,
    /// Content bytes per second as last seen without and with packing.
    rates: [Option<f64>; 2],
    since: Instant,
    bytes: u64,
    /// Until then the present way is kept.
    settled_until: Option<Instant>,
}

impl Pace {
    /// A trial is at least so long and so large.
    const TRIAL: Duration = Duration::from_millis(300);
    const TRIAL_BYTES: u64 = 1 << 20;
    const SETTLED: Duration = Duration::from_secs(5);
    /// A connection this fast, in bytes per second, is faster than a core can pack.
    const FAST: f64 = 250e6;
    /// Packing costs both hosts CPU time: it must be worth it.
    const GAIN: f64 = 1.15;

    fn new() -> Self {
        Self { packing: false, rates: [None; 2], since: Instant::now(), bytes: 0, settled_until: None }
    }

    /// Whether to pack the next `len` content bytes.
    fn packs(&mut self, len: u64, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= Self::TRIAL && self.bytes >= Self::TRIAL_BYTES {
            self.rates[usize::from(self.packing)] = Some(self.bytes as f64 / elapsed.as_secs_f64());
            (self.since, self.bytes) = (now, 0);
            self.judge(now);
        }
        self.bytes += len;
        self.packing
    }

    fn judge(&mut self, now: Instant) {
        if self.settled_until.is_some_and(|until| now < until) {
            return;
        }
        if self.settled_until.take().is_some() {
            // What the other way was worth is long ago.
            self.rates[usize::from(!self.packing)] = None;
        }
        let packing = match self.rates {
            [Some(raw), _] if raw >= Self::FAST => false,
            [Some(raw), Some(packed)] => packed >= raw * Self::GAIN,
            _ => {
                self.packing = !self.packing;
                return;
            }
        };
        self.packing = packing;
        self.settled_until = Some(now + Self::SETTLED);
    }
}

/// The recipient's side of one connection.
#[derive(Default)]
pub(crate) struct Unpacker {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Unpacker {
    /// Unpacks one piece into exactly `out`.
    pub(crate) fn unpack(&mut self, kind: PieceKind, packed: &[u8], out: &mut [u8]) -> Result<()> {
        const BAD: Error = Error::Protocol("a compressed piece was damaged or forged");
        let len = match kind {
            PieceKind::Lz4 => lz4_flex::block::decompress_into(packed, out).map_err(|_| BAD)?,
            PieceKind::Zstd => {
                if self.zstd.is_none() {
                    self.zstd = Some(zstd::bulk::Decompressor::new().map_err(Error::network("decompress"))?);
                }
                let Some(zstd) = &mut self.zstd else { return Err(BAD) };
                zstd.decompress_to_buffer(packed, out).map_err(|_| BAD)?
            }
            PieceKind::Raw | PieceKind::Failed | PieceKind::Delta => return Err(BAD),
        };
        if len == out.len() { Ok(()) } else { Err(BAD) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 88_172_645_463_325_252_u64;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect()
    }

    fn packer(compression: Compression) -> Packer {
        Packer::new(compression.ask(FEATURES)).unwrap().unwrap()
    }

    #[test]
    fn both_codecs_give_back_what_went_in() {
        let piece: Vec<u8> = (0..PIECE_MAX).map(|at| (at / 100) as u8).collect();
        for compression in [Compression::Lz4, Compression::Zstd] {
            let mut packer = packer(compression);
            let (kind, packed) = packer.pack(&piece).unwrap();
            assert!(packed.len() < piece.len() / 4, "{} bytes", packed.len());
            let mut out = vec![0; piece.len()];
            Unpacker::default().unpack(kind, packed, &mut out).unwrap();
            assert!(out == piece);
        }
    }

    #[test]
    fn a_bomb_does_not_grow_beyond_its_room() {
        let zeros = vec![0; PIECE_MAX];
        for compression in [Compression::Lz4, Compression::Zstd] {
            let mut packer = packer(compression);
            let (kind, bomb) = packer.pack(&zeros).unwrap();
            for room in [0, 1, 4096, PIECE_MAX - 1] {
                assert!(Unpacker::default().unpack(kind, bomb, &mut vec![0; room]).is_err(), "{room}");
            }
            assert!(Unpacker::default().unpack(kind, bomb, &mut vec![0; PIECE_MAX + 1]).is_err(), "too few");
        }
    }

    #[test]
    fn pieces_that_do_not_shrink_are_soon_left_alone() {
        let noise = noise(PIECE_MAX);
        for compression in [Compression::Lz4, Compression::Zstd] {
            let mut packer = packer(compression);
            let tried =
                (0..1000).filter(|_| packer.wants(PIECE_MAX) && packer.pack(&noise).is_none()).count();
            assert!((4..40).contains(&tried), "{tried} of 1000 were tried");
        }
    }

    #[test]
    fn packing_is_kept_only_where_it_is_faster() {
        // Content bytes per second without and with packing, and what is best.
        for (raw, packed, best) in [(10e6, 30e6, true), (100e6, 90e6, false), (2e9, 3e9, false)] {
            let mut pace = Pace::new();
            let mut now = Instant::now();
            let mut packing = false;
            for _ in 0..10_000 {
                let rate = if packing { packed } else { raw };
                now += Duration::from_secs_f64(256e3 / rate);
                packing = pace.packs(256_000, now);
            }
            let mut counts = [0; 2];
            for _ in 0..10_000 {
                let rate = if packing { packed } else { raw };
                now += Duration::from_secs_f64(256e3 / rate);
                packing = pace.packs(256_000, now);
                counts[usize::from(packing)] += 1;
            }
            assert!(counts[usize::from(best)] > 8000, "{raw} {packed}: {counts:?}");
        }
    }

    #[test]
    fn no_more_is_asked_for_than_is_offered() {
        assert_eq!(Compression::Zstd.ask(LZ4), 0);
        assert_eq!(Compression::Auto.ask(ZSTD), 0, "a donor that cannot judge is not left to judge");
        assert_eq!(Compression::Auto.ask(FEATURES), ZSTD | ADAPTIVE);
        assert!(Packer::new(LZ4 | ZSTD).is_err());
        assert!(Packer::new(0).unwrap().is_none());
    }
}
