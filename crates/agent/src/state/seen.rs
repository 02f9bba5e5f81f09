//! The last look at the host.

use protocol::host::HostLoad;
use protocol::mysql::{ServerInfo, ServerState};
use protocol::snapshot::Snapshot;

use crate::usage::Watched;

/// One look at the host.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// The server.
    pub(crate) server: ServerInfo,
    /// Snapshots, newest first.
    pub(crate) snapshots: Vec<Snapshot>,
    /// False until a look at the snapshots succeeded: before that nothing can have changed.
    pub(crate) snapshots_known: bool,
    /// Bytes free where the datadir lies.
    pub(crate) free_bytes: Option<u64>,
    /// Bytes used by the datadir.
    pub(crate) datadir_bytes: Option<u64>,
    /// How busy the host is.
    pub(crate) load: HostLoad,
    /// Whether anybody uses the server.
    pub(crate) watched: Watched,
}

impl Seen {
    /// Before the first look.
    pub(crate) fn nothing() -> Self {
        Self {
            server: ServerInfo {
                state: ServerState::Unknown,
                pid: None,
                port: None,
                socket: None,
                datadir: None,
                error_log: None,
                version: None,
                server_uuid: None,
                server_id: None,
                coordinates: None,
                read_only: None,
                replica_of: None,
                replicas: None,
                lag_seconds: None,
                layout: None,
                on_snapshot: None,
                trouble: None,
            },
            snapshots: Vec::new(),
            snapshots_known: false,
            free_bytes: None,
            datadir_bytes: None,
            load: HostLoad::default(),
            watched: Watched::default(),
        }
    }
}
