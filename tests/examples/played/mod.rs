//! A gateway beside a fleet of hosts that are played, for measurements.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bus::{Bus, BusConfig};
use jiff::Timestamp;
use protocol::ids::{AgentId, BootId};
use serde_json::Value;
use testkit::agent::Program;

/// A host: its id and its start.
pub(crate) type Host = (AgentId, BootId);

/// So many hosts.
pub(crate) fn hosts(count: usize) -> Vec<Host> {
    (0..count).map(|n| (format!("db{n}").parse().unwrap(), BootId::generate())).collect()
}

/// A connection for them.
pub(crate) async fn connect(url: &str) -> Bus {
    let config = BusConfig { servers: vec![url.to_owned()], ..BusConfig::default() };
    let bus = Bus::connect(&config, "hosts").await.unwrap();
    bus.connected(Duration::from_secs(10)).await.unwrap();
    bus
}

/// A host's heartbeat, by a recorded one.
pub(crate) fn heartbeat(status: &Value, (agent, boot): &Host, interval_ms: u64) -> Vec<u8> {
    let mut beat = status.clone();
    beat["agent"] = Value::from(agent.as_str());
    beat["boot"] = Value::from(boot.to_string());
    beat["sent_at"] = Value::from(Timestamp::now().to_string());
    beat["interval_ms"] = Value::from(interval_ms);
    serde_json::to_vec(&beat).unwrap()
}

/// Starts the gateway with its state in `dir`, and `more` lines of configuration.
pub(crate) fn gateway(dir: &Path, bus: &str, port: u16, more: &str) -> Child {
    let secret = dir.join("secret");
    std::fs::write(&secret, "only for this measurement, 32 characters").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = dir.join("gateway.toml");
    let text = format!(
        "gateway.state_dir = {:?}\ngateway.token_secret_file = {:?}\nlisten.address = \"127.0.0.1\"\nlisten.port = {port}\n\
         bus.servers = [{bus:?}]\n{more}\n",
        dir.join("state").display().to_string(),
        secret.display().to_string(),
    );
    std::fs::write(&config, text).unwrap();
    let program = Program::Agent.path().unwrap().with_file_name("orchestrator-gateway");
    Command::new(program).arg("--config").arg(config).stderr(Stdio::null()).spawn().unwrap()
}
