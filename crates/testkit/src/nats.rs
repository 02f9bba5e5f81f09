//! A real nats-server for one test: own port, own store, killed with the test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::port::Port;

mod cluster;

pub use cluster::NatsCluster;

/// How long a server may take to answer after its start; this machine may be busy.
const START_WITHIN: Duration = Duration::from_secs(30);

/// How to start it.
#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    /// With JetStream.
    pub jetstream: bool,
    /// More lines for the config file.
    pub config: String,
    /// The program; absent: `NATS_SERVER` of the environment, else the one in `PATH`.
    pub program: Option<PathBuf>,
    /// The domain of its JetStream; absent: it has none.
    pub domain: Option<String>,
    /// Clients come to this address of the machine; absent: 127.0.0.1, and no others can.
    pub address: Option<Ipv4Addr>,
}

impl NatsOptions {
    /// With JetStream.
    #[must_use]
    pub fn jetstream() -> Self {
        Self { jetstream: true, ..Self::default() }
    }

    /// With these config lines.
    #[must_use]
    pub fn config(mut self, lines: impl Into<String>) -> Self {
        self.config = lines.into();
        self
    }

    /// With this program.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }
}

/// A server that runs, or ran and can be started again on the same port with the same store.
#[derive(Debug)]
pub struct NatsServer {
    dir: TempDir,
    program: PathBuf,
    address: Ipv4Addr,
    port: Port,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts a server and waits until it answers.
    pub fn start(options: &NatsOptions) -> Result<Self> {
        let program = options.program.clone().unwrap_or_else(default_program);
        // The free port found may be taken by someone else in between: then with another one.
        let mut last = None;
        for _ in 0..5 {
            let dir = tempfile::tempdir()?;
            let port = Port::claim()?;
            let address = options.address.unwrap_or(Ipv4Addr::LOCALHOST);
            let mut server = Self { dir, program: program.clone(), address, port, child: None };
            fs::write(server.config_path(), server.config(options))?;
            match server.restart() {
                Ok(()) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }

    /// A server that is down but whose port is known; [`Self::restart`] starts it.
    pub fn down(options: &NatsOptions) -> Result<Self> {
        let program = options.program.clone().unwrap_or_else(default_program);
        let address = options.address.unwrap_or(Ipv4Addr::LOCALHOST);
        let server = Self { dir: tempfile::tempdir()?, program, address, port: Port::claim()?, child: None };
        fs::write(server.config_path(), server.config(options))?;
        Ok(server)
    }

    /// `nats://<address>:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}:{}", self.address, self.port.number())
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its directory: config, log, store.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// From the next start on it is another program: an upgrade, the store stays.
    pub fn upgrade(&mut self, program: impl Into<PathBuf>) {
        self.program = program.into();
    }

    /// Starts it (again), same port, same store.
    pub fn restart(&mut self) -> Result<()> {
        self.kill9();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log"))?;
        let mut child = Command::new(&self.program)
            .arg("--config")
            .arg(self.config_path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}; install nats-server", self.program.display()))?;
        let until = Instant::now() + START_WITHIN;
        while Instant::now() < until {
            if let Some(status) = child.try_wait()? {
                bail!("nats-server ended with {status}: {}", self.log());
            }
            if answers(self.port.number()) {
                self.child = Some(child);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().ok();
        child.wait().ok();
        bail!("nats-server does not answer on port {}: {}", self.port.number(), self.log())
    }

    /// Ends it in good order.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        if let Some(mut child) = self.child.take() {
            child.wait().ok();
        }
    }

    /// Kills it at once.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Stops its clock: connections stay, nothing answers. Returns when it stands still.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let Some(pid) = self.pid() else { return };
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && !stands_still(pid) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Announces that it goes down (`lame duck mode`).
    pub fn lame_duck(&self) {
        self.signal(Signal::SIGUSR2);
    }

    /// Replaces the config lines given at the start and lets the server read them.
    pub fn reload(&self, options: &NatsOptions) -> Result<()> {
        fs::write(self.config_path(), self.config(options))?;
        self.signal(Signal::SIGHUP);
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), signal).ok();
        }
    }

    fn config_path(&self) -> PathBuf {
        self.dir.path().join("nats.conf")
    }

    fn config(&self, options: &NatsOptions) -> String {
        // It is asked on the loopback whether it runs, whatever the others' address is.
        let listen = if self.address.is_loopback() { self.address } else { Ipv4Addr::UNSPECIFIED };
        let mut text = format!("listen: \"{listen}:{}\"\n", self.port.number());
        if options.jetstream {
            let store = self.dir.path().join("store");
            let domain =
                options.domain.iter().map(|domain| format!(", domain: {domain:?}")).collect::<String>();
            let limits = format!("max_mem: 256MB, max_file: 4GB{domain}");
            text.push_str(&format!("jetstream {{ store_dir: {store:?}, {limits} }}\n"));
        }
        text.push_str(&options.config);
        text
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.thaw();
        self.kill9();
    }
}

/// The servers that a suite should run on: the distribution's, and the newest one where `scripts/nats-newest` put it.
#[must_use]
pub fn matrix() -> Vec<PathBuf> {
    let mut programs = vec![default_program()];
    if std::env::var_os("NATS_SERVER").is_none()
        && let Some(newest) = newest_program()
    {
        programs.push(newest);
    }
    programs
}

/// The newest server, if `scripts/nats-newest` has fetched it.
#[must_use]
pub fn newest_program() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.parent()?;
    let program = root.join("target/nats-newest/nats-server");
    program.is_file().then_some(program)
}

fn default_program() -> PathBuf {
    std::env::var_os("NATS_SERVER").map_or_else(|| "nats-server".into(), PathBuf::from)
}

/// True when all threads of the process are stopped.
fn stands_still(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the program's name, which stands in parentheses.
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
    })
}

/// True when a NATS server greets on this port.
fn answers(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) else {
        return false;
    };
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok();
    let mut greeting = String::new();
    let Ok(reading) = stream.try_clone() else { return false };
    let read = BufReader::new(reading.take(65_536)).read_line(&mut greeting);
    stream.write_all(b"").ok();
    read.is_ok() && greeting.starts_with("INFO ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_starts_again_on_its_port_and_goes_with_its_handle() {
        let mut server = NatsServer::start(&NatsOptions::jetstream()).unwrap();
        let port = server.port();
        server.kill9();
        assert!(!answers(port));
        server.restart().unwrap();
        assert_eq!(server.port(), port);
        drop(server);
        assert!(!answers(port));
    }
}
