//! The agent as a NATS micro service, so that `nats micro ls` and any client find it and its endpoints.
//!
//! The client library's service module wants a subscription per endpoint; an agent serves all commands from one wildcard
//! subscription, so the three questions of the service protocol are answered here.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SelectAll, select_all};
use jiff::Timestamp;
use parking_lot::Mutex;
use protocol::command::{Command, Spec};
use protocol::heartbeat::Heartbeat;
use protocol::ids::AgentId;
use protocol::subject::{encode_host, form};
use serde_json::{Value, json};

use crate::conn::Bus;
use crate::error::Result;

/// Kind of the service.
pub(super) const KIND: &str = "orch-agent";

pub(super) struct Service {
    id: String,
    host: String,
    group: String,
    version: String,
    started: Timestamp,
    metadata: BTreeMap<&'static str, String>,
    counts: Mutex<BTreeMap<&'static str, Count>>,
}

#[derive(Default, Clone, Copy)]
struct Count {
    requests: u64,
    errors: u64,
    time: Duration,
}

impl Service {
    pub(super) fn new(agent: &AgentId, group: &str, heartbeat: &Heartbeat) -> Self {
        let metadata = BTreeMap::from([
            ("host", agent.to_string()),
            ("dc", heartbeat.dc.clone()),
            ("cluster", heartbeat.cluster.clone()),
            ("boot", heartbeat.boot.to_string()),
            ("version", heartbeat.version.clone()),
            ("protocol", heartbeat.protocol.to_string()),
        ]);
        Self {
            id: heartbeat.boot.to_string(),
            host: encode_host(agent),
            group: group.to_owned(),
            version: heartbeat.version.clone(),
            started: heartbeat.started_at,
            metadata,
            counts: Mutex::default(),
        }
    }

    /// The questions to all services, to this kind, and to this one.
    pub(super) async fn subscribe(&self, bus: &Bus) -> Result<SelectAll<async_nats::Subscriber>> {
        let mut all = Vec::new();
        for subject in ["$SRV.*".to_owned(), format!("$SRV.*.{KIND}"), format!("$SRV.*.{KIND}.{}", self.id)] {
            all.push(bus.subscribe(subject).await?);
        }
        Ok(select_all(all))
    }

    /// Counts a request that was run.
    pub(super) fn count(&self, spec: &Spec, time: Duration, failed: bool) {
        let mut counts = self.counts.lock();
        let count = counts.entry(spec.name).or_default();
        count.requests += 1;
        count.errors += u64::from(failed);
        count.time += time;
    }

    /// The answer to a question; `None` for a question that is not of the protocol.
    pub(super) fn answer(&self, subject: &str) -> Option<Bytes> {
        let verb = subject.strip_prefix("$SRV.")?.split('.').next()?;
        let mut body = json!({
            "name": KIND, "id": self.id, "version": self.version, "metadata": self.metadata,
        });
        match verb {
            "PING" => body["type"] = json!("io.nats.micro.v1.ping_response"),
            "INFO" => {
                body["type"] = json!("io.nats.micro.v1.info_response");
                body["description"] =
                    json!("MySQL and MariaDB replicas from snapshots, by orchestrator-agent");
                body["endpoints"] = Command::SPECS.iter().map(|spec| self.endpoint(spec)).collect();
            }
            "STATS" => {
                body["type"] = json!("io.nats.micro.v1.stats_response");
                body["started"] = json!(self.started);
                body["endpoints"] = self.stats();
            }
            _ => return None,
        }
        Some(serde_json::to_vec(&body).ok()?.into())
    }

    fn endpoint(&self, spec: &Spec) -> Value {
        json!({
            "name": spec.name.replace('.', "-"),
            "subject": form::command(&self.host, spec.name),
            "queue_group": self.group,
            "metadata": {
                "class": format!("{:?}", spec.class).to_lowercase(),
                "role": format!("{:?}", spec.role).to_lowercase(),
                "schema": format!("v1/commands/{}.json", spec.name),
                "about": spec.about.trim(),
            },
        })
    }

    fn stats(&self) -> Value {
        let counts = self.counts.lock();
        let of = |spec: &Spec| {
            let Count { requests, errors, time } = counts.get(spec.name).copied().unwrap_or_default();
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            json!({
                "name": spec.name.replace('.', "-"),
                "subject": form::command(&self.host, spec.name),
                "queue_group": self.group,
                "num_requests": requests,
                "num_errors": errors,
                "last_error": "",
                "processing_time": nanos,
                "average_processing_time": nanos.checked_div(requests).unwrap_or(0),
            })
        };
        Command::SPECS.iter().map(of).collect()
    }
}
