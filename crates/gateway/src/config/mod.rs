//! The gateway's configuration: one TOML file. Whatever is wrong is told with the file, the key and what was expected.

mod check;
mod load;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bus::BusConfig;
use protocol::ids::AgentId;
use protocol::seed::SeedOptions;
use serde::Deserialize;

use crate::address::Network;

pub use load::{ConfigError, load};

/// Where the configuration is read from unless a flag says otherwise.
pub const DEFAULT_PATH: &str = "/etc/orchestrator-gateway/gateway.toml";

/// The whole configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What it does for whom.
    pub gateway: GatewayConfig,
    /// Where orchestrator reaches it.
    pub listen: ListenConfig,
    /// Where it reaches orchestrator.
    pub orchestrator: OrchestratorConfig,
    /// Where Prometheus reaches it.
    pub metrics: MetricsConfig,
    /// Where people reach the page.
    pub page: PageConfig,
    /// How to reach NATS.
    pub bus: BusConfig,
    /// What is allowed in seeds that orchestrator begins.
    pub seed: SeedOptions,
    /// Logging.
    pub log: LogConfig,
    /// Where spans are sent.
    pub trace: trace::Settings,
}

/// `[gateway]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Seeds under way and the ports of hosts; made with mode 0700.
    pub state_dir: PathBuf,
    /// Only these agents; empty: every agent on the bus.
    pub hosts: Vec<AgentId>,
    /// What orchestrator knows a host as and dials, with `{host}` for the agent's id.
    pub name: String,
    /// The tokens of all hosts follow from this secret.
    pub token_secret_file: PathBuf,
    /// Signs commands (nkey seed); absent: unsigned.
    pub sign_key_file: Option<PathBuf>,
    /// The keys by which hosts' replies are known, as `orchestrator-ctl key pin` writes them; absent: any reply is taken.
    pub host_keys_file: Option<PathBuf>,
    /// A host that was silent for so long is no longer registered, in seconds.
    pub forget_after_s: u64,
    /// Refuses everything that changes a host.
    pub read_only: bool,
    /// What `delete-mysql-datadir` does.
    pub datadir_delete: DatadirDelete,
    /// `seed-command-completed` is held for so long at the most, in seconds; orchestrator waits 60.
    pub hold_s: u64,
    /// Answers about a host are told again for so long before it is asked anew, in milliseconds.
    pub cache_ms: u64,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/orchestrator-gateway".into(),
            hosts: Vec::new(),
            name: "{host}".into(),
            token_secret_file: "/etc/orchestrator-gateway/token.secret".into(),
            sign_key_file: None,
            host_keys_file: None,
            forget_after_s: 3_600,
            read_only: false,
            datadir_delete: DatadirDelete::LeaveToSeed,
            hold_s: 55,
            cache_ms: 1_000,
        }
    }
}

/// What orchestrator's order to erase a recipient comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatadirDelete {
    /// Nothing: the seed that follows replaces the old data once the new ones are proven.
    LeaveToSeed,
    /// The datadir of a stopped server is emptied at once, as the original agent does it.
    Clear,
}

/// `[listen]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// Local address.
    pub address: IpAddr,
    /// One port for all hosts, told apart by the `Host` header. Absent with `ports`.
    pub port: Option<u16>,
    /// First and last of the ports of which each host has one of its own.
    pub ports: Option<[u16; 2]>,
    /// PEM file with the certificate chain; absent: plain HTTP.
    pub tls_cert: Option<PathBuf>,
    /// PEM file with its key, closed to others.
    pub tls_key: Option<PathBuf>,
    /// File with `user:password` that every request must show; orchestrator itself shows none.
    pub basic_auth_file: Option<PathBuf>,
    /// Networks that may connect; empty: any.
    pub clients: Vec<Network>,
    /// Networks that may change hosts; empty: all that may connect.
    pub actors: Vec<Network>,
    /// Connections at the same time, over all ports.
    pub max_connections: usize,
    /// Bytes of a request's path and query.
    pub max_url_bytes: usize,
    /// A request's head must be there after so long, in seconds; also how long a connection may stay idle.
    pub header_timeout_s: u64,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            address: IpAddr::from([0, 0, 0, 0]),
            port: None,
            ports: None,
            tls_cert: None,
            tls_key: None,
            basic_auth_file: None,
            clients: Vec::new(),
            actors: Vec::new(),
            max_connections: 4_096,
            max_url_bytes: 8_192,
            header_timeout_s: 10,
        }
    }
}

/// The port where nothing is said, as the original's.
const DEFAULT_PORT: u16 = 3_002;

impl ListenConfig {
    /// The one port of all hosts, unless each has its own.
    #[must_use]
    pub fn shared_port(&self) -> Option<u16> {
        match self.ports {
            Some(_) => None,
            None => Some(self.port.unwrap_or(DEFAULT_PORT)),
        }
    }

    /// [`ListenConfig::header_timeout_s`].
    #[must_use]
    pub fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_s)
    }
}

/// `[orchestrator]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OrchestratorConfig {
    /// Agents port of every node, for example `http://orc1:3001`; with `URLPrefix` where orchestrator has one.
    pub nodes: Vec<String>,
    /// Seconds between two pings of a node.
    pub ping_s: u64,
    /// Seconds after which a host is submitted again.
    pub resubmit_s: u64,
    /// PEM file with the authorities of `https` nodes; absent: those of the system.
    pub tls_ca: Option<PathBuf>,
    /// File with `user:password` for the nodes.
    pub basic_auth_file: Option<PathBuf>,
}

impl Default for OrchestratorConfig {
    fn default() -> Self {
        Self { nodes: Vec::new(), ping_s: 60, resubmit_s: 3_600, tls_ca: None, basic_auth_file: None }
    }
}

/// `[metrics]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Address and port of `/metrics`; absent: there is none.
    pub listen: Option<SocketAddr>,
    /// Networks that may connect; empty: any.
    pub clients: Vec<Network>,
}

/// `[page]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PageConfig {
    /// Address and port of the page; absent: there is none.
    pub listen: Option<SocketAddr>,
    /// Names that browsers may reach it under, beside `localhost` and addresses.
    pub names: Vec<String>,
    /// PEM file with the certificate chain; absent: plain HTTP.
    pub tls_cert: Option<PathBuf>,
    /// PEM file with its key, closed to others.
    pub tls_key: Option<PathBuf>,
    /// File with `user:password` that a browser must show.
    pub basic_auth_file: Option<PathBuf>,
    /// Leave to listen off the loopback without TLS or without login, for a proxy that adds both.
    pub allow_plain: bool,
    /// Networks that may connect; empty: any.
    pub clients: Vec<Network>,
    /// Leave to create and verify snapshots and to abort seeds by the page, signed by `gateway.sign_key_file`.
    pub actions: bool,
    /// Pages that follow the fleet at the same time.
    pub max_watchers: usize,
}

impl Default for PageConfig {
    fn default() -> Self {
        Self {
            listen: None,
            names: Vec::new(),
            tls_cert: None,
            tls_key: None,
            basic_auth_file: None,
            allow_plain: false,
            clients: Vec::new(),
            actions: false,
            max_watchers: 256,
        }
    }
}

/// `[log]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Text for people, JSON for collectors.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,gateway=debug`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}
