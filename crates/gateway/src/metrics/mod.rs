//! `/metrics`: the fleet as heartbeats and events tell of it, and the gateway itself, in OpenMetrics text.
//!
//! Nothing is asked of any agent for a scrape. A host of which nothing is heard any more is told as lost, without what it last said,
//! and goes when the gateway forgets it. docs/metrics.md has every metric; a test holds the page to the code.

mod fleet;
mod labels;
mod own;
mod page;
mod tally;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, header};
use axum::routing::get;
use bus::Client;
use bus::events::StoredEvent;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::follow::{self, Reader};
use crate::http::answer;
use crate::http::count::{Class, Requests};
use crate::view::View;

use own::Own;
use page::Page;
use tally::Tallies;

/// Seeds of so long ago are still told of.
const PAST: Duration = Duration::from_secs(24 * 3_600);
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What answers a scrape; what it needs is followed until `stop`.
pub(crate) fn router(
    client: &Client,
    view: Arc<View>,
    requests: Arc<Requests>,
    stop: &CancellationToken,
) -> Router {
    let tallies = Arc::new(Tallies::default());
    let since = Timestamp::now().checked_sub(PAST).unwrap_or(Timestamp::MIN);
    let counted = Arc::new(Counted { view: view.clone(), tallies: tallies.clone() });
    let readable = follow::follow(client, "metrics", since, counted, stop);
    let own = Arc::new(Own::new(client.bus().clone(), requests, readable));
    let page = Arc::new(Page::new(view, tallies, own));
    Router::new().route("/metrics", get(scrape)).fallback(async || answer::no_path()).with_state(page)
}

/// Counts events of the hosts in view.
struct Counted {
    view: Arc<View>,
    tallies: Arc<Tallies>,
}

impl Reader for Counted {
    fn take(&self, stored: &StoredEvent, is_new: bool) {
        if self.view.has(&stored.event.host) {
            self.tallies.take(&stored.event, is_new, Instant::now());
        }
    }
}

async fn scrape(State(page): State<Arc<Page>>) -> Response<Body> {
    // A large fleet takes a moment of a whole core.
    let mut response = match tokio::task::spawn_blocking(move || page.text()).await {
        Ok(Ok(text)) => Response::new(Body::from(text)),
        _ => answer::failed("the metrics could not be written"),
    };
    if response.status().is_success() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    }
    response.extensions_mut().insert(Class::Metrics);
    response
}
