//! Manifests as a hostile donor would write them.

use std::path::Path;

use proptest::prelude::*;

use super::*;

/// Writes manifests that `build` never would.
struct Forger {
    bytes: Vec<u8>,
    entries: u32,
    files: u32,
    chunks: u64,
    sum: u64,
    maps: Vec<u8>,
}

const CHUNK: u32 = 1 << 20;

impl Forger {
    fn new() -> Self {
        Self { bytes: vec![0; HEADER_LEN], entries: 0, files: 0, chunks: 0, sum: 0, maps: Vec::new() }
    }

    fn record(mut self, kind: EntryKind, flags: u8, path: &str, size: u64, target: &str, mode: u32) -> Self {
        let record = Record { kind, flags, path_len: path.len(), mode, uid: 0, gid: 0, mtime: (0, 0), size };
        self.bytes.extend(record.encode());
        self.bytes.extend(path.as_bytes());
        self.bytes.extend(target.as_bytes());
        self.entries += 1;
        if kind == EntryKind::File {
            self.files += 1;
            self.chunks += chunks_of(size, CHUNK);
            self.sum = self.sum.saturating_add(size);
        }
        self
    }

    fn dir(self, path: &str) -> Self {
        self.record(EntryKind::Dir, 0, path, 0, "", 0o700)
    }

    fn file(self, path: &str, size: u64) -> Self {
        self.record(EntryKind::File, 0, path, size, "", 0o600)
    }

    fn sparse(mut self, path: &str, size: u64, map: &[u8]) -> Self {
        self.maps.extend(map);
        self.record(EntryKind::File, FLAG_SPARSE, path, size, "", 0o600)
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.record(EntryKind::Link, 0, path, target.len() as u64, target, 0o777)
    }

    fn bytes(mut self) -> Vec<u8> {
        self.bytes.extend(&self.maps);
        self.bytes[..8].copy_from_slice(MAGIC);
        self.bytes[8..12].copy_from_slice(&CHUNK.to_le_bytes());
        self.bytes[12..16].copy_from_slice(&self.entries.to_le_bytes());
        self.bytes[16..20].copy_from_slice(&self.files.to_le_bytes());
        self.bytes[20..24].copy_from_slice(&(self.chunks as u32).to_le_bytes());
        self.bytes[24..32].copy_from_slice(&self.sum.to_le_bytes());
        self.bytes
    }

    fn parse(self) -> Result<Manifest, ManifestError> {
        Manifest::parse(self.bytes())
    }
}

fn refused(forger: Forger) -> String {
    forger.parse().unwrap_err().to_string()
}

#[test]
fn an_honest_tree_is_read_as_written() {
    let manifest = Forger::new()
        .dir("a")
        .file("a/b", 3 << 20)
        .dir("a/c")
        .link("a/c/up", "../../a/b")
        .file("a-b", 0)
        .sparse("s", (9 << 20) + 5, &[0b0000_0100, 0b10])
        .file("z", 1)
        .parse()
        .unwrap();
    let paths: Vec<_> = manifest.iter().map(|entry| entry.path.to_str().unwrap().to_owned()).collect();
    assert_eq!(paths, ["a", "a/b", "a/c", "a/c/up", "a-b", "s", "z"]);
    assert_eq!((manifest.files(), manifest.chunks()), (4, 3 + 10 + 1));
    assert_eq!(manifest.bytes_data(), (3 << 20) + (1 << 20) + 5 + 1);
    assert_eq!(manifest.locate(2), Some(ChunkPlace { entry: 1, offset: 2 << 20, len: 1 << 20 }));
    assert_eq!(manifest.locate(3), None, "a hole");
    assert_eq!(manifest.locate(5), Some(ChunkPlace { entry: 5, offset: 2 << 20, len: 1 << 20 }));
    assert_eq!(manifest.locate(12), Some(ChunkPlace { entry: 5, offset: 9 << 20, len: 5 }));
    assert_eq!(manifest.locate(13), Some(ChunkPlace { entry: 6, offset: 0, len: 1 }));
    assert_eq!(manifest.locate(14), None);
    assert_eq!(manifest.entry(3).target, Some(Path::new("../../a/b")));
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for path in ["/etc/passwd", "..", "../x", "a/../../x", ".", "./x", "a//b", "a/", "", "a/./b", "x\0y"] {
        let text = refused(Forger::new().dir("a").file(path, 1));
        assert!(text.starts_with("entry"), "{path:?}: {text}");
    }
    assert!(refused(Forger::new().file(&"x".repeat(256), 1)).contains("too long"));
    assert!(refused(Forger::new().file(&"x/".repeat(2500), 1)).contains("too long"));
}

#[test]
fn a_path_twice_or_out_of_order_is_refused() {
    assert!(refused(Forger::new().file("a", 1).file("a", 1)).contains("twice"));
    assert!(refused(Forger::new().file("b", 1).file("a", 1)).contains("twice"));
    assert!(refused(Forger::new().dir("a").file("a", 1)).contains("twice"));
    assert!(refused(Forger::new().dir("a").file("a-b", 1).file("a/b", 1)).contains("order"));
}

#[test]
fn nothing_is_written_through_a_link_or_a_file() {
    for forger in [
        Forger::new().link("a", "b").file("a/x", 1),
        Forger::new().file("a", 1).file("a/x", 1),
        Forger::new().file("missing/x", 1),
        Forger::new().dir("a").file("a/b/c", 1),
    ] {
        assert!(refused(forger).contains("not in a directory"));
    }
}

#[test]
fn links_that_leave_the_tree_are_refused() {
    for (path, target) in [
        ("l", "/etc"),
        ("l", ".."),
        ("l", "../x"),
        ("d/l", "../.."),
        ("d/l", "../../x"),
        ("d/l", "x/../../.."),
        // Alone it stays inside; through another link it would not.
        ("d/l", "x/.."),
        ("l", ""),
        ("l", "a//b"),
    ] {
        let text = refused(Forger::new().dir("d").link(path, target));
        assert!(text.contains("link"), "{path} -> {target}: {text}");
    }
    for (path, target) in [("l", "d/x"), ("d/l", "../d/x"), ("d/l", ".."), ("d/l", "./x")] {
        Forger::new().dir("d").link(path, target).parse().unwrap();
    }
}

#[test]
fn absurd_sizes_and_sums_are_refused() {
    assert!(refused(Forger::new().file("a", u64::MAX)).contains("absurd"));
    assert!(
        refused(Forger::new().file("a", 1 << 40).file("b", 1 << 40).file("c", 1 << 40)).contains("chunks")
    );
    assert!(refused(Forger::new().record(EntryKind::File, 0, "a", 1, "", 0o100_644)).contains("mode"));
    assert!(refused(Forger::new().record(EntryKind::File, 0x80, "a", 1, "", 0o644)).contains("flags"));
    let good = Forger::new().file("a", 5).bytes();
    for at in 8..32 {
        let mut bad = good.clone();
        bad[at] ^= 0x41;
        assert!(Manifest::parse(bad).is_err(), "byte {at} of the header");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(Manifest::parse(longer).unwrap_err(), ManifestError::Length);
    for len in 0..good.len() {
        assert!(Manifest::parse(good[..len].to_vec()).is_err(), "cut at {len}");
    }
}

#[test]
fn maps_of_holes_must_fit() {
    assert!(refused(Forger::new().sparse("s", 2 << 20, &[0b111])).contains("holes"));
    assert!(refused(Forger::new().sparse("s", 9 << 20, &[1])).contains("length"));
    Forger::new().sparse("s", 9 << 20, &[1, 0]).parse().unwrap();
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_safe(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), magic: bool) {
        if magic && bytes.len() >= 12 {
            bytes[..8].copy_from_slice(MAGIC);
            bytes[8..12].copy_from_slice(&CHUNK.to_le_bytes());
        }
        let _ = Manifest::parse(bytes);
    }

    #[test]
    fn a_changed_byte_never_makes_an_unsafe_tree(at: prop::sample::Index, value: u8) {
        let mut bytes = Forger::new().dir("a").file("a/b", 3 << 20).link("a/l", "b").sparse("s", 5 << 20, &[3]).bytes();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(manifest) = Manifest::parse(bytes) {
            for entry in manifest.iter() {
                prop_assert!(entry.path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
            for chunk in 0..manifest.chunks() {
                if let Some(place) = manifest.locate(chunk) {
                    prop_assert!(place.offset + u64::from(place.len) <= manifest.entry(place.entry).size);
                }
            }
        }
    }
}
