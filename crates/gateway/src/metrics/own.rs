//! What the gateway says of itself.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bus::Bus;
use prometheus_client::encoding::DescriptorEncoder;

use super::labels::Metric;
use crate::follow::Readable;
use crate::http::count::Requests;

static INFO: Metric = Metric::new("gateway", None, "Version of the gateway program");
static CONNECTED: Metric =
    Metric::new("gateway_bus_connected", None, "1 while there is a connection to NATS, else 0");
static RECONNECTS: Metric =
    Metric::new("gateway_bus_reconnects", None, "Connections to NATS that were made after the first");
static READABLE: Metric = Metric::new(
    "gateway_events_readable",
    None,
    "1 while the stream of events answers and is read, else 0; counters stand still then",
);
static REQUESTS: Metric = Metric::new(
    "gateway_http_requests",
    None,
    "HTTP requests by class of endpoint and status; broken: the connection was closed in place of an answer",
);

/// The gateway.
#[derive(Debug)]
pub(super) struct Own {
    bus: Bus,
    requests: Arc<Requests>,
    events: Arc<Readable>,
}

impl Own {
    pub(super) fn new(bus: Bus, requests: Arc<Requests>, events: Arc<Readable>) -> Self {
        Self { bus, requests, events }
    }

    /// Writes all of it.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let is_connected = self.bus.is_connected();
        let is_readable = is_connected && self.events.now();
        let flag = |yes: bool| [([], f64::from(u8::from(yes)))];
        INFO.info(encoder, [[("version", Cow::Borrowed(env!("CARGO_PKG_VERSION")))]])?;
        CONNECTED.gauge(encoder, flag(is_connected))?;
        RECONNECTS.counter(encoder, [([], self.bus.reconnects())])?;
        READABLE.gauge(encoder, flag(is_readable))?;
        let requests = self.requests.all().into_iter().map(|((class, status), count)| {
            let status = status.map_or(Cow::Borrowed("broken"), |status| status.to_string().into());
            ([("endpoint", class.as_str().into()), ("status", status)], count)
        });
        REQUESTS.counter(encoder, requests)
    }
}
