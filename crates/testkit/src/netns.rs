//! Several hosts on one machine: network namespaces joined by a bridge that lives in a namespace of its own, so that
//! nothing of the machine's own network changes. Needs root.
//!
//! A [`Network`] has a number that no other running test has (a lock on a file, freed by the kernel even after a
//! kill -9); names and addresses derive from it, and what a killed test left under the number is removed first.
//! The kernel's netem (delay, loss) exists only in the VM; here are cuts and rates.
//!
//! ```no_run
//! use testkit::netns::Network;
//! # fn main() -> anyhow::Result<()> {
//! let network = Network::new()?;
//! let donor = network.host("db1")?;
//! let recipient = network.host("db7")?;
//! let mut agent = donor.command("orchestrator-agent").arg("--config").arg("agent.toml").spawn()?;
//! donor.limit_rate(100_000_000)?;            // bits per second, each way
//! network.cut_between(&donor, &recipient)?;  // silently; other hosts still reach both
//! network.heal_between(&donor, &recipient)?;
//! recipient.cut()?;                          // silently, from everybody
//! recipient.heal()?;
//! # agent.kill()?; Ok(()) }
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::Ipv4Addr;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use anyhow::{Context, anyhow, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const BRIDGE: &str = "br0";
const NETWORKS: u8 = 250;
/// Nobody has this hardware address: frames to it end on the bridge.
const NOWHERE: &str = "02:00:00:00:00:01";

/// Why no network can be made on this machine; `None` when one can.
pub fn unavailable_reason() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    match Command::new("ip").args(["netns", "list"]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("ip netns: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("cannot start ip (package iproute2): {error}")),
    }
}

/// A bridge and the hosts on it. On drop all processes inside are killed and everything is removed.
#[derive(Debug)]
pub struct Network {
    number: u8,
    next_host: AtomicU8,
    _lock: Flock<File>,
}

/// One host: a namespace with `lo` and `eth0`.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    namespace: String,
    bridge_namespace: String,
    /// The bridge's end of the host's cable.
    port: String,
    address: Ipv4Addr,
}

impl Network {
    /// # Errors
    /// When namespaces cannot be made; [`unavailable_reason`] tells beforehand.
    pub fn new() -> anyhow::Result<Self> {
        let (number, lock) = free_number()?;
        let network = Self { number, next_host: AtomicU8::new(2), _lock: lock };
        network.remove_all();
        let namespace = network.bridge_namespace();
        ip(&["netns", "add", &namespace])?;
        ip(&["-n", &namespace, "link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["-n", &namespace, "link", "set", BRIDGE, "up"])?;
        Ok(network)
    }

    /// Adds a host. Its name is for people and for the namespace's name; the address is [`Host::address`].
    ///
    /// # Errors
    /// When the namespace or its cable cannot be made.
    pub fn host(&self, name: &str) -> anyhow::Result<Host> {
        let index = self.next_host.fetch_add(1, Ordering::SeqCst);
        ensure!(index < 255, "a network has room for 253 hosts");
        let host = Host {
            name: name.to_owned(),
            namespace: format!("{}{name}", self.prefix()),
            bridge_namespace: self.bridge_namespace(),
            port: format!("port{index}"),
            address: Ipv4Addr::new(10, 199, self.number, index),
        };
        let namespace = &host.namespace;
        ip(&["netns", "add", namespace])?;
        ip(&[
            "-n",
            namespace,
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            &host.port,
            "netns",
            &host.bridge_namespace,
        ])?;
        self.plug(&host.port)?;
        ip(&["-n", namespace, "addr", "add", &format!("{}/24", host.address), "dev", "eth0"])?;
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
        Ok(host)
    }

    /// Plugs the machine's own namespace in, so that the test process reaches the hosts and they reach it.
    /// Returns its address in this network.
    ///
    /// # Errors
    /// When the cable cannot be made.
    pub fn attach_test(&self) -> anyhow::Result<Ipv4Addr> {
        let device = self.own_device();
        let address = Ipv4Addr::new(10, 199, self.number, 1);
        ip(&[
            "link",
            "add",
            &device,
            "type",
            "veth",
            "peer",
            "name",
            "port1",
            "netns",
            &self.bridge_namespace(),
        ])?;
        self.plug("port1")?;
        ip(&["addr", "add", &format!("{address}/24"), "dev", &device])?;
        ip(&["link", "set", &device, "up"])?;
        Ok(address)
    }

    /// Drops all that these two send to one another, both ways, without either noticing; each still reaches others.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut_between(&self, one: &Host, other: &Host) -> anyhow::Result<()> {
        one.lose(other.address)?;
        other.lose(one.address)
    }

    /// Undoes [`Self::cut_between`].
    ///
    /// # Errors
    /// When they were not cut.
    pub fn heal_between(&self, one: &Host, other: &Host) -> anyhow::Result<()> {
        one.find(other.address)?;
        other.find(one.address)
    }

    fn plug(&self, port: &str) -> anyhow::Result<()> {
        ip(&["-n", &self.bridge_namespace(), "link", "set", port, "master", BRIDGE, "up"])
    }

    fn prefix(&self) -> String {
        format!("oat{}-", self.number)
    }

    fn bridge_namespace(&self) -> String {
        format!("{}bridge", self.prefix())
    }

    fn own_device(&self) -> String {
        format!("oat{}", self.number)
    }

    /// Removes every trace of this number; nothing here may fail, since it also clears up after a crash.
    fn remove_all(&self) {
        let prefix = self.prefix();
        let listed = Command::new("ip")
            .args(["netns", "list"])
            .output()
            .map(|output| output.stdout)
            .unwrap_or_default();
        for line in String::from_utf8_lossy(&listed).lines() {
            let Some(namespace) = line.split_whitespace().next().filter(|name| name.starts_with(&prefix))
            else {
                continue;
            };
            kill_processes(namespace);
            let _ = ip(&["netns", "del", namespace]);
        }
        // Goes with its other end, which the kernel removes with the namespace a moment later: both ways are fine.
        let _ = ip(&["link", "del", &self.own_device()]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove_all();
    }
}

impl Host {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that runs inside the host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut argv = self.argv_prefix();
        let mut command = Command::new(argv.remove(0));
        command.args(argv).arg(program);
        command
    }

    /// What to put before an argv to run it inside the host: `ip netns exec NAME`, which replaces itself by the
    /// program, so that the process id is the program's own.
    pub fn argv_prefix(&self) -> Vec<OsString> {
        ["ip", "netns", "exec", &self.namespace].map(OsString::from).into()
    }

    /// As [`Self::argv_prefix`], with the machine's own mounts, as all processes of a real host share them.
    pub fn argv_prefix_of_network(&self) -> Vec<OsString> {
        ["nsenter".into(), format!("--net=/run/netns/{}", self.namespace)].map(OsString::from).into()
    }

    /// Runs a closure on a thread of its own whose sockets belong to the host. Sockets keep their host when they
    /// move to other threads; threads that the closure starts inherit it.
    ///
    /// # Errors
    /// When the thread cannot enter the namespace.
    ///
    /// # Panics
    /// With the closure's own panic.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let path = format!("/run/netns/{}", self.namespace);
        let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || -> anyhow::Result<T> {
                setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// From now on nothing passes to or from this host; its own link stays up, as when a switch fails.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.bridge_namespace, "link", "set", &self.port, "nomaster"])
    }

    /// Undoes [`Self::cut`].
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn heal(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.bridge_namespace, "link", "set", &self.port, "master", BRIDGE])
    }

    /// Limits what this host sends and what it receives, each to so many bits per second.
    ///
    /// # Errors
    /// When `tc` fails.
    pub fn limit_rate(&self, bits_per_second: u64) -> anyhow::Result<()> {
        let rate = format!("{bits_per_second}bit");
        for (namespace, device) in self.ends() {
            tc(&[
                "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf", "rate", &rate, "burst",
                "128kb", "latency", "100ms",
            ])?;
        }
        Ok(())
    }

    /// Undoes [`Self::limit_rate`].
    ///
    /// # Errors
    /// When there was no limit.
    pub fn lift_rate(&self) -> anyhow::Result<()> {
        for (namespace, device) in self.ends() {
            tc(&["-n", namespace, "qdisc", "del", "dev", device, "root"])?;
        }
        Ok(())
    }

    fn ends(&self) -> [(&str, &str); 2] {
        [(&self.namespace, "eth0"), (&self.bridge_namespace, &self.port)]
    }

    fn lose(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        let address = address.to_string();
        ip(&[
            "-n",
            &self.namespace,
            "neigh",
            "replace",
            &address,
            "lladdr",
            NOWHERE,
            "nud",
            "permanent",
            "dev",
            "eth0",
        ])
    }

    fn find(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        ip(&["-n", &self.namespace, "neigh", "del", &address.to_string(), "dev", "eth0"])
    }
}

fn free_number() -> anyhow::Result<(u8, Flock<File>)> {
    // Different processes begin at different places, so that most find a free number at once.
    let first = std::process::id() % u32::from(NETWORKS);
    for step in 0..u32::from(NETWORKS) {
        let number = (first + step) % u32::from(NETWORKS);
        let path = std::env::temp_dir().join(format!("testkit-netns-{number}.lock"));
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            return Ok((u8::try_from(number)?, lock));
        }
    }
    Err(anyhow!("all {NETWORKS} test networks of this machine are in use"))
}

fn kill_processes(namespace: &str) {
    let Ok(output) = Command::new("ip").args(["netns", "pids", namespace]).output() else { return };
    for pid in String::from_utf8_lossy(&output.stdout).split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // A thread of the test itself inside the namespace must not kill the test.
        if pid != nix::unistd::getpid().as_raw() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    checked("ip", args)
}

fn tc(args: &[&str]) -> anyhow::Result<()> {
    checked("tc", args)
}

fn checked(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let Output { status, stderr, .. } =
        Command::new(program).args(args).output().with_context(|| format!("cannot start {program}"))?;
    let stderr = String::from_utf8_lossy(&stderr);
    ensure!(status.success(), "{program} {} failed with {status}: {}", args.join(" "), stderr.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::poll;

    const LIMIT: Duration = Duration::from_secs(10);

    fn network() -> Option<Network> {
        match unavailable_reason() {
            None => Some(Network::new().unwrap()),
            Some(reason) => {
                crate::skip::lacking(reason);
                None
            }
        }
    }

    /// A server in `host` that sends back what it gets.
    fn echo_server(host: &Host) -> SocketAddr {
        let listener = host.run(|| TcpListener::bind((host.address(), 0)).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    }

    /// Whether a question over an open connection comes back in time.
    fn answers(mut stream: &TcpStream, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        stream.set_read_timeout(Some(limit)).unwrap();
        stream.write_all(b"?").unwrap();
        let mut answer = [0];
        while Instant::now() < deadline {
            if matches!(stream.read(&mut answer), Ok(1)) {
                return true;
            }
        }
        false
    }

    #[test]
    fn hosts_reach_one_another_until_one_is_cut() {
        let Some(network) = network() else { return };
        let (one, two) = (network.host("one").unwrap(), network.host("two").unwrap());
        let address = echo_server(&one);
        let stream = two.run(|| TcpStream::connect_timeout(&address, LIMIT).unwrap()).unwrap();
        assert!(answers(&stream, LIMIT));

        one.cut().unwrap();
        assert!(!answers(&stream, Duration::from_millis(400)), "bytes pass a cut");
        one.heal().unwrap();
        // The kernel sends the lost question again by itself.
        assert!(answers(&stream, LIMIT), "the connection did not survive the cut");
    }

    #[test]
    fn a_cut_between_two_leaves_the_third_alone() {
        let Some(network) = network() else { return };
        let hosts = ["one", "two", "three"].map(|name| network.host(name).unwrap());
        let [one, two, three] = &hosts;
        let address = echo_server(one);
        let connect =
            |host: &Host| host.run(|| TcpStream::connect_timeout(&address, LIMIT).unwrap()).unwrap();
        let (of_two, of_three) = (connect(two), connect(three));

        network.cut_between(one, two).unwrap();
        assert!(!answers(&of_two, Duration::from_millis(400)), "bytes pass a cut");
        assert!(answers(&of_three, LIMIT));
        network.heal_between(one, two).unwrap();
        assert!(answers(&of_two, LIMIT), "the connection did not survive the cut");
    }

    #[test]
    fn a_rate_is_kept() {
        let Some(network) = network() else { return };
        let (one, two) = (network.host("one").unwrap(), network.host("two").unwrap());
        let address = echo_server(&one);
        let mut stream = two.run(|| TcpStream::connect_timeout(&address, LIMIT).unwrap()).unwrap();
        two.limit_rate(16_000_000).unwrap();
        let started = Instant::now();
        let size = 1_000_000;
        thread::scope(|scope| {
            scope.spawn(|| (&stream).write_all(&vec![1; size]).unwrap());
            (&stream).read_exact(&mut vec![0; size]).unwrap();
        });
        // 1 MB at 2 MB/s, less the burst.
        assert!(started.elapsed() >= Duration::from_millis(350), "{:?}", started.elapsed());
        two.lift_rate().unwrap();
        stream.write_all(b"x").unwrap();
    }

    #[test]
    fn the_test_itself_can_be_plugged_in() {
        let Some(network) = network() else { return };
        let host = network.host("one").unwrap();
        network.attach_test().unwrap();
        let stream = TcpStream::connect_timeout(&echo_server(&host), LIMIT).unwrap();
        assert!(answers(&stream, LIMIT));
    }

    #[test]
    fn nothing_is_left_after_the_drop() {
        let Some(network) = network() else { return };
        let host = network.host("one").unwrap();
        network.attach_test().unwrap();
        let mut sleeper = host.command("sleep").arg("600").spawn().unwrap();
        poll::until_true(LIMIT, "the process inside", || {
            let pids = Command::new("ip").args(["netns", "pids", &host.namespace]).output().unwrap();
            String::from_utf8_lossy(&pids.stdout).contains(&sleeper.id().to_string())
        });
        let prefix = network.prefix();
        drop(network);
        assert!(!sleeper.wait().unwrap().success(), "the process inside was not killed");
        let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
        assert!(!String::from_utf8_lossy(&left.stdout).contains(&prefix));
    }
}
