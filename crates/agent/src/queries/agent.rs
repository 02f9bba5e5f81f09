//! Who the agent is and what it may run.

use std::path::Path;

use protocol::host::{AgentInfo, Capability};
use protocol::params::CustomCommand;
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::host::Host;

/// `agent.info`.
pub(crate) fn info(host: &Host) -> AgentInfo {
    AgentInfo {
        agent: host.id.clone(),
        cluster: host.config.agent.cluster.clone(),
        dc: host.config.agent.dc.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: protocol::envelope::VERSION,
        boot: host.boot,
        started_at: host.started_at,
        config_digest: config_digest(&host.config),
        accepts_unsigned: host.config.auth.accept_unsigned,
        capabilities: host.capabilities.iter().cloned().chain([events(host)]).collect(),
        seal_key: Some(host.keys.seal.public()),
        reply_key: Some(host.keys.reply.public().to_owned()),
    }
}

/// Whether what happens here reaches the stream of events.
fn events(host: &Host) -> Capability {
    let reason = host.outbox.trouble();
    Capability { name: "events".into(), available: reason.is_none(), reason }
}

/// `custom.list`.
pub(crate) fn custom_commands(host: &Host) -> Vec<CustomCommand> {
    let entries = host.config.custom.iter();
    entries
        .map(|(name, custom)| CustomCommand {
            name: name.clone(),
            about: custom.about.clone(),
            time_limit_s: custom.time_limit_s,
        })
        .collect()
}

/// Digest of the configuration in force. It holds no secrets: those stand in files of their own.
pub(crate) fn config_digest(config: &Config) -> String {
    let digest = Sha256::digest(format!("{config:?}").as_bytes());
    sys::hex::encode(&digest[..8])
}

/// What this host can do, with the reason where it cannot.
pub(crate) fn capabilities(snapshots: Result<&::snapshot::Capability, &String>) -> Vec<Capability> {
    let mut found = vec![match snapshots {
        Ok(capability) => Capability {
            name: "snapshot".into(),
            available: capability.available,
            reason: capability.reason.clone(),
        },
        Err(reason) => Capability { name: "snapshot".into(), available: false, reason: Some(reason.clone()) },
    }];
    for (name, programs) in [
        ("binlog.text", ["mariadb-binlog", "mysqlbinlog"].as_slice()),
        ("lvm", ["lvs"].as_slice()),
        ("systemd", ["systemctl"].as_slice()),
    ] {
        found.push(program_capability(name, programs));
    }
    found
}

fn program_capability(name: &str, programs: &[&str]) -> Capability {
    let directories = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let found =
        programs.iter().any(|program| directories.iter().any(|dir| Path::new(dir).join(program).exists()));
    Capability {
        name: name.to_owned(),
        available: found,
        reason: (!found).then(|| format!("{} is not installed", programs.join(" or "))),
    }
}
