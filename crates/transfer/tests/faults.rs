//! What breaks on the way, and what becomes of the seed: damaged bytes, cut lines, dead processes, changed sources.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{
    Bench, Fault, Proxy, assert_same_tree, chain, content, receive_in_background, wait_in_background,
    wait_until, write,
};
use transfer::{
    Cancel, Donor, DonorOptions, Error, PagePolicy, Phase, Progress, RecipientOptions, SourceGuard, Throttle,
    receive,
};

/// 24 MiB in one file and some small ones.
fn large_bench() -> Bench {
    let bench = Bench::new();
    write(&bench.source(), "db/big.ibd", &content(7, 24 << 20));
    for n in 0..50 {
        write(&bench.source(), &format!("db/small{n}"), &content(n, 3000));
    }
    bench
}

fn through(proxy: &Proxy, options: RecipientOptions) -> RecipientOptions {
    RecipientOptions { donor: vec![proxy.addr], ..options }
}

#[test]
fn a_flipped_bit_on_the_wire_never_lands() {
    // Positions: in small files, in a large one, in the greeting, in the manifest, in headers.
    for at in [3_u64, 150, 700, 5_000, 100_000, 3_000_000, 3_000_001, 3_500_017] {
        let bench = large_bench();
        let donor = Donor::start(bench.donor_options()).unwrap();
        let proxy = Proxy::start(donor.addr(), Fault::Flip(at));
        let outcome = receive(through(&proxy, bench.recipient_options(&donor)));
        assert_eq!(proxy.faults(), 1, "the proxy must have flipped byte {at}");
        match outcome {
            Ok(received) => {
                assert_same_tree(&bench.source(), &bench.staging());
                assert!(received.bytes_wire > received.bytes_total);
            }
            // In the greeting or the manifest: refused as a whole.
            Err(error) => assert!(at < 10_000, "byte {at}: {}", chain(&error)),
        }
    }
}

#[test]
fn a_flipped_bit_under_tls_breaks_the_connection_and_not_the_seed() {
    let bench = large_bench();
    let donor = Donor::start(DonorOptions { tls: true, ..bench.donor_options() }).unwrap();
    let proxy = Proxy::start(donor.addr(), Fault::Flip(4_000_000));
    let options = through(&proxy, bench.recipient_options(&donor));
    let progress = Arc::clone(&options.progress);
    receive(options).unwrap();
    assert_eq!(proxy.faults(), 1);
    assert_eq!(progress.snapshot().reconnects, 1);
    assert_same_tree(&bench.source(), &bench.staging());
}

#[test]
fn cut_connections_are_made_anew_and_move_only_what_is_missing() {
    let bench = large_bench();
    let donor = Donor::start(bench.donor_options()).unwrap();
    let proxy = Proxy::start(donor.addr(), Fault::CutEvery(5_000_000));
    let received = receive(through(&proxy, bench.recipient_options(&donor))).unwrap();
    assert!(proxy.faults() >= 3, "{} cuts", proxy.faults());
    assert_same_tree(&bench.source(), &bench.staging());
    // At most one chunk per cut travels twice, beside what was under way.
    let again = received.bytes_wire.saturating_sub(received.bytes_total);
    assert!(
        again <= (proxy.faults() + 3) * 2_200_000,
        "{again} bytes too many after {} cuts",
        proxy.faults()
    );
}

#[test]
fn a_silent_donor_is_noticed_within_the_stall_limit() {
    let bench = large_bench();
    let donor = Donor::start(bench.donor_options()).unwrap();
    let proxy = Proxy::start(donor.addr(), Fault::Freeze(8_000_000));
    let stall_timeout = Duration::from_secs(2);
    let started = Instant::now();
    let options = RecipientOptions { stall_timeout, ..bench.recipient_options(&donor) };
    let error = receive(through(&proxy, options)).unwrap_err();
    assert!(matches!(error, Error::Stalled { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(12), "took {:?}", started.elapsed());
    // The next try goes on where this one stopped.
    let received = receive(bench.recipient_options(&donor)).unwrap();
    assert!(received.bytes_resumed > 1_000_000, "{received:?}");
    assert_same_tree(&bench.source(), &bench.staging());
}

/// Not a test of its own: the recipient that [`killed_recipient_resumes`] kills.
#[test]
fn child_recipient() {
    let Ok(args) = std::env::var("TRANSFER_TEST_CHILD") else { return };
    let args: Vec<&str> = args.split('|').collect();
    let mut options =
        RecipientOptions::new(vec![args[0].parse().unwrap()], args[1].parse().unwrap(), args[2], args[3]);
    options.fingerprint = args[4].parse().ok();
    options.throttle.set(16 << 20);
    receive(options).unwrap();
}

fn spawn_child(options: &RecipientOptions) -> Child {
    let fingerprint = options.fingerprint.map_or_else(String::new, |fingerprint| fingerprint.to_string());
    let args = [
        options.donor[0].to_string(),
        options.token.expose(),
        options.staging.display().to_string(),
        options.journal.display().to_string(),
        fingerprint,
    ];
    Command::new(std::env::current_exe().unwrap())
        .args(["child_recipient", "--exact", "--nocapture"])
        .env("TRANSFER_TEST_CHILD", args.join("|"))
        .spawn()
        .unwrap()
}

fn killed_recipient_resumes(tls: bool) {
    let bench = Bench::new();
    write(&bench.source(), "db/big.ibd", &content(7, 80 << 20));
    let donor = Arc::new(Donor::start(DonorOptions { tls, ..bench.donor_options() }).unwrap());
    let verdict = wait_in_background(&donor);
    let options = bench.recipient_options(&donor);
    let mut child = spawn_child(&options);
    // A head of 72 bytes, and 24 for each chunk of 1 MiB that is proven and on disk.
    let journalled = || fs::metadata(bench.journal()).is_ok_and(|meta| meta.len() > 72 + 24 * 9);
    wait_until("some of it is in the journal", journalled);
    child.kill().unwrap();
    child.wait().unwrap();
    let received = receive(options).unwrap();
    assert!(received.bytes_resumed > 8 << 20, "{received:?}");
    assert_eq!(received.bytes_moved + received.bytes_resumed, received.bytes_total);
    assert!(
        received.bytes_wire < received.bytes_moved + (1 << 20),
        "only what was missing travels: {received:?}"
    );
    assert_same_tree(&bench.source(), &bench.staging());
    verdict.join().unwrap().unwrap();
}

#[test]
fn a_killed_recipient_goes_on_where_it_was() {
    killed_recipient_resumes(false);
}

#[test]
fn a_killed_recipient_goes_on_where_it_was_over_tls() {
    killed_recipient_resumes(true);
}

/// Stops a seed in its middle, and gives the half-full bench.
fn interrupted() -> Bench {
    let bench = large_bench();
    let donor = Donor::start(bench.donor_options()).unwrap();
    let options = bench.recipient_options(&donor);
    let (progress, cancel) = (Arc::clone(&options.progress), Arc::clone(&options.cancel));
    options.throttle.set(12 << 20);
    let receiving = receive_in_background(options);
    wait_until("half has travelled", || progress.snapshot().bytes_done > 12 << 20);
    cancel.cancel();
    assert!(matches!(receiving.join().unwrap(), Err(Error::Cancelled)));
    bench
}

#[test]
fn a_new_donor_process_goes_on_where_the_old_one_was() {
    let bench = interrupted();
    let donor = Donor::start(bench.donor_options()).unwrap();
    let received = receive(bench.recipient_options(&donor)).unwrap();
    assert!(received.bytes_resumed >= 12 << 20, "{received:?}");
    assert!(received.bytes_wire < 13 << 20, "{received:?}");
    assert_same_tree(&bench.source(), &bench.staging());
    let report = donor.wait().unwrap();
    assert_eq!(report.root_digest, received.root_digest);
}

#[test]
fn a_torn_journal_costs_only_its_torn_end() {
    let bench = interrupted();
    let journal = File::options().read(true).write(true).open(bench.journal()).unwrap();
    let len = journal.metadata().unwrap().len();
    journal.set_len(len - 5).unwrap();
    journal.write_all_at(&[0xff; 3], len - 40).unwrap();
    let donor = Donor::start(bench.donor_options()).unwrap();
    let received = receive(bench.recipient_options(&donor)).unwrap();
    assert!(received.bytes_resumed >= 10 << 20, "{received:?}");
    assert_same_tree(&bench.source(), &bench.staging());
}

#[test]
fn staging_that_rotted_between_two_runs_is_found_and_moved_again() {
    let bench = interrupted();
    let file = File::options().write(true).open(bench.staging().join("db/big.ibd")).unwrap();
    file.write_all_at(b"rot", 4096).unwrap();
    let donor = Donor::start(bench.donor_options()).unwrap();
    receive(bench.recipient_options(&donor)).unwrap();
    assert_same_tree(&bench.source(), &bench.staging());
}

#[test]
fn another_tree_under_the_same_journal_starts_anew() {
    let bench = interrupted();
    write(&bench.source(), "db/big.ibd", &content(8, 9 << 20));
    fs::remove_file(bench.source().join("db/small7")).unwrap();
    let donor = Donor::start(bench.donor_options()).unwrap();
    let received = receive(bench.recipient_options(&donor)).unwrap();
    assert_eq!(received.bytes_resumed, 0);
    assert_same_tree(&bench.source(), &bench.staging());
}

/// Runs a seed of which `harm` spoils the source after the walk, and gives what both ends say.
fn spoiled(harm: impl FnOnce(&Bench)) -> (String, String) {
    spoiled_with(|_| {}, harm)
}

fn spoiled_with(set: impl FnOnce(&mut DonorOptions), harm: impl FnOnce(&Bench)) -> (String, String) {
    let bench = large_bench();
    let mut options = bench.donor_options();
    set(&mut options);
    let donor = Arc::new(Donor::start(options).unwrap());
    donor.wait_ready().unwrap();
    harm(&bench);
    let verdict = wait_in_background(&donor);
    let recipient = chain(&receive(bench.recipient_options(&donor)).unwrap_err());
    (chain(&verdict.join().unwrap().unwrap_err()), recipient)
}

#[test]
fn a_truncated_file_fails_both_ends_by_name() {
    let (donor, recipient) = spoiled(|bench| {
        let path = bench.source().join("db/big.ibd");
        let file = File::options().write(true).open(path).unwrap();
        let times = file.metadata().unwrap().modified().unwrap();
        file.set_len(10 << 20).unwrap();
        file.set_modified(times).unwrap();
    });
    for side in [donor, recipient] {
        assert!(side.contains("big.ibd") && side.contains("promised"), "{side}");
    }
}

#[test]
fn a_missing_file_fails_both_ends_by_name() {
    let (donor, recipient) = spoiled(|bench| fs::remove_file(bench.source().join("db/small9")).unwrap());
    for side in [donor, recipient] {
        assert!(side.contains("small9") && side.contains("No such file"), "{side}");
    }
}

#[test]
fn a_tree_that_is_suddenly_another_one_fails_both_ends() {
    let (donor, recipient) = spoiled(|bench| {
        fs::rename(bench.source(), bench.source().with_extension("away")).unwrap();
        fs::create_dir(bench.source()).unwrap();
    });
    for side in [donor, recipient] {
        assert!(side.contains("was the snapshot unmounted?"), "{side}");
    }
}

#[test]
fn a_file_written_to_while_it_is_read_fails_the_seed() {
    let bench = large_bench();
    let donor = Arc::new(Donor::start(bench.donor_options()).unwrap());
    let verdict = wait_in_background(&donor);
    let options = bench.recipient_options(&donor);
    options.throttle.set(12 << 20);
    let progress = Arc::clone(&options.progress);
    let receiving = receive_in_background(options);
    wait_until("some has travelled", || progress.snapshot().bytes_done > 4 << 20);
    File::options()
        .write(true)
        .open(bench.source().join("db/big.ibd"))
        .unwrap()
        .write_all_at(b"new", 23 << 20)
        .unwrap();
    let recipient = chain(&receiving.join().unwrap().unwrap_err());
    assert!(recipient.contains("big.ibd"), "{recipient}");
    assert!(chain(&verdict.join().unwrap().unwrap_err()).contains("big.ibd"));
}

struct Breakable(AtomicBool);

impl SourceGuard for Breakable {
    fn prove(&self) -> Result<(), String> {
        if self.0.load(SeqCst) { Err("snapshot overflowed".to_owned()) } else { Ok(()) }
    }
}

#[test]
fn a_snapshot_that_became_invalid_is_never_called_done() {
    // The interval is long: only the question after the last read can find it.
    let bench = large_bench();
    let guard = Arc::new(Breakable(AtomicBool::new(true)));
    let options = DonorOptions {
        source_guard: guard,
        guard_interval: Duration::from_secs(3600),
        ..bench.donor_options()
    };
    let donor = Arc::new(Donor::start(options).unwrap());
    let verdict = wait_in_background(&donor);
    let error = chain(&receive(bench.recipient_options(&donor)).unwrap_err());
    assert!(error.contains("snapshot overflowed"), "{error}");
    assert!(chain(&verdict.join().unwrap().unwrap_err()).contains("snapshot overflowed"));
}

#[test]
fn a_read_error_of_a_lost_snapshot_names_the_loss() {
    // The guard is asked because of the error: its own turn would come after an hour.
    let guard = Arc::new(Breakable(AtomicBool::new(false)));
    let set = |options: &mut DonorOptions| {
        options.source_guard = Arc::clone(&guard) as Arc<dyn SourceGuard>;
        options.guard_interval = Duration::from_secs(3600);
    };
    let (donor, recipient) = spoiled_with(set, |bench| {
        fs::remove_file(bench.source().join("db/small9")).unwrap();
        guard.0.store(true, SeqCst);
    });
    for side in [donor, recipient] {
        assert!(side.contains("snapshot overflowed") && side.contains("small9"), "{side}");
    }
}

#[test]
fn a_snapshot_that_becomes_invalid_stops_the_copy_in_its_middle() {
    let bench = large_bench();
    let guard = Arc::new(Breakable(AtomicBool::new(false)));
    let options = DonorOptions {
        source_guard: Arc::clone(&guard) as Arc<dyn SourceGuard>,
        guard_interval: Duration::from_millis(50),
        ..bench.donor_options()
    };
    let donor = Arc::new(Donor::start(options).unwrap());
    let options = bench.recipient_options(&donor);
    options.throttle.set(4 << 20);
    let progress = Arc::clone(&options.progress);
    let receiving = receive_in_background(options);
    wait_until("some has travelled", || progress.snapshot().bytes_done > 2 << 20);
    guard.0.store(true, SeqCst);
    let error = chain(&receiving.join().unwrap().unwrap_err());
    assert!(error.contains("snapshot overflowed"), "{error}");
    assert!(progress.snapshot().bytes_done < 20 << 20);
}

#[test]
fn a_recipient_that_cannot_write_tells_the_donor_why() {
    let bench = large_bench();
    let donor = Arc::new(Donor::start(bench.donor_options()).unwrap());
    let verdict = wait_in_background(&donor);
    let cancelled = interrupted_by_a_directory_in_place_of_a_file(&bench, &donor);
    assert!(cancelled.contains("big.ibd"), "{cancelled}");
    let told = chain(&verdict.join().unwrap().unwrap_err());
    assert!(told.contains("the recipient failed") && told.contains("big.ibd"), "{told}");
}

fn interrupted_by_a_directory_in_place_of_a_file(bench: &Bench, donor: &Donor) -> String {
    let options = bench.recipient_options(donor);
    let refused = receive(RecipientOptions {
        donor: vec!["127.0.0.1:1".parse().unwrap()],
        stall_timeout: Duration::from_millis(100),
        ..options.clone()
    });
    assert!(refused.is_err(), "this first call only makes the journal");
    fs::create_dir_all(bench.staging().join("db/big.ibd")).unwrap();
    chain(&receive(options).unwrap_err())
}

#[test]
fn a_planted_link_in_staging_is_not_followed() {
    let bench = interrupted();
    let outside = bench.source().with_file_name("outside");
    fs::write(&outside, b"mine").unwrap();
    let staged = bench.staging().join("db/big.ibd");
    fs::remove_file(&staged).unwrap();
    std::os::unix::fs::symlink(&outside, &staged).unwrap();
    let donor = Donor::start(bench.donor_options()).unwrap();
    let error = chain(&receive(bench.recipient_options(&donor)).unwrap_err());
    assert!(error.contains("big.ibd"), "{error}");
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
}

#[test]
fn a_cancel_frees_everything_within_a_second() {
    let bench = large_bench();
    let donor = Donor::start(bench.donor_options()).unwrap();
    let options = bench.recipient_options(&donor);
    options.throttle.set(1 << 20);
    let (progress, cancel): (Arc<Progress>, Arc<Cancel>) =
        (Arc::clone(&options.progress), Arc::clone(&options.cancel));
    let receiving = receive_in_background(options);
    wait_until("it moves", || progress.snapshot().bytes_wire > 100_000);
    let started = Instant::now();
    cancel.cancel();
    assert!(matches!(receiving.join().unwrap(), Err(Error::Cancelled)));
    assert!(started.elapsed() < Duration::from_secs(1), "recipient took {:?}", started.elapsed());
}

#[test]
fn a_stopped_donor_frees_everything_within_a_second_and_says_so() {
    let bench = large_bench();
    let donor = Arc::new(Donor::start(DonorOptions { tls: true, ..bench.donor_options() }).unwrap());
    let verdict = wait_in_background(&donor);
    let options = bench.recipient_options(&donor);
    options.throttle.set(1 << 20);
    let progress = Arc::clone(&options.progress);
    let receiving = receive_in_background(options);
    wait_until("it moves", || progress.snapshot().bytes_wire > 100_000);
    let started = Instant::now();
    donor.stop();
    assert!(started.elapsed() < Duration::from_secs(1), "donor took {:?}", started.elapsed());
    assert!(matches!(verdict.join().unwrap(), Err(Error::Cancelled)));
    let error = receiving.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::DonorFailed(_) | Error::Stalled { .. }), "{error:?}");
}

#[test]
fn a_throttle_holds_the_average_and_can_change_meanwhile() {
    let bench = Bench::new();
    write(&bench.source(), "big", &content(9, 12 << 20));
    let throttle = Arc::new(Throttle::limited(4 << 20));
    let donor =
        Donor::start(DonorOptions { throttle: Arc::clone(&throttle), ..bench.donor_options() }).unwrap();
    let options = bench.recipient_options(&donor);
    let progress = Arc::clone(&options.progress);
    let started = Instant::now();
    let receiving = receive_in_background(options);
    wait_until("a third has travelled", || progress.snapshot().bytes_wire > 4 << 20);
    assert!(started.elapsed() > Duration::from_millis(600), "4 MiB at 4 MiB/s took {:?}", started.elapsed());
    throttle.set(0);
    receiving.join().unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(progress.snapshot().phase, Phase::Done);
}

#[test]
fn a_limited_donor_is_silent_on_no_connection() {
    let bench = Bench::new();
    // Much of it packs well: little is on the wire for a long time of leave.
    write(&bench.source(), "zeros", &vec![b'x'; 24 << 20]);
    write(&bench.source(), "noise", &content(11, 4 << 20));
    let options = DonorOptions { throttle: Arc::new(Throttle::limited(3 << 20)), ..bench.donor_options() };
    let donor = Donor::start(options).unwrap();
    let stall_timeout = Duration::from_secs(3);
    let options = RecipientOptions { connections: 32, stall_timeout, ..bench.recipient_options(&donor) };
    let progress = Arc::clone(&options.progress);
    receive_in_background(options).join().unwrap().unwrap();
    assert_eq!(progress.snapshot().reconnects, 0, "no connection was given up");
}

#[test]
fn a_donor_that_nobody_asks_gives_up() {
    let bench = large_bench();
    let options = DonorOptions { idle_timeout: Duration::from_millis(300), ..bench.donor_options() };
    let donor = Donor::start(options).unwrap();
    assert!(matches!(donor.wait(), Err(Error::RecipientGone { .. })));
}

/// A tablespace of MariaDB's `full_crc32` format with 16 KiB pages, of which one has a flipped bit.
fn tablespace_with_a_bad_page(pages: u32, bad: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..pages {
        let mut page = content(u64::from(number) + 1, 16384);
        page[4..8].copy_from_slice(&number.to_be_bytes());
        page[24..26].copy_from_slice(&[0x45, 0xbf]);
        page[34..38].copy_from_slice(&7_u32.to_be_bytes());
        if number == 0 {
            page[54..58].copy_from_slice(&0x15_u32.to_be_bytes());
        }
        let sum = crc32c::crc32c(&page[..16380]);
        page[16380..].copy_from_slice(&sum.to_be_bytes());
        page[9000] ^= u8::from(number == bad);
        bytes.extend(page);
    }
    bytes
}

#[test]
fn a_rotten_innodb_page_is_named_and_by_policy_fails_the_seed() {
    let bench = Bench::new();
    write(&bench.source(), "shop/orders.ibd", &tablespace_with_a_bad_page(300, 217));
    let donor = Donor::start(bench.donor_options()).unwrap();
    receive(bench.recipient_options(&donor)).unwrap();
    let report = donor.wait().unwrap();
    assert_eq!(report.bad_pages, 1);
    assert_eq!(report.bad_pages_shown[0].path.to_str(), Some("shop/orders.ibd"));
    assert_eq!(report.bad_pages_shown[0].page, 217);

    let strict = Bench::new();
    let options = DonorOptions { root: bench.source(), pages: PagePolicy::Fail, ..strict.donor_options() };
    let donor = Arc::new(Donor::start(options).unwrap());
    let verdict = wait_in_background(&donor);
    let recipient = chain(&receive(strict.recipient_options(&donor)).unwrap_err());
    for side in [recipient, chain(&verdict.join().unwrap().unwrap_err())] {
        assert!(side.contains("page 217 of shop/orders.ibd"), "{side}");
    }
}

#[test]
fn garbage_from_strangers_does_not_disturb_a_donor() {
    let bench = large_bench();
    let donor = Donor::start(bench.donor_options()).unwrap();
    for seed in 0..20 {
        let mut stranger = TcpStream::connect(donor.addr()).unwrap();
        let mut garbage = content(seed, 128 + seed as usize * 37);
        if seed % 2 == 0 {
            garbage[..8].copy_from_slice(b"OASEED\r\n");
        }
        let _ = stranger.write_all(&garbage);
    }
    receive(bench.recipient_options(&donor)).unwrap();
    assert_same_tree(&bench.source(), &bench.staging());
}

#[test]
fn a_false_donor_writes_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (seed, socket) in listener.incoming().enumerate() {
            // A good greeting, then a welcome and frames made of noise.
            let mut bytes = content(seed as u64, 4096);
            bytes[..20].copy_from_slice(b"OASEED\r\n\x01\0\x01\0\0\0\0\0\x06\0\0\0");
            bytes[64] = 0;
            let _ = socket.unwrap().write_all(&bytes);
        }
    });
    let bench = Bench::new();
    let options = RecipientOptions {
        stall_timeout: Duration::from_secs(2),
        ..RecipientOptions::new(vec![addr], bench.token.clone(), bench.staging(), bench.journal())
    };
    let error = receive(options).unwrap_err();
    assert!(matches!(error, Error::Token), "a donor that cannot prove itself: {error:?}");
    assert!(fs::read_dir(bench.staging()).unwrap().next().is_none());
}
