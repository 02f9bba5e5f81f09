//! The original's JSON, and how our things look in it.

use std::path::{Path, PathBuf};

use protocol::host::Volume;
use protocol::snapshot::{ProviderKind, Snapshot, SnapshotMount};
use serde::Serialize;

/// Who holds what orchestrator, or a person, has mounted.
const OPERATOR: &str = "operator";

/// A logical volume. Here also every other kind of snapshot, since orchestrator knows no other word.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct LogicalVolume {
    name: String,
    group_name: String,
    path: PathBuf,
    is_snapshot: bool,
    snapshot_percent: f64,
}

/// The one mount point of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Mount {
    path: PathBuf,
    device: String,
    #[serde(rename = "LVPath")]
    lv_path: String,
    file_system: String,
    is_mounted: bool,
    disk_usage: u64,
    #[serde(rename = "MySQLDataPath")]
    mysql_data_path: PathBuf,
    #[serde(rename = "MySQLDiskUsage")]
    mysql_disk_usage: u64,
}

/// A position in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Coordinates {
    pub(super) log_file: PathBuf,
    pub(super) log_pos: u64,
    /// 1 is a relay log.
    #[serde(rename = "Type")]
    pub(super) kind: u8,
}

impl From<&Volume> for LogicalVolume {
    fn from(volume: &Volume) -> Self {
        Self {
            name: volume.name.clone(),
            group_name: volume.group.clone(),
            path: volume.path.clone(),
            is_snapshot: volume.is_snapshot,
            snapshot_percent: volume.fill_percent.unwrap_or_default(),
        }
    }
}

impl From<&Snapshot> for LogicalVolume {
    fn from(snapshot: &Snapshot) -> Self {
        let id = snapshot.id.as_str();
        let (group, name) = id.rsplit_once('/').unwrap_or(("orchestrator", id));
        Self {
            name: name.to_owned(),
            group_name: group.to_owned(),
            path: path_of(snapshot).into(),
            is_snapshot: true,
            snapshot_percent: snapshot.fill_percent.unwrap_or_default(),
        }
    }
}

/// The path that names a snapshot towards orchestrator: a volume's device, else a name of that form. An id has no character that a
/// query would have to encode.
pub(super) fn path_of(snapshot: &Snapshot) -> String {
    match snapshot.provider {
        ProviderKind::Lvm | ProviderKind::LvmThin => format!("/dev/{}", snapshot.id),
        _ => format!("/dev/orchestrator/{}", snapshot.id),
    }
}

/// Those that a seed may use, the one that it should use first: orchestrator takes the first of the list.
pub(super) fn in_order(snapshots: &[Snapshot]) -> Vec<&Snapshot> {
    let mut usable: Vec<&Snapshot> = snapshots.iter().filter(|snapshot| snapshot.is_usable()).collect();
    usable.sort_by_key(|snapshot| (!snapshot.is_proven(), std::cmp::Reverse(snapshot.created_at)));
    usable
}

/// The snapshot that is mounted for orchestrator. What seeds hold by themselves is none of it: it would refuse to seed from a host
/// that gives its data to another one.
pub(super) fn mounted(snapshots: &[Snapshot]) -> Option<(&Snapshot, &SnapshotMount)> {
    let held = |mount: &&SnapshotMount| mount.holders.iter().any(|holder| holder == OPERATOR);
    snapshots.iter().find_map(|snapshot| Some((snapshot, snapshot.mounts.iter().find(held)?)))
}

impl Mount {
    pub(super) fn of(snapshot: &Snapshot, mount: &SnapshotMount, bytes: u64) -> Self {
        let inside = snapshot.meta.as_ref().map_or(Path::new(""), |meta| &meta.datadir);
        let path = path_of(snapshot);
        Self {
            path: mount.path.clone(),
            device: path.clone(),
            lv_path: path,
            file_system: String::new(),
            is_mounted: true,
            disk_usage: bytes,
            mysql_data_path: if inside.as_os_str().is_empty() {
                mount.path.clone()
            } else {
                mount.path.join(inside)
            },
            // Nothing at all would be taken for a mount without data.
            mysql_disk_usage: bytes.max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::snapshot::Validity;
    use serde_json::json;

    use super::*;

    fn snapshot(id: &str, provider: ProviderKind, minute: u8) -> Snapshot {
        Snapshot {
            id: id.parse().unwrap(),
            provider,
            origin: "origin".to_owned(),
            created_at: format!("2026-11-22T10:{minute:02}:00Z").parse().unwrap(),
            size_bytes: None,
            fill_percent: Some(12.5),
            validity: Validity::Valid,
            mounts: Vec::new(),
            meta: None,
            foreign: None,
        }
    }

    #[test]
    fn a_snapshot_looks_like_a_logical_volume() {
        let lvm = snapshot("vg0/mysql-snap", ProviderKind::Lvm, 0);
        assert_eq!(
            serde_json::to_value(LogicalVolume::from(&lvm)).unwrap(),
            json!({"Name": "mysql-snap", "GroupName": "vg0", "Path": "/dev/vg0/mysql-snap", "IsSnapshot": true, "SnapshotPercent": 12.5})
        );
        let tree = snapshot("20261122T100000Z", ProviderKind::Reflink, 0);
        assert_eq!(path_of(&tree), "/dev/orchestrator/20261122T100000Z");
    }

    #[test]
    fn the_newest_usable_one_comes_first_and_only_the_operators_mount_counts() {
        let mut list: Vec<Snapshot> =
            [1, 3, 2].map(|minute| snapshot(&format!("s{minute}"), ProviderKind::Btrfs, minute)).into();
        list[1].validity = Validity::Invalid("overflowed".to_owned());
        let order: Vec<&str> = in_order(&list).iter().map(|snapshot| snapshot.id.as_str()).collect();
        assert_eq!(order, ["s2", "s1"]);
        let mount = |holder: &str| SnapshotMount {
            path: "/m".into(),
            writable: false,
            holders: vec![holder.to_owned()],
        };
        list[0].mounts.push(mount("seed 1"));
        assert!(mounted(&list).is_none());
        list[2].mounts.push(mount("operator"));
        let (snapshot, at) = mounted(&list).unwrap();
        let shown = serde_json::to_value(Mount::of(snapshot, at, 0)).unwrap();
        assert_eq!(
            shown,
            json!({"Path": "/m", "Device": "/dev/orchestrator/s2", "LVPath": "/dev/orchestrator/s2", "FileSystem": "",
                "IsMounted": true, "DiskUsage": 0, "MySQLDataPath": "/m", "MySQLDiskUsage": 1})
        );
        let none = serde_json::to_value(Mount::default()).unwrap();
        assert_eq!(none["IsMounted"], false);
        assert_eq!(none.as_object().unwrap().len(), 8);
    }
}
