//! The gateway as a process of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use testkit::agent::Program;
use testkit::poll;
use testkit::port::Port;

use crate::node::Node;
use crate::web::{self, Reply};

const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway, killed when dropped.
#[derive(Debug)]
pub(crate) struct Gateway {
    child: Option<Child>,
    port: Port,
    dir: TempDir,
}

/// The program.
pub(crate) fn program() -> PathBuf {
    Program::Agent.path().unwrap().with_file_name("orchestrator-gateway")
}

/// Checks a configuration by the program itself.
pub(crate) fn check(config: &Path) -> Output {
    Command::new(program()).arg("--check").arg("--config").arg(config).output().unwrap()
}

impl Gateway {
    /// One gateway for all hosts of that bus, known to that node; `more` are further lines of TOML.
    pub(crate) fn start(bus: &str, node: &Node, more: &str) -> Self {
        let port = Port::claim().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("token.secret");
        fs::write(&secret, "correct horse battery staple and more").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let mut gateway = Self { child: None, port, dir };
        let ports = if more.contains("listen.ports") {
            String::new()
        } else {
            format!("listen.port = {}\n", gateway.port.number())
        };
        let level = if more.contains("read_only") { "\"error\"" } else { "\"info,gateway=debug\"" };
        let config = format!(
            "gateway.state_dir = {:?}\ngateway.token_secret_file = {:?}\nlisten.address = \"127.0.0.1\"\n{ports}\
             orchestrator.nodes = [{:?}]\norchestrator.ping_s = 1\nbus.servers = [{bus:?}]\nbus.reconnect_max_ms = 500\n\
             log.format = \"json\"\nlog.level = {level}\n{more}\n",
            gateway.dir.path().join("state").display().to_string(),
            secret.display().to_string(),
            node.url(),
        );
        fs::write(gateway.config(), config).unwrap();
        gateway.boot();
        gateway
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("gateway.toml")
    }

    /// Starts it, again after a kill.
    pub(crate) fn boot(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(program());
        command.arg("--config").arg(self.config()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Puts a seed among those that it finds at its next start.
    pub(crate) fn remember(&self, file: &str, record: &serde_json::Value) {
        fs::write(self.dir.path().join("state/seeds").join(file), record.to_string()).unwrap();
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Where it listens for all hosts.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }

    /// Asks about a host.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Option<Reply> {
        web::get(self.address(), host, path).await
    }

    /// Waits until it answers for a host.
    pub(crate) async fn serving(&self, host: &str) {
        poll::until_async(PATIENCE, format!("the gateway to serve {host}"), || async {
            self.get(host, "/api/status").await.filter(|reply| reply.status == 200).map(drop)
        })
        .await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("--- the gateway's log\n{log}");
        } else {
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}
