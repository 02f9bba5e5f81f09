//! A fleet as one is: clusters in two data centres, replicas, snapshots, and a few hosts in trouble.

use jiff::{SignedDuration, Timestamp};
use protocol::event::Event;
use protocol::ids::EventId;
use serde_json::{Value, json};

const CLUSTERS: [&str; 10] =
    ["shop", "users", "ledger", "search", "stock", "mail", "billing", "media", "sessions", "reports"];
/// Hosts of one cluster.
const OF_CLUSTER: usize = 20;

/// The heartbeat of the host of that number, by a recorded one.
pub(crate) fn one_of_many(status: &Value, number: usize) -> Value {
    let mut beat = status.clone();
    let (cluster, place) = (number / OF_CLUSTER, number % OF_CLUSTER);
    let name = CLUSTERS[cluster % CLUSTERS.len()];
    let shard = cluster / CLUSTERS.len();
    beat["cluster"] = if shard == 0 { name.into() } else { format!("{name}-{shard}").into() };
    beat["dc"] = ["ams1", "fra2"][place % 2].into();
    beat["accepts_unsigned"] = false.into();
    beat["mysql"]["datadir_bytes"] = (40_000_000_000 + number as u64 * 7_000_000).into();
    beat["free_bytes"] = (90_000_000_000 + (number as u64 * 37) % 60 * 1_000_000_000).into();
    if place > 0 {
        beat["mysql"]["replica_of"] = format!("db{}:3306", cluster * OF_CLUSTER).into();
        beat["mysql"]["read_only"] = true.into();
        beat["mysql"]["lag_seconds"] = u64::from(number % 17 == 3).into();
    }
    if place > 17 {
        beat["snapshots"] = snapshots(number, place == 19);
        beat["snapshots_total"] = 2.into();
    }
    trouble(&mut beat, number);
    beat
}

fn snapshots(number: usize, is_proven: bool) -> Value {
    let made = |hours: i64| {
        let at = Timestamp::now() - SignedDuration::from_hours(hours);
        at.strftime("%Y-%m-%dT%H:00:00Z").to_string()
    };
    let one = |hours: i64, proven: bool| {
        json!({
            "id": format!("vg0/mysql-{}", made(hours).replace(['-', ':'], "")), "provider": "lvm-thin", "created_at": made(hours),
            "cluster": null, "usable": true, "proven": proven, "fill_percent": (number % 40) as f64 + 3.5
        })
    };
    json!([one(3 + number as i64 % 5, is_proven), one(27 + number as i64 % 5, true)])
}

fn trouble(beat: &mut Value, number: usize) {
    match number {
        147 => beat["mysql"]["state"] = "stopped".into(),
        361 => beat["mysql"]["state"] = "not_ready".into(),
        412 => beat["free_bytes"] = 2_100_000_000u64.into(),
        508 | 511 | 517 => beat["mysql"]["lag_seconds"] = (900 + number as u64 * 11).into(),
        618 => beat["snapshots"][0]["fill_percent"] = 91.5.into(),
        238 | 239 => {
            beat["snapshots"] = json!([]);
            beat["snapshots_total"] = 0.into();
        }
        779 => {
            beat["snapshots"][0]["proven"] = false.into();
            beat["snapshots"][1]["proven"] = false.into();
        }
        _ => {}
    }
}

/// What these clusters have told of their snapshots in two weeks: a snapshot a day, most of them proven, a few days without.
pub(crate) fn history(clusters: usize) -> Vec<Event> {
    let mut events = Vec::new();
    for cluster in 0..clusters {
        for day in (0..14i64).rev() {
            let odd = (cluster as i64 * 7 + day * 3) % 41;
            if odd == 5 || (cluster == 11 && day < 3) {
                continue;
            }
            let made = Timestamp::now() - SignedDuration::from_hours(day * 24 + 2);
            events.push(snapshot_event(cluster, made, "snapshot.created", false));
            if odd % 6 != 1 && !(cluster == 38 && day < 2) {
                events.push(snapshot_event(cluster, made, "snapshot.verified", true));
            }
        }
    }
    events
}

fn snapshot_event(cluster: usize, made: Timestamp, kind: &str, is_proven: bool) -> Event {
    let name = CLUSTERS[cluster % CLUSTERS.len()];
    let shard = cluster / CLUSTERS.len();
    let cluster_name = if shard == 0 { name.to_owned() } else { format!("{name}-{shard}") };
    let host = format!("db{}", cluster * OF_CLUSTER + 19);
    let proof = json!({"checked_at": made, "passed": true, "detail": "214 tables checked", "recovery_ms": 2_300, "recovered": null});
    let snapshot = json!({
        "id": made.strftime("vg0/mysql-%Y%m%dT%H%M%SZ").to_string(), "provider": "lvm-thin", "origin": "vg0/mysql", "created_at": made,
        "size_bytes": null, "fill_percent": 8.5, "validity": {"state": "valid"}, "mounts": [], "meta": {
            "cluster": cluster_name, "dc": "fra2", "host": host, "consistency": "crash", "coordinates": null, "server_version": null,
            "datadir": "", "expires_at": null, "proof": if is_proven { proof } else { Value::Null }}
    });
    let event = json!({
        "specversion": "1.0", "id": EventId::generate(), "source": format!("/orch/agents/{host}"), "type": format!("orch.{kind}"),
        "time": made, "datacontenttype": "application/json", "cluster": cluster_name, "dc": "fra2", "host": host, "sequence": 1,
        "data": {"by": "schedule", "snapshot": snapshot}
    });
    serde_json::from_value(event).unwrap()
}
