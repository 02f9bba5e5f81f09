//! What an agent says of its MySQL or MariaDB instance.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::SnapshotId;

/// Whose server it is; the two speak different replication SQL and GTIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Flavor {
    /// Oracle MySQL and Percona Server.
    Mysql,
    /// MariaDB.
    Mariadb,
}

/// A server's version with its vendor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerVersion {
    /// Vendor family.
    pub flavor: Flavor,
    /// Major, minor, patch, for example `[10, 11, 6]`.
    pub number: [u16; 3],
    /// The version as the server writes it, for example `10.11.6-MariaDB-0+deb12u1-log`.
    pub text: String,
}

/// A position in the binary log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BinlogPosition {
    /// The file's base name, for example `binlog.000042`.
    pub file: String,
    /// Byte offset of the next event.
    pub position: u64,
}

/// Where in its source's history a copy of the data stands, taken at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Coordinates {
    /// Vendor, which decides how `gtid` is read.
    pub flavor: Flavor,
    /// The server's own binary log position, where it writes one.
    pub binlog: Option<BinlogPosition>,
    /// MariaDB: `gtid_binlog_pos` (`0-1-42`). MySQL: `gtid_executed` (`uuid:1-42`).
    pub gtid: Option<String>,
}

/// What tells the log that [`Coordinates`] lie in from another one of the same name; what could not be found is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogIdentity {
    /// `server_uuid` of the server that writes it.
    pub server_uuid: Option<String>,
    /// `server_id` of that server.
    pub server_id: Option<u32>,
    /// When the log's file was begun, by its first event: seconds since 1970.
    pub created_s: Option<u32>,
}

/// Whether the server runs, as told by a connection and not by a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// No process owns the datadir and nothing answers.
    Stopped,
    /// A process owns the datadir but does not answer yet (or no more).
    NotReady,
    /// It answers to a query.
    Ready,
    /// It answers, but not to these credentials; it runs, but coordinates and lock are out of reach.
    ReadyNoAccess,
    /// It could not be told; treat it as running.
    Unknown,
}

impl ServerState {
    /// True unless the server is proven to be stopped: a guard must fail closed.
    #[must_use]
    pub fn may_be_running(self) -> bool {
        self != Self::Stopped
    }
}

/// Settings and state of the instance; what could not be found is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerInfo {
    /// Whether it runs.
    pub state: ServerState,
    /// Process id of the server that owns the datadir.
    pub pid: Option<i32>,
    /// TCP port; absent with `skip-networking`.
    pub port: Option<u16>,
    /// Unix socket.
    pub socket: Option<PathBuf>,
    /// Data directory, absolute, links resolved.
    pub datadir: Option<PathBuf>,
    /// Error log file; absent when it goes to stderr or the journal.
    pub error_log: Option<PathBuf>,
    /// Version of the running server, else of the installed binary.
    pub version: Option<ServerVersion>,
    /// `server_uuid` (MySQL) or absent (MariaDB before 11 has none).
    pub server_uuid: Option<String>,
    /// `server_id`.
    pub server_id: Option<u32>,
    /// Where its binary log stands.
    pub coordinates: Option<Coordinates>,
    /// `read_only`.
    pub read_only: Option<bool>,
    /// Its replication source as `host:port`, if it is a replica.
    pub replica_of: Option<String>,
    /// Number of replicas connected to it.
    pub replicas: Option<u32>,
    /// Seconds behind its source; absent when not a replica or not running.
    pub lag_seconds: Option<u64>,
    /// Layout that a copy of its files depends on.
    pub layout: Option<Layout>,
    /// The snapshot that the service runs on instead of its own data: what is written there goes when that is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_snapshot: Option<SnapshotId>,
    /// Why the agent cannot log in to it, in the server's own words; absent where it can, and where nothing runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// File layout options that donor and recipient must agree in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Layout {
    /// `innodb_page_size` in bytes.
    pub innodb_page_size: u32,
    /// `lower_case_table_names`.
    pub lower_case_table_names: u8,
    /// `innodb_data_file_path`.
    pub innodb_data_file_path: Option<String>,
    /// `innodb_data_home_dir`, if it lies elsewhere than the datadir.
    pub innodb_data_home_dir: Option<PathBuf>,
    /// `innodb_log_group_home_dir`, if it lies elsewhere than the datadir.
    pub innodb_log_group_home_dir: Option<PathBuf>,
    /// `innodb_undo_directory`, if it lies elsewhere than the datadir.
    pub innodb_undo_directory: Option<PathBuf>,
    /// Base path of the binary log, absolute; absent when the log is off.
    pub log_bin: Option<PathBuf>,
    /// Directories of the doublewrite buffer and of other engines that lie outside the datadir: `innodb_doublewrite_dir`,
    /// `aria_log_dir_path`, `rocksdb_datadir`, `rocksdb_wal_dir`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_dirs: Vec<PathBuf>,
}

impl Layout {
    /// The variables behind [`Layout::further_dirs`].
    pub const FURTHER_DIRS: [&str; 4] =
        ["innodb_doublewrite_dir", "aria_log_dir_path", "rocksdb_datadir", "rocksdb_wal_dir"];
}
