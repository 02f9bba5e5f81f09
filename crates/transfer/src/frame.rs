//! Frames on an authenticated connection: fixed headers, bounded lengths, no serde.
//!
//! The recipient asks ([`kind::WANT`] and others), the donor answers in the order of the questions. A chunk is one
//! [`kind::CHUNK`] header, pieces of at most [`PIECE_MAX`] bytes each with its own [`Piece`] header, and the chunk's
//! digest. All numbers are little-endian.

use crate::{Error, Result};

/// Length of every frame header.
pub(crate) const HEADER_LEN: usize = 24;
/// Most content bytes in one piece of a chunk. Small enough to stay in a core's cache between read, digest and send.
pub(crate) const PIECE_MAX: usize = 256 * 1024;
/// Length of a piece's header.
pub(crate) const PIECE_HEADER_LEN: usize = 8;
/// Most chunks in one question.
pub(crate) const WANT_MAX: usize = 1024;
/// What is compared in a delta seed: one InnoDB page of the usual size.
pub(crate) const DELTA_BLOCK: usize = 16 * 1024;
/// Most blocks in one chunk of a delta seed.
pub(crate) const DELTA_BLOCKS_MAX: usize = 1024;
/// Length of the set of changed blocks before a difference.
pub(crate) const DELTA_SET_LEN: usize = 4;
/// Length of a [`crate::circle::Card`].
pub(crate) const CARD_LEN: usize = 64;
/// Length of a [`crate::circle::Member`].
pub(crate) const MEMBER_LEN: usize = 100;
/// Length of a chunk's number and digest.
pub(crate) const READ_LEN: usize = 20;
/// Most members that a donor introduces to one another.
pub(crate) const MEMBERS_MAX: usize = 64;
/// Most bytes of a message for people.
pub(crate) const TEXT_MAX: usize = 4096;

/// Kinds of frames.
pub(crate) mod kind {
    /// To the donor: send the manifest.
    pub(crate) const WANT_MANIFEST: u8 = 1;
    /// To the donor: `len` bytes of chunk numbers follow, four each.
    pub(crate) const WANT: u8 = 2;
    /// To the donor: chunk `chunk` is wanted as a difference; `len` bytes of block digests follow, eight each.
    pub(crate) const WANT_DELTA: u8 = 5;
    /// To the donor: 32 bytes follow, the recipient's root digest.
    pub(crate) const PROVE: u8 = 3;
    /// To the donor: the seed failed, `len` bytes of text follow.
    pub(crate) const GIVE_UP: u8 = 4;
    /// To the donor: send the stream of a program, from its first byte.
    pub(crate) const WANT_STREAM: u8 = 6;
    /// To the donor: this recipient hands on what it has, at TCP port `value` of the address it comes from; its
    /// [`crate::circle::Card`] follows.
    pub(crate) const JOIN: u8 = 7;
    /// To the donor: which chunks have been asked for and read for anybody, after the first `value` of such news?
    pub(crate) const WANT_DIGESTS: u8 = 8;
    /// To the donor: send the manifest, of what differs from the tree with the root digest that follows (32 bytes) if that is
    /// here too.
    pub(crate) const WANT_SINCE: u8 = 10;
    /// To a recipient that hands on: which chunks has it proven, after the first `value`?
    pub(crate) const WANT_PROVEN: u8 = 9;
    /// To the recipient: who else receives the tree, `len` bytes of [`crate::circle::Member`] follow; the recipient
    /// itself is number `chunk` among them.
    pub(crate) const CIRCLE: u8 = 23;
    /// To the recipient: `len` bytes of chunk numbers with digests follow, up to number `value` of such news; a digest of zeros:
    /// somebody has asked for it.
    pub(crate) const DIGESTS: u8 = 24;
    /// To another recipient: `len` bytes of chunk numbers follow, up to number `value` of what was proven.
    pub(crate) const PROVEN: u8 = 25;
    /// To the recipient: `value` bytes of a program's stream follow.
    pub(crate) const STREAM: u8 = 21;
    /// To the recipient: the stream was `value` bytes long and its program succeeded.
    pub(crate) const STREAM_END: u8 = 22;
    /// To the recipient: still here.
    pub(crate) const KEEP_ALIVE: u8 = 16;
    /// To the recipient: `value` bytes of manifest follow.
    pub(crate) const MANIFEST: u8 = 17;
    /// To the recipient: chunk `chunk` of `value` content bytes follows in pieces, then its digest.
    pub(crate) const CHUNK: u8 = 18;
    /// To the recipient: 32 bytes follow, the donor's proof of the root digest.
    pub(crate) const PROOF: u8 = 19;
    /// To the recipient: the seed failed, `len` bytes of text follow.
    pub(crate) const FAILURE: u8 = 20;
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) chunk: u32,
    pub(crate) value: u64,
    pub(crate) len: u32,
}

impl Header {
    pub(crate) fn new(kind: u8) -> Self {
        Self { kind, chunk: 0, value: 0, len: 0 }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0] = self.kind;
        out[4..8].copy_from_slice(&self.chunk.to_le_bytes());
        out[8..16].copy_from_slice(&self.value.to_le_bytes());
        out[16..20].copy_from_slice(&self.len.to_le_bytes());
        out
    }

    /// Reads a header; reserved bytes must be zero so that they can get a meaning in a later version.
    pub(crate) fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        let header = Self {
            kind: bytes[0],
            chunk: le_u32(&bytes[4..8]),
            value: le_u64(&bytes[8..16]),
            len: le_u32(&bytes[16..20]),
        };
        let longest = match header.kind {
            kind::WANT => WANT_MAX * 4,
            kind::WANT_DELTA => DELTA_BLOCKS_MAX * 8,
            kind::GIVE_UP | kind::FAILURE => TEXT_MAX,
            kind::WANT_STREAM | kind::STREAM | kind::STREAM_END => 0,
            kind::WANT_MANIFEST | kind::KEEP_ALIVE | kind::MANIFEST | kind::CHUNK => 0,
            kind::PROVE | kind::PROOF | kind::WANT_SINCE => 32,
            kind::JOIN => CARD_LEN,
            kind::CIRCLE => MEMBERS_MAX * MEMBER_LEN,
            kind::PROVEN => WANT_MAX * 4,
            kind::DIGESTS => WANT_MAX * READ_LEN,
            kind::WANT_PROVEN | kind::WANT_DIGESTS => 0,
            _ => return Err(Error::Protocol("unknown frame")),
        };
        if header.len as usize > longest {
            return Err(Error::Protocol("frame too long"));
        }
        if bytes[1..4] != [0; 3] || bytes[20..] != [0; 4] {
            return Err(Error::Protocol("reserved bytes of a frame are set"));
        }
        if matches!(header.kind, kind::PROVE | kind::PROOF | kind::WANT_SINCE) && header.len != 32 {
            return Err(Error::Protocol("proof of a wrong length"));
        }
        let unit = match header.kind {
            kind::JOIN => CARD_LEN,
            kind::CIRCLE => MEMBER_LEN,
            kind::DIGESTS => READ_LEN,
            kind::PROVEN => 4,
            _ => 1,
        };
        if !header.len.is_multiple_of(unit as u32) || (header.kind == kind::JOIN && header.len == 0) {
            return Err(Error::Protocol("frame of a wrong length"));
        }
        if header.kind == kind::WANT_DELTA && (header.len == 0 || !header.len.is_multiple_of(8)) {
            return Err(Error::Protocol("block digests of a wrong length"));
        }
        if header.kind == kind::WANT && (header.len == 0 || !header.len.is_multiple_of(4)) {
            return Err(Error::Protocol("request of a wrong length"));
        }
        Ok(header)
    }
}

/// How the bytes of a piece are to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PieceKind {
    /// As they are.
    Raw = 0,
    /// The donor failed in the middle of a chunk; the bytes are its message.
    Failed = 1,
    /// A set of changed blocks (four bytes, one bit each), then those blocks; the others are as the recipient has them.
    Delta = 2,
    /// LZ4.
    Lz4 = 3,
    /// Zstandard.
    Zstd = 4,
}

/// The header of one piece of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) kind: PieceKind,
    /// Content bytes, after decoding.
    pub(crate) raw_len: usize,
    /// Bytes on the wire.
    pub(crate) wire_len: usize,
}

impl Piece {
    pub(crate) fn raw(len: usize) -> Self {
        Self { kind: PieceKind::Raw, raw_len: len, wire_len: len }
    }

    pub(crate) fn encode(&self) -> [u8; PIECE_HEADER_LEN] {
        let mut out = [0; PIECE_HEADER_LEN];
        out[..4].copy_from_slice(&(self.raw_len as u32).to_le_bytes());
        out[4..].copy_from_slice(&(self.wire_len as u32).to_le_bytes());
        out[7] = self.kind as u8;
        out
    }

    pub(crate) fn decode(bytes: &[u8; PIECE_HEADER_LEN]) -> Result<Self> {
        let kind = match bytes[7] {
            0 => PieceKind::Raw,
            1 => PieceKind::Failed,
            2 => PieceKind::Delta,
            3 => PieceKind::Lz4,
            4 => PieceKind::Zstd,
            _ => return Err(Error::Protocol("unknown encoding of a piece")),
        };
        let raw_len = le_u32(&bytes[..4]) as usize;
        let wire_len = (le_u32(&bytes[4..]) & 0x00ff_ffff) as usize;
        let piece = Self { kind, raw_len, wire_len };
        let fits = match kind {
            PieceKind::Raw => raw_len > 0 && raw_len <= PIECE_MAX && raw_len == wire_len,
            PieceKind::Delta => {
                raw_len > 0
                    && raw_len <= PIECE_MAX
                    && (DELTA_SET_LEN..=raw_len + DELTA_SET_LEN).contains(&wire_len)
            }
            PieceKind::Lz4 | PieceKind::Zstd => raw_len <= PIECE_MAX && (1..raw_len).contains(&wire_len),
            PieceKind::Failed => raw_len == 0 && wire_len <= TEXT_MAX,
        };
        fits.then_some(piece).ok_or(Error::Protocol("piece of a wrong length"))
    }
}

/// Cuts a message for people to what a frame may carry, at a character's border.
pub(crate) fn bounded_text(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(TEXT_MAX)]
}

/// What the other end wrote, made safe to show: bounded by the frame, no control characters.
pub(crate) fn shown_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Reads 4 bytes; the caller has checked the length.
pub(crate) fn le_u32(bytes: &[u8]) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(bytes);
    u32::from_le_bytes(array)
}

/// Reads 8 bytes; the caller has checked the length.
pub(crate) fn le_u64(bytes: &[u8]) -> u64 {
    let mut array = [0; 8];
    array.copy_from_slice(bytes);
    u64::from_le_bytes(array)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_survives_the_wire() {
        let header = Header { kind: kind::WANT, chunk: 7, value: u64::MAX - 1, len: 4 * 33 };
        assert_eq!(Header::decode(&header.encode()).unwrap(), header);
    }

    #[test]
    fn absurd_lengths_are_refused() {
        for (kind, len) in [
            (kind::WANT, WANT_MAX * 4 + 4),
            (kind::WANT, 3),
            (kind::FAILURE, TEXT_MAX + 1),
            (kind::PROVE, 31),
            (kind::WANT_SINCE, 0),
            (kind::KEEP_ALIVE, 1),
        ] {
            let header = Header { kind, chunk: 0, value: 0, len: len as u32 };
            assert!(Header::decode(&header.encode()).is_err(), "kind {kind} len {len}");
        }
        assert!(Piece::decode(&Piece::raw(PIECE_MAX + 1).encode()).is_err());
        assert!(Piece::decode(&Piece::raw(0).encode()).is_err());
        assert!(Piece::decode(&Piece { kind: PieceKind::Raw, raw_len: 10, wire_len: 9 }.encode()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_bounded_header_or_an_error(bytes: [u8; HEADER_LEN], piece: [u8; PIECE_HEADER_LEN]) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert!(header.len as usize <= TEXT_MAX.max(WANT_MAX * 4).max(DELTA_BLOCKS_MAX * 8));
                prop_assert_eq!(header.encode(), bytes);
            }
            if let Ok(piece) = Piece::decode(&piece) {
                prop_assert!(piece.raw_len <= PIECE_MAX && piece.wire_len <= PIECE_MAX + DELTA_SET_LEN);
            }
        }

        #[test]
        fn shown_text_never_carries_control_characters(bytes: Vec<u8>) {
            prop_assert!(!shown_text(&bytes).contains(char::is_control));
        }
    }
}
