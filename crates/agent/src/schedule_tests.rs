use std::path::PathBuf;

use protocol::snapshot::{Consistency, Freeze, Proof, ProviderKind, SnapshotMeta, SnapshotMount, Validity};

use super::*;

const DAY: i64 = 86_400;

fn now() -> Timestamp {
    Timestamp::from_second(1_000 * DAY).unwrap()
}

fn snapshot(age_days: i64) -> Snapshot {
    Snapshot {
        foreign: None,
        id: format!("s{age_days}").parse().unwrap(),
        provider: ProviderKind::Lvm,
        origin: "vg0/data".into(),
        created_at: Timestamp::from_second((1_000 - age_days) * DAY).unwrap(),
        size_bytes: None,
        fill_percent: None,
        validity: Validity::Valid,
        mounts: vec![],
        meta: Some(SnapshotMeta {
            cluster: "c".into(),
            dc: "d".into(),
            host: "db1".parse().unwrap(),
            consistency: Consistency::Crash,
            freeze: Freeze::Atomic,
            coordinates: None,
            at_least: None,
            no_position: None,
            log: None,
            server_version: None,
            datadir: PathBuf::new(),
            expires_at: None,
            proof: None,
        }),
    }
}

fn ids(snapshots: &[Snapshot], keep: u32) -> Vec<String> {
    expired(snapshots, keep, 3, now()).iter().map(ToString::to_string).collect()
}

#[test]
fn the_newest_are_kept_and_the_young_too() {
    let list: Vec<Snapshot> = [1, 2, 4, 5, 6].map(snapshot).into();
    assert_eq!(ids(&list, 3), ["s5", "s6"]);
    assert_eq!(ids(&list, 1), ["s4", "s5", "s6"], "those younger than keep_days stay");
    assert_eq!(ids(&list, 0), [""; 0], "0 leaves removing to others");
}

#[test]
fn one_in_use_the_last_proven_one_and_those_of_others_stay() {
    let mut mounted = snapshot(7);
    mounted.mounts.push(SnapshotMount { path: "/m".into(), writable: false, holders: vec![] });
    let mut proven = snapshot(8);
    proven.meta.as_mut().unwrap().proof = Some(Proof {
        checked_at: now(),
        passed: true,
        detail: String::new(),
        recovery_ms: 1,
        recovered: None,
        unchecked_tables: 0,
    });
    let mut foreign = snapshot(9);
    foreign.foreign = Some("made by the agent db2".to_owned());
    assert_eq!(ids(&[snapshot(0), mounted, proven, foreign, snapshot(10)], 1), ["s10"]);
}

#[test]
fn an_own_expiry_comes_first() {
    let mut short = snapshot(1);
    short.meta.as_mut().unwrap().expires_at = Some(now());
    let mut long = snapshot(30);
    long.meta.as_mut().unwrap().expires_at = Some(now() + SignedDuration::from_hours(1));
    assert_eq!(ids(&[short, long], 1), ["s1"]);
}

#[test]
fn the_newest_is_proven_unless_it_was_looked_at() {
    let proof = |passed, unchecked_tables| Proof {
        checked_at: now(),
        passed,
        detail: String::new(),
        recovery_ms: 0,
        recovered: None,
        unchecked_tables,
    };
    let with = |age, proof| {
        let mut snapshot = snapshot(age);
        snapshot.meta.as_mut().unwrap().proof = Some(proof);
        snapshot
    };
    let next = |list: &[Snapshot]| unproven(list).map(|id| id.to_string());
    assert_eq!(next(&[snapshot(2), snapshot(1), snapshot(3)]).as_deref(), Some("s1"));
    assert_eq!(next(&[with(1, proof(true, 0)), snapshot(2)]), None, "an older one is no use");
    assert_eq!(next(&[with(1, proof(true, 7)), snapshot(2)]).as_deref(), Some("s1"), "not all was reached");
    assert_eq!(
        next(&[with(1, proof(false, 0)), snapshot(2)]).as_deref(),
        Some("s2"),
        "the next, when one is no good"
    );
    let mut foreign = snapshot(1);
    foreign.foreign = Some("of another host".into());
    assert_eq!(next(&[foreign, snapshot(2), with(3, proof(true, 0))]).as_deref(), Some("s2"));
    assert_eq!(next(&[]), None);
}
