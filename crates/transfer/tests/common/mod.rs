//! Trees to seed, and comparisons that notice what a DBA would.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this module")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use transfer::{Donor, DonorOptions, DonorReport, Error, Received, RecipientOptions, Token, receive};

/// Pseudo-random content, the same for the same seed.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

pub fn write(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A tree with everything that datadirs hold: large and small files, empty ones, links, holes, odd names, modes and times.
pub fn make_datadir(root: &Path) {
    write(root, "ibdata1", &content(1, 5_000_000));
    write(root, "shop/orders.ibd", &content(2, 3 * 1024 * 1024));
    write(root, "shop/customers.ibd", &content(3, 262_144 + 17));
    write(root, "shop/empty.MYD", b"");
    write(root, "shop/one.byte", b"x");
    write(root, "weird/na me\u{e9}\n.txt", b"odd name");
    for n in 0..300 {
        write(root, &format!("many/t{n:03}.frm"), &content(100 + n, 1 + (n as usize * 97) % 9000));
    }
    fs::create_dir_all(root.join("empty-dir")).unwrap();
    symlink("shop/orders.ibd", root.join("link")).unwrap();
    symlink("../shop", root.join("many/up")).unwrap();
    let sparse = File::create(root.join("sparse.ibd")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(&content(4, 8192), 20 << 20).unwrap();
    sparse.write_all_at(&content(5, 4096), (20 << 20) + 65536).unwrap();
    fs::set_permissions(root.join("shop/orders.ibd"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(root.join("shop"), fs::Permissions::from_mode(0o750)).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000, 123_456_789);
    File::options().write(true).open(root.join("ibdata1")).unwrap().set_modified(old).unwrap();
    File::open(root.join("empty-dir")).unwrap().set_modified(old).unwrap();
}

/// Fails unless both trees are the same to the byte, with modes, times, links and holes.
pub fn assert_same_tree(a: &Path, b: &Path) {
    assert_same_but_holes(a, b);
    for name in list(a) {
        let (mx, my) =
            (fs::symlink_metadata(a.join(&name)).unwrap(), fs::symlink_metadata(b.join(&name)).unwrap());
        if mx.is_file() && mx.blocks() * 512 < mx.len() {
            let (blocks, became) = (mx.blocks(), my.blocks());
            assert!(became <= blocks + 16, "holes of {}: {blocks} blocks became {became}", name.display());
        }
    }
}

/// As [`assert_same_tree`], whatever lies in holes and what in blocks of zeros.
pub fn assert_same_but_holes(a: &Path, b: &Path) {
    let (left, right) = (list(a), list(b));
    assert_eq!(left, right, "paths of the two trees");
    for name in left {
        let (x, y) = (a.join(&name), b.join(&name));
        let (mx, my) = (fs::symlink_metadata(&x).unwrap(), fs::symlink_metadata(&y).unwrap());
        let shown = name.display();
        assert_eq!(mx.file_type(), my.file_type(), "kind of {shown}");
        assert_eq!((mx.uid(), mx.gid()), (my.uid(), my.gid()), "owner of {shown}");
        assert_eq!((mx.mtime(), mx.mtime_nsec()), (my.mtime(), my.mtime_nsec()), "time of {shown}");
        if mx.is_symlink() {
            assert_eq!(fs::read_link(&x).unwrap(), fs::read_link(&y).unwrap(), "target of {shown}");
            continue;
        }
        assert_eq!(mx.mode(), my.mode(), "mode of {shown}");
        if mx.is_file() {
            assert!(fs::read(&x).unwrap() == fs::read(&y).unwrap(), "content of {shown}");
        }
    }
}

pub fn list(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A directory for both ends of one seed, gone when dropped.
pub struct Bench {
    dir: TempDir,
    pub token: Token,
}

impl Bench {
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("transfer-test-").unwrap();
        fs::create_dir(dir.path().join("source")).unwrap();
        Self { dir, token: Token::generate() }
    }

    pub fn with_datadir() -> Self {
        let bench = Self::new();
        make_datadir(&bench.source());
        bench
    }

    pub fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    pub fn staging(&self) -> PathBuf {
        self.dir.path().join("staging")
    }

    pub fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    pub fn donor_options(&self) -> DonorOptions {
        DonorOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: false,
            ..DonorOptions::new(self.source(), self.token.clone())
        }
    }

    pub fn recipient_options(&self, donor: &Donor) -> RecipientOptions {
        RecipientOptions {
            fingerprint: donor.fingerprint(),
            connections: 3,
            stall_timeout: Duration::from_secs(10),
            ..RecipientOptions::new(vec![donor.addr()], self.token.clone(), self.staging(), self.journal())
        }
    }
}

/// The donor's verdict, waited for beside the recipient.
pub fn wait_in_background(donor: &Arc<Donor>) -> JoinHandle<Result<DonorReport, Error>> {
    let donor = Arc::clone(donor);
    thread::spawn(move || donor.wait())
}

pub fn receive_in_background(options: RecipientOptions) -> JoinHandle<Result<Received, Error>> {
    thread::spawn(move || receive(options))
}

/// Polls until `condition` holds; fails the test after 20 s.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// What a [`Proxy`] does to the bytes from donor to recipient.
#[derive(Clone, Copy)]
pub enum Fault {
    /// Flips one bit of the byte at this position, on the first connection that gets so far, once.
    Flip(u64),
    /// Closes every connection after so many bytes.
    CutEvery(u64),
    /// Forwards so many bytes in all and then nothing more, with connections left open.
    Freeze(u64),
}

/// Stands between the two ends and breaks things.
pub struct Proxy {
    pub addr: SocketAddr,
    pub faults: Arc<AtomicU64>,
}

impl Proxy {
    pub fn start(donor: SocketAddr, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let faults = Arc::new(AtomicU64::new(0));
        let forwarded = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&faults);
        thread::spawn(move || {
            while let Ok((recipient, _)) = listener.accept() {
                let Ok(donor) = TcpStream::connect(donor) else { continue };
                let up = (recipient.try_clone().unwrap(), donor.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = std::io::copy(&mut &up.0, &mut &up.1);
                    let _ = up.1.shutdown(Shutdown::Write);
                });
                let (faults, forwarded) = (Arc::clone(&counted), Arc::clone(&forwarded));
                thread::spawn(move || forward(&donor, &recipient, fault, &faults, &forwarded));
            }
        });
        Self { addr, faults }
    }

    pub fn faults(&self) -> u64 {
        self.faults.load(SeqCst)
    }
}

fn forward(
    mut from: &TcpStream,
    mut to: &TcpStream,
    fault: Fault,
    faults: &AtomicU64,
    forwarded: &AtomicU64,
) {
    let mut buffer = [0; 16384];
    let mut seen = 0_u64;
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        let bytes = &mut buffer[..len];
        let all = forwarded.fetch_add(len as u64, SeqCst) + len as u64;
        match fault {
            Fault::Flip(at) if (seen..seen + len as u64).contains(&at) && faults.load(SeqCst) == 0 => {
                bytes[(at - seen) as usize] ^= 0x10;
                faults.fetch_add(1, SeqCst);
            }
            Fault::CutEvery(most) if seen + len as u64 > most => {
                faults.fetch_add(1, SeqCst);
                break;
            }
            Fault::Freeze(most) if all > most => {
                faults.fetch_add(1, SeqCst);
                loop {
                    thread::park();
                }
            }
            _ => {}
        }
        seen += len as u64;
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
