//! Made-up wire values for this crate's unit tests.

use jiff::{SignedDuration, Timestamp};
use protocol::heartbeat::{Heartbeat, MysqlSummary, SnapshotSummary};
use protocol::ids::BootId;
use protocol::mysql::ServerState;
use protocol::snapshot::ProviderKind;

/// A fixed instant from which samples count.
pub(crate) fn noon() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

/// A heartbeat of a healthy host.
pub(crate) fn beat(agent: &str, cluster: &str, dc: &str, snapshots: Vec<SnapshotSummary>) -> Heartbeat {
    Heartbeat {
        agent: agent.parse().unwrap(),
        cluster: cluster.into(),
        dc: dc.into(),
        version: "0.1.0".into(),
        protocol: 1,
        boot: BootId::generate(),
        started_at: noon(),
        sequence: 1,
        sent_at: noon(),
        interval_ms: 10_000,
        accepts_unsigned: true,
        capabilities: vec![],
        mysql: MysqlSummary {
            state: ServerState::Ready,
            port: Some(3306),
            version: None,
            read_only: Some(false),
            lag_seconds: None,
            replica_of: None,
            datadir_bytes: Some(3 << 30),
            on_snapshot: None,
        },
        snapshots_total: u32::try_from(snapshots.len()).unwrap(),
        load: None,
        bus: None,
        snapshots,
        free_bytes: Some(40 << 30),
        jobs: vec![],
    }
}

/// A usable snapshot made `minutes` after noon.
pub(crate) fn snapshot(id: &str, minutes: i64) -> SnapshotSummary {
    SnapshotSummary {
        id: id.parse().unwrap(),
        provider: ProviderKind::Lvm,
        created_at: noon() + SignedDuration::from_mins(minutes),
        cluster: Some("shop".into()),
        usable: true,
        foreign: false,
        proven: false,
        fill_percent: Some(4.2),
    }
}
