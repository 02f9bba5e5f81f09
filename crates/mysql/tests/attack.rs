//! Attacks on the view that root has of its server, by real other users: any local one, and the user whose the data are.
//!
//! Each ends with the proof that nothing beyond the attacker's own rights was used: what is believed, run, signalled, shown.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{config, instance, mariadb};
use mysql::{Error, Instance, MysqlConfig};
use nix::unistd::Uid;
use protocol::mysql::ServerState;
use tempfile::TempDir;
use testkit::mysqld::{Mysqld, MysqldOptions};
use testkit::poll;

/// Nobody's on a Debian system.
const STRANGER: u32 = 64_111;
const SOON: Duration = Duration::from_secs(20);

/// Only root can play other users.
fn can_attack() -> bool {
    let root = Uid::effective().is_root();
    if !root {
        testkit::skip::lacking("only root can play another user");
    }
    root
}

/// A user's directory with a program named as a server's, which does what it is told on its standard input.
struct Attacker {
    dir: TempDir,
    uid: u32,
    running: Vec<Child>,
}

impl Attacker {
    fn new(uid: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("oa-attack-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy("/bin/sh", dir.path().join("mysqld")).unwrap();
        for path in [dir.path().to_owned(), dir.path().join("mysqld")] {
            chown(path, Some(uid), Some(uid)).unwrap();
        }
        Self { dir, uid, running: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program with a server's arguments.
    fn poses(&mut self, arguments: &[String]) -> i32 {
        let mut command = Command::new(self.path("mysqld"));
        command.args(["-c", "read line", "mysqld"]).args(arguments).stdin(Stdio::piped());
        let child = command.uid(self.uid).gid(self.uid).current_dir("/").spawn().unwrap();
        let pid = child.id().cast_signed();
        self.running.push(child);
        poll::until_true(SOON, "the program to have its arguments", || {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.windows(9).any(|w| w == b"--datadir"))
        });
        pid
    }

    /// Listens as a MySQL server would, and keeps every byte that it is sent in the file `heard`.
    fn listens(&mut self, address: &str) {
        let script = "import socket,sys\n\
            a=sys.argv[1]\n\
            s=socket.socket(socket.AF_INET if a.isdigit() else socket.AF_UNIX)\n\
            s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\n\
            s.bind(('127.0.0.1',int(a)) if a.isdigit() else a)\n\
            s.listen(8)\n\
            open(sys.argv[2],'wb').close()\n\
            while True:\n\
            \x20c,_=s.accept(); c.settimeout(3)\n\
            \x20try:\n\
            \x20\x20c.sendall(bytes.fromhex(sys.argv[3])); d=c.recv(4096)\n\
            \x20except OSError: d=b''\n\
            \x20open(sys.argv[2],'ab').write(d)\n";
        let greeting = greeting().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut command = Command::new("python3");
        command.args(["-c", script, address]).arg(self.path("heard")).arg(greeting);
        self.running.push(command.uid(self.uid).gid(self.uid).stdin(Stdio::null()).spawn().unwrap());
        poll::until_true(SOON, "the attacker to listen", || self.path("heard").exists());
    }

    fn heard(&self) -> Vec<u8> {
        fs::read(self.path("heard")).unwrap()
    }

    fn lives(&mut self) -> bool {
        self.running.iter_mut().all(|child| child.try_wait().unwrap().is_none())
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The first packet of a server that wants the password in clear.
fn greeting() -> Vec<u8> {
    let mut body = vec![10];
    body.extend(b"10.11.6-MariaDB\0");
    body.extend([1, 0, 0, 0]);
    body.extend(b"12345678\0");
    body.extend([0xff, 0xf7, 33, 2, 0, 0xff, 0x81, 21]);
    body.extend([0; 10]);
    body.extend(b"123456789012\0mysql_clear_password\0");
    let mut packet = vec![u8::try_from(body.len()).unwrap(), 0, 0, 0];
    packet.extend(body);
    packet
}

fn arguments(datadir: &Path, attacker: &Attacker) -> Vec<String> {
    ["socket", "log-error", "pid-file"]
        .iter()
        .map(|name| format!("--{name}={}", attacker.path(name).display()))
        .chain([format!("--datadir={}", datadir.display())])
        .collect()
}

/// An agent's view that must find everything by itself, with a password to lose.
fn trusting(server: &Mysqld, secret: &Path) -> MysqlConfig {
    fs::write(secret, "the password\n").unwrap();
    fs::set_permissions(secret, fs::Permissions::from_mode(0o600)).unwrap();
    MysqlConfig {
        defaults_file: None,
        datadir: Some(server.datadir().to_owned()),
        user: Some("agent".to_owned()),
        password_file: Some(secret.to_owned()),
        ..config(server)
    }
}

#[tokio::test]
async fn a_strangers_program_of_a_servers_name_is_nothing() {
    if !can_attack() {
        return;
    }
    let mut server = Mysqld::prepare(MysqldOptions::default()).unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let mut attacker = Attacker::new(STRANGER);
    symlink("/etc/shadow", attacker.path("log-error")).unwrap();
    let pid = attacker.poses(&arguments(server.datadir(), &attacker));
    attacker.listens(attacker.path("socket").to_str().unwrap());
    let instance = Instance::new(trusting(&server, &secrets.path().join("p")));

    // MySQL is down, and the stranger says it is up.
    let settings = instance.settings().await;
    assert_eq!((settings.pid, settings.starting), (None, None));
    assert_ne!(settings.binary, Some(attacker.path("mysqld")), "it would be run as root");
    assert_ne!(settings.error_log, Some(attacker.path("log-error")));
    assert_ne!(settings.pid_file, Some(attacker.path("pid-file")));
    assert_ne!(settings.socket, Some(attacker.path("socket")));
    assert_eq!(instance.state().await, ServerState::Stopped);
    assert!(instance.error_log_tail(10).await.is_err());
    instance.stop().await.unwrap();
    instance.kill(Duration::from_secs(5)).await.unwrap();
    assert!(attacker.lives(), "a process that is not the server was signalled");

    // MySQL is up beside it.
    server.boot().await.unwrap();
    let info = instance.info().await;
    assert_eq!((info.pid, info.socket), (server.pid(), Some(server.socket())));
    assert_ne!(info.pid, Some(pid));
    assert_eq!(info.error_log, Some(server.error_log()));
    assert_ne!(instance.settings().await.binary, Some(attacker.path("mysqld")));
    instance.stop().await.unwrap();
    assert_eq!(server.pid(), None);
    assert!(attacker.lives());
    assert_eq!(attacker.heard(), b"", "nobody logged in at the stranger's socket");
}

#[tokio::test]
async fn a_password_is_sent_to_no_stranger() {
    if !can_attack() {
        return;
    }
    let server = Mysqld::prepare(MysqldOptions::default()).unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let trusting = trusting(&server, &secrets.path().join("p"));
    // Options name a socket in a directory where anybody may make one, or only a port.
    let mut by_socket = Attacker::new(STRANGER);
    by_socket.listens(by_socket.path("socket").to_str().unwrap());
    let mut by_port = Attacker::new(STRANGER);
    by_port.listens(&server.port().to_string());
    let socket = MysqlConfig { socket: Some(by_socket.path("socket")), ..trusting.clone() };
    let instance = Instance::new(socket);
    let error = instance.connect().await.unwrap_err();
    assert!(matches!(error, Error::Stranger { uid: STRANGER, .. }), "{error}");
    assert_eq!(instance.state().await, ServerState::Stopped);
    assert_eq!(by_socket.heard(), b"");
    let option_file = server.base().join("port.cnf");
    let mut file = fs::File::create(&option_file).unwrap();
    writeln!(file, "[mysqld]\ndatadir={}\nport={}", server.datadir().display(), server.port()).unwrap();
    let port = MysqlConfig { defaults_file: Some(option_file), datadir: None, ..trusting };
    let instance = Instance::new(port);
    if instance.settings().await.socket.is_some() {
        eprintln!("the port was not tried, because this host has a server's default socket");
        return;
    }
    let error = instance.connect().await.unwrap_err();
    assert!(matches!(error, Error::Stranger { uid: STRANGER, .. }), "{error}");
    assert_eq!(by_port.heard(), b"");
}

#[tokio::test]
async fn the_datas_owner_shows_no_file_of_roots_and_hangs_nobody() {
    if !can_attack() {
        return;
    }
    let server = mariadb().await;
    let owner = fs::metadata(server.datadir()).unwrap().uid();
    assert_ne!(owner, 0);
    let secret = server.base().join("of-root");
    fs::write(&secret, "only root reads this\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let instance = instance(&server);
    let log = server.error_log();
    let as_owner = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).uid(owner).gid(owner).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    };
    let (log, secret) = (log.to_str().unwrap(), secret.to_str().unwrap());
    let put: [&dyn Fn(); 3] = [
        &|| as_owner("ln", &["-s", secret, log]),
        &|| as_owner("mkfifo", &[log]),
        // By a link in the middle of the way.
        &|| as_owner("ln", &["-s", "/etc/shadow", log]),
    ];
    for put in put {
        as_owner("rm", &["-f", log]);
        put();
        let tail = tokio::time::timeout(SOON, instance.error_log_tail(10)).await.expect("it hangs");
        let error = tail.unwrap_err();
        assert!(error.to_string().contains("cannot read the error log"), "{error}");
    }
}

#[tokio::test]
async fn the_datas_owner_gets_nothing_believed_without_the_lock() {
    if !can_attack() {
        return;
    }
    let server = Mysqld::prepare(MysqldOptions::default()).unwrap();
    let owner = fs::metadata(server.datadir()).unwrap().uid();
    let secrets = tempfile::tempdir().unwrap();
    let mut attacker = Attacker::new(owner);
    let pid = attacker.poses(&arguments(server.datadir(), &attacker));
    let config = MysqlConfig { stop_patience_ms: 500, ..trusting(&server, &secrets.path().join("p")) };
    let instance = Instance::new(config);
    let settings = instance.settings().await;
    // It may be the server on its way up: nobody starts another, and nothing of it is believed.
    assert_eq!((settings.pid, settings.starting), (None, Some(pid)));
    assert_ne!(settings.binary, Some(attacker.path("mysqld")));
    assert_ne!(settings.socket, Some(attacker.path("socket")));
    assert!(instance.state().await.may_be_running());
    let error = instance.stop().await.unwrap_err();
    assert!(matches!(error, Error::NotStopped { .. }), "{error}");
    assert!(attacker.lives(), "what was not proven is not signalled");
}

#[tokio::test]
async fn the_datas_owner_cannot_change_what_a_second_server_is_told() {
    if !can_attack() {
        return;
    }
    let server = Mysqld::prepare(MysqldOptions::default()).unwrap();
    let owner = fs::metadata(server.datadir()).unwrap().uid();
    let dir = tempfile::Builder::new().prefix("oa-attack-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let run = dir.path().join("servers/3999");
    let options = mysql::second::SecondOptions {
        datadir: server.datadir().to_owned(),
        port: 3999,
        layout: None,
        log_bin: None,
        key_arguments: Vec::new(),
    };
    mysql::second::prepare(&run, &options).unwrap();
    let before = fs::read_to_string(run.join("my.cnf")).unwrap();
    for attack in [
        "echo plugin-load=evil > my.cnf",
        "mv my.cnf gone",
        "rm -f my.cnf",
        "ln -s /etc/passwd my.new",
        "mv own other && ln -s /etc own",
    ] {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", attack]).current_dir(&run).uid(owner).gid(owner).stderr(Stdio::null());
        assert!(!command.status().unwrap().success(), "{attack}");
    }
    assert_eq!(fs::read_to_string(run.join("my.cnf")).unwrap(), before);
    // What it may change is its own part: root refuses to go through a link there.
    let status = Command::new("/bin/sh")
        .args(["-c", "rmdir own/tmp && ln -s /etc own/tmp"])
        .current_dir(&run)
        .uid(owner)
        .gid(owner)
        .status()
        .unwrap();
    assert!(status.success());
    let etc = fs::metadata("/etc").unwrap();
    mysql::second::prepare(&run, &options).unwrap_err();
    let now = fs::metadata("/etc").unwrap();
    assert_eq!((now.uid(), now.mode()), (etc.uid(), etc.mode()));
}
