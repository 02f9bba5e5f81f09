use std::time::Duration;

use jiff::Timestamp;
use protocol::host::HostLoad;
use protocol::mysql::{Flavor, Layout, ServerInfo, ServerState, ServerVersion};
use protocol::seed::{Guard, Transport, Verdict};
use protocol::snapshot::{Consistency, Freeze, Proof, ProviderKind, Snapshot, SnapshotMeta, Validity};

use super::*;
use crate::jobs::seed::facts::{Reach, SourceSays};
use crate::usage::InUse;

fn version(flavor: Flavor, number: [u16; 3]) -> ServerVersion {
    ServerVersion { flavor, number, text: format!("{}.{}.{}", number[0], number[1], number[2]) }
}

fn layout() -> Layout {
    Layout {
        innodb_page_size: 16384,
        lower_case_table_names: 0,
        innodb_data_file_path: Some("ibdata1:12M:autoextend".into()),
        innodb_data_home_dir: None,
        innodb_log_group_home_dir: None,
        innodb_undo_directory: None,
        log_bin: None,
        further_dirs: vec![],
    }
}

fn meta(proof: Option<bool>) -> SnapshotMeta {
    SnapshotMeta {
        cluster: "shop".into(),
        dc: "ams".into(),
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
        proof: proof.map(|passed| Proof {
            checked_at: Timestamp::UNIX_EPOCH,
            passed,
            detail: "a table is broken".into(),
            recovery_ms: 1,
            recovered: None,
            unchecked_tables: 0,
        }),
    }
}

fn donor() -> DonorFacts {
    DonorFacts {
        agent: "db1".parse().unwrap(),
        machine_id: Some("m1".into()),
        datadir_identity: None,
        datadir: Some("/var/lib/mysql".into()),
        cluster: "shop".into(),
        dc: "ams".into(),
        snapshot: Some(Snapshot {
            foreign: None,
            id: "vg0/s1".parse().unwrap(),
            provider: ProviderKind::Lvm,
            origin: "vg0/data".into(),
            created_at: Timestamp::UNIX_EPOCH,
            size_bytes: None,
            fill_percent: Some(1.0),
            validity: Validity::Valid,
            mounts: vec![],
            meta: Some(meta(None)),
        }),
        stream: None,
        bytes: 10 << 30,
        data_bytes: None,
        files: 1000,
        version: Some(version(Flavor::Mariadb, [10, 11, 6])),
        layout: Some(layout()),
        coordinates: None,
        load: HostLoad::default(),
        gives_plain: Some(true),
        overloaded: vec![],
        encrypted_tablespaces: Some(0),
        outside: Some(vec![]),
        volatile: Some(vec![]),
        free_bytes: Some(5 << 30),
        addresses: vec!["db1:4000".into()],
    }
}

fn snapshot(donor: &mut DonorFacts) -> &mut Snapshot {
    donor.snapshot.as_mut().unwrap()
}

fn recipient() -> RecipientFacts {
    RecipientFacts {
        agent: "db7".parse().unwrap(),
        cluster: "shop".into(),
        unit: None,
        machine_id: Some("m7".into()),
        datadir_identity: None,
        server: ServerInfo {
            state: ServerState::Stopped,
            pid: None,
            port: Some(3306),
            socket: None,
            datadir: Some("/var/lib/mysql".into()),
            error_log: None,
            version: Some(version(Flavor::Mariadb, [10, 11, 6])),
            server_uuid: None,
            server_id: None,
            coordinates: None,
            read_only: None,
            replica_of: None,
            replicas: None,
            lag_seconds: None,
            layout: Some(layout()),
            on_snapshot: None,
            trouble: None,
        },
        datadir_problem: None,
        datadir_bytes: 9 << 30,
        free_bytes: 100 << 30,
        free_inodes: Some(1_000_000),
        measured_rate: Some(100 << 20),
        other_seed: None,
        takes_plain: false,
        relays: true,
        base: None,
        in_use: InUse::No(Duration::from_secs(60)),
        has_post_copy: false,
        key_source: None,
        source: SourceSays::NotAsked,
        reach: Reach::Reached("db1:4000".into()),
    }
}

fn refused(donor: &DonorFacts, me: &RecipientFacts, options: &SeedOptions) -> Vec<Guard> {
    plan(donor, me, options).refusals().map(|g| g.guard).collect()
}

#[test]
fn a_healthy_pair_passes_every_guard() {
    let plan = plan(&donor(), &recipient(), &SeedOptions::default());
    assert!(plan.guards.iter().all(|g| g.verdict == Verdict::Pass), "{:#?}", plan.guards);
    assert_eq!(plan.expected_s, Some(103));
    assert!(plan.free_lowest_bytes > 0);
}

#[test]
fn a_donor_that_is_not_reached_gives_through_the_object_store_or_is_refused() {
    let unreached = RecipientFacts { reach: Reach::Failed("db1:4000: no answer".into()), ..recipient() };
    let untried = RecipientFacts { reach: Reach::NotTried, ..recipient() };
    for (asked, me, transport, verdict) in [
        (Transport::Auto, recipient(), Transport::Tcp, Verdict::Pass),
        (Transport::Auto, untried.clone(), Transport::Tcp, Verdict::Pass),
        (Transport::Auto, unreached.clone(), Transport::Store, Verdict::Warn),
        (Transport::Tcp, unreached.clone(), Transport::Tcp, Verdict::Refuse),
        (Transport::Store, recipient(), Transport::Store, Verdict::Warn),
        (Transport::Store, unreached, Transport::Store, Verdict::Pass),
    ] {
        let options = SeedOptions { transport: asked, ..SeedOptions::default() };
        let plan = plan(&donor(), &me, &options);
        let guard = plan.guards.iter().find(|g| g.guard == Guard::DonorReachable).unwrap();
        assert_eq!((plan.transport, guard.verdict), (transport, verdict), "{asked:?} {:?}", me.reach);
    }
}

#[test]
fn directories_at_the_same_place_below_both_datadirs_agree() {
    let (mut d, mut m) = (donor(), recipient());
    d.datadir = Some("/srv/mysql".into());
    d.layout.as_mut().unwrap().innodb_undo_directory = Some("/srv/mysql/undo".into());
    m.server.layout.as_mut().unwrap().innodb_undo_directory = Some("/var/lib/mysql/undo".into());
    assert_eq!(refused(&d, &m, &SeedOptions::default()), []);
    d.outside = None;
    let plan = plan(&d, &m, &SeedOptions::default());
    let guard = plan.guards.iter().find(|g| g.guard == Guard::LayoutCompatible).unwrap();
    assert_eq!(guard.verdict, Verdict::Warn, "an older donor does not tell");
}

#[test]
fn a_backup_program_takes_along_what_lies_outside_the_donors_datadir() {
    let (mut d, mut m) = (donor(), recipient());
    (d.snapshot, d.stream) = (None, Some("mariabackup".into()));
    let layout = d.layout.as_mut().unwrap();
    layout.innodb_log_group_home_dir = Some("/redo".into());
    layout.further_dirs = vec!["/aria".into()];
    assert_eq!(refused(&d, &m, &SeedOptions::default()), []);
    m.server.layout.as_mut().unwrap().further_dirs = vec!["/aria".into()];
    assert_eq!(refused(&d, &m, &SeedOptions::default()), [Guard::LayoutCompatible]);
}

/// Without the log nobody can tell which of the last transactions were committed, unless nothing was committed at that instant.
#[test]
fn a_binary_log_that_stays_behind_wants_a_snapshot_without_commits() {
    let of = |log: &str, meta: Option<SnapshotMeta>| {
        let mut d = donor();
        d.layout.as_mut().unwrap().log_bin = Some(log.into());
        snapshot(&mut d).meta = meta;
        refused(&d, &recipient(), &SeedOptions::default())
    };
    let with = |consistency| Some(SnapshotMeta { consistency, ..meta(None) });
    let (inside, outside) = ("/var/lib/mysql/binlog", "/var/log/mysql/binlog");
    for told in [with(Consistency::Crash), with(Consistency::Stopped), None] {
        assert_eq!(of(outside, told.clone()), [Guard::LayoutCompatible], "{told:?}");
        assert_eq!(of(inside, told), []);
    }
    assert_eq!(of(outside, with(Consistency::Locked)), []);
}

/// Each row breaks one thing, and only the guard for it refuses.
#[test]
fn each_guard_refuses_its_own_case() {
    type Break = fn(&mut DonorFacts, &mut RecipientFacts, &mut SeedOptions);
    let rows: &[(Guard, Break)] = &[
        (Guard::NotOntoItself, |d, m, _| m.agent = d.agent.clone()),
        (Guard::NotOntoItself, |d, m, _| m.machine_id = d.machine_id.clone()),
        (Guard::NotOntoItself, |d, m, _| {
            (d.datadir_identity, m.datadir_identity) = (Some("boot1:1:2".into()), Some("boot1:1:2".into()));
        }),
        (Guard::SameCluster, |_, m, _| m.cluster = "web".into()),
        (Guard::DatadirKnown, |_, m, _| m.server.datadir = None),
        (Guard::DatadirKnown, |_, m, _| m.datadir_problem = Some("/ is no datadir".into())),
        (Guard::PlainAllowed, |_, _, o| o.plain = true),
        (Guard::PlainAllowed, |d, m, o| (d.gives_plain, m.takes_plain, o.plain) = (Some(false), true, true)),
        (Guard::NoOtherSeed, |_, m, _| m.other_seed = Some("seed.start 1".into())),
        (Guard::MysqlMayStop, |_, m, _| m.server.state = ServerState::NotReady),
        (Guard::NotAPrimary, |_, m, o| {
            (m.server.state, m.server.replicas, o.stop_mysql) = (ServerState::Ready, Some(2), true);
        }),
        (Guard::NotAPrimary, |_, m, o| {
            (m.server.state, m.server.replicas, o.stop_mysql) = (ServerState::Ready, Some(0), true);
            m.in_use = InUse::Yes("this server takes writes".into());
        }),
        (Guard::NotAPrimary, |_, m, o| (m.server.state, o.stop_mysql) = (ServerState::ReadyNoAccess, true)),
        (Guard::NotAPrimary, |_, m, o| {
            (m.server.state, m.server.replicas, o.stop_mysql) = (ServerState::Ready, Some(0), true);
            m.in_use = InUse::Unknown("it has been watched for 3 of 60 s".into());
        }),
        (Guard::VersionCompatible, |_, m, _| m.server.version = Some(version(Flavor::Mariadb, [10, 6, 1]))),
        (Guard::VersionCompatible, |_, m, _| m.server.version = Some(version(Flavor::Mysql, [10, 11, 6]))),
        (Guard::LayoutCompatible, |_, m, _| m.server.layout.as_mut().unwrap().innodb_page_size = 4096),
        (Guard::LayoutCompatible, |d, m, _| {
            // A stopped recipient whose options say nothing has one file.
            d.layout.as_mut().unwrap().innodb_data_file_path =
                Some("ibdata1:12M;ibdata2:12M:autoextend".into());
            m.server.layout.as_mut().unwrap().innodb_data_file_path = None;
        }),
        (Guard::LayoutCompatible, |_, m, _| m.server.layout.as_mut().unwrap().lower_case_table_names = 1),
        (Guard::LayoutCompatible, |_, m, _| {
            m.server.layout.as_mut().unwrap().innodb_log_group_home_dir = Some("/redo".into());
        }),
        (Guard::LayoutCompatible, |d, _, _| {
            d.layout.as_mut().unwrap().innodb_log_group_home_dir = Some("/redo".into());
        }),
        (Guard::LayoutCompatible, |_, m, _| {
            m.server.layout.as_mut().unwrap().innodb_undo_directory = Some("/var/lib/mysql/undo".into());
        }),
        (Guard::LayoutCompatible, |d, _, _| {
            d.layout.as_mut().unwrap().further_dirs = vec!["/srv/aria".into()];
        }),
        (Guard::LayoutCompatible, |d, _, _| d.outside = Some(vec!["/fast/shop/hot.ibd".into()])),
        (Guard::SnapshotValid, |d, _, _| snapshot(d).validity = Validity::Invalid("overflow".into())),
        (Guard::SnapshotValid, |d, _, _| snapshot(d).fill_percent = Some(95.0)),
        (Guard::SnapshotProven, |_, _, o| o.require_proven = true),
        (Guard::SnapshotProven, |d, _, _| snapshot(d).meta = Some(meta(Some(false)))),
        (Guard::SnapshotProven, |d, _, o| {
            let mut part = meta(Some(true));
            part.proof.as_mut().unwrap().unchecked_tables = 3;
            (snapshot(d).meta, o.require_proven) = (Some(part), true);
        }),
        (Guard::SpaceSuffices, |_, m, _| m.free_bytes = 5 << 30),
        (Guard::SpaceSuffices, |_, m, o| {
            (m.free_bytes, m.datadir_bytes, o.replace) = (1 << 30, 1 << 30, true);
        }),
        (Guard::SpaceSuffices, |d, _, _| d.data_bytes = Some(200 << 30)),
        (Guard::InodesSuffice, |_, m, _| m.free_inodes = Some(10)),
        (Guard::SnapshotValid, |d, _, _| d.snapshot = None),
        (Guard::DonorHealthy, |d, _, _| d.overloaded = vec!["its disks are busy".into()]),
        (Guard::KeysPresent, |d, _, _| d.encrypted_tablespaces = Some(3)),
        (Guard::BinlogsAvailable, |_, m, _| m.source = SourceSays::Refused("purged".into())),
    ];
    for (row, (guard, break_it)) in rows.iter().enumerate() {
        let (mut d, mut m, mut o) = (donor(), recipient(), SeedOptions::default());
        break_it(&mut d, &mut m, &mut o);
        assert_eq!(refused(&d, &m, &o), [*guard], "row {row}");
    }
}

#[test]
fn holes_need_no_room() {
    let sparse = DonorFacts { bytes: 10 << 40, data_bytes: Some(1 << 30), ..donor() };
    assert_eq!(refused(&sparse, &recipient(), &SeedOptions::default()), []);
    let of_an_older_agent = DonorFacts { data_bytes: None, ..sparse };
    assert_eq!(refused(&of_an_older_agent, &recipient(), &SeedOptions::default()), [Guard::SpaceSuffices]);
}

#[test]
fn clones_with_one_machine_id_are_told_apart_and_another_cluster_needs_leave() {
    let (mut d, mut m) = (donor(), recipient());
    m.machine_id = d.machine_id.clone();
    (d.datadir_identity, m.datadir_identity) = (Some("boot1:1:2".into()), Some("boot2:1:2".into()));
    m.cluster = "web".into();
    let options = SeedOptions { allow_other_cluster: true, ..SeedOptions::default() };
    let plan = plan(&d, &m, &options);
    assert_eq!(plan.refusals().count(), 0, "{:#?}", plan.guards);
    let said = |guard| plan.guards.iter().find(|g| g.guard == guard).unwrap();
    assert_eq!(said(Guard::SameCluster).verdict, Verdict::Warn);
    assert!(said(Guard::NotOntoItself).message.contains("systemd-machine-id-setup"));
}

#[test]
fn the_expected_time_heeds_the_limit() {
    let limited = |rate, me: &RecipientFacts| {
        let options = SeedOptions { throttle_bytes_per_s: rate, ..SeedOptions::default() };
        plan(&donor(), me, &options).expected_s
    };
    assert_eq!(limited(10 << 20, &recipient()), Some(1025));
    assert_eq!(limited(1 << 40, &recipient()), Some(103), "the measured rate is lower");
    assert_eq!(limited(10 << 20, &RecipientFacts { measured_rate: None, ..recipient() }), Some(1025));
}

#[test]
fn a_state_that_cannot_be_told_counts_as_running() {
    let mut me = recipient();
    me.server.state = ServerState::Unknown;
    assert!(refused(&donor(), &me, &SeedOptions::default()).contains(&Guard::MysqlMayStop));
}

#[test]
fn leave_is_given_by_option_and_shows_in_the_plan() {
    let mut me = recipient();
    (me.server.state, me.server.replicas) = (ServerState::Ready, Some(2));
    let options = SeedOptions { stop_mysql: true, allow_primary: true, ..SeedOptions::default() };
    let plan = plan(&donor(), &me, &options);
    assert_eq!(plan.refusals().count(), 0);
    assert!(plan.actions.iter().any(|a| a == "stop MySQL"), "{:?}", plan.actions);
    assert!(plan.guards.iter().any(|g| g.guard == Guard::NotAPrimary && g.verdict == Verdict::Warn));
}

#[test]
fn keys_that_are_there_and_a_busy_donor_with_leave_do_not_refuse() {
    let (mut donor, mut me) = (donor(), recipient());
    donor.encrypted_tablespaces = Some(3);
    me.key_source = Some("file-key-management-filename".into());
    donor.overloaded = vec!["its disks are busy".into()];
    me.source = SourceSays::Unknown("the account may not look".into());
    let options = SeedOptions { allow_busy_donor: true, ..SeedOptions::default() };
    let plan = plan(&donor, &me, &options);
    let of = |guard| plan.guards.iter().find(|g| g.guard == guard).unwrap().verdict;
    assert_eq!(of(Guard::KeysPresent), Verdict::Pass);
    assert_eq!(of(Guard::DonorHealthy), Verdict::Warn);
    assert_eq!(of(Guard::BinlogsAvailable), Verdict::Warn);
}

#[test]
fn space_is_told_for_now_for_the_narrowest_point_and_for_the_end() {
    let keep = SeedOptions { keep_old_s: 60, ..SeedOptions::default() };
    let (gone, kept) =
        (plan(&donor(), &recipient(), &SeedOptions::default()), plan(&donor(), &recipient(), &keep));
    assert_eq!(gone.free_after_bytes, (100 + 9 - 10) << 30);
    assert_eq!(kept.free_after_bytes, (100 - 10) << 30);
    assert_eq!(gone.donor_free_bytes, Some(5 << 30));
}

#[test]
fn a_stream_says_that_it_cannot_be_resumed_and_needs_no_snapshot() {
    let mut donor = donor();
    (donor.snapshot, donor.stream) = (None, Some("mariabackup".into()));
    let plan = plan(&donor, &recipient(), &SeedOptions::default());
    assert_eq!(plan.refusals().count(), 0, "{:?}", plan.guards);
    assert!(plan.actions.iter().any(|a| a.contains("cannot be resumed")), "{:?}", plan.actions);
    let proven = SeedOptions { require_proven: true, ..SeedOptions::default() };
    assert_eq!(refused(&donor, &recipient(), &proven), [Guard::SnapshotProven]);
}

#[test]
fn replace_says_what_is_lost_and_counts_its_space() {
    let mut me = recipient();
    me.free_bytes = 2 << 30;
    let options = SeedOptions { replace: true, ..SeedOptions::default() };
    let plan = plan(&donor(), &me, &options);
    assert_eq!(plan.refusals().count(), 0, "{:?}", plan.guards);
    assert!(
        plan.actions.iter().any(|a| a.starts_with("REMOVE /var/lib/mysql (9.0 GiB)")),
        "{:?}",
        plan.actions
    );
}

#[test]
fn the_digest_follows_what_matters_and_not_what_drifts() {
    let base = plan(&donor(), &recipient(), &SeedOptions::default()).digest;
    let mut me = recipient();
    me.free_bytes -= 1;
    assert_eq!(plan(&donor(), &me, &SeedOptions::default()).digest, base);
    me.server.state = ServerState::Ready;
    assert_ne!(plan(&donor(), &me, &SeedOptions::default()).digest, base);
    let other = SeedOptions { delta: true, ..SeedOptions::default() };
    assert_ne!(plan(&donor(), &recipient(), &other).digest, base);
}
