//! Whoever can reach the port, and has no token, costs a seed nothing.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::{Bench, assert_same_tree, content, wait_in_background};
use transfer::stream::{GiveOptions, Giver, Program, take};
use transfer::{Cancel, Donor, Identity, Progress, RecipientOptions, Throttle, receive};

/// Connections that each say a byte from time to time, and come again when they are let go, until dropped.
struct Idlers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Idlers {
    /// Returns once every one of them is connected.
    fn at(address: SocketAddr, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|_| {
                let stop = Arc::clone(&stop);
                let connected = TcpStream::connect(address);
                let mut socket = connected.expect("the donor listens");
                thread::spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        if socket.write_all(&[0x16]).is_err()
                            && let Ok(again) = TcpStream::connect(address)
                        {
                            socket = again;
                        }
                        // sleeps because it is slow on purpose: a sign of life before every limit on silence
                        thread::sleep(Duration::from_millis(200));
                    }
                })
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for Idlers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[test]
fn more_strangers_than_places_do_not_keep_a_recipient_out() {
    for tls in [false, true] {
        let bench = Bench::with_datadir();
        let mut options = bench.donor_options();
        options.tls = tls;
        let donor = Arc::new(Donor::start(options).unwrap());
        let _idlers = Idlers::at(donor.addr(), 80);
        let verdict = wait_in_background(&donor);
        receive(bench.recipient_options(&donor)).unwrap();
        assert_same_tree(&bench.source(), &bench.staging());
        verdict.join().unwrap().unwrap();
    }
}

struct Printing(OwnedFd);

impl Program for Printing {
    fn output(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn strangers_do_not_keep_a_stream_from_its_recipient() {
    let bench = Bench::new();
    let dir = bench.source();
    std::fs::write(dir.join("stream"), content(7, 3_000_000)).unwrap();
    let options = GiveOptions {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        token: bench.token.clone(),
        identity: Some(Arc::new(Identity::generate().unwrap())),
        throttle: Arc::new(Throttle::unlimited()),
        stall_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(30),
        cancel: Arc::new(Cancel::default()),
        progress: Arc::new(Progress::default()),
    };
    let mut giver = Giver::listen(options).unwrap();
    let (address, fingerprint) = (giver.addr(), giver.fingerprint());
    let _idlers = Idlers::at(address, 5);
    let source = dir.join("stream");
    let given = thread::spawn(move || {
        giver.give(&mut || Ok(Box::new(Printing(File::open(&source).unwrap().into())) as Box<dyn Program>))
    });
    let wanted = RecipientOptions {
        fingerprint,
        stall_timeout: Duration::from_secs(4),
        ..RecipientOptions::new(vec![address], bench.token.clone(), bench.staging(), bench.journal())
    };
    let arrived = dir.join("arrived");
    let taken = take(&wanted, File::create(&arrived).unwrap().into()).unwrap();
    assert_eq!(given.join().unwrap().unwrap().digest, taken.digest);
    assert_eq!(std::fs::read(&arrived).unwrap(), content(7, 3_000_000));
}
