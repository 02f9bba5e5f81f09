//! What a person may have done by the page, where `page.actions` is on: asked for once more, from this page alone, in the name of who
//! logged in, and told in the log.

mod order;
mod session;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use bus::{BusError, CallOptions, Client};
use data_encoding::BASE64;
use protocol::command::Call as _;
use protocol::params::{
    JobsAbortParams, JobsShowParams, SeedStartParams, SnapshotCreateParams, SnapshotVerifyParams,
};
use trace::Kind;

use super::html;
use super::place::Query;
use crate::failure::Failure;
use crate::http::caller;
pub(super) use order::Order;
pub(super) use session::Sessions;

/// A form is no larger, and comes within so long.
pub(super) const MAX_FORM: usize = 4_096;
const FORM_LIMIT: Duration = Duration::from_secs(10);
/// The host begins, or refuses, within so long.
const LIMIT: Duration = Duration::from_secs(20);
/// Seconds that a proof may spend on tables.
const BUDGET_S: u64 = 60;

/// Who acts, and on what grounds.
#[derive(Debug, Clone)]
pub(super) struct Acts {
    pub(super) client: Client,
    pub(super) sessions: Arc<Sessions>,
}

/// Asks whether it is meant.
pub(super) async fn confirm(State(acts): State<Acts>, request: Request) -> Response<Body> {
    let Some(order) = Order::parse(&Query::parse(request.uri().query().unwrap_or_default())) else {
        return page(StatusCode::NOT_FOUND, &html::missing("There is no such action."));
    };
    let (session, cookie) = acts.sessions.of(request.headers());
    let screen = html::confirm(&order, &acts.sessions.token(&session), None);
    let mut response = page(StatusCode::OK, &screen);
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// Does it.
pub(super) async fn perform(State(acts): State<Acts>, request: Request) -> Response<Body> {
    let client = request.extensions().get::<caller::Client>().map(|client| client.0);
    let (head, body) = request.into_parts();
    let refused = |what: &str| page(StatusCode::FORBIDDEN, &html::missing(what));
    let Some(client) = client.filter(|_| session::is_own(&head.headers)) else {
        tracing::warn!(?client, "an order from another origin was refused");
        return refused("This order did not come from this page.");
    };
    let read = tokio::time::timeout(FORM_LIMIT, to_bytes(body, MAX_FORM));
    let Ok(Ok(form)) = read.await else { return refused("The form could not be read.") };
    let form = Query::parse(&String::from_utf8_lossy(&form));
    let (session, is_new) = acts.sessions.of(&head.headers);
    if is_new.is_some() || !acts.sessions.holds(&session, &form.get("token")) {
        tracing::warn!(%client, "an order without its session's token was refused");
        return refused("This form is too old: the gateway was restarted since, or it is another browser's.");
    }
    let Some(order) = Order::parse(&form) else { return refused("There is no such action.") };
    let user = user(&head.headers);
    // A task of its own: what was begun is told, also when the browser has gone.
    let task = tokio::spawn({
        let order = order.clone();
        async move { told(&acts, &order, &user, client).await }
    });
    match task.await {
        Ok(Ok(())) => see(&order.place()),
        Ok(Err(failure)) => {
            page(StatusCode::BAD_GATEWAY, &html::confirm(&order, "", Some(&failure.to_string())))
        }
        Err(_) => page(StatusCode::INTERNAL_SERVER_ERROR, &html::missing("It could not be done.")),
    }
}

async fn told(acts: &Acts, order: &Order, user: &str, client: IpAddr) -> Result<(), Failure> {
    let by = acts.client.in_name_of(format!("{user} at {client} by the gateway's page"));
    let (mut span, by) = by.begin(order.command(), Kind::Server, None);
    let done = run(&by, order).await;
    let (outcome, why) = match &done {
        Ok(()) => ("begun", String::new()),
        Err(failure) => {
            span.fail("failed");
            ("failed", failure.to_string())
        }
    };
    tracing::info!(
        target: "audit",
        actor = user,
        %client,
        agent = %order.host(),
        action = order.command(),
        asked = order.link(),
        outcome,
        why,
    );
    done
}

async fn run(client: &Client, order: &Order) -> Result<(), Failure> {
    let options = CallOptions { timeout: LIMIT, ..CallOptions::default() };
    let failed = |error: BusError| Failure::command(order.host(), order.command(), &error);
    match order {
        Order::Create(host) => {
            let params = SnapshotCreateParams { keep_s: None, size_bytes: None };
            client.call_surely(host, params, &options).await.map(drop).map_err(failed)
        }
        Order::Verify(host, snapshot) => {
            let params = SnapshotVerifyParams { snapshot: snapshot.clone(), budget_s: BUDGET_S };
            client.call_surely(host, params, &options).await.map(drop).map_err(failed)
        }
        Order::Abort(host, job) => {
            // The person was asked about a seed; a link can carry the id of any job.
            let asked = client.call(host, JobsShowParams { job: *job }, &options).await.map_err(failed)?;
            if asked.kind != SeedStartParams::SPEC.name {
                return Err(Failure::new(format!(
                    "{job} of {host} is no seed but {}: nothing was aborted",
                    asked.kind
                )));
            }
            client.call_surely(host, JobsAbortParams { job: *job }, &options).await.map(drop).map_err(failed)
        }
    }
}

/// Who logged in; the configuration demands that somebody has.
fn user(headers: &HeaderMap) -> String {
    let login =
        headers.get(header::AUTHORIZATION).and_then(|login| login.to_str().ok()?.strip_prefix("Basic "));
    let login = login.and_then(|login| BASE64.decode(login.as_bytes()).ok());
    let login = login.map(|login| String::from_utf8_lossy(&login).into_owned()).unwrap_or_default();
    login.split(':').next().unwrap_or_default().to_owned()
}

fn page(status: StatusCode, screen: &super::screen::Screen) -> Response<Body> {
    let text = html::frame(screen, None, "", jiff::Timestamp::now().as_millisecond());
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

/// To where what was begun is seen.
fn see(place: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    if let Ok(place) = HeaderValue::try_from(place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}
