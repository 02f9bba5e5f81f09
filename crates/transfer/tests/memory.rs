//! A seed's memory does not grow with what it moves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use common::{Bench, content};
use transfer::{Donor, DonorOptions, RecipientOptions, receive};

const GIB: u64 = 1 << 30;
const DATA: u64 = 48 << 20;

/// Not a test of its own: both ends of one seed in a process whose memory [`peak_mib`] reads.
#[test]
fn child_seed() {
    let Ok(gib) = std::env::var("TRANSFER_TEST_GIB") else { return };
    let len = gib.parse::<u64>().unwrap() * GIB;
    let bench = Bench::new();
    let file = File::create(bench.source().join("big.ibd")).unwrap();
    file.set_len(len).unwrap();
    // The same amount of data, spread over the whole file: only the size differs.
    let part = content(1, 1 << 20);
    for nth in 0..DATA / (1 << 20) {
        file.write_all_at(&part, nth * (len / (DATA >> 20)) / 4096 * 4096).unwrap();
    }
    let donor = Donor::start(DonorOptions { tls: true, ..bench.donor_options() }).unwrap();
    let options = RecipientOptions { connections: 4, ..bench.recipient_options(&donor) };
    let received = receive(options).unwrap();
    assert_eq!(received.bytes_total, len);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM:")).unwrap());
}

fn peak_mib(gib: u64) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["child_seed", "--exact", "--nocapture"])
        .env("TRANSFER_TEST_GIB", gib.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find(|line| line.contains("VmHWM:")).unwrap();
    line.split_whitespace().rev().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn twenty_gibibytes_take_no_more_memory_than_one() {
    let (one, twenty) = (peak_mib(1), peak_mib(20));
    assert!(twenty <= 64, "both ends together took {twenty} MiB");
    assert!(twenty <= one + 8, "{one} MiB for 1 GiB, {twenty} MiB for 20 GiB");
}
