//! Seeds that compare with the recipient's old tree: what is equal stays at home, and what arrives is the donor's to the byte.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use common::{Bench, Fault, Proxy, assert_same_tree, content, write};
use testkit::loopfs::Mounted;
use transfer::{Donor, DonorOptions, RecipientOptions, receive};

#[test]
fn a_delta_moves_only_the_pages_that_differ() {
    let bench = Bench::new();
    let pages = 2048;
    let old_bytes = content(5, pages * 16384);
    let mut new_bytes = old_bytes.clone();
    for page in (0..pages).step_by(20) {
        new_bytes[page * 16384 + 77] ^= 1;
    }
    let old = bench.source().with_file_name("old");
    write(&old, "db/big.ibd", &old_bytes);
    write(&old, "db/shrunk.ibd", &content(6, 5 << 20));
    write(&old, "db/grown.ibd", &content(7, (2 << 20) + 5000));
    write(&old, "gone", b"x");
    write(&bench.source(), "db/big.ibd", &new_bytes);
    write(&bench.source(), "db/shrunk.ibd", &content(6, 5 << 20)[..(3 << 20) + 11]);
    write(&bench.source(), "db/grown.ibd", &content(7, 3 << 20));
    let donor = Donor::start(bench.donor_options()).unwrap();
    let received =
        receive(RecipientOptions { delta_base: Some(old.clone()), ..bench.recipient_options(&donor) })
            .unwrap();
    assert_same_tree(&bench.source(), &bench.staging());
    donor.wait().unwrap();
    let changed = (pages as u64).div_ceil(20) * 16384 + (1 << 20);
    assert!(
        received.bytes_wire < changed + changed / 10,
        "{} bytes for {changed} changed",
        received.bytes_wire
    );
    assert!(fs::read(old.join("db/big.ibd")).unwrap() == old_bytes, "the old tree is only read");
}

const NO_XFS: &str = "no XFS image can be made and mounted here (needs root, xfsprogs and loop devices)";

#[test]
fn a_delta_on_xfs_shares_what_is_equal_with_the_old_tree() {
    let Some(xfs) = Mounted::xfs(400) else {
        testkit::skip!("{NO_XFS}");
    };
    let bench = Bench::new();
    let old_bytes = content(5, 150 << 20);
    let mut new_bytes = old_bytes.clone();
    for at in (0..new_bytes.len()).step_by(20 * 16384) {
        new_bytes[at] ^= 1;
    }
    write(&xfs.path(), "old/big.ibd", &old_bytes);
    write(&bench.source(), "big.ibd", &new_bytes);
    let donor = Donor::start(bench.donor_options()).unwrap();
    let options = RecipientOptions {
        staging: xfs.path().join("staging"),
        delta_base: Some(xfs.path().join("old")),
        ..bench.recipient_options(&donor)
    };
    receive(options).unwrap();
    assert_same_tree(&bench.source(), &xfs.path().join("staging"));
    assert!(fs::read(xfs.path().join("old/big.ibd")).unwrap() == old_bytes, "the old tree is only read");
    let free = nix::sys::statvfs::statvfs(&xfs.path()).unwrap();
    let free_mib = (free.blocks_available() * free.fragment_size()) >> 20;
    // A copy of both would leave some 30 MiB; XFS also reserves a little around each block that it unshares.
    assert!(free_mib > 75, "equal blocks are not shared: {free_mib} MiB free of 400");
}

const BLOCK: usize = 16 << 10;
const CHUNK: usize = 256 << 10;

/// What a block of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Hole,
    Zeros,
    Data(u64),
}

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }

    fn block(&mut self) -> Block {
        match self.below(4) {
            0 => Block::Hole,
            1 => Block::Zeros,
            _ => Block::Data(self.below(usize::MAX) as u64),
        }
    }

    /// Runs of one kind, of less than a block's to more than a chunk's length.
    fn layout(&mut self, blocks: usize) -> Vec<Block> {
        let mut layout = Vec::new();
        while layout.len() < blocks {
            let (block, run) = (self.block(), 1 + self.below(40));
            layout.extend(std::iter::repeat_n(block, run.min(blocks - layout.len())));
        }
        layout
    }

    /// The same with some runs replaced, cut or made longer.
    fn changed(&mut self, old: &[Block]) -> Vec<Block> {
        let mut new = old.to_vec();
        for _ in 0..self.below(6) {
            let (at, run, block) = (self.below(new.len()), 1 + self.below(30), self.block());
            let end = (at + run).min(new.len());
            new[at..end].fill(block);
        }
        let longer = self.below(20);
        match self.below(3) {
            0 => new.truncate(1 + new.len() - new.len().min(longer)),
            1 => new.extend(self.layout(longer)),
            _ => {}
        }
        new
    }
}

/// Writes a file of these blocks; the last is cut short by `short` bytes.
fn lay_out(path: &Path, layout: &[Block], short: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::create(path).unwrap();
    file.set_len((layout.len() * BLOCK - short) as u64).unwrap();
    for (nth, block) in layout.iter().enumerate() {
        let len = if nth + 1 == layout.len() { BLOCK - short } else { BLOCK };
        let bytes = match block {
            Block::Hole => continue,
            Block::Zeros => vec![0; len],
            Block::Data(seed) => content(*seed, len),
        };
        file.write_all_at(&bytes, (nth * BLOCK) as u64).unwrap();
    }
    // What is not on disk yet has no blocks that a file system could tell of.
    file.sync_all().unwrap();
}

/// Bytes of `new` that are neither there in `old` nor zeros of a hole in both.
fn changed_bytes(old: &[Block], new: &[Block]) -> usize {
    let is_zero = |block: &Block| !matches!(block, Block::Data(_));
    let same = |nth: usize, block: &Block| {
        old.get(nth).is_some_and(|old| old == block || is_zero(old) && is_zero(block))
    };
    new.iter().enumerate().filter(|(nth, block)| !same(*nth, block)).count() * BLOCK
}

/// Seeds trees of files with holes over old ones below `place`, uninterrupted and in two runs.
fn layouts_of_holes_arrive(place: &Path, clones: bool, seed: u64) {
    let mut dice = Dice(seed);
    for round in 0..12 {
        let bench = Bench::new();
        let dir = place.join(format!("{round}"));
        let (old, staging) = (dir.join("old"), dir.join("staging"));
        let (mut changed, mut files) = (0, 0);
        for nth in 0..6 {
            let blocks = 20 + dice.below(100);
            let before = dice.layout(blocks);
            let after = dice.changed(&before);
            let (name, short) = (format!("t{nth}.ibd"), dice.below(BLOCK));
            lay_out(&old.join(&name), &before, short);
            lay_out(&bench.source().join(&name), &after, short);
            // The last block of either file is short.
            changed += changed_bytes(&before[..before.len() - 1], &after) + BLOCK;
            files += after.len() * BLOCK;
        }
        let donor =
            Donor::start(DonorOptions { chunk_size: Some(CHUNK as u32), ..bench.donor_options() }).unwrap();
        let options = RecipientOptions {
            staging: staging.clone(),
            delta_base: Some(old.clone()),
            ..bench.recipient_options(&donor)
        };
        if round % 3 == 2 {
            // A run that comes to an end somewhere leaves whatever it has begun.
            let freeze = Proxy::start(donor.addr(), Fault::Freeze(20_000 + dice.below(changed) as u64));
            let cut = RecipientOptions {
                donor: vec![freeze.addr],
                stall_timeout: Duration::from_millis(300),
                ..options.clone()
            };
            let _ = receive(cut);
        }
        let received = receive(options).unwrap();
        if clones {
            // Zeros that the old file had blocks for keep them.
            for nth in 0..6 {
                let name = format!("t{nth}.ibd");
                let (new, got) = (bench.source().join(&name), staging.join(&name));
                assert!(fs::read(new).unwrap() == fs::read(got).unwrap(), "round {round}: content of {name}");
            }
        } else {
            assert_same_tree(&bench.source(), &staging);
        }
        if round % 3 != 2 {
            let most = changed + files / 1000 + (128 << 10);
            assert!(
                received.bytes_wire < most as u64,
                "round {round}: {} bytes travelled, {changed} of {files} had changed",
                received.bytes_wire
            );
        }
    }
}

#[test]
fn files_with_holes_are_compared_too() {
    let place = tempfile::TempDir::with_prefix("transfer-holes-").unwrap();
    layouts_of_holes_arrive(place.path(), false, 0x5EED_0001);
}

#[test]
fn files_with_holes_are_compared_where_they_began_as_clones_too() {
    let Some(xfs) = Mounted::xfs(400) else {
        testkit::skip!("{NO_XFS}");
    };
    layouts_of_holes_arrive(&xfs.path(), true, 0x5EED_0002);
}

#[test]
fn what_an_earlier_seed_of_another_tree_left_does_not_show_through_holes() {
    let bench = Bench::new();
    let file = bench.source().join("t.ibd");
    lay_out(&file, &vec![Block::Data(1); 400], 0);
    let proxy_at = 5 << 20;
    let first = Donor::start(bench.donor_options()).unwrap();
    let proxy = Proxy::start(first.addr(), Fault::Freeze(proxy_at));
    let cut = RecipientOptions {
        donor: vec![proxy.addr],
        connections: 1,
        stall_timeout: Duration::from_millis(300),
        ..bench.recipient_options(&first)
    };
    receive(cut).unwrap_err();
    assert!(fs::metadata(bench.staging().join("t.ibd")).unwrap().blocks() > 1024, "something was left");
    drop(first);
    let mut holes = vec![Block::Hole; 400];
    holes[399] = Block::Data(2);
    lay_out(&file, &holes, 0);
    let second = Donor::start(bench.donor_options()).unwrap();
    receive(bench.recipient_options(&second)).unwrap();
    assert_same_tree(&bench.source(), &bench.staging());
}
