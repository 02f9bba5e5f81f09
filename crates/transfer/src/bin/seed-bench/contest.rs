//! Who runs against whom, and how a run is measured.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use transfer::Token;

use crate::dataset::Make;

/// One way to move a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// Ours; TLS or plain.
    Seed {
        tls: bool,
    },
    Floor,
    TarNc,
    TarZstdNc,
    Rsync,
    TarSocatTls,
    CopyLocal,
}

/// One run's figures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    /// Peak resident memory of donor and recipient in KiB, if it is ours.
    pub(crate) peak_kib: Option<(u64, u64)>,
}

/// All figures of one data set on one filesystem.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) rows: Vec<(&'static str, Vec<Sample>)>,
}

impl Contestant {
    pub(crate) fn all() -> Vec<Self> {
        vec![
            Self::Seed { tls: false },
            Self::TarNc,
            Self::Seed { tls: true },
            Self::Floor,
            Self::Rsync,
            Self::TarSocatTls,
            Self::TarZstdNc,
            Self::CopyLocal,
        ]
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Seed { tls: false } => "seed",
            Self::Seed { tls: true } => "seed-tls",
            Self::Floor => "floor",
            Self::TarNc => "tar-nc",
            Self::TarZstdNc => "tar-zstd-nc",
            Self::Rsync => "rsync",
            Self::TarSocatTls => "tar-socat-tls",
            Self::CopyLocal => "cp",
        }
    }
}

/// A data set on a filesystem; removed when dropped.
pub(crate) struct Lane {
    dir: PathBuf,
    source: PathBuf,
    on_disk: bool,
    bytes: u64,
}

impl Drop for Lane {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

type Outcome<T> = Result<T, String>;

fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

impl Lane {
    pub(crate) fn prepare(parent: &Path, on_disk: bool, make: &Make) -> Outcome<Self> {
        let dir = parent.join(format!("seed-bench-{}", std::process::id()));
        let source = dir.join("source");
        fs::create_dir_all(&source).map_err(failed("cannot make the data set's directory"))?;
        let mut lane = Self { dir, source, on_disk, bytes: 0 };
        make(&lane.source).map_err(failed("cannot make the data set"))?;
        lane.bytes = lane.warm()?;
        Ok(lane)
    }

    /// Runs all contestants in turn, `rounds` times.
    pub(crate) fn run(&self, name: &str, contestants: &[Contestant], rounds: usize) -> Outcome<Table> {
        let mut rows: Vec<(&'static str, Vec<Sample>)> =
            contestants.iter().map(|contestant| (contestant.name(), Vec::new())).collect();
        // A round that does not count: it makes the system find its memory.
        self.once(contestants.first().copied().unwrap_or(Contestant::CopyLocal))?;
        for round in 0..rounds {
            for (contestant, row) in contestants.iter().zip(&mut rows) {
                let sample = self.once(*contestant)?;
                eprintln!(
                    "{name}: round {round} {:<14} {:>6.2} s {:>6.2} CPU s {:>6.0} MiB/s",
                    contestant.name(),
                    sample.wall_s,
                    sample.cpu_s,
                    self.bytes as f64 / sample.wall_s / (1 << 20) as f64
                );
                row.1.push(sample);
            }
        }
        Ok(Table { name: name.to_owned(), bytes: self.bytes, rows })
    }

    /// Reads everything once, so that each run finds the same page cache. Gives the number of bytes.
    fn warm(&self) -> Outcome<u64> {
        let mut bytes = 0;
        let mut buffer = vec![0; 1 << 20];
        let mut dirs = vec![self.source.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).map_err(failed("cannot read the data set"))? {
                let entry = entry.map_err(failed("cannot read the data set"))?;
                if entry.path().is_dir() {
                    dirs.push(entry.path());
                    continue;
                }
                let mut file = File::open(entry.path()).map_err(failed("cannot read the data set"))?;
                loop {
                    match file.read(&mut buffer).map_err(failed("cannot read the data set"))? {
                        0 => break,
                        len => bytes += len as u64,
                    }
                }
            }
        }
        Ok(bytes)
    }

    fn sync(&self) -> Outcome<()> {
        let dir = File::open(&self.dir).map_err(failed("cannot open the bench directory"))?;
        nix::unistd::syncfs(&dir).map_err(failed("cannot flush the filesystem"))
    }

    fn once(&self, contestant: Contestant) -> Outcome<Sample> {
        let target = self.dir.join("target");
        let _ = fs::remove_dir_all(&target);
        let _ = fs::remove_file(self.dir.join("target.journal"));
        fs::create_dir(&target).map_err(failed("cannot make the target"))?;
        if self.on_disk {
            self.sync()?;
        }
        self.warm()?;
        let port = free_port()?;
        let cpu_before = children_cpu_s()?;
        let started = Instant::now();
        let peak_kib = self.start(contestant, &target, port)?;
        if self.on_disk {
            self.sync()?;
        }
        let wall_s = started.elapsed().as_secs_f64();
        let sample = Sample { wall_s, cpu_s: children_cpu_s()? - cpu_before, peak_kib };
        self.check(&target)?;
        Ok(sample)
    }

    /// A contestant that lost something has not run.
    fn check(&self, target: &Path) -> Outcome<()> {
        let moved = Self { dir: PathBuf::new(), source: target.to_owned(), on_disk: false, bytes: 0 };
        let bytes = moved.warm()?;
        std::mem::forget(moved);
        if bytes == self.bytes { Ok(()) } else { Err(format!("{bytes} of {} bytes arrived", self.bytes)) }
    }

    fn start(&self, contestant: Contestant, target: &Path, port: u16) -> Outcome<Option<(u64, u64)>> {
        let (source, target) = (self.source.display().to_string(), target.display().to_string());
        let local = format!("127.0.0.1:{port}");
        let port = port.to_string();
        match contestant {
            Contestant::Seed { tls } => return self.seed(&source, &target, &port, tls).map(Some),
            Contestant::Floor => {
                let recipient = pipeline(&[&own(&["role", "floor-receive", &target, &local])])?;
                wait_listening(&port)?;
                let donor = pipeline(&[&own(&["role", "floor-send", &source, &local])])?;
                finish([donor, recipient])?;
            }
            Contestant::TarNc => {
                let recipient = pipeline(&[
                    &words(&["nc", "-l", "127.0.0.1", &port]),
                    &words(&["tar", "-x", "-C", &target]),
                ])?;
                wait_listening(&port)?;
                let donor = pipeline(&[
                    &words(&["tar", "-c", "-C", &source, "."]),
                    &words(&["nc", "-N", "127.0.0.1", &port]),
                ])?;
                finish([donor, recipient])?;
            }
            Contestant::TarZstdNc => {
                let recipient = pipeline(&[
                    &words(&["nc", "-l", "127.0.0.1", &port]),
                    &words(&["zstd", "-q", "-d", "-c"]),
                    &words(&["tar", "-x", "-C", &target]),
                ])?;
                wait_listening(&port)?;
                let donor = pipeline(&[
                    &words(&["tar", "-c", "-C", &source, "."]),
                    &words(&["zstd", "-q", "-1", "-T0", "-c"]),
                    &words(&["nc", "-N", "127.0.0.1", &port]),
                ])?;
                finish([donor, recipient])?;
            }
            Contestant::TarSocatTls => {
                let pem = self.certificate()?;
                let listen = format!("OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,cert={pem},verify=0");
                let recipient = pipeline(&[
                    &words(&["socat", "-u", "-b", "262144", &listen, "-"]),
                    &words(&["tar", "-x", "-C", &target]),
                ])?;
                wait_listening(&port)?;
                let connect = format!("OPENSSL:{local},verify=0");
                let donor = pipeline(&[
                    &words(&["tar", "-c", "-C", &source, "."]),
                    &words(&["socat", "-u", "-b", "262144", "-", &connect]),
                ])?;
                finish([donor, recipient])?;
            }
            Contestant::Rsync => self.rsync(&source, &target, &port)?,
            Contestant::CopyLocal => {
                finish([pipeline(&[&words(&["cp", "-a", &format!("{source}/."), &target])])?, Vec::new()])?;
            }
        }
        Ok(None)
    }

    fn seed(&self, source: &str, target: &str, port: &str, tls: bool) -> Outcome<(u64, u64)> {
        let token = Token::generate().expose();
        let security = if tls { "tls" } else { "plain" };
        let mut donor = spawn(&own(&["role", "donor", source, port, &token, security]), Stdio::null())?;
        let mut donor_says = BufReader::new(donor.stdout.take().ok_or("no output of the donor")?);
        let mut fingerprint = String::new();
        donor_says.read_line(&mut fingerprint).map_err(failed("cannot hear the donor"))?;
        // The benchmark flushes at the end for every contestant; tmpfs has nothing to flush.
        let durable = if self.on_disk { "durable" } else { "volatile" };
        let connections = std::env::var("SEED_BENCH_CONNECTIONS").unwrap_or_else(|_| "2".to_owned());
        let args =
            own(&["role", "recipient", target, port, &token, fingerprint.trim(), &connections, durable]);
        let mut recipient = spawn(&args, Stdio::null())?;
        let mut recipient_says = BufReader::new(recipient.stdout.take().ok_or("no output of the recipient")?);
        let peaks = (peak(&mut recipient_says), peak(&mut donor_says));
        finish([vec![donor], vec![recipient]])?;
        Ok((peaks.1, peaks.0))
    }

    fn rsync(&self, source: &str, target: &str, port: &str) -> Outcome<()> {
        let config = self.dir.join("rsyncd.conf");
        let text =
            format!("use chroot = no\nuid = root\ngid = root\n[source]\npath = {source}\nread only = yes\n");
        fs::write(&config, text).map_err(failed("cannot write rsyncd.conf"))?;
        let config = format!("--config={}", config.display());
        let daemon = words(&[
            "rsync",
            "--daemon",
            "--no-detach",
            "--address=127.0.0.1",
            &format!("--port={port}"),
            &config,
        ]);
        let mut daemon = spawn(&daemon, Stdio::null())?;
        wait_listening(port)?;
        let url = format!("rsync://127.0.0.1:{port}/source/");
        let copied =
            finish([pipeline(&[&words(&["rsync", "-a", "--whole-file", &url, target])])?, Vec::new()]);
        let pid = nix::unistd::Pid::from_raw(daemon.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
            .map_err(failed("cannot stop rsync"))?;
        daemon.wait().map_err(failed("cannot wait for rsync"))?;
        copied
    }

    /// A throw-away certificate with its key for socat.
    fn certificate(&self) -> Outcome<String> {
        let path = self.dir.join("socat.pem");
        if !path.exists() {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
                .map_err(failed("certificate"))?;
            let pem = made.signing_key.serialize_pem() + &made.cert.pem();
            fs::write(&path, pem).map_err(failed("cannot write the certificate"))?;
        }
        Ok(path.display().to_string())
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A command line for this very program.
fn own(args: &[&str]) -> Vec<String> {
    let program =
        std::env::current_exe().map_or_else(|_| "seed-bench".to_owned(), |path| path.display().to_string());
    std::iter::once(program).chain(args.iter().map(|&arg| arg.to_owned())).collect()
}

fn spawn(argv: &[String], input: Stdio) -> Outcome<Child> {
    Command::new(&argv[0])
        .args(&argv[1..])
        .stdin(input)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed(&format!("cannot run {}", argv[0])))
}

/// Starts commands, each reading what the one before writes.
fn pipeline(commands: &[&Vec<String>]) -> Outcome<Vec<Child>> {
    let mut children: Vec<Child> = Vec::new();
    for argv in commands {
        let input = match children.last_mut().and_then(|child| child.stdout.take()) {
            Some(output) => Stdio::from(output),
            None => Stdio::null(),
        };
        children.push(spawn(argv, input)?);
    }
    Ok(children)
}

fn finish(sides: [Vec<Child>; 2]) -> Outcome<()> {
    for mut child in sides.into_iter().flatten() {
        let status = child.wait().map_err(failed("cannot wait for a contestant"))?;
        if !status.success() {
            return Err(format!("a contestant failed: {status}"));
        }
    }
    Ok(())
}

fn peak(says: &mut impl BufRead) -> u64 {
    let mut line = String::new();
    let _ = says.read_line(&mut line);
    line.split_whitespace().nth(2).and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed("no free port"))?;
    listener.local_addr().map(|addr| addr.port()).map_err(failed("no free port"))
}

/// Waits until something listens on `port`, without connecting: `nc` serves only the first who comes.
fn wait_listening(port: &str) -> Outcome<()> {
    let number: u16 = port.parse().map_err(failed("bad port"))?;
    let wanted = format!(":{number:04X} ");
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let table = fs::read_to_string("/proc/net/tcp").map_err(failed("cannot read /proc/net/tcp"))?;
        if table.lines().any(|line| line.contains(&wanted) && line.contains(" 0A ")) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(format!("nothing listens on port {port}"))
}

fn children_cpu_s() -> Outcome<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(failed("getrusage"))?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
