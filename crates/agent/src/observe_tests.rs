use std::path::PathBuf;

use protocol::mysql::{BinlogPosition, Coordinates, Flavor};
use protocol::snapshot::{ProviderKind, SnapshotMount};

use super::*;
use crate::state::acting::Change;
use crate::watch::has_grown;

fn snapshot(id: &str) -> Snapshot {
    Snapshot {
        foreign: None,
        id: id.parse().unwrap(),
        provider: ProviderKind::Lvm,
        origin: "vg0/data".into(),
        created_at: Timestamp::UNIX_EPOCH,
        size_bytes: None,
        fill_percent: None,
        validity: Validity::Valid,
        mounts: vec![],
        meta: None,
    }
}

fn kinds(known: Option<&[Snapshot]>, now: &[Snapshot]) -> Vec<&'static str> {
    snapshot_changes(known, now, &Acting::default()).iter().map(EventData::kind).collect()
}

#[test]
fn the_first_look_announces_and_claims_no_change() {
    let mut lost = snapshot("vg0/b");
    lost.validity = Validity::Invalid("overflow".into());
    assert_eq!(kinds(None, &[snapshot("vg0/a"), lost]), ["snapshot.available"]);
}

#[test]
fn what_cron_or_a_person_did_is_told_once() {
    let one = [snapshot("vg0/a")];
    let two = [snapshot("vg0/a"), snapshot("vg0/b")];
    assert_eq!(kinds(Some(&one), &two), ["snapshot.created", "snapshot.available"]);
    assert_eq!(kinds(Some(&two), &two), [""; 0]);
    assert_eq!(kinds(Some(&two), &one), ["snapshot.removed"]);
}

#[test]
fn a_change_is_told_under_the_name_of_who_makes_it() {
    let (one, none) = ([snapshot("vg0/a")], []);
    let by = |known: &[Snapshot], now: &[Snapshot], acting: &Acting| match &snapshot_changes(
        Some(known),
        now,
        acting,
    )[0]
    {
        EventData::SnapshotCreated(event) => event.by.clone(),
        EventData::SnapshotRemoved(gone) => gone.by.clone(),
        other => panic!("{other:?}"),
    };
    let acting = Acting::default();
    let removing = acting.begin(Some("alice".into()), Change::Removing("vg0/a".parse().unwrap()));
    assert_eq!(by(&one, &none, &acting), "alice");
    assert_eq!(by(&[snapshot("vg0/b")], &none, &acting), "outside", "alice removes another");
    assert_eq!(by(&none, &one, &acting), "outside", "alice makes none");
    drop(removing);
    assert_eq!(by(&one, &none, &acting), "outside", "the job has failed before");
    let _making = acting.begin(Some("bob".into()), Change::Making);
    assert_eq!(by(&none, &one, &acting), "bob");
}

#[test]
fn an_overflow_and_a_mount_are_told() {
    let healthy = snapshot("vg0/a");
    let mut lost = healthy.clone();
    lost.validity = Validity::Invalid("overflow".into());
    assert_eq!(
        kinds(Some(std::slice::from_ref(&healthy)), std::slice::from_ref(&lost)),
        ["snapshot.invalid"]
    );
    assert_eq!(kinds(Some(std::slice::from_ref(&lost)), std::slice::from_ref(&lost)), [""; 0]);
    let mut mounted = healthy.clone();
    mounted.mounts.push(SnapshotMount { path: PathBuf::from("/m"), writable: false, holders: vec![] });
    assert_eq!(
        kinds(Some(std::slice::from_ref(&healthy)), std::slice::from_ref(&mounted)),
        ["snapshot.mounted"]
    );
    assert_eq!(kinds(Some(&[mounted]), &[healthy]), ["snapshot.unmounted"]);
}

#[test]
fn writes_show_as_a_growing_binary_log_of_no_replica() {
    let at = |position| {
        let mut server = Seen::nothing().server;
        server.pid = Some(1);
        let binlog = Some(BinlogPosition { file: "b.1".into(), position });
        server.coordinates = Some(Coordinates { flavor: Flavor::Mariadb, binlog, gtid: None });
        server
    };
    assert!(has_grown(&at(1), &at(2)));
    assert!(!has_grown(&at(2), &at(2)));
    let mut replica = at(2);
    replica.replica_of = Some("db0:3306".into());
    assert!(!has_grown(&at(1), &replica), "what a replica writes is its source's");
    let mut restarted = at(2);
    restarted.pid = Some(2);
    assert!(!has_grown(&at(1), &restarted));
}
