//! Seeds of what differs from a tree that the recipient has kept: neither end reads what is equal, and what stands there in the end is
//! the donor's to the byte. On XFS and btrfs, which know what two files share.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::{Bench, Fault, Proxy, assert_same_but_holes, assert_same_tree, content, write};
use nix::fcntl::{FallocateFlags, fallocate};
use testkit::loopfs::Mounted;
use transfer::{
    Base, BaseTree, Bases, Donor, DonorOptions, DonorReport, Exclude, Received, RecipientOptions, receive,
};

/// Of each file system; sparse.
const MIB: u64 = 512;
const NO_MOUNT: &str =
    "no XFS or btrfs can be made and mounted here (needs root, their tools and loop devices)";

/// A tree that shares all its blocks with another.
fn clone_tree(from: &Path, to: &Path) {
    let cloned = Command::new("cp").args(["-a", "--reflink=always"]).args([from, to]).status().unwrap();
    assert!(cloned.success());
}

/// Trees that a donor has given: as its agent would have noted them.
#[derive(Default)]
struct Given(Vec<OfThen>);

/// A tree that was given.
#[derive(Clone)]
struct OfThen {
    root_digest: [u8; 32],
    root: PathBuf,
    stamp: [u8; 32],
    exclude: Exclude,
}

impl Bases for Given {
    fn find(&self, root_digest: &[u8; 32]) -> Result<BaseTree, String> {
        let given = self.0.iter().find(|given| given.root_digest == *root_digest);
        let OfThen { root, stamp, exclude, .. } = given.ok_or("it was never given")?.clone();
        Ok(BaseTree { root, stamp, exclude, hold: Box::new(()) })
    }
}

/// A donor that takes snapshots of a tree, and a recipient that keeps what it gets, each on a file system of its own.
struct Pair {
    donor: Mounted,
    recipient: Mounted,
    snapshots: usize,
    given: Vec<OfThen>,
    /// What stays at home.
    exclude: Exclude,
    kept: Option<Base>,
}

impl Pair {
    fn on(make: impl Fn() -> Option<Mounted>) -> Option<Self> {
        let (donor, recipient) = (make()?, make()?);
        fs::create_dir(donor.path().join("live")).unwrap();
        Some(Self { donor, recipient, snapshots: 0, given: Vec::new(), exclude: Exclude::none(), kept: None })
    }

    fn live(&self) -> PathBuf {
        self.donor.path().join("live")
    }

    fn snapshot(&mut self) -> PathBuf {
        self.snapshots += 1;
        let snapshot = self.donor.path().join(format!("snapshot-{}", self.snapshots));
        clone_tree(&self.live(), &snapshot);
        snapshot
    }

    fn ends(&self, bench: &Bench, snapshot: &Path) -> (Donor, RecipientOptions) {
        let options = DonorOptions {
            root: snapshot.to_owned(),
            exclude: self.exclude.clone(),
            bases: Some(Arc::new(Given(self.given.clone()))),
            chunk_size: Some(256 << 10),
            ..bench.donor_options()
        };
        let donor = Donor::start(options).unwrap();
        let options = RecipientOptions {
            staging: self.recipient.path().join(format!("staging-{}", self.snapshots)),
            base: self.kept.clone(),
            ..bench.recipient_options(&donor)
        };
        (donor, options)
    }

    /// Seeds from a new snapshot, which both ends keep afterwards.
    fn seed(&mut self) -> Received {
        let snapshot = self.snapshot();
        let bench = Bench::new();
        let (donor, options) = self.ends(&bench, &snapshot);
        let staging = options.staging.clone();
        let received = receive(options).unwrap();
        let report = donor.wait().unwrap();
        // Holes within a block that is compared are filled with it.
        if self.exclude.matches(b"at-home") {
            assert!(!staging.join("at-home").exists());
        } else {
            assert_same_but_holes(&snapshot, &staging);
        }
        self.keep(&snapshot, &staging, &received, &report);
        received
    }

    fn keep(&mut self, snapshot: &Path, staging: &Path, received: &Received, report: &DonorReport) {
        assert_eq!(received.root_digest, report.root_digest);
        self.given.push(OfThen {
            root_digest: report.root_digest,
            root: snapshot.to_owned(),
            stamp: report.stamp,
            exclude: self.exclude.clone(),
        });
        let root = self.recipient.path().join(format!("kept-{}", self.snapshots));
        clone_tree(staging, &root);
        self.kept = Some(Base { root, root_digest: received.root_digest });
    }
}

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most.max(1)
    }
}

const PAGE: u64 = 16 << 10;

/// Something that happens to a file of a database, or that a person does to it.
fn happens(dice: &mut Dice, file: &Path, other: &Path) {
    let open = File::options().read(true).write(true).open(file).unwrap();
    let size = open.metadata().unwrap().len();
    let at = dice.below(size.max(1));
    let aligned = (at / 4096 * 4096) as i64;
    let len = 1 + dice.below(100_000);
    let blocks = (1 + len / 4096 * 4096).next_multiple_of(4096) as i64;
    // Not each file system can do each, nor at each place.
    let allocate = |mode, len| {
        let _ = fallocate(&open, mode, aligned, len);
    };
    match dice.below(12) {
        0..4 => open.write_all_at(&content(dice.below(u64::MAX), PAGE as usize), at / PAGE * PAGE).unwrap(),
        4 => open.write_all_at(&content(dice.below(u64::MAX), len as usize), at).unwrap(),
        5 => open.write_all_at(&content(dice.below(u64::MAX), len as usize), size).unwrap(),
        6 => open.set_len(at).unwrap(),
        7 => open.set_len(size + len).unwrap(),
        8 => allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, blocks),
        9 => allocate(FallocateFlags::empty(), blocks),
        // The blocks stay where they are on the disk, and get other places in the file.
        10 => allocate(FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 4096),
        _ => {
            // Another file's blocks, whole and as they are.
            fs::remove_file(file).unwrap();
            clone_tree(other, file);
        }
    }
}

/// `OA_HISTORY_SEED=n` tries others.
fn histories(make: impl Fn() -> Option<Mounted>, seed: u64) {
    let by_hand = std::env::var("OA_HISTORY_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let seed = seed ^ by_hand.unwrap_or(0) << 16;
    let Some(mut pair) = Pair::on(make) else {
        testkit::skip!("{NO_MOUNT}");
    };
    let mut dice = Dice(seed);
    let name = |nth: u64| format!("db/t{nth}.ibd");
    for nth in 0..8 {
        write(&pair.live(), &name(nth), &content(nth, (dice.below(3 << 20) + 100) as usize));
    }
    write(&pair.live(), "small", b"inside the metadata");
    assert!(!pair.seed().since_base);
    for round in 0..8 {
        for _ in 0..1 + dice.below(6) {
            let (one, other) = (dice.below(8), dice.below(8));
            if one != other {
                happens(&mut dice, &pair.live().join(name(one)), &pair.live().join(name(other)));
            }
        }
        if round % 3 == 1 {
            fs::rename(pair.live().join(name(0)), pair.live().join(format!("db/renamed-{round}"))).unwrap();
            write(&pair.live(), &name(0), &content(1000 + round, 70_000));
        }
        assert!(pair.seed().since_base, "round {round}");
        fs::remove_dir_all(pair.recipient.path().join(format!("staging-{}", pair.snapshots))).unwrap();
    }
}

#[test]
fn whatever_happened_in_between_arrives_on_xfs() {
    histories(|| Mounted::xfs(MIB), 0x5EED_0011);
}

#[test]
fn whatever_happened_in_between_arrives_on_btrfs() {
    histories(|| Mounted::btrfs(MIB, ""), 0x5EED_0012);
}

#[test]
fn whatever_happened_in_between_arrives_on_a_btrfs_that_compresses() {
    histories(|| Mounted::btrfs(MIB, "compress-force=zstd"), 0x5EED_0013);
}

/// Pages of a file of 64 MiB that change: one in a hundred.
fn change_pages(live: &Path) {
    let file = File::options().write(true).open(live.join("big.ibd")).unwrap();
    for nth in 0..40_u64 {
        file.write_all_at(&content(900 + nth, PAGE as usize), nth * 100 * PAGE + 7 * PAGE).unwrap();
    }
}

fn with_a_large_file(make: impl Fn() -> Option<Mounted>) -> Option<Pair> {
    let mut pair = Pair::on(make)?;
    write(&pair.live(), "big.ibd", &content(5, 64 << 20));
    for nth in 0..50 {
        write(&pair.live(), &format!("db/t{nth}.ibd"), &content(nth, 100_000));
    }
    pair.seed();
    change_pages(&pair.live());
    Some(pair)
}

#[test]
fn only_what_differs_travels_and_the_rest_is_shared_with_what_was_kept() {
    for make in [|| Mounted::xfs(MIB), || Mounted::btrfs(MIB, "")] {
        let Some(mut pair) = with_a_large_file(make) else {
            testkit::skip!("{NO_MOUNT}");
        };
        let received = pair.seed();
        assert!(received.since_base);
        assert_eq!(received.bytes_moved, 40 * PAGE);
        assert!(received.bytes_wire < 41 * PAGE + 50 * 200, "{} bytes travelled", received.bytes_wire);
        assert!(received.bytes_total > 64 << 20);
    }
}

#[test]
fn what_was_written_to_since_is_not_believed() {
    let Some(mut pair) = with_a_large_file(|| Mounted::xfs(MIB)) else {
        testkit::skip!("{NO_MOUNT}");
    };
    // Of the old length, and with its old time of modification put back: only the time of change tells.
    let file = pair.given[0].root.join("db/t7.ibd");
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let open = File::options().write(true).open(&file).unwrap();
    open.write_all_at(b"other", 50).unwrap();
    open.set_modified(modified).unwrap();
    let received = pair.seed();
    assert!(!received.since_base);
    assert!(received.bytes_moved > 64 << 20, "all travels");
}

#[test]
fn a_tree_that_was_never_given_is_not_compared_with() {
    let Some(mut pair) = with_a_large_file(|| Mounted::xfs(MIB)) else {
        testkit::skip!("{NO_MOUNT}");
    };
    pair.given.clear();
    assert!(!pair.seed().since_base);
    // On another file system the same numbers of blocks say nothing.
    let elsewhere = Mounted::xfs(MIB).unwrap();
    clone_tree_by_copy(&pair.given[0].root, &elsewhere.path().join("copy"));
    pair.given[0].root = elsewhere.path().join("copy");
    pair.given[0].stamp = transfer::manifest::stamp(&pair.given[0].root, &Exclude::none()).unwrap();
    change_pages(&pair.live());
    assert!(!pair.seed().since_base);
}

fn clone_tree_by_copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args(["-a", "--reflink=never"]).args([from, to]).status().unwrap().success());
}

#[test]
fn one_that_is_cut_off_goes_on_where_it_was_and_ends_whole() {
    let Some(mut pair) = with_a_large_file(|| Mounted::xfs(MIB)) else {
        testkit::skip!("{NO_MOUNT}");
    };
    let snapshot = pair.snapshot();
    let bench = Bench::new();
    let (donor, options) = pair.ends(&bench, &snapshot);
    let proxy = Proxy::start(donor.addr(), Fault::Freeze(400_000));
    let cut = RecipientOptions {
        donor: vec![proxy.addr],
        connections: 1,
        stall_timeout: Duration::from_millis(500),
        ..options.clone()
    };
    receive(cut).unwrap_err();
    drop(donor);
    // The donor was started anew in between, as after a crash.
    let (donor, again) = pair.ends(&bench, &snapshot);
    let received = receive(RecipientOptions { journal: options.journal.clone(), ..again }).unwrap();
    donor.wait().unwrap();
    assert!(received.since_base && received.bytes_resumed > 0, "{received:?}");
    assert_same_tree(&snapshot, &options.staging);
}

#[test]
fn a_kept_tree_that_lacks_a_file_fails_the_seed_and_says_so() {
    let Some(mut pair) = with_a_large_file(|| Mounted::xfs(MIB)) else {
        testkit::skip!("{NO_MOUNT}");
    };
    let snapshot = pair.snapshot();
    fs::remove_file(pair.kept.as_ref().unwrap().root.join("db/t3.ibd")).unwrap();
    let bench = Bench::new();
    let (_donor, options) = pair.ends(&bench, &snapshot);
    let error = receive(options).unwrap_err();
    assert!(error.to_string().contains("t3.ibd"), "{}", common::chain(&error));
}

#[test]
fn what_stayed_at_home_then_comes_whole() {
    let Some(mut pair) = Pair::on(|| Mounted::xfs(MIB)) else {
        testkit::skip!("{NO_MOUNT}");
    };
    write(&pair.live(), "big.ibd", &content(5, 4 << 20));
    write(&pair.live(), "at-home", &content(6, 100_000));
    pair.exclude = Exclude::new(["at-home"]);
    pair.seed();
    pair.exclude = Exclude::none();
    let received = pair.seed();
    assert!(received.since_base);
    assert_eq!(received.bytes_moved, 100_000);
}
