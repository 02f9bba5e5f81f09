//! The labels of a host, and metrics that have them.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// A name from the bus is cut here, in bytes.
const MAX_VALUE: usize = 128;

/// One label.
pub(super) type Label<'a> = (&'static str, Cow<'a, str>);

/// What every metric of a host has.
pub(super) type HostLabels<'a> = [Label<'a>; 3];

/// The labels of a host; agents say of themselves what stands in them.
pub(super) fn of_host<'a>(host: &'a str, cluster: &'a str, dc: &'a str) -> HostLabels<'a> {
    [("host", value(host)), ("cluster", value(cluster)), ("dc", value(dc))]
}

/// The same with one more.
pub(super) fn and<'a>(labels: &HostLabels<'a>, name: &'static str, value: &'a str) -> [Label<'a>; 4] {
    let [host, cluster, dc] = labels.clone();
    [host, cluster, dc, (name, Cow::Borrowed(value))]
}

/// A foreign text as a label's value.
pub(super) fn value(text: &str) -> Cow<'_, str> {
    sys::text::line(&text[..text.floor_char_boundary(MAX_VALUE)])
}

/// Name, unit and meaning of a metric.
#[derive(Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) unit: Option<Unit>,
    pub(super) help: &'static str,
}

impl Metric {
    pub(super) const fn new(name: &'static str, unit: Option<Unit>, help: &'static str) -> Self {
        Self { name, unit, help }
    }

    /// Writes it as a gauge.
    pub(super) fn gauge<'l, const N: usize>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        values: impl IntoIterator<Item = ([Label<'l>; N], f64)>,
    ) -> fmt::Result {
        let mut family =
            encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Writes it as a counter.
    pub(super) fn counter<'l, const N: usize>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        values: impl IntoIterator<Item = ([Label<'l>; N], u64)>,
    ) -> fmt::Result {
        let mut family =
            encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Writes it as an info: what there is stands in the labels.
    pub(super) fn info<'l, const N: usize>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        infos: impl IntoIterator<Item = [Label<'l>; N]>,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(self.name, self.help, None, MetricType::Info)?;
        for labels in infos {
            family.encode_info(&labels)?;
        }
        Ok(())
    }
}
