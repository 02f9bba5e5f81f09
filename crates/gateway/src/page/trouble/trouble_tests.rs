use std::sync::Arc;

use bus::FleetView;
use bus::events::StoredEvent;
use protocol::heartbeat::Heartbeat;
use protocol::seed::{Silence, TransferProgress};
use serde_json::{Value, json};

use super::super::past::Past;
use super::*;
use crate::follow::Reader as _;
use crate::view::View;

/// A host without a fault, an hour after a proven snapshot.
fn host(name: &str, now: Timestamp, change: impl FnOnce(&mut Value)) -> Heartbeat {
    let example = include_str!("../../../../../schemas/v1/examples/agent.status.json");
    let example: Value = serde_json::from_str(example).unwrap();
    let mut beat = example["reply"]["result"].clone();
    beat["agent"] = name.into();
    beat["accepts_unsigned"] = false.into();
    beat["interval_ms"] = 2_000.into();
    beat["snapshots"] = json!([snapshot("s1", now - SignedDuration::from_hours(1), true)]);
    change(&mut beat);
    serde_json::from_value(beat).unwrap()
}

fn snapshot(id: &str, made: Timestamp, proven: bool) -> Value {
    json!({"id": id, "provider": "lvm", "created_at": made, "cluster": null, "usable": true, "proven": proven, "fill_percent": 10.0})
}

fn entries(beats: Vec<Heartbeat>, silent: Duration) -> Vec<FleetEntry> {
    let now = std::time::Instant::now();
    let mut view = FleetView::default();
    beats.into_iter().for_each(|beat| view.update(beat, now));
    view.entries(now + silent)
}

fn past() -> Past {
    Past::new(Arc::new(View::new(Vec::new(), Duration::from_secs(3_600))))
}

fn found(fleet: &[FleetEntry], past: &Past, pulses: &Pulses, now: Timestamp) -> Vec<Trouble> {
    let bus = BusState::of(fleet, true);
    past.look(|past| all(Known { fleet, past, pulses, bus, is_readable: true, now }))
}

fn kinds(fleet: &[FleetEntry], now: Timestamp) -> Vec<(Kind, String)> {
    let troubles = found(fleet, &past(), &Pulses::default(), now);
    troubles.into_iter().map(|trouble| (trouble.kind, trouble.mend)).collect()
}

#[test]
fn each_fault_of_a_host_has_its_cause_and_the_line_that_mends_it() {
    let now = Timestamp::now();
    assert_eq!(kinds(&entries(vec![host("db1", now, |_| {})], Duration::ZERO), now), []);
    let day = now - SignedDuration::from_hours(25);
    type Change = Box<dyn Fn(&mut Value)>;
    let cases: [(&str, Change, Kind, &str); 12] = [
        (
            "a spool that nobody empties",
            Box::new(|beat| {
                beat["bus"] = json!({"reconnects": 3, "spooled_events": 101, "spooled_bytes": 4096, "dropped_events": 0});
            }),
            Kind::EventsWait,
            "bus status",
        ),
        (
            "on a snapshot",
            Box::new(|beat| beat["mysql"]["on_snapshot"] = "s1".into()),
            Kind::OnSnapshot,
            "mysql db1 stop --on-snapshot s1",
        ),
        (
            "stopped",
            Box::new(|beat| beat["mysql"]["state"] = "stopped".into()),
            Kind::MysqlDown,
            "mysql db1 start",
        ),
        (
            "hangs",
            Box::new(|beat| beat["mysql"]["state"] = "not_ready".into()),
            Kind::MysqlDown,
            "mysql db1 error-log",
        ),
        (
            "denied",
            Box::new(|beat| beat["mysql"]["state"] = "ready_no_access".into()),
            Kind::NoAccess,
            "doctor db1",
        ),
        ("lag", Box::new(|beat| beat["mysql"]["lag_seconds"] = 601.into()), Kind::Lag, "mysql db1 info"),
        ("disk", Box::new(|beat| beat["free_bytes"] = 1_000_000.into()), Kind::DiskFull, "snapshot list db1"),
        (
            "full",
            Box::new(|beat| beat["snapshots"][0]["fill_percent"] = 81.0.into()),
            Kind::SnapshotFull,
            "snapshot remove db1 s1",
        ),
        ("none", Box::new(|beat| beat["snapshots"] = json!([])), Kind::NoSnapshot, "snapshot create db1"),
        (
            "old",
            Box::new(move |beat| beat["snapshots"] = json!([snapshot("s0", day, true)])),
            Kind::NoSnapshot,
            "snapshot create db1",
        ),
        (
            "unproven",
            Box::new(|beat| beat["snapshots"][0]["proven"] = false.into()),
            Kind::NoProof,
            "snapshot verify db1 s1",
        ),
        (
            "unsigned",
            Box::new(|beat| beat["accepts_unsigned"] = true.into()),
            Kind::Unsigned,
            "key generate FILE --for signing",
        ),
    ];
    for (what, change, kind, mend) in cases {
        let fleet = entries(vec![host("db1", now, |beat| change(beat))], Duration::ZERO);
        assert_eq!(kinds(&fleet, now), [(kind, format!("orchestrator-ctl {mend}"))], "{what}");
    }
}

#[test]
fn a_host_is_lost_and_a_fleet_that_is_silent_at_once_is_the_bus() {
    let now = Timestamp::now();
    let begin = std::time::Instant::now();
    let mut view = FleetView::default();
    view.update(host("db1", now, |beat| beat["cluster"] = "a b".into()), begin);
    view.update(host("db2", now, |_| {}), begin + Duration::from_secs(70));
    let fleet = view.entries(begin + Duration::from_secs(70));
    let lost = kinds(&fleet, now);
    assert_eq!(lost, [(Kind::Lost, "orchestrator-ctl fleet '--cluster=a b'".to_owned())]);
    let fleet = view.entries(begin + Duration::from_secs(79));
    let silent = kinds(&fleet, now);
    assert_eq!(
        silent,
        [(Kind::BusSilent, "orchestrator-ctl bus status".to_owned())],
        "nobody else is blamed"
    );
    let past = past();
    let away = past.look(|past| {
        let pulses = &Pulses::default();
        all(Known { fleet: &fleet, past, pulses, bus: BusState::Away, is_readable: false, now })
    });
    assert_eq!(away.iter().map(|trouble| trouble.kind).collect::<Vec<_>>(), [Kind::BusAway]);
}

#[test]
fn a_seed_that_stands_still_and_one_that_failed_are_told_and_its_server_is_not_down_meanwhile() {
    let now = Timestamp::now();
    let job = JobId::generate();
    let seeded = |beat: &mut Value| {
        beat["mysql"]["state"] = "stopped".into();
        beat["jobs"] =
            json!([{"id": job, "kind": "seed.start", "state": "running", "stage": "transfer", "percent": 3}]);
    };
    let fleet = entries(vec![host("db1", now, seeded)], Duration::ZERO);
    assert_eq!(kinds(&fleet, now), [], "it moves, as far as is known");
    let pulses = Pulses::default();
    let silence = Some(Silence { silent_s: 20, limit_s: 120 });
    pulses.take(
        job,
        TransferProgress { silence, ..TransferProgress::default() },
        std::time::Instant::now(),
        now,
    );
    let stalled = found(&fleet, &past(), &pulses, now);
    assert_eq!(stalled.len(), 1);
    assert_eq!((stalled[0].kind, stalled[0].seed), (Kind::SeedStalled, Some(job)));
    assert_eq!(stalled[0].cause, "Nothing from the donor for 20s; it gives up after 2m 0s.");
    assert_eq!(stalled[0].mend, format!("orchestrator-ctl seed watch db1 {job}"));

    let past = past();
    past.take(&ended(job, "failed", now - SignedDuration::from_hours(2)), true);
    let fleet = entries(vec![host("db1", now, |_| {})], Duration::ZERO);
    let failed = found(&fleet, &past, &Pulses::default(), now);
    assert_eq!(failed[0].kind, Kind::SeedFailed);
    assert_eq!(failed[0].mend, format!("orchestrator-ctl seed show db1 {job}"));
    past.take(&ended(JobId::generate(), "succeeded", now - SignedDuration::from_hours(1)), true);
    assert_eq!(found(&fleet, &past, &Pulses::default(), now), [], "a later one has succeeded");
}

/// The end of a seed of `db1`.
fn ended(job: JobId, state: &str, at: Timestamp) -> StoredEvent {
    let event = json!({
        "specversion": "1.0", "id": protocol::ids::EventId::generate(), "source": "/orch/agents/db1", "type": "orch.job.finished",
        "time": at, "datacontenttype": "application/json", "cluster": "shop", "dc": "dc1", "host": "db1", "sequence": 1,
        "data": {"job": job, "kind": "seed.start", "actor": "alice", "summary": "db2 → db1", "state": state, "stage": null,
                 "what": "finished", "detail": null, "error": null}
    });
    StoredEvent { stream_sequence: 1, event: serde_json::from_value(event).unwrap() }
}

#[test]
fn a_host_that_only_the_stream_knows_is_missing_unless_it_said_goodbye() {
    let now = Timestamp::now();
    let fleet = entries(vec![host("db2", now, |_| {})], Duration::ZERO);
    let past = past();
    past.take(&ended(JobId::generate(), "succeeded", now - SignedDuration::from_hours(3)), true);
    let missing = found(&fleet, &past, &Pulses::default(), now);
    assert_eq!(
        missing.iter().map(|t| (t.kind, t.mend.as_str())).collect::<Vec<_>>(),
        [(Kind::Missing, "orchestrator-ctl events --host db1")]
    );
    let mut goodbye = ended(JobId::generate(), "succeeded", now);
    goodbye.event.kind = "orch.agent.stopped".to_owned();
    goodbye.event.data = json!({"reason": "SIGTERM"});
    past.take(&goodbye, true);
    assert_eq!(found(&fleet, &past, &Pulses::default(), now)[0].kind, Kind::Stopped);
}
