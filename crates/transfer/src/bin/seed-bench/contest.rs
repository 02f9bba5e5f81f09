//! Who runs against whom: the command lines of both ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};

use transfer::Token;

use crate::process::{Outcome, failed, finish, own, pipeline, spawn, wait_listening, words};
use crate::way::Way;

/// One way to move a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// Ours.
    Seed {
        tls: bool,
        compression: &'static str,
    },
    /// Ours over TLS, with the congestion control that the system has.
    Unpaced,
    /// Ours over TLS, comparing with an old tree.
    Delta,
    /// Ours over TLS to so many recipients at once, which hand on to one another. With faults the last three do not count:
    /// one is slow, one hands on false bytes, one dies.
    Several {
        recipients: usize,
        faults: bool,
    },
    Floor,
    TarNc,
    TarZstdNc,
    TarPigzNc,
    TarSocatTls,
    Rsync,
}

pub(crate) const SEED: Contestant = Contestant::Seed { tls: false, compression: "none" };
pub(crate) const SEED_TLS: Contestant = Contestant::Seed { tls: true, compression: "none" };
pub(crate) const SEED_AUTO: Contestant = Contestant::Seed { tls: true, compression: "auto" };

/// What one run of a contestant used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) donor_cpu_s: f64,
    pub(crate) recipient_cpu_s: f64,
    /// Peak resident memory of donor and recipient in KiB, if it is ours.
    pub(crate) peak_kib: Option<(u64, u64)>,
    /// Bytes that the recipient read from sockets, or the donor sent to several, if it is ours.
    pub(crate) wire: Option<u64>,
}

/// Where one run takes place.
pub(crate) struct Ground<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) source: &'a Path,
    pub(crate) old: &'a Path,
    pub(crate) target: &'a Path,
    pub(crate) on_disk: bool,
    pub(crate) way: &'a Way,
}

impl Contestant {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Seed { tls: false, compression: "none" } => "seed",
            Self::Seed { tls: true, compression: "none" } => "seed-tls",
            Self::Seed { compression: "auto", .. } => "seed-tls-auto",
            Self::Seed { compression: "lz4", .. } => "seed-tls-lz4",
            Self::Seed { .. } => "seed-tls-zstd",
            Self::Unpaced => "seed-tls-cubic",
            Self::Delta => "seed-delta",
            Self::Several { faults: true, .. } => "seed-tls-relay-faults",
            Self::Several { .. } => "seed-tls-relay",
            Self::Floor => "floor",
            Self::TarNc => "tar-nc",
            Self::TarZstdNc => "tar-zstd-nc",
            Self::TarPigzNc => "tar-pigz-nc",
            Self::TarSocatTls => "tar-socat-tls",
            Self::Rsync => "rsync",
        }
    }

    /// How many trees there are in the end, below the target.
    pub(crate) fn copies(self) -> u64 {
        match self {
            Self::Several { recipients, faults, .. } => {
                (recipients - if faults { FAULTS.len() } else { 0 }) as u64
            }
            _ => 1,
        }
    }

    /// Moves the tree.
    pub(crate) fn run(self, ground: &Ground<'_>) -> Outcome<Used> {
        let (source, target) = (ground.source.display().to_string(), ground.target.display().to_string());
        let port = free_port()?;
        let there = format!("{}:{port}", ground.way.recipient.ip);
        let tar_out = words(&["tar", "-c", "-C", &source, "."]);
        let tar_in = words(&["tar", "-x", "-C", &target]);
        let listen = words(&["nc", "-l", ground.way.recipient.ip, &port.to_string()]);
        let connect = words(&["nc", "-N", ground.way.recipient.ip, &port.to_string()]);
        match self {
            Self::Seed { tls, compression } => {
                let security = if tls { "tls" } else { "plain" };
                seed(ground, port, &Seed { security, compression, ..Seed::ONE })
            }
            Self::Unpaced => seed(ground, port, &Seed { security: "tls-unpaced", ..Seed::ONE }),
            Self::Delta => seed(ground, port, &Seed { delta: true, ..Seed::ONE }),
            Self::Several { recipients, faults } => {
                seed(ground, port, &Seed { recipients, relay: true, faults, ..Seed::ONE })
            }
            Self::Floor => push(
                ground,
                port,
                &[own(&["role", "floor-send", &source, &there])],
                &[own(&["role", "floor-receive", &target, &there])],
            ),
            Self::TarNc => push(ground, port, &[tar_out, connect], &[listen, tar_in]),
            Self::TarZstdNc => {
                let pack = words(&["zstd", "-q", "-1", "-T0", "-c"]);
                let unpack = words(&["zstd", "-q", "-d", "-c"]);
                push(ground, port, &[tar_out, pack, connect], &[listen, unpack, tar_in])
            }
            Self::TarPigzNc => {
                let (pack, unpack) = (words(&["pigz", "-1", "-c"]), words(&["pigz", "-d", "-c"]));
                push(ground, port, &[tar_out, pack, connect], &[listen, unpack, tar_in])
            }
            Self::TarSocatTls => {
                let pem = certificate(ground.dir)?;
                let ip = ground.way.recipient.ip;
                let from = format!("OPENSSL-LISTEN:{port},bind={ip},reuseaddr,cert={pem},verify=0");
                let to = format!("OPENSSL:{there},verify=0");
                let socat = |from: &str, to: &str| words(&["socat", "-u", "-b", "262144", from, to]);
                push(ground, port, &[tar_out, socat("-", &to)], &[socat(&from, "-"), tar_in])
            }
            Self::Rsync => rsync(ground, &source, &target, port),
        }
    }
}

/// The recipient listens, the donor connects.
fn push(ground: &Ground<'_>, port: u16, donor: &[Vec<String>], recipient: &[Vec<String>]) -> Outcome<Used> {
    let at = |end: &crate::way::End, side: &[Vec<String>]| {
        side.iter().map(|argv| end.at(argv)).collect::<Vec<_>>()
    };
    let recipient = pipeline(&at(&ground.way.recipient, recipient))?;
    wait_listening(&recipient[0], port)?;
    let donor = pipeline(&at(&ground.way.donor, donor))?;
    let donor_cpu_s = finish(donor)?;
    Ok(Used { donor_cpu_s, recipient_cpu_s: finish(recipient)?, ..Used::default() })
}

/// How one donor of ours gives its tree.
struct Seed {
    security: &'static str,
    compression: &'static str,
    delta: bool,
    recipients: usize,
    relay: bool,
    faults: bool,
}

/// What is wrong with the last recipients of a seed with faults, as their role is told.
const FAULTS: [&str; 3] = ["slow", "false", "dies"];

impl Seed {
    const ONE: Self = Self {
        security: "tls",
        compression: "none",
        delta: false,
        recipients: 1,
        relay: false,
        faults: false,
    };

    /// How many have no fault: they come first.
    fn sound(&self) -> usize {
        self.recipients - if self.faults { FAULTS.len() } else { 0 }
    }

    /// What is wrong with a recipient; `-`: nothing.
    fn fault_of(&self, nth: usize) -> &'static str {
        nth.checked_sub(self.sound()).map_or("-", |at| FAULTS[at])
    }
}

fn seed(ground: &Ground<'_>, port: u16, seed: &Seed) -> Outcome<Used> {
    let tokens: Vec<String> = (0..seed.recipients).map(|_| Token::generate().expose()).collect();
    let addr = format!("{}:{port}", ground.way.donor.ip);
    let source = ground.source.display().to_string();
    let old = if seed.delta { ground.old.display().to_string() } else { "-".to_owned() };
    let argv = own(&["role", "donor", &source, &addr, &tokens.join(","), seed.security]);
    let mut donor = spawn(&ground.way.donor.at(&argv), Stdio::null())?;
    let mut donor_says = BufReader::new(donor.stdout.take().ok_or("no output of the donor")?);
    let mut fingerprint = String::new();
    donor_says.read_line(&mut fingerprint).map_err(failed("cannot hear the donor"))?;
    // The benchmark flushes at the end for every contestant; tmpfs has nothing to flush.
    let durable = if ground.on_disk { "durable" } else { "volatile" };
    let relay = if seed.relay { ground.way.recipient.ip } else { "-" };
    let mut recipients = Vec::new();
    for (nth, token) in tokens.iter().enumerate() {
        let target = match seed.recipients {
            1 => ground.target.to_owned(),
            _ => ground.target.join(nth.to_string()),
        };
        let target = target.display().to_string();
        let args = ["role", "recipient", &target, &addr, token, fingerprint.trim(), durable];
        let args = [&args[..], &[seed.compression, &old, relay, seed.fault_of(nth)]].concat();
        recipients.push(spawn(&ground.way.recipient.at(&own(&args)), Stdio::null())?);
    }
    let faulty = recipients.split_off(seed.sound());
    let (mut recipient_peak, mut received) = (0, 0);
    for recipient in &mut recipients {
        let says = recipient.stdout.take().ok_or("no output of the recipient")?;
        let (peak, wire) = figures(&mut BufReader::new(says));
        (recipient_peak, received) = (recipient_peak.max(peak), received + wire);
    }
    let recipient_cpu_s = finish(recipients)?;
    if seed.faults {
        // How long the others take is nobody's concern, and the donor would wait for them.
        faulty.into_iter().chain([donor]).try_for_each(end)?;
        for nth in seed.sound()..seed.recipients {
            let left = ground.target.join(nth.to_string());
            let _ = fs::remove_file(left.with_extension("journal"));
            fs::remove_dir_all(left).map_err(failed("cannot remove a tree"))?;
        }
        return Ok(Used { recipient_cpu_s, ..Used::default() });
    }
    let (donor_peak, sent) = figures(&mut donor_says);
    Ok(Used {
        donor_cpu_s: finish(vec![donor])?,
        recipient_cpu_s,
        peak_kib: Some((donor_peak, recipient_peak)),
        wire: Some(if seed.recipients == 1 { received } else { sent }),
    })
}

fn end(mut child: Child) -> Outcome<()> {
    let _ = child.kill();
    child.wait().map(drop).map_err(failed("cannot wait for a role"))
}

/// What one of our roles says at its end: `figures PEAK_KIB WIRE_BYTES`.
fn figures(says: &mut impl BufRead) -> (u64, u64) {
    let mut line = String::new();
    let _ = says.read_line(&mut line);
    let mut numbers = line.split_whitespace().skip(1).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn rsync(ground: &Ground<'_>, source: &str, target: &str, port: u16) -> Outcome<Used> {
    let config = ground.dir.join("rsyncd.conf");
    let text =
        format!("use chroot = no\nuid = root\ngid = root\n[source]\npath = {source}\nread only = yes\n");
    fs::write(&config, text).map_err(failed("cannot write rsyncd.conf"))?;
    let (address, port_is) = (format!("--address={}", ground.way.donor.ip), format!("--port={port}"));
    let config = format!("--config={}", config.display());
    let daemon = words(&["rsync", "--daemon", "--no-detach", &address, &port_is, &config]);
    let daemon: Child = spawn(&ground.way.donor.at(&daemon), Stdio::null())?;
    wait_listening(&daemon, port)?;
    let url = format!("rsync://{}:{port}/source/", ground.way.donor.ip);
    let client = words(&["rsync", "-a", "--whole-file", &url, target]);
    let recipient = pipeline(&[ground.way.recipient.at(&client)])?;
    let recipient_cpu_s = finish(recipient);
    let pid = nix::unistd::Pid::from_raw(daemon.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).map_err(failed("cannot stop rsync"))?;
    let mut daemon = daemon;
    let before = crate::process::children_cpu_s()?;
    daemon.wait().map_err(failed("cannot wait for rsync"))?;
    let donor_cpu_s = crate::process::children_cpu_s()? - before;
    Ok(Used { donor_cpu_s, recipient_cpu_s: recipient_cpu_s?, ..Used::default() })
}

/// A throw-away certificate with its key for socat.
fn certificate(dir: &Path) -> Outcome<String> {
    let path = dir.join("socat.pem");
    if !path.exists() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
            .map_err(failed("certificate"))?;
        let pem = made.signing_key.serialize_pem() + &made.cert.pem();
        fs::write(&path, pem).map_err(failed("cannot write the certificate"))?;
    }
    Ok(path.display().to_string())
}

fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed("no free port"))?;
    listener.local_addr().map(|addr| addr.port()).map_err(failed("no free port"))
}
