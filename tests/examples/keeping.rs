//! How much faster a seed is where the recipient has kept the one before (`make bench-since`): one page in a hundred has changed, nothing is
//! in the page cache, on XFS and on btrfs. Beside it the delta that compares with the old data, which reads both sides.
//!
//! `keeping [MIB [ROUNDS]]`; needs root for loop devices, and four times as much room in the temporary directory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement fails by a panic"
)]

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use testkit::loopfs::Mounted;
use transfer::{
    Base, BaseTree, Bases, Donor, DonorOptions, Exclude, Received, RecipientOptions, Token, receive,
};

const PAGE: u64 = 16 << 10;
const FILE: u64 = 256 << 20;

/// The one tree that was given before.
struct Given {
    root: PathBuf,
    root_digest: [u8; 32],
    stamp: [u8; 32],
}

impl Bases for Given {
    fn find(&self, root_digest: &[u8; 32]) -> Result<BaseTree, String> {
        assert_eq!(*root_digest, self.root_digest);
        let (root, stamp) = (self.root.clone(), self.stamp);
        Ok(BaseTree { root, stamp, exclude: Exclude::none(), hold: Box::new(()) })
    }
}

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.next().to_le_bytes()));
    }
}

/// One seed's figures.
struct Run {
    seconds: f64,
    donor_read: u64,
    recipient_read: u64,
    received: Received,
}

struct Pair {
    donor: Mounted,
    recipient: Mounted,
    work: tempfile::TempDir,
}

impl Pair {
    fn seed(
        &self,
        snapshot: &str,
        given: Option<Given>,
        old: Option<&str>,
        staging: &str,
    ) -> (Run, [u8; 32]) {
        cold();
        let token = Token::generate();
        let base = given
            .as_ref()
            .map(|given| Base { root: self.recipient.path().join("kept"), root_digest: given.root_digest });
        let journal = self.work.path().join("journal");
        let _ = fs::remove_file(&journal);
        let before = [&self.donor, &self.recipient].map(|place| read_bytes(&place.path()));
        let started = Instant::now();
        let donor = Donor::start(DonorOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            bases: given.map(|given| Arc::new(given) as Arc<dyn Bases>),
            ..DonorOptions::new(self.donor.path().join(snapshot), token.clone())
        })
        .unwrap();
        let received = receive(RecipientOptions {
            fingerprint: donor.fingerprint(),
            base,
            delta_base: old.map(|old| self.recipient.path().join(old)),
            ..RecipientOptions::new(vec![donor.addr()], token, self.recipient.path().join(staging), journal)
        })
        .unwrap();
        let seconds = started.elapsed().as_secs_f64();
        let report = donor.wait().unwrap();
        let [donor_read, recipient_read] = [(&self.donor, before[0]), (&self.recipient, before[1])]
            .map(|(place, before)| read_bytes(&place.path()) - before);
        (Run { seconds, donor_read, recipient_read, received }, report.stamp)
    }
}

/// Empties the page cache.
fn cold() {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

/// Bytes that were read from the device of a file system so far.
fn read_bytes(place: &Path) -> u64 {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(4) == place.to_str()).unwrap();
    // A btrfs has a number of its own; its source names the device.
    let source = line.split(" - ").nth(1).unwrap().split(' ').nth(1).unwrap();
    let device = fs::metadata(source).unwrap().rdev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap();
    stat.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap() * 512
}

fn clone_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--reflink=always"]).args([from, to]).status().unwrap();
    assert!(status.success());
}

fn assert_same(a: &Path, b: &Path) {
    assert!(Command::new("diff").arg("-r").args([a, b]).status().unwrap().success());
}

/// Fills `live` with files, and gives them.
fn fill(live: &Path, mib: u64, dice: &mut Dice) -> Vec<PathBuf> {
    fs::create_dir(live).unwrap();
    let files: Vec<PathBuf> =
        (0..(mib << 20).div_ceil(FILE)).map(|nth| live.join(format!("t{nth}.ibd"))).collect();
    let mut buffer = vec![0; 1 << 20];
    for path in &files {
        let file = File::create(path).unwrap();
        for at in (0..FILE).step_by(buffer.len()) {
            dice.fill(&mut buffer);
            file.write_all_at(&buffer, at).unwrap();
        }
    }
    files
}

/// Changes one page in a hundred.
fn change(files: &[PathBuf], dice: &mut Dice) {
    let pages = files.len() as u64 * FILE / PAGE;
    let mut page_bytes = [0; PAGE as usize];
    for _ in 0..pages / 100 {
        let page = dice.next() % pages;
        dice.fill(&mut page_bytes);
        let file = File::options().write(true).open(&files[(page * PAGE / FILE) as usize]).unwrap();
        file.write_all_at(&page_bytes, page * PAGE % FILE).unwrap();
    }
}

fn measure(name: &str, make: impl Fn(u64) -> Option<Mounted>, mib: u64, rounds: usize) {
    let size = 3 * mib + 1024;
    let pair = Pair {
        donor: make(size).expect("needs root and loop devices"),
        recipient: make(size).unwrap(),
        work: tempfile::tempdir().unwrap(),
    };
    let (live, at) = (pair.donor.path().join("live"), |name: &str| pair.donor.path().join(name));
    let mut dice = Dice(0x5EED_5EED);
    let files = fill(&live, mib, &mut dice);
    clone_tree(&live, &at("first"));
    let (first, stamp) = pair.seed("first", None, None, "kept");
    change(&files, &mut dice);
    clone_tree(&live, &at("second"));
    let root_digest = first.received.root_digest;
    println!("{name}: {mib} MiB, 1 % of the pages changed; all of it took {:.2} s", first.seconds);
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let delta = pair.seed("second", None, Some("kept"), "delta").0;
        let given = Given { root: at("first"), root_digest, stamp };
        let since = pair.seed("second", Some(given), None, "since").0;
        assert!(since.received.since_base);
        if round == 0 {
            assert_same(&at("second"), &pair.recipient.path().join("since"));
        }
        for (way, run) in [("delta", &delta), ("since", &since)] {
            let percent = |bytes: u64| bytes as f64 * 100.0 / (mib << 20) as f64;
            println!(
                "{name} round {round} {way}: {:.2} s; donor read {:.2} %, recipient {:.2} %, travelled {:.2} %",
                run.seconds,
                percent(run.donor_read),
                percent(run.recipient_read),
                percent(run.received.bytes_wire)
            );
        }
        ratios.push(delta.seconds / since.seconds);
        for tree in ["delta", "since"] {
            fs::remove_dir_all(pair.recipient.path().join(tree)).unwrap();
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!("{name}: {:.1} times as fast (median of {rounds}: {ratios:.1?})", ratios[rounds / 2]);
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let (mib, rounds) = (numbers.next().unwrap_or(4096), numbers.next().unwrap_or(5));
    let rounds = usize::try_from(rounds).unwrap_or(5).max(1);
    measure("XFS", Mounted::xfs, mib, rounds);
    measure("btrfs", |mib| Mounted::btrfs(mib, ""), mib, rounds);
}
