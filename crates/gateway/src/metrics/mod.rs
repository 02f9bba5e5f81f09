//! `/metrics`: the fleet as heartbeats and events tell of it, and the gateway itself, in OpenMetrics text.
//!
//! Nothing is asked of any agent for a scrape. A host of which nothing is heard any more is told as lost, without what it last said,
//! and goes when the gateway forgets it. docs/metrics.md has every metric; a test holds the page to the code.

mod fleet;
mod follow;
mod labels;
mod own;
mod page;
mod tally;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, header};
use axum::routing::get;
use bus::Client;
use tokio_util::sync::CancellationToken;

use crate::http::answer;
use crate::http::count::{Class, Requests};
pub(crate) use view::View;

use own::Own;
use page::Page;
use tally::Tallies;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What answers a scrape; what it needs is followed until `stop`.
pub(crate) fn router(
    client: &Client,
    view: Arc<View>,
    requests: Arc<Requests>,
    stop: &CancellationToken,
) -> Router {
    let tallies = Arc::new(Tallies::default());
    let own = Arc::new(Own::new(client.bus().clone(), requests));
    tokio::spawn(follow::probe(client.clone(), own.clone(), stop.clone()));
    tokio::spawn(follow::read(client.clone(), view.clone(), tallies.clone(), own.clone(), stop.clone()));
    let page = Arc::new(Page::new(view, tallies, own));
    Router::new().route("/metrics", get(scrape)).fallback(async || answer::no_path()).with_state(page)
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
