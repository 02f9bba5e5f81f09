use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use bus::{Bus, BusConfig, FleetEntry, FleetView};
use protocol::event::Event;
use protocol::heartbeat::Heartbeat;
use serde_json::{Value, json};

use super::*;
use crate::http::count::Requests;

const START: &str = "2026-11-23T10:00:00Z";

/// The page of a fleet that is not heard, at a gateway without a bus.
async fn empty() -> String {
    let config = BusConfig { servers: vec!["nats://127.0.0.1:1".into()], ..BusConfig::default() };
    let bus = Bus::connect(&config, "test").await.unwrap();
    let view = View::new(Vec::new(), Duration::from_secs(60));
    let own = Own::new(bus, Arc::new(Requests::default()), Arc::default());
    Page::new(Arc::new(view), Arc::default(), Arc::new(own)).text().unwrap()
}

/// Type and meaning of each metric, by the name of its samples.
async fn known() -> BTreeMap<String, (String, String)> {
    let text = empty().await;
    let line = |kind: &'static str| {
        text.lines().filter_map(move |line| line.strip_prefix("# ")?.strip_prefix(kind)?.split_once(' '))
    };
    let help: BTreeMap<&str, &str> = line("HELP ").collect();
    let metric = |(name, kind): (&str, &str)| {
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let meaning = help[name].trim_end_matches('.').to_owned();
        (format!("{name}{suffix}"), (kind.to_owned(), meaning))
    };
    line("TYPE ").map(metric).collect()
}

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[tokio::test]
async fn the_page_of_the_docs_has_every_metric_with_its_type_and_meaning() {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `orchestrator_"));
    let told: BTreeSet<String> = rows.map(str::to_owned).collect();
    let known = known().await;
    let wanted = known.iter().map(|(name, (kind, meaning))| format!("| `{name}` | {kind} | {meaning} |"));
    let wanted: BTreeSet<String> = wanted.collect();
    let list = |lines: Vec<&String>| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let (missing, wrong) = (wanted.difference(&told).collect(), told.difference(&wanted).collect());
    assert_eq!(told, wanted, "\nmissing:\n{}\nwrong:\n{}", list(missing), list(wrong));
}

#[tokio::test]
async fn rules_and_dashboard_name_no_metric_that_does_not_exist() {
    let known = known().await;
    let exists = |name: &str| {
        let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|suffix| {
            name.strip_suffix(suffix)
                .and_then(|base| known.get(base))
                .is_some_and(|(kind, _)| kind == "histogram")
        });
        of_histogram || known.get(name).is_some_and(|(kind, _)| kind != "histogram")
    };
    for path in [
        "ops/prometheus/orchestrator.rules.yml",
        "ops/prometheus/orchestrator.rules.test.yml",
        "ops/grafana/orchestrator.json",
    ] {
        let text = read(path);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: BTreeSet<&str> = words.filter(|word| word.starts_with("orchestrator_")).collect();
        assert!(named.len() > 10, "{path}");
        let unknown: Vec<_> = named.into_iter().filter(|name| !exists(name)).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
}

#[test]
fn each_rule_is_seen_to_fire_and_not_to_fire_and_stands_in_the_docs() {
    let rules = read("ops/prometheus/orchestrator.rules.yml");
    let tests = read("ops/prometheus/orchestrator.rules.test.yml");
    let docs = read("docs/metrics.md");
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let alerts: BTreeSet<&str> = alerts.collect();
    assert!(alerts.len() >= 12, "{alerts:?}");
    for alert in alerts {
        let name = format!("alertname: {alert}\n");
        let cases: Vec<&str> = tests.split(&name).skip(1).collect();
        let is_quiet = |case: &&str| case.lines().next().is_some_and(|line| line.trim() == "exp_alerts: []");
        let quiet = cases.iter().copied().filter(|case| is_quiet(case)).count();
        assert!(quiet > 0 && quiet < cases.len(), "{alert}: {quiet} of {} cases are quiet", cases.len());
        assert!(docs.contains(&format!("| `{alert}` |")), "{alert}");
    }
}

fn beat(agent: &str, more: &Value) -> Heartbeat {
    let example = read("schemas/v1/examples/agent.status.json");
    let example: Value = serde_json::from_str(&example).unwrap();
    let mut beat = example["reply"]["result"].clone();
    beat["agent"] = agent.into();
    for (key, value) in more.as_object().unwrap() {
        beat[key] = value.clone();
    }
    serde_json::from_value(beat).unwrap()
}

/// A fleet, and the page about it.
#[derive(Debug, Default)]
struct Staged {
    hosts: Vec<FleetEntry>,
    tallies: Tallies,
}

impl Collector for Staged {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let rows: Vec<Row<'_>> = self.hosts.iter().map(Row::new).collect();
        fleet::encode(&rows, START.parse().unwrap(), &mut encoder)?;
        self.tallies.encode(&rows, Duration::from_secs(60), &mut encoder)
    }
}

fn text(staged: Staged) -> String {
    let mut registry = Registry::with_prefix("orchestrator");
    registry.register_collector(Box::new(staged));
    let mut text = String::new();
    text::encode(&mut text, &registry).unwrap();
    text
}

fn assert_has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|other| other == *line), "no {line} in\n{text}");
    }
}

#[test]
fn a_host_is_told_of_by_its_labels_and_what_it_says_of_itself_breaks_no_line() {
    let mut view = FleetView::default();
    let now = Instant::now();
    let hostile = "a\"b\\c\nd\u{1b}[2J} 1\n# EOF\n";
    let snapshot = |id: &str, at: &str, proven: bool| {
        json!({"id": id, "provider": "lvm", "created_at": at, "cluster": "shop", "usable": true, "proven": proven,
               "fill_percent": 25.0})
    };
    let snapshots =
        [snapshot("vg0/b", "2026-11-23T09:00:00Z", false), snapshot("vg0/a", "2026-11-22T09:00:00Z", true)];
    let job = json!({"id": "01a2058f-ae02-75f2-bc42-97f374dffcab", "kind": "x\n", "state": "running", "stage": null, "percent": null});
    view.update(beat("db1", &json!({"snapshots": snapshots, "snapshots_total": 2, "jobs": [job]})), now);
    view.update(beat("db2", &json!({"cluster": hostile.repeat(50), "dc": "", "version": hostile})), now);
    let text = text(Staged { hosts: view.entries(now), ..Staged::default() });
    let db1 = "host=\"db1\",cluster=\"shop\",dc=\"dc1\"";
    assert_has(
        &text,
        &[
            &format!("orchestrator_agent_up{{{db1}}} 1.0"),
            &format!("orchestrator_agent_last_heartbeat_timestamp_seconds{{{db1}}} 1795428000.0"),
            &format!("orchestrator_agent_info{{{db1},version=\"0.1.0\"}} 1"),
            &format!("orchestrator_mysql_up{{{db1}}} 1.0"),
            &format!("orchestrator_mysql_state{{{db1},state=\"ready\"}} 1.0"),
            &format!("orchestrator_mysql_datadir_bytes{{{db1}}} 27639808.0"),
            &format!("orchestrator_snapshots_usable{{{db1}}} 2.0"),
            &format!("orchestrator_snapshots_proven{{{db1}}} 1.0"),
            &format!("orchestrator_snapshot_newest_usable_timestamp_seconds{{{db1}}} 1795424400.0"),
            &format!("orchestrator_snapshot_newest_proven_timestamp_seconds{{{db1}}} 1795338000.0"),
            &format!("orchestrator_snapshot_fill_max_ratio{{{db1}}} 0.25"),
            &format!("orchestrator_jobs_unfinished{{{db1},kind=\"other\"}} 1.0"),
            &format!("orchestrator_seeds_total{{{db1},outcome=\"failed\"}} 0"),
        ],
    );
    assert_eq!(text.lines().filter(|line| line.starts_with("# EOF")).count(), 1);
    assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("orchestrator_")), "{text}");
    assert!(!text.contains('\u{1b}') && text.lines().all(|line| line.len() < 700), "{text}");
}

#[test]
fn of_a_lost_host_nothing_is_told_but_that_it_is_lost() {
    let mut view = FleetView::default();
    let now = Instant::now();
    view.update(beat("db1", &json!({})), now);
    let text = text(Staged { hosts: view.entries(now + Duration::from_secs(90)), ..Staged::default() });
    let db1 = "host=\"db1\",cluster=\"shop\",dc=\"dc1\"";
    assert_has(
        &text,
        &[
            &format!("orchestrator_agent_up{{{db1}}} 0.0"),
            &format!("orchestrator_agent_last_heartbeat_timestamp_seconds{{{db1}}} 1795427910.0"),
        ],
    );
    assert!(!text.contains("orchestrator_mysql_up{") && !text.contains("orchestrator_snapshots{"), "{text}");
}

fn event(kind: &str, at: &str, data: &Value) -> Event {
    let event = json!({
        "specversion": "1.0", "id": "01a2058f-ae02-75f2-bc42-97f374dffcab", "source": "/orch/agents/db2",
        "type": format!("orch.{kind}"), "time": at, "datacontenttype": "application/json", "cluster": "shop", "dc": "dc1",
        "host": "db2", "sequence": 1, "data": data,
    });
    serde_json::from_value(event).unwrap()
}

fn seed(what: &str, stage: Option<&str>, state: &str, detail: &Value) -> Value {
    json!({"job": "01a2058f-ae02-75f2-bc42-97f374dffcac", "kind": "seed.start", "actor": "a", "summary": "", "state": state,
           "stage": stage, "what": what, "detail": detail, "error": null})
}

#[test]
fn what_was_before_the_gateway_gives_times_and_no_counts_and_a_retry_does_not_begin_a_stage_anew() {
    let staged = Staged::default();
    let take = |kind: &str, at: &str, data: &Value, is_new| {
        staged.tallies.take(&event(kind, at, data), is_new, Instant::now());
    };
    let stage = |what: &str, detail: &Value| seed(what, Some("transfer"), "running", detail);
    take("job.finished", "2026-11-23T08:00:00Z", &seed("failed", None, "failed", &json!({})), false);
    take("job.stage", "2026-11-23T09:00:00Z", &stage("started", &json!({})), false);
    take("job.stage", "2026-11-23T09:00:20Z", &stage("retrying", &json!({})), true);
    take("job.stage", "2026-11-23T09:00:30Z", &stage("started", &json!({})), true);
    let output = json!({"output": {"bytes_moved": 4096}});
    take("job.stage", "2026-11-23T09:00:40Z", &stage("finished", &output), true);
    take("job.finished", "2026-11-23T09:01:00Z", &seed("succeeded", None, "succeeded", &json!({})), true);
    take("future.thing", "2026-11-23T09:01:00Z", &json!({}), true);
    let other = json!({"command": "seed.start", "actor": "x", "error": {"code": "not_permitted", "message": "", "retryable": false,
                       "causes": []}});
    take("command.denied", "2026-11-23T09:01:00Z", &other, true);
    let text = text(staged);
    let db2 = "host=\"db2\",cluster=\"shop\",dc=\"dc1\"";
    assert_has(
        &text,
        &[
            &format!("orchestrator_seeds_total{{{db2},outcome=\"succeeded\"}} 1"),
            &format!("orchestrator_seeds_total{{{db2},outcome=\"failed\"}} 0"),
            &format!("orchestrator_seed_last_failure_timestamp_seconds{{{db2}}} 1795420800.0"),
            &format!("orchestrator_seed_last_success_timestamp_seconds{{{db2}}} 1795424460.0"),
            &format!("orchestrator_seed_received_bytes_total{{{db2}}} 4096"),
            &format!("orchestrator_commands_denied_total{{{db2}}} 1"),
            "orchestrator_seed_stage_duration_seconds_sum{stage=\"transfer\"} 40.0",
            "orchestrator_seed_stage_duration_seconds_count{stage=\"transfer\"} 1",
            "orchestrator_seed_stage_duration_seconds_count{stage=\"verify\"} 0",
        ],
    );
}
