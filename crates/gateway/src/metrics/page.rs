//! All metrics on one page, from one look at the fleet.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

use super::fleet::{self, Row};
use super::own::Own;
use super::tally::Tallies;
use crate::view::View;

/// The page.
#[derive(Debug)]
pub(super) struct Page {
    registry: Registry,
}

impl Page {
    pub(super) fn new(view: Arc<View>, tallies: Arc<Tallies>, own: Arc<Own>) -> Self {
        let mut registry = Registry::with_prefix("orchestrator");
        registry.register_collector(Box::new(All { view, tallies, own }));
        Self { registry }
    }

    /// As of now.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct All {
    view: Arc<View>,
    tallies: Arc<Tallies>,
    own: Arc<Own>,
}

impl Collector for All {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let hosts = self.view.hosts();
        let rows: Vec<Row<'_>> = hosts.iter().map(Row::new).collect();
        fleet::encode(&rows, Timestamp::now(), &mut encoder)?;
        self.tallies.encode(&rows, self.view.forget_after, &mut encoder)?;
        self.own.encode(&mut encoder)
    }
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
