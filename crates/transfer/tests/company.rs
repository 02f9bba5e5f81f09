//! Several recipients of one tree that hand on to one another: what the donor sends, and what those do who fail at it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Bench, assert_same_tree, content, receive_in_background, wait_until, write};
use transfer::{
    Cancel, DigestKind, Donor, DonorOptions, Error, Exclude, Progress, Received, RecipientOptions, Result,
    Throttle, Token,
};

const MIB: usize = 1 << 20;

/// One tree, and a limit on all that its donors send.
struct Tree {
    bench: Bench,
    size: u64,
    link: Arc<Throttle>,
}

/// One recipient, with an offer of its own as a fleet makes it.
struct Recipient {
    donor: Donor,
    home: Bench,
    options: RecipientOptions,
}

impl Tree {
    /// A large file, small ones, one with holes.
    fn new(mib: usize, mib_per_s: usize) -> Self {
        let bench = Bench::new();
        write(&bench.source(), "large.ibd", &content(1, mib * MIB));
        for nth in 0..40 {
            write(&bench.source(), &format!("small/{nth}.ibd"), &content(nth + 2, 96 << 10));
        }
        let sparse = File::create(bench.source().join("sparse.ibd")).unwrap();
        sparse.set_len(16 << 20).unwrap();
        sparse.write_all_at(&content(99, MIB), 8 << 20).unwrap();
        let size =
            fs::metadata(bench.source().join("large.ibd")).unwrap().len() + 40 * (96 << 10) + MIB as u64;
        Self { bench, size, link: Arc::new(Throttle::limited((mib_per_s * MIB) as u64)) }
    }

    fn recipient(&self) -> Recipient {
        let token = Token::generate();
        let donor = Donor::start(DonorOptions {
            token: token.clone(),
            tls: true,
            throttle: Arc::clone(&self.link),
            exclude: Exclude::none(),
            chunk_size: Some(256 << 10),
            compression: false,
            ..self.bench.donor_options()
        });
        let (donor, home) = (donor.unwrap(), Bench::new());
        let options = RecipientOptions {
            token,
            fingerprint: donor.fingerprint(),
            digests: vec![DigestKind::Blake3],
            relay: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            connections: 2,
            ..home.recipient_options(&donor)
        };
        Recipient { donor, home, options }
    }

    fn recipients(&self, count: usize) -> Vec<Recipient> {
        (0..count).map(|_| self.recipient()).collect()
    }

    fn copies_sent(&self, recipients: &[Recipient]) -> f64 {
        let sent: u64 =
            recipients.iter().map(|recipient| recipient.donor.progress().snapshot().bytes_wire).sum();
        sent as f64 / self.size as f64
    }
}

impl Recipient {
    fn start(&self) -> JoinHandle<Result<Received>> {
        receive_in_background(self.options.clone())
    }

    fn staging(&self) -> PathBuf {
        self.home.staging()
    }
}

fn start_all(recipients: &[Recipient]) -> Vec<JoinHandle<Result<Received>>> {
    recipients.iter().map(Recipient::start).collect()
}

#[test]
fn the_donor_sends_little_more_than_one_copy() {
    let tree = Tree::new(24, 12);
    let recipients = tree.recipients(5);
    let begun = Instant::now();
    let received: Vec<Received> =
        start_all(&recipients).into_iter().map(|thread| thread.join().unwrap().unwrap()).collect();
    let took = begun.elapsed();
    for (recipient, received) in recipients.iter().zip(&received) {
        assert_same_tree(&tree.bench.source(), &recipient.staging());
        assert_eq!(received.root_digest, recipient.donor.wait().unwrap().root_digest);
    }
    let copies = tree.copies_sent(&recipients);
    println!("{copies:.2} copies in {took:?}");
    assert!(copies <= 1.5, "the donor has sent {copies:.2} copies");
}

#[test]
fn one_that_comes_late_gets_most_from_the_others() {
    let tree = Tree::new(24, 8);
    let recipients = tree.recipients(3);
    let early = start_all(&recipients[..2]);
    let done = |progress: &Progress| progress.snapshot().bytes_done;
    wait_until("half of it is there", || done(&recipients[0].options.progress) > tree.size / 2);
    let late = recipients[2].start();
    for thread in early.into_iter().chain([late]) {
        thread.join().unwrap().unwrap();
    }
    assert_same_tree(&tree.bench.source(), &recipients[2].staging());
    let copies = tree.copies_sent(&recipients);
    assert!(copies <= 1.8, "the donor has sent {copies:.2} copies");
}

#[test]
fn one_that_comes_late_does_not_wait_for_what_a_slow_one_hands_on() {
    let tree = Tree::new(24, 12);
    let recipients = tree.recipients(2);
    let slow = recipients[0].start();
    let done = |progress: &Progress| progress.snapshot().bytes_done;
    wait_until("most of it is there", || done(&recipients[0].options.progress) > tree.size * 3 / 4);
    // What it has it hands on no faster than it receives.
    recipients[0].options.throttle.set(256 << 10);
    let begun = Instant::now();
    recipients[1].start().join().unwrap().unwrap();
    let took = begun.elapsed();
    println!("{took:?}");
    assert_same_tree(&tree.bench.source(), &recipients[1].staging());
    let handed_on = Duration::from_secs_f64(tree.size as f64 * 0.75 / f64::from(256 << 10));
    assert!(took < handed_on / 5, "{took:?}; at the other's speed it takes {handed_on:?}");
    recipients[0].options.throttle.set(0);
    slow.join().unwrap().unwrap();
}

#[test]
fn one_that_dies_and_one_that_is_slow_cost_the_others_little() {
    let tree = Tree::new(24, 12);
    let mut recipients = tree.recipients(5);
    recipients[3].options.cancel = Arc::new(Cancel::new());
    recipients[4].options.throttle = Arc::new(Throttle::limited(512 << 10));
    let begun = Instant::now();
    let mut threads = start_all(&recipients);
    let (slow, dead) = (threads.pop().unwrap(), threads.pop().unwrap());
    wait_until("something is there", || recipients[3].options.progress.snapshot().bytes_done > 2 << 20);
    recipients[3].options.cancel.cancel();
    assert!(matches!(dead.join().unwrap(), Err(Error::Cancelled)));
    for (recipient, thread) in recipients.iter().zip(threads) {
        thread.join().unwrap().unwrap();
        assert_same_tree(&tree.bench.source(), &recipient.staging());
    }
    let took = begun.elapsed();
    let alone = Duration::from_secs_f64(tree.size as f64 / tree.link.bytes_per_s() as f64);
    println!("{took:?}, {alone:?} alone at the least");
    assert!(took < 5 * alone, "{took:?}; one alone would have needed {alone:?}");
    recipients[4].options.throttle.set(0);
    slow.join().unwrap().unwrap();
    assert_same_tree(&tree.bench.source(), &recipients[4].staging());
}

#[test]
fn one_that_hands_on_false_bytes_is_not_believed() {
    let tree = Tree::new(24, 6);
    let recipients = tree.recipients(4);
    let mut threads = start_all(&recipients);
    let liar = threads.pop().unwrap();
    let progress = Arc::clone(&recipients[3].options.progress);
    let staged = recipients[3].staging();
    // Whatever it has of the files is overwritten again and again: it hands on what it never received.
    let spoiling = std::thread::spawn(move || {
        let mut spoilt = 0;
        while progress.snapshot().connections > 0 || spoilt == 0 {
            for name in ["large.ibd", "sparse.ibd"] {
                let Ok(file) = File::options().write(true).open(staged.join(name)) else { continue };
                let len = file.metadata().unwrap().len();
                for at in (0..len).step_by(64 << 10) {
                    file.write_all_at(&[0x5a; 512], at).unwrap();
                }
                spoilt += 1;
            }
        }
        spoilt
    });
    for (recipient, thread) in recipients.iter().zip(threads) {
        thread.join().unwrap().unwrap();
        assert_same_tree(&tree.bench.source(), &recipient.staging());
    }
    liar.join().unwrap().unwrap();
    assert!(spoiling.join().unwrap() > 0);
}

#[test]
fn who_cannot_be_reached_receives_all_the_same() {
    let tree = Tree::new(4, 50);
    let mut recipients = tree.recipients(2);
    // Nothing to listen on: an address of no interface here.
    recipients[1].options.relay = Some("192.0.2.1:0".parse().unwrap());
    for thread in start_all(&recipients) {
        thread.join().unwrap().unwrap();
    }
    assert_same_tree(&tree.bench.source(), &recipients[1].staging());
}

#[test]
fn those_whom_a_firewall_keeps_apart_get_everything_from_the_donor() {
    let tree = Tree::new(24, 24);
    let mut recipients = tree.recipients(3);
    // Each listens where the others, who are told the address it comes from, do not find it.
    for recipient in &mut recipients {
        recipient.options.relay = Some("127.0.0.2:0".parse().unwrap());
    }
    let begun = Instant::now();
    for thread in start_all(&recipients) {
        thread.join().unwrap().unwrap();
    }
    let (took, copies) = (begun.elapsed(), tree.copies_sent(&recipients));
    println!("{copies:.2} copies in {took:?}");
    for recipient in &recipients {
        assert_same_tree(&tree.bench.source(), &recipient.staging());
    }
    let alone = Duration::from_secs_f64(3.0 * tree.size as f64 / tree.link.bytes_per_s() as f64);
    assert!(took < alone + Duration::from_secs(15), "{took:?}, and {alone:?} for three copies");
}

#[test]
fn a_tree_that_changes_fails_all_who_receive_it() {
    let tree = Tree::new(24, 6);
    let recipients = tree.recipients(3);
    let threads = start_all(&recipients);
    wait_until("something is there", || recipients[0].options.progress.snapshot().bytes_done > 2 << 20);
    let file = File::options().write(true).open(tree.bench.source().join("large.ibd")).unwrap();
    file.write_all_at(b"changed", 12 << 20).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    for thread in threads {
        let error = thread.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::DonorFailed(_)), "{error:?}");
    }
}

#[test]
fn strangers_where_one_hands_on_get_nothing_and_disturb_nobody() {
    let tree = Tree::new(8, 4);
    let mut recipients = tree.recipients(2);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    recipients[0].options.relay = Some(port);
    let threads = start_all(&recipients);
    wait_until("it hands on", || TcpStream::connect(port).is_ok());
    // More than there are places for strangers, half of them silent.
    let mut strangers: Vec<TcpStream> = (0..300).filter_map(|_| TcpStream::connect(port).ok()).collect();
    for (nth, stranger) in strangers.iter_mut().enumerate() {
        let _ = stranger.write_all(&vec![0x16; 600 * (nth % 2)]);
    }
    for (thread, recipient) in threads.into_iter().zip(&recipients) {
        thread.join().unwrap().unwrap();
        assert_same_tree(&tree.bench.source(), &recipient.staging());
    }
    for stranger in &mut strangers {
        let mut heard = Vec::new();
        let _ = stranger.read_to_end(&mut heard);
        assert!(heard.len() < 100, "TLS may complain, and says nothing else: {} bytes", heard.len());
    }
    assert!(tree.copies_sent(&recipients) <= 1.6);
}
