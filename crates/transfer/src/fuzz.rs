//! What a stranger may send, or a crash may leave, fed to the code that reads it.
//!
//! Each function takes any bytes and panics only when a promise is broken. `cargo fuzz` drives them (`fuzz/`, see
//! CONTRIBUTING.md); the tests below run them over the corpus in the tree and over some thousand
//! mutations of it, the same ones every time, on any toolchain.

use std::fs;
use std::path::Component;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::compress::Unpacker;
use crate::delta::ranges;
use crate::digest::DigestKind;
use crate::frame::{HEADER_LEN, Header, PIECE_HEADER_LEN, PIECE_MAX, Piece, PieceKind, shown_text};
use crate::handshake::{GREETING_LEN, Greeting, HELLO_LEN, Hello, WELCOME_LEN, decode_welcome};
use crate::manifest::EntryKind;
use crate::recipient::Journal;
use crate::{Manifest, Token};

const SMALL_MANIFEST: &[u8] = include_bytes!("../fuzz/corpus/manifest/small");

/// A frame's header, then pieces with what they carry.
pub fn frame(mut data: &[u8]) {
    if let Some((header, rest)) = data.split_first_chunk::<HEADER_LEN>() {
        if let Ok(decoded) = Header::decode(header) {
            assert_eq!(&decoded.encode(), header, "a header has one form only");
        }
        data = rest;
    }
    let mut unpacker = Unpacker::default();
    let mut out = vec![0; PIECE_MAX];
    while let Some((header, rest)) = data.split_first_chunk::<PIECE_HEADER_LEN>() {
        let Ok(piece) = Piece::decode(header) else { return };
        assert!(piece.raw_len <= PIECE_MAX && piece.wire_len <= PIECE_MAX + 4, "{piece:?}");
        let body = &rest[..piece.wire_len.min(rest.len())];
        match piece.kind {
            PieceKind::Failed => assert!(!shown_text(body).contains(char::is_control)),
            PieceKind::Delta if body.len() >= 4 => {
                let set = u32::from_le_bytes([body[0], body[1], body[2], body[3]]);
                assert!(ranges(set, piece.raw_len).all(|range| range.end <= piece.raw_len));
            }
            PieceKind::Lz4 | PieceKind::Zstd => {
                let _ = unpacker.unpack(piece.kind, body, &mut out[..piece.raw_len]);
            }
            PieceKind::Raw | PieceKind::Delta => {}
        }
        data = &rest[body.len()..];
    }
}

/// A whole manifest: what is accepted leads nowhere outside and has no chunk beyond its file.
pub fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::parse(data.to_vec()) else { return };
    let mut chunks = 0;
    for (index, entry) in manifest.iter().enumerate() {
        assert!(entry.path.components().all(|part| matches!(part, Component::Normal(_))), "{:?}", entry.path);
        assert!(entry.kind == EntryKind::File || entry.chunks == 0);
        assert_eq!(entry.first_chunk, chunks);
        chunks += entry.chunks;
        for nth in (0..entry.chunks).take(3).chain(entry.chunks.checked_sub(1)) {
            let place = manifest.locate(entry.first_chunk + nth);
            assert_eq!(place.is_some(), entry.has_data(nth));
            if let Some(place) = place {
                assert_eq!(place.entry as usize, index);
                assert!(place.len > 0 && place.offset + u64::from(place.len) <= entry.moved, "{place:?}");
                let (mut end, mut sum) = (0, 0);
                for run in manifest.runs(&place) {
                    assert!(end <= run.start && run.start < run.end && run.end <= entry.size, "{run:?}");
                    sum += run.end - run.start;
                    end = run.end;
                }
                assert_eq!(sum, u64::from(place.len));
            }
        }
    }
    assert_eq!(chunks, manifest.chunks());
}

/// The three messages of a handshake, one after the other.
pub fn handshake(data: &[u8]) {
    let Ok(token) = "07".repeat(32).parse::<Token>() else { return };
    let Some((greeting, rest)) = data.split_first_chunk::<GREETING_LEN>() else { return };
    let _ = Greeting::decode(greeting);
    let Some((hello, rest)) = rest.split_first_chunk::<HELLO_LEN>() else { return };
    if Hello::decode(hello).is_ok() {
        let _ = Hello::is_proven(hello, &token, greeting);
    }
    if let Some((welcome, _)) = rest.split_first_chunk::<WELCOME_LEN>() {
        let _ = decode_welcome(welcome, &token, hello);
    }
}

/// A resume journal as it was found: what is replayed exists, and the journal is good to go on with.
pub fn journal(data: &[u8]) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("transfer-fuzz-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
    let path = std::env::temp_dir().join(name);
    let (Ok(manifest), Ok(())) = (Manifest::parse(SMALL_MANIFEST.to_vec()), fs::write(&path, data)) else {
        panic!("the corpus' manifest must be good, and {} writable", path.display());
    };
    if let Ok(mut journal) = Journal::open(&path) {
        let replayed = journal.bind(&manifest, DigestKind::Xxh3, |chunk, _| {
            assert!(manifest.locate(chunk).is_some(), "chunk {chunk} does not exist");
        });
        if replayed.is_ok() && journal.append(&[(0, [3; 16])], false).is_ok() {
            let mut last = None;
            let again = Journal::open(&path).and_then(|mut journal| {
                journal.bind(&manifest, DigestKind::Xxh3, |chunk, digest| last = Some((chunk, digest)))
            });
            assert!(again.is_ok() && last == Some((0, [3; 16])), "what was appended is not found again");
        }
    }
    let _ = fs::remove_file(&path);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn run(name: &str, inputs: u64, target: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut files: Vec<_> = fs::read_dir(&corpus).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let samples: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        testkit::fuzz::run(name, &samples, inputs, target);
    }

    #[test]
    fn fuzz_frames_of_strangers() {
        run("frame", 5000, frame);
    }

    #[test]
    fn fuzz_manifests_of_strangers() {
        run("manifest", 5000, manifest);
    }

    #[test]
    fn fuzz_handshakes_of_strangers() {
        run("handshake", 5000, handshake);
    }

    #[test]
    fn fuzz_damaged_journals() {
        // Each one is flushed to disk several times.
        run("journal", 200, journal);
    }
}
