use jiff::SignedDuration;
use protocol::ids::JobId;
use protocol::mysql::{Flavor, ServerState, ServerVersion};
use protocol::seed::{Guard, GuardResult, SeedPlan, Verdict};
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
    });
    let seen = |heartbeat, health, silent_s| Seen { health, silent_s, duplicate: false, heartbeat };
    let missing = Missing {
        host: "db9".parse().unwrap(),
        cluster: "shop".into(),
        dc: "dc2".into(),
        state: "missing",
        since: noon() - SignedDuration::from_hours(3),
    };
    let all = Fleet { hosts: vec![seen(db1, "alive", 0), seen(db7, "suspect", 35)], missing: vec![missing] };
    assert_eq!(
        fleet(&all, noon()),
        "\
HOST             CLUSTER  DC   AGENT        MYSQL       DATADIR      FREE  SNAPSHOTS  NEWEST   JOBS
db1.example.com  shop     dc1  0.1.0        up 10.11.6  3.0 GiB  40.0 GiB          1  30m ago  -
db7              shop     dc1  suspect 35s  stopped           -  40.0 GiB          0  -        seed.start transfer 41 %
db9              shop     dc2  missing      for 3h 0m
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
        snapshot: "vg0/s1".parse().unwrap(),
        guards: vec![
            guard(Guard::NotOntoItself, Verdict::Pass, "two hosts"),
            guard(Guard::MysqlMayStop, Verdict::Refuse, "MySQL runs; give leave with --stop-mysql"),
            guard(Guard::SnapshotProven, Verdict::Warn, "nobody has verified it"),
        ],
        bytes: 10 << 30,
        files: 312,
        free_before_bytes: 8 << 30,
        free_lowest_bytes: -(2 << 30),
        expected_s: Some(92),
        actions: vec!["stop MySQL".into(), "move /var/lib/mysql aside".into()],
        digest: "d".into(),
    };
    assert_eq!(
        plan(&refused),
        "\
Seed db7 from db1 (snapshot vg0/s1)

VERDICT  GUARD            FOUND
ok       not-onto-itself  two hosts
REFUSE   mysql-may-stop   MySQL runs; give leave with --stop-mysql
WARN     snapshot-proven  nobody has verified it

data               10.0 GiB in 312 files
free now           8.0 GiB
free at the least  -2.0 GiB
expected time      1m 32s

It will:
  1. stop MySQL
  2. move /var/lib/mysql aside

Refused by mysql-may-stop: nothing was touched.
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
        choice(&taken),
        "donor db1: same cluster shop, in the recipient's DC dc1\n  passed over db2: has no snapshot\n"
    );
}

#[test]
fn a_result_of_any_shape_is_readable() {
    let value =
        json!({"snapshot": "vg0/s1", "bytes": 7, "nothing": null, "output": "one\ntwo", "deep": {"a": 1}});
    assert_eq!(
        result(&value),
        "  bytes     7\n  deep      {\"a\":1}\n  output:\n    one\n    two\n  snapshot  vg0/s1\n"
    );
    assert_eq!(result(&Value::Null), "");
}
