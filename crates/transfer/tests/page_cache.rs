//! What a seed leaves in the page cache of its two hosts, by util-linux's fincore.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Bench, Fault, Proxy, assert_same_tree, content, write};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use transfer::{Donor, RecipientOptions, receive};

const MIB: usize = 1 << 20;
const PAGES_PER_MIB: u64 = 256;

fn cached_pages(path: &Path) -> Option<u64> {
    let output = Command::new("fincore").args(["-n", "-o", "PAGES"]).arg(path).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Writes a file and lets it go. `false`: this host cannot tell, or its temporary directory is the page cache itself.
fn is_cold_after_writing(root: &Path, name: &str, bytes: &[u8]) -> bool {
    write(root, name, bytes);
    let file = File::open(root.join(name)).unwrap();
    file.sync_all().unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    let is_cold = cached_pages(&root.join(name)).is_some_and(|pages| pages < 100);
    if !is_cold {
        testkit::skip::odd("fincore is missing or the temporary directory has no page cache of its own");
    }
    is_cold
}

#[test]
fn the_donors_page_cache_stays_as_it_was() {
    let bench = Bench::new();
    if !is_cold_after_writing(&bench.source(), "cold.ibd", &content(1, 48 * MIB)) {
        return;
    }
    write(&bench.source(), "hot.ibd", &content(2, 8 * MIB));
    let (cold, hot) = (bench.source().join("cold.ibd"), bench.source().join("hot.ibd"));
    File::open(&hot).unwrap().sync_all().unwrap();
    let donor = Donor::start(bench.donor_options()).unwrap();
    receive(bench.recipient_options(&donor)).unwrap();
    // Each connection lets go of its last part when it ends, which may be a moment after the recipient has what it wants.
    donor.stop();
    let pages = cached_pages(&cold).unwrap();
    assert!(pages < 48 * PAGES_PER_MIB / 4, "{pages} pages of the cold file stayed");
    // Not all: a kernel with DAMON may page out some of it just then.
    let pages = cached_pages(&hot).unwrap();
    assert!(pages >= 6 * PAGES_PER_MIB, "{pages} pages of the hot file are still there");
}

#[test]
fn a_small_tree_stays_cached_on_the_recipient_and_a_large_one_does_not() {
    for (cache_max, stays) in [(64 * MIB as u64, true), (16 * MIB as u64, false)] {
        let bench = Bench::new();
        if !is_cold_after_writing(&bench.source(), "big.ibd", &content(1, 24 * MIB)) {
            return;
        }
        for nth in 0..40 {
            write(&bench.source(), &format!("small{nth}.ibd"), &content(nth, 128 << 10));
        }
        let donor = Donor::start(bench.donor_options()).unwrap();
        receive(RecipientOptions { cache_max, ..bench.recipient_options(&donor) }).unwrap();
        assert_same_metadata(&bench);
        for name in ["big.ibd", "small7.ibd"] {
            let path = bench.staging().join(name);
            let (pages, all) = (cached_pages(&path).unwrap(), path.metadata().unwrap().len() / 4096);
            let is_right = if stays { pages > all * 9 / 10 } else { pages < all / 10 };
            assert!(
                is_right,
                "{pages} of {all} pages of {name} are cached after a tree with a limit of {cache_max} bytes"
            );
        }
    }
}

/// Without reading content, which would bring it into the cache.
fn assert_same_metadata(bench: &Bench) {
    for entry in bench.source().read_dir().unwrap() {
        let entry = entry.unwrap();
        let there = bench.staging().join(entry.file_name()).metadata().unwrap();
        assert_eq!(there.len(), entry.metadata().unwrap().len());
    }
}

#[test]
fn what_a_large_seed_only_reads_on_the_recipient_is_let_go_too() {
    let bench = Bench::new();
    let old = bench.staging().with_file_name("old");
    let before = content(1, 24 * MIB);
    let mut after = before.clone();
    after[5 * MIB..][..16384].copy_from_slice(&content(2, 16384));
    write(&bench.source(), "t.ibd", &after);
    if !is_cold_after_writing(&old, "t.ibd", &before) {
        return;
    }
    let donor = Donor::start(bench.donor_options()).unwrap();
    let options =
        RecipientOptions { cache_max: 0, delta_base: Some(old.clone()), ..bench.recipient_options(&donor) };
    // The first run is cut, so that the second reads again what is there.
    let cut = Proxy::start(donor.addr(), Fault::Freeze(20_000));
    let broken = RecipientOptions {
        donor: vec![cut.addr],
        stall_timeout: Duration::from_millis(300),
        ..options.clone()
    };
    let _ = receive(broken);
    receive(options).unwrap();
    for path in [old.join("t.ibd"), bench.staging().join("t.ibd")] {
        let pages = cached_pages(&path).unwrap();
        assert!(pages < 24 * PAGES_PER_MIB / 10, "{pages} pages of {} stayed", path.display());
    }
    assert_same_tree(&bench.source(), &bench.staging());
}
