use jiff::SignedDuration;
use protocol::error::{ErrorCode, WireError};
use protocol::event::{CommandDenied, Event, EventData};
use protocol::ids::{EventId, JobId};
use protocol::mysql::{Coordinates, Flavor, ServerState, ServerVersion};
use protocol::seed::{Guard, GuardResult, SeedPlan, Transport, Verdict};
use protocol::snapshot::{
    Consistency, Freeze, ProviderKind, Snapshot, SnapshotMeta, SnapshotMount, Validity,
};
use serde_json::json;

use super::*;
use crate::donor::{Choice, PassedOver};
use crate::samples::{beat, noon, snapshot};

#[test]
fn the_fleet_stands_in_columns() {
    let mut db1 = beat("db1.example.com", "shop", "dc1", vec![snapshot("vg0/s1", -30)]);
    db1.mysql.version =
        Some(ServerVersion { flavor: Flavor::Mariadb, number: [10, 11, 6], text: "10.11.6-MariaDB".into() });
    let mut db7 = beat("db7", "shop", "dc1", vec![]);
    db7.accepts_unsigned = false;
    db7.mysql.state = ServerState::Stopped;
    db7.mysql.datadir_bytes = None;
    db7.jobs.push(protocol::heartbeat::JobSummary {
        id: JobId::generate(),
        kind: "seed.start".into(),
        state: protocol::job::JobState::Running,
        stage: Some("transfer".into()),
        percent: Some(41),
        moved_at: None,
    });
    let seen = |heartbeat, health, silent_s| Seen { health, silent_s, duplicate: false, heartbeat };
    let missing = Missing {
        host: "db9".parse().unwrap(),
        cluster: "shop".into(),
        dc: "dc2".into(),
        state: "missing",
        since: noon() - SignedDuration::from_hours(3),
    };
    let all = Fleet {
        hosts: vec![seen(db1, "alive", 0), seen(db7, "suspect", 35)],
        missing: vec![missing],
        blind: None,
    };
    assert_eq!(
        fleet(&all, noon()),
        "\
HOST             CLUSTER  DC   AGENT        MYSQL                 DATADIR      FREE  SNAPSHOTS  NEWEST   JOBS
db1.example.com  shop     dc1  0.1.0        up 10.11.6            3.0 GiB  40.0 GiB          1  30m ago  -
db7              shop     dc1  suspect 35s  stopped                     -  40.0 GiB          0  -        seed.start transfer 41 %
db9              shop     dc2  missing      last event 3h 0m ago
2 hosts answer, 1 missing; 1 take unsigned commands
"
    );
}

#[test]
fn a_plan_shows_every_guard_space_time_and_actions() {
    let guard = |guard, verdict, message: &str| GuardResult { guard, verdict, message: message.into() };
    let refused = SeedPlan {
        recipient: "db7".parse().unwrap(),
        donor: "db1".parse().unwrap(),
        snapshot: Some("vg0/s1".parse().unwrap()),
        guards: vec![
            guard(Guard::NotOntoItself, Verdict::Pass, "two hosts"),
            guard(Guard::MysqlMayStop, Verdict::Refuse, "MySQL runs; give leave with --stop-mysql"),
            guard(Guard::SnapshotProven, Verdict::Warn, "nobody has verified it"),
        ],
        bytes: 10 << 30,
        files: 312,
        free_before_bytes: 8 << 30,
        free_lowest_bytes: -(2 << 30),
        free_after_bytes: 3 << 30,
        donor_free_bytes: Some(5 << 30),
        stream: None,
        transport: Transport::Tcp,
        plain: false,
        can_relay: true,
        expected_s: Some(92),
        actions: vec!["stop MySQL".into(), "move /var/lib/mysql aside".into()],
        digest: "d".into(),
        seal_key: None,
    };
    assert_eq!(
        plan(&refused),
        "\
Seed db7 from db1 (snapshot vg0/s1)

VERDICT  GUARD            FOUND
ok       not_onto_itself  two hosts
REFUSE   mysql_may_stop   MySQL runs; give leave with --stop-mysql
WARN     snapshot_proven  nobody has verified it

data               10.0 GiB in 312 files
free now           8.0 GiB
free at the least  -2.0 GiB
free afterwards    3.0 GiB
free on the donor  5.0 GiB (unchanged)
way                direct TCP with TLS
expected time      1m 32s
plan               d

It will:
  1. stop MySQL
  2. move /var/lib/mysql aside

Refused by mysql_may_stop: nothing was touched.
"
    );
}

#[test]
fn a_choice_says_why_and_what_was_passed_over() {
    let taken = Choice {
        donor: "db1".parse().unwrap(),
        snapshot: "vg0/s1".parse().unwrap(),
        reasons: vec!["same cluster shop".into(), "in the recipient's DC dc1".into()],
        passed_over: vec![PassedOver { agent: "db2".parse().unwrap(), why: "has no snapshot".into() }],
    };
    assert_eq!(
        choice(&"db7".parse().unwrap(), &taken),
        "db7: donor db1: same cluster shop, in the recipient's DC dc1\n  passed over db2: has no snapshot\n"
    );
}

#[test]
fn snapshots_tell_state_position_and_holders() {
    let snapshot = |id: &str, validity| Snapshot {
        foreign: None,
        id: id.parse().unwrap(),
        provider: ProviderKind::Lvm,
        origin: "vg0/mysql".into(),
        created_at: noon() - SignedDuration::from_mins(90),
        size_bytes: Some(20 << 30),
        fill_percent: Some(12.4),
        validity,
        mounts: vec![],
        meta: None,
    };
    let mut held = snapshot("vg0/s1", Validity::Valid);
    held.mounts =
        vec![SnapshotMount { path: "/mnt/s1".into(), writable: false, holders: vec!["seed 17".into()] }];
    held.meta = Some(SnapshotMeta {
        cluster: "shop".into(),
        dc: "dc1".into(),
        host: "db1".parse().unwrap(),
        consistency: Consistency::Locked,
        freeze: Freeze::Atomic,
        coordinates: Some(Coordinates { flavor: Flavor::Mariadb, binlog: None, gtid: Some("0-1-42".into()) }),
        at_least: None,
        no_position: None,
        log: None,
        server_version: None,
        datadir: "".into(),
        expires_at: Some(noon()),
        proof: None,
    });
    let lost = snapshot("vg0/s0", Validity::Invalid("overflowed".into()));
    assert_eq!(
        snapshots(&[held, lost], noon()),
        "\
SNAPSHOT  PROVIDER  MADE        STATE                FILL  CONSISTENCY  POSITION  EXPIRES                  HELD BY
vg0/s1    lvm       1h 30m ago  valid                12 %  locked       0-1-42    2026-11-22 12:00:00 UTC  seed 17
vg0/s0    lvm       1h 30m ago  INVALID: overflowed  12 %  -            -         -                        -
"
    );
}

#[test]
fn an_event_is_a_line_and_one_of_a_newer_agent_too() {
    let data = EventData::CommandDenied(CommandDenied {
        command: "datadir.clear".into(),
        actor: "mallory".into(),
        error: WireError::new(ErrorCode::Forbidden, "mallory lacks the role destroy here"),
    });
    let mut denied = Event {
        specversion: "1.0".into(),
        id: EventId::generate(),
        source: "/orch/agents/db1".into(),
        kind: format!("orch.{}", data.kind()),
        subject: data.about(),
        time: noon(),
        datacontenttype: "application/json".into(),
        cluster: "shop".into(),
        dc: "dc1".into(),
        host: "db1".parse().unwrap(),
        sequence: 1,
        data: data.into_body(),
    };
    assert_eq!(
        event(&denied),
        "2026-11-22 12:00:00 UTC  db1              command.denied  datadir.clear of mallory: \
         mallory lacks the role destroy here\n"
    );
    denied.kind = "orch.moon.risen".into();
    denied.data = json!({"phase": "full"});
    assert_eq!(
        event(&denied),
        "2026-11-22 12:00:00 UTC  db1              moon.risen  {\"phase\":\"full\"}\n"
    );
}

#[test]
fn a_result_of_any_shape_is_readable() {
    let value = json!({"snapshot": "vg0/s1", "bytes": 7, "nothing": null, "list": [], "output": "one\ntwo", "deep": {"a": 1}});
    assert_eq!(
        result(&value),
        "  bytes     7\n  deep:\n    a  1\n  output:\n    one\n    two\n  snapshot  vg0/s1\n"
    );
    assert_eq!(result(&Value::Null), "");
}
