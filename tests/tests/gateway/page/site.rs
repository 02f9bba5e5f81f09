//! The page of a gateway, and what every page must be.

use std::net::SocketAddr;
use std::path::Path;

use e2e::browser::Tab;
use protocol::ids::AgentId;
use protocol::subject::Subject;
use serde_json::Value;
use testkit::port::Port;

use crate::web::{self, Reply};

/// Where a gateway's page is.
#[derive(Debug)]
pub(crate) struct Site(Port);

impl Site {
    pub(crate) fn claim() -> Self {
        Self(Port::claim().unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.0.number()))
    }

    /// The lines of configuration for it.
    pub(crate) fn config(&self, more: &str) -> String {
        format!("page.listen = \"{}\"\n{more}\n", self.address())
    }

    /// A place of it, as a person would write it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// Asks without a browser.
    pub(crate) async fn get(&self, path: &str) -> Option<Reply> {
        web::get(self.address(), "127.0.0.1", path).await
    }

    /// Whether the tab has kept to the page's own origin, and nothing went wrong in it.
    pub(crate) fn assert_well(&self, tab: &Tab) {
        let seen = tab.seen();
        assert!(seen.errors.is_empty(), "{:#?}", seen.errors);
        assert!(!seen.requests.is_empty());
        let own = format!("http://{}/", self.address());
        for url in seen.requests {
            assert!(url.starts_with(&own) || url.starts_with("data:image/"), "{url} is not of {own}");
        }
    }
}

/// Looks for faults that keep people from using the page, as axe-core finds them; false where it is not there.
pub(crate) async fn is_accessible(tab: &Tab, what: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/axe/axe.min.js");
    let Ok(axe) = std::fs::read_to_string(path) else { return false };
    tab.eval(&format!("{axe}; 0")).await;
    let found = tab
        .eval(
            "axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations
                .filter((fault) => ['serious', 'critical'].includes(fault.impact))
                .map((fault) => `${fault.id}: ${fault.nodes.map((node) => node.html + node.failureSummary).join(' | ')}`))",
        )
        .await;
    assert_eq!(found, serde_json::json!([]), "{what}");
    true
}

/// Says something as a host that is played.
pub(crate) async fn beat(client: &bus::Client, status: &Value, agent: &str, change: impl FnOnce(&mut Value)) {
    let id: AgentId = agent.parse().unwrap();
    let mut beat = status.clone();
    beat["agent"] = agent.into();
    change(&mut beat);
    let subject = Subject::Heartbeat { agent: id }.to_string();
    client.bus().publish(subject, None, serde_json::to_vec(&beat).unwrap().into()).await.unwrap();
}

/// A heartbeat as it was recorded.
pub(crate) fn recorded() -> Value {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/v1/examples/agent.status.json");
    let example: Value = serde_json::from_slice(&std::fs::read(example).unwrap()).unwrap();
    example["reply"]["result"].clone()
}
