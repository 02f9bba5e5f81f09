use protocol::heartbeat::JobSummary;
use protocol::ids::JobId;
use protocol::job::JobState;
use protocol::mysql::Flavor;

use super::*;
use crate::samples::{beat, snapshot};

fn chosen(fleet: &[Heartbeat]) -> Choice {
    choose_donor(fleet, &fleet[0], &DonorOptions::default()).unwrap()
}

fn why(passed_over: &[PassedOver], agent: &str) -> String {
    let found = passed_over.iter().find(|p| p.agent.as_str() == agent);
    found.unwrap_or_else(|| panic!("nothing said of {agent}: {passed_over:?}")).why.clone()
}

#[test]
fn the_local_dc_outweighs_a_proof_outweighs_age() {
    let mut far = beat("far", "shop", "dc2", vec![snapshot("s", 100)]);
    far.snapshots[0].proven = true;
    let mut proven = beat("proven", "shop", "dc1", vec![snapshot("s", 10)]);
    proven.snapshots[0].proven = true;
    let newest = beat("newest", "shop", "dc1", vec![snapshot("s", 50)]);
    let fleet = [beat("db7", "shop", "dc1", vec![]), far, newest, proven];
    let choice = chosen(&fleet);
    assert_eq!(choice.donor.as_str(), "proven");
    assert!(why(&choice.passed_over, "far").contains("another DC (dc2)"));
    assert!(why(&choice.passed_over, "newest").contains("not proven"));
    assert!(choice.reasons.iter().any(|r| r.contains("recipient's DC dc1")), "{:?}", choice.reasons);
}

#[test]
fn the_newest_usable_snapshot_of_a_host_is_taken() {
    let mut lost = snapshot("lost", 90);
    lost.usable = false;
    let mut full = snapshot("full", 80);
    full.fill_percent = Some(97.0);
    let db1 = beat("db1", "shop", "dc1", vec![lost, full, snapshot("new", 50), snapshot("old", 10)]);
    let choice = chosen(&[beat("db7", "shop", "dc1", vec![]), db1]);
    assert_eq!(choice.snapshot.as_str(), "new");
    assert!(choice.reasons.iter().any(|r| r.contains("only host")), "{:?}", choice.reasons);
}

#[test]
fn another_dc_serves_when_the_own_one_has_none() {
    let choice = chosen(&[
        beat("db7", "shop", "dc1", vec![]),
        beat("db1", "shop", "dc1", vec![]),
        beat("db2", "shop", "dc2", vec![snapshot("s", 1)]),
    ]);
    assert_eq!(choice.donor.as_str(), "db2");
    assert_eq!(why(&choice.passed_over, "db1"), "has no snapshot");
}

#[test]
fn never_itself_never_another_cluster_never_a_host_at_work() {
    let own = beat("db7", "shop", "dc1", vec![snapshot("own", 99)]);
    let other = beat("other", "billing", "dc1", vec![snapshot("s", 98)]);
    let mut seeding = beat("seeding", "shop", "dc1", vec![snapshot("s", 97)]);
    let job = JobSummary {
        id: JobId::generate(),
        kind: "seed.start".into(),
        state: JobState::Running,
        stage: Some("transfer".into()),
        percent: None,
        moved_at: None,
    };
    seeding.jobs.push(job.clone());
    let mut giving = beat("giving", "shop", "dc1", vec![snapshot("s", 96)]);
    giving.jobs.push(JobSummary { kind: "seed.offer".into(), ..job });
    let refused = choose_donor(&[own.clone(), other, seeding, giving], &own, &DonorOptions::default());
    let refused = refused.unwrap_err();
    assert!(why(&refused.passed_over, "seeding").contains("being seeded"));
    assert!(why(&refused.passed_over, "giving").contains("giving its data"));
    assert_eq!(refused.passed_over.len(), 2, "hosts of other clusters are not worth a word");
    assert!(refused.to_string().contains("no donor for db7 in cluster shop"), "{refused}");
}

#[test]
fn a_newer_server_or_another_vendor_gives_nothing() {
    let version = |flavor, number: [u16; 3]| {
        let text = format!("{}.{}.{}", number[0], number[1], number[2]);
        Some(ServerVersion { flavor, number, text })
    };
    let mut recipient = beat("db7", "shop", "dc1", vec![]);
    recipient.mysql.version = version(Flavor::Mariadb, [10, 11, 6]);
    let mut newer = beat("newer", "shop", "dc1", vec![snapshot("s", 9)]);
    newer.mysql.version = version(Flavor::Mariadb, [11, 8, 1]);
    let mut vendor = beat("vendor", "shop", "dc1", vec![snapshot("s", 8)]);
    vendor.mysql.version = version(Flavor::Mysql, [8, 0, 40]);
    let mut equal = beat("equal", "shop", "dc1", vec![snapshot("s", 1)]);
    equal.mysql.version = recipient.mysql.version.clone();
    let choice = chosen(&[recipient, newer, vendor, equal]);
    assert_eq!(choice.donor.as_str(), "equal");
    assert!(why(&choice.passed_over, "newer").contains("newer than the recipient's"));
    assert!(why(&choice.passed_over, "vendor").contains("another vendor"));
}

#[test]
fn a_demanded_snapshot_or_proof_is_respected() {
    let fleet = [
        beat("db7", "shop", "dc1", vec![]),
        beat("db1", "shop", "dc1", vec![snapshot("new", 9), snapshot("old", 1)]),
    ];
    let old = DonorOptions { snapshot: Some("old".parse().unwrap()), require_proven: false };
    assert_eq!(choose_donor(&fleet, &fleet[0], &old).unwrap().snapshot.as_str(), "old");
    let proven = DonorOptions { snapshot: None, require_proven: true };
    let refused = choose_donor(&fleet, &fleet[0], &proven).unwrap_err();
    assert!(why(&refused.passed_over, "db1").contains("snapshot verify"));
}

#[test]
fn found_snapshots_come_local_first_proven_first_newest_first() {
    let mut proven = snapshot("proven", 5);
    proven.proven = true;
    let mut lost = snapshot("lost", 99);
    lost.usable = false;
    let mut foreign = snapshot("foreign", 98);
    foreign.cluster = Some("billing".into());
    let mut unmarked = snapshot("c", 95);
    unmarked.cluster = None;
    let fleet = [
        beat("db1", "shop", "dc2", vec![snapshot("a", 90), lost, foreign]),
        beat("db2", "shop", "dc1", vec![snapshot("b", 10), proven]),
        beat("db3", "billing", "dc1", vec![unmarked]),
    ];
    let ids = |dc| -> Vec<String> {
        find_snapshots(&fleet, "shop", dc).iter().map(|c| c.snapshot.id.to_string()).collect()
    };
    assert_eq!(ids(Some("dc1")), ["proven", "b", "a"]);
    assert_eq!(ids(Some("dc2")), ["a", "proven", "b"]);
    assert_eq!(ids(None), ["proven", "a", "b"]);
}
