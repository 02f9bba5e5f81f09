//! The way between the two ends: loopback, or a long and lossy one.
//!
//! Many kernels lack netem. So the long way is made of two network namespaces with a TUN device each, and of threads here that
//! carry every packet from one to the other: late, at a limited rate, and now and then not at all. The two ends speak the
//! kernel's own TCP over it, with the congestion control that distributions ship (cubic).

use std::collections::VecDeque;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::process::{Outcome, failed, run, spawn, words};

const MTU: usize = 1500;
/// What the bottleneck holds before it drops: as much as it sends in this time.
const BUFFER: Duration = Duration::from_millis(100);

/// What a long way is like, each way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) rtt: Duration,
    /// Of so many packets one is lost; 0: none.
    pub(crate) one_lost_of: u64,
    pub(crate) bytes_per_s: f64,
}

/// Where the ends run and how they find each other.
pub(crate) struct Way {
    pub(crate) donor: End,
    pub(crate) recipient: End,
    emulator: Option<Emulator>,
}

/// One end.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) ip: &'static str,
    namespace: Option<String>,
}

impl End {
    /// `argv` as it runs at this end.
    pub(crate) fn at(&self, argv: &[String]) -> Vec<String> {
        match &self.namespace {
            None => argv.to_vec(),
            Some(namespace) => {
                let mut all = words(&["ip", "netns", "exec", namespace]);
                all.extend_from_slice(argv);
                all
            }
        }
    }
}

impl Way {
    pub(crate) fn loopback() -> Self {
        let end = End { ip: "127.0.0.1", namespace: None };
        Self { donor: end.clone(), recipient: end, emulator: None }
    }

    pub(crate) fn long(link: Link, dir: &Path) -> Outcome<Self> {
        let id = std::process::id();
        let donor = End { ip: "10.213.0.1", namespace: Some(format!("sbench{id}a")) };
        let recipient = End { ip: "10.213.0.2", namespace: Some(format!("sbench{id}b")) };
        let emulator = Emulator::start(link, dir, [&donor, &recipient])?;
        Ok(Self { donor, recipient, emulator: Some(emulator) })
    }

    pub(crate) fn is_long(&self) -> bool {
        self.emulator.is_some()
    }
}

/// When it is due, and its bytes.
type Packet = (Instant, Vec<u8>);

/// Carries packets until dropped.
struct Emulator {
    stop: Arc<AtomicBool>,
    devices: Vec<Child>,
    namespaces: Vec<String>,
    threads: Vec<JoinHandle<()>>,
}

impl Emulator {
    fn start(link: Link, dir: &Path, ends: [&End; 2]) -> Outcome<Self> {
        let mut emulator =
            Self { stop: Arc::default(), devices: Vec::new(), namespaces: Vec::new(), threads: Vec::new() };
        let mut sockets = Vec::new();
        for (nth, end) in ends.iter().enumerate() {
            let Some(namespace) = &end.namespace else { continue };
            run(&["ip", "netns", "add", namespace])?;
            emulator.namespaces.push(namespace.clone());
            let (ours, theirs) = (dir.join(format!("way{nth}")), dir.join(format!("tun{nth}")));
            let socket = UnixDatagram::bind(&ours).map_err(failed("cannot bind a socket"))?;
            socket
                .set_read_timeout(Some(Duration::from_millis(100)))
                .map_err(failed("cannot set up a socket"))?;
            let tun = format!("TUN:{}/24,iff-up,iff-no-pi,tun-name=way{nth},tun-type=tun", end.ip);
            let peer = format!("UNIX-SENDTO:{},bind={}", ours.display(), theirs.display());
            let argv = end.at(&words(&["socat", "-b", "65536", &tun, &peer]));
            emulator.devices.push(spawn(&argv, Stdio::null())?);
            wait_for(&theirs)?;
            let inside = |argv: &[&str]| {
                let mut all = vec!["ip", "netns", "exec", namespace];
                all.extend_from_slice(argv);
                run(&all)
            };
            inside(&["ip", "link", "set", "lo", "up"])?;
            let device = format!("way{nth}");
            inside(&["ip", "route", "replace", "10.213.0.0/24", "dev", &device, "congctl", "cubic"])?;
            sockets.push((socket, theirs));
        }
        let [(a, a_tun), (b, b_tun)] = <[_; 2]>::try_from(sockets).map_err(|_| "two ends are needed")?;
        let (a2, b2) = (clone(&a)?, clone(&b)?);
        emulator.carry(link, a, (b2, b_tun), 1);
        emulator.carry(link, b, (a2, a_tun), 2);
        Ok(emulator)
    }

    /// One direction.
    fn carry(&mut self, link: Link, from: UnixDatagram, (to, address): (UnixDatagram, PathBuf), seed: u64) {
        let queue: Arc<(Mutex<VecDeque<Packet>>, Condvar)> = Arc::default();
        let (filled, stop) = (Arc::clone(&queue), Arc::clone(&self.stop));
        self.threads.push(thread::spawn(move || {
            let mut packet = vec![0; 2 * MTU];
            let mut noise = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut free_at = Instant::now();
            while !stop.load(Relaxed) {
                let Ok(len) = from.recv(&mut packet) else { continue };
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                let now = Instant::now();
                free_at = free_at.max(now);
                let is_lost = link.one_lost_of > 0 && noise.is_multiple_of(link.one_lost_of);
                if is_lost || free_at - now > BUFFER {
                    continue;
                }
                free_at += Duration::from_secs_f64(len as f64 / link.bytes_per_s);
                let mut waiting = filled.0.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.push_back((free_at + link.rtt / 2, packet[..len].to_vec()));
                filled.1.notify_one();
            }
        }));
        let stop = Arc::clone(&self.stop);
        self.threads.push(thread::spawn(move || {
            while !stop.load(Relaxed) {
                let waiting = queue.0.lock().unwrap_or_else(PoisonError::into_inner);
                let mut waiting = queue
                    .1
                    .wait_timeout_while(waiting, Duration::from_millis(100), |waiting| waiting.is_empty())
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                let Some((due, packet)) = waiting.pop_front() else { continue };
                drop(waiting);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let _ = to.send_to(&packet, &address);
            }
        }));
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for device in &mut self.devices {
            let _ = device.kill();
            let _ = device.wait();
        }
        for namespace in &self.namespaces {
            let _ = run(&["ip", "netns", "del", namespace]);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn clone(socket: &UnixDatagram) -> Outcome<UnixDatagram> {
    socket.try_clone().map_err(failed("cannot clone a socket"))
}

fn wait_for(path: &Path) -> Outcome<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !path.exists() {
        if Instant::now() >= deadline {
            return Err(format!("no TUN device: socat did not make {}", path.display()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
