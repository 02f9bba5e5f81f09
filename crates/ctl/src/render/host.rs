//! One host: its agent, its MySQL, its disks and its snapshots.

use jiff::Timestamp;
use protocol::heartbeat::Heartbeat;
use protocol::host::{AgentInfo, DiskFree, DiskUsage, Volume};
use protocol::mysql::{Coordinates, ServerInfo};
use protocol::params::{LogFile, MountStatus};
use protocol::snapshot::{Snapshot, SnapshotMeta, SnapshotMount, Validity};

use super::{Fleet, Seen, fleet, or_dash, pairs, table, word};
use crate::units;

/// Who an agent is and what it can do.
#[must_use]
pub fn agent_info(info: &AgentInfo) -> String {
    let mut text = pairs(&[
        ("agent", Some(info.agent.to_string())),
        ("cluster", Some(info.cluster.clone())),
        ("dc", Some(info.dc.clone())),
        ("version", Some(format!("{} (protocol {})", info.version, info.protocol))),
        ("started", Some(format!("{}, boot {}", units::time(info.started_at), info.boot))),
        ("config", Some(info.config_digest.clone())),
        (
            "commands",
            Some(if info.accepts_unsigned { "UNSIGNED ONES TOO" } else { "signed only" }.to_owned()),
        ),
        ("signs by", info.reply_key.clone()),
    ]);
    text.push('\n');
    let row = |c: &protocol::host::Capability| {
        let state = if c.available { "yes" } else { "missing" };
        vec![c.name.clone(), state.to_owned(), c.reason.clone().unwrap_or_default()]
    };
    text.push_str(&table(&["CAPABILITY", "THERE", "WHY NOT"], info.capabilities.iter().map(row).collect()));
    text
}

/// A heartbeat as one line of the fleet's table.
#[must_use]
pub fn heartbeat(beat: &Heartbeat) -> String {
    let seen = Seen { health: "alive", silent_s: 0, duplicate: false, heartbeat: beat.clone() };
    let text = fleet(&Fleet { hosts: vec![seen], missing: Vec::new(), blind: None }, beat.sent_at);
    text.lines().take(2).map(|line| format!("{line}\n")).collect()
}

/// The server of a host.
#[must_use]
pub fn server_info(info: &ServerInfo) -> String {
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|p| p.display().to_string());
    let coordinates = info.coordinates.as_ref();
    pairs(&[
        ("state", Some(word(&info.state))),
        (
            "ON SNAPSHOT",
            info.on_snapshot
                .as_ref()
                .map(|id| format!("{id}: not its own data; what is written there goes with it")),
        ),
        ("trouble", info.trouble.clone()),
        ("version", info.version.as_ref().map(|v| v.text.clone())),
        ("pid", info.pid.map(|pid| pid.to_string())),
        ("port", info.port.map(|port| port.to_string())),
        ("socket", path(&info.socket)),
        ("datadir", path(&info.datadir)),
        ("error log", path(&info.error_log)),
        ("server id", info.server_id.map(|id| id.to_string())),
        ("server uuid", info.server_uuid.clone()),
        ("read only", info.read_only.map(|on| if on { "yes" } else { "no" }.to_owned())),
        ("binlog", coordinates.and_then(|c| c.binlog.as_ref()).map(|b| format!("{}:{}", b.file, b.position))),
        ("gtid", coordinates.and_then(|c| c.gtid.clone())),
        ("replica of", info.replica_of.clone()),
        ("lag", info.lag_seconds.map(units::duration)),
        ("replicas", info.replicas.map(|n| n.to_string())),
    ])
}

/// Space of a file system.
#[must_use]
pub fn disk_free(free: &DiskFree) -> String {
    let percent = (free.total_bytes > 0)
        .then(|| format!("{:.1} %", free.available_bytes as f64 * 100.0 / free.total_bytes as f64));
    pairs(&[
        ("path", Some(free.path.display().to_string())),
        ("free", Some(format!("{} ({})", units::size(free.available_bytes), or_dash(percent)))),
        ("size", Some(units::size(free.total_bytes))),
        ("free inodes", free.available_inodes.map(|n| n.to_string())),
    ])
}

/// Bytes below a path.
#[must_use]
pub fn disk_usage(usage: &DiskUsage, now: Timestamp) -> String {
    pairs(&[
        ("path", Some(usage.path.display().to_string())),
        ("used", Some(units::size(usage.used_bytes))),
        ("apparent", Some(units::size(usage.apparent_bytes))),
        ("files", Some(usage.files.to_string())),
        ("counted", Some(format!("{} ago", units::age(usage.counted_at, now)))),
    ])
}

/// Logical volumes as a table.
#[must_use]
pub fn volumes(volumes: &[Volume]) -> String {
    let row = |v: &Volume| {
        vec![
            format!("{}/{}", v.group, v.name),
            units::size(v.size_bytes),
            v.path.display().to_string(),
            if v.is_snapshot { or_dash(v.origin.clone()) } else { "-".to_owned() },
            or_dash(v.fill_percent.map(|fill| format!("{fill:.1} %"))),
        ]
    };
    table(&["VOLUME", ">SIZE", "DEVICE", "SNAPSHOT OF", ">FILL"], volumes.iter().map(row).collect())
}

/// Log files as a table.
#[must_use]
pub fn log_files(files: &[LogFile]) -> String {
    let row = |f: &LogFile| vec![f.name.clone(), f.size_bytes.to_string()];
    table(&["FILE", ">BYTES"], files.iter().map(row).collect())
}

/// Snapshots of a host as a table.
#[must_use]
pub fn snapshots(snapshots: &[Snapshot], now: Timestamp) -> String {
    if snapshots.is_empty() {
        return "no snapshots\n".to_owned();
    }
    let row = |s: &Snapshot| {
        let meta = s.meta.as_ref();
        let state = match &s.validity {
            Validity::Valid | Validity::Unknown(_) if s.foreign.is_some() => {
                format!("foreign: {}", s.foreign.as_deref().unwrap_or_default())
            }
            Validity::Valid => match meta.and_then(|m| m.proof.as_ref()) {
                None => "valid".to_owned(),
                Some(_) if s.is_proven() => "proven".to_owned(),
                Some(proof) if proof.passed => format!("proven in part: {}", proof.detail),
                Some(proof) => format!("NOT PROVEN: {}", proof.detail),
            },
            Validity::Invalid(why) => format!("INVALID: {why}"),
            Validity::Unknown(why) => format!("unknown: {why}"),
        };
        vec![
            s.id.to_string(),
            word(&s.provider),
            format!("{} ago", units::age(s.created_at, now)),
            state,
            or_dash(s.fill_percent.map(|fill| format!("{fill:.0} %"))),
            or_dash(meta.map(|m| word(&m.consistency))),
            or_dash(meta.and_then(standing)),
            or_dash(meta.and_then(|m| m.expires_at).map(units::time)),
            or_dash(holders(s)),
        ]
    };
    table(
        &["SNAPSHOT", "PROVIDER", "MADE", "STATE", ">FILL", "CONSISTENCY", "POSITION", "EXPIRES", "HELD BY"],
        snapshots.iter().map(row).collect(),
    )
}

fn holders(snapshot: &Snapshot) -> Option<String> {
    let holders: Vec<&str> = snapshot.mounts.iter().flat_map(|m| &m.holders).map(String::as_str).collect();
    (!holders.is_empty()).then(|| holders.join(", "))
}

fn standing(meta: &SnapshotMeta) -> Option<String> {
    let least = || meta.at_least.as_ref().map(|least| format!("at least {}", position(least)));
    meta.coordinates.as_ref().map(position).or_else(least)
}

fn position(coordinates: &Coordinates) -> String {
    let binlog = coordinates.binlog.as_ref().map(|b| format!("{}:{}", b.file, b.position));
    or_dash(coordinates.gtid.clone().or(binlog))
}

/// A mount just made.
#[must_use]
pub fn mount(mount: &SnapshotMount) -> String {
    let how = if mount.writable { "writable" } else { "read-only" };
    format!("mounted {how} at {}\n", mount.path.display())
}

/// Mounts as a table.
#[must_use]
pub fn mounts(mounts: &[MountStatus]) -> String {
    if mounts.is_empty() {
        return "nothing is mounted\n".to_owned();
    }
    let row = |m: &MountStatus| {
        vec![
            m.snapshot.to_string(),
            m.mount.path.display().to_string(),
            if m.mount.writable { "rw" } else { "ro" }.to_owned(),
            m.mount.holders.join(", "),
            or_dash(m.since.map(units::time)),
        ]
    };
    table(&["SNAPSHOT", "PATH", "MODE", "HELD BY", "SINCE"], mounts.iter().map(row).collect())
}
