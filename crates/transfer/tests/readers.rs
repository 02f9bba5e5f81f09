//! One tree, several recipients: what one has read the others find in the page cache.
//!
//! The only test of its program: it counts what the whole process reads from the disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use common::{Bench, assert_same_tree, content, receive_in_background, wait_until, write};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use transfer::{Donor, DonorOptions, Progress, RecipientOptions, Throttle, Token};

const MIB: u64 = 1 << 20;
const BIG: u64 = 64 * MIB;
const SMALL: u64 = 16 << 10;
const SMALL_FILES: u64 = 2048;
const SIZE: u64 = BIG + SMALL_FILES * SMALL;

/// Bytes that this process has had read from disks.
fn read_from_disk() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: ")).unwrap();
    line.trim().parse().unwrap()
}

/// Has everything of a directory's files on disk and nothing in the page cache.
fn forget(dir: &Path) {
    nix::unistd::syncfs(File::open(dir).unwrap()).unwrap();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            forget(&entry.path());
        } else {
            forget_file(&entry.path());
        }
    }
}

fn forget_file(path: &Path) {
    let file = File::open(path).unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
}

#[test]
fn a_slow_recipient_finds_in_memory_what_a_fast_one_has_read() {
    let bench = Bench::new();
    write(&bench.source(), "big.ibd", &content(1, BIG as usize));
    let big = bench.source().join("big.ibd");
    for nth in 0..SMALL_FILES {
        write(&bench.source(), &format!("db/t{nth}.ibd"), &content(nth, SMALL as usize));
    }
    forget(&bench.source());
    let before = read_from_disk();
    fs::read(&big).unwrap();
    if read_from_disk() - before < BIG / 2 {
        testkit::skip!(odd: "the temporary directory is not on a disk whose reads are counted");
    }
    forget(&bench.source());

    // Two offers of one snapshot, as an agent makes them.
    let tokens = [bench.token.clone(), Token::generate()];
    let donors = tokens
        .clone()
        .map(|token| Arc::new(Donor::start(DonorOptions { token, ..bench.donor_options() }).unwrap()));
    let staging = |nth: usize| bench.staging().with_extension(nth.to_string());
    let options = |nth: usize, throttle: u64| RecipientOptions {
        token: tokens[nth].clone(),
        staging: staging(nth),
        journal: bench.journal().with_extension(nth.to_string()),
        connections: 1,
        throttle: Arc::new(Throttle::limited(throttle)),
        progress: Arc::new(Progress::new()),
        ..bench.recipient_options(&donors[nth])
    };
    let before = read_from_disk();
    let (slow, fast) = (options(0, 4 * MIB), options(1, 0));
    let (progress, leash) = (Arc::clone(&slow.progress), Arc::clone(&slow.throttle));
    let slow = receive_in_background(slow);
    wait_until("the slow one to begin", || progress.snapshot().bytes_done > 0);
    let fast = receive_in_background(fast);
    fast.join().unwrap().unwrap();
    leash.set(0);
    slow.join().unwrap().unwrap();
    let read = read_from_disk() - before;
    println!("{} MiB were read from the disk for {} MiB to two recipients", read / MIB, SIZE / MIB);
    for nth in 0..2 {
        assert_same_tree(&bench.source(), &staging(nth));
    }
    assert!(read < SIZE + SIZE / 4, "read more than once: {} MiB", read / MIB);
}
