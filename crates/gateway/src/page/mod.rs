//! The page for people: what is wrong now, the fleet, snapshots, seeds and what happened, drawn here and followed live.
//!
//! It knows what heartbeats, progress and the stream of events tell, and asks a host only where a person looks at it. It changes
//! nothing, unless `act` is let. Data flow one way: `past` and `pulse` gather, `trouble` judges, `desk` holds them, `html` draws a `screen` of a `place`,
//! `live` tells what changed in it.

mod act;
mod command;
mod desk;
mod gate;
mod html;
mod live;
mod past;
mod place;
mod pulse;
mod screen;
mod trouble;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::routing::get;
use bus::Client;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::ask::Ask;
use crate::config::PageConfig;
use crate::follow;
use crate::http::answer;
use crate::http::caller;
use crate::http::count::Class;
use crate::http::listen::Connections;
use crate::view::View;
use act::{Acts, Sessions};
use desk::Desk;
use gate::Names;
use live::{Looks, Watcher};
use past::Past;
use place::{Place, Query};
use pulse::Pulses;

const STYLE: &str = include_str!("assets/page.css");
const SCRIPT: &str = include_str!("assets/page.js");

/// The page while it is served.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    client: Client,
    looks: Arc<Looks>,
    watchers: Arc<Connections>,
    stop: CancellationToken,
}

/// Bytes of a form that the page takes.
pub(crate) fn max_form(config: &PageConfig) -> usize {
    if config.actions { act::MAX_FORM } else { 0 }
}

impl Page {
    /// Begins to gather what it shows.
    pub(crate) fn new(
        client: &Client,
        view: Arc<View>,
        config: &PageConfig,
        stop: &CancellationToken,
    ) -> Self {
        let (past, pulses) = (Arc::new(Past::new(view.clone())), Arc::new(Pulses::default()));
        let since = Timestamp::now().checked_sub(past::REACH).unwrap_or(Timestamp::MIN);
        let events = follow::follow(client, "the page's history", since, past.clone(), stop);
        tokio::spawn(pulse::listen(client.clone(), pulses.clone(), stop.clone()));
        let desk = Arc::new(Desk::new(view, client.bus().clone(), events, past, pulses, config.actions));
        Self {
            client: client.clone(),
            looks: Arc::new(Looks::new(desk)),
            watchers: Arc::new(Connections::new(config.max_watchers)),
            stop: stop.clone(),
        }
    }

    /// From now on hosts can be asked.
    pub(crate) fn asks(&self, ask: Ask) {
        self.looks.desk.asks(ask);
    }

    /// What answers a browser.
    pub(crate) fn router(&self, config: &PageConfig) -> Router {
        let acting = if config.actions {
            let sessions = Arc::new(Sessions::new(config.tls_cert.is_some()));
            let acts = Acts { client: self.client.clone(), sessions };
            Router::new().route("/act", get(act::confirm).post(act::perform)).with_state(acts)
        } else {
            Router::new()
        };
        Router::new()
            .merge(acting)
            .route("/page.css", get(async || asset(STYLE, "text/css; charset=utf-8")))
            .route("/page.js", get(async || asset(SCRIPT, "text/javascript; charset=utf-8")))
            .route("/live", get(follow_live))
            .fallback(draw)
            .with_state(self.clone())
            .layer(from_fn_with_state(Names::new(&config.names), admit))
            .layer(map_response(async |mut response: Response<Body>| {
                response.extensions_mut().insert(Class::Page);
                response
            }))
    }
}

/// Lets in who asks under a name of this page.
async fn admit(State(names): State<Names>, request: Request, next: Next) -> Response<Body> {
    if !names.have(request.headers()) {
        return gate::misdirected();
    }
    let mut response = next.run(request).await;
    gate::guard(&mut response);
    response
}

fn asset(text: &'static str, kind: &'static str) -> Response<Body> {
    typed(StatusCode::OK, kind, text.into())
}

fn typed(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A whole page.
async fn draw(State(page): State<Page>, request: Request) -> Response<Body> {
    if request.method() != Method::GET {
        return answer::no_path();
    }
    let uri = request.uri();
    let url = uri.path_and_query().map_or("/", |whole| whole.as_str()).to_owned();
    let place = Place::parse(uri.path(), uri.query().unwrap_or_default());
    let screen = match &place {
        Some(place) => page.looks.at(place, &url).await,
        None => Arc::new(html::missing("There is no page of this name.")),
    };
    page.looks.remember(screen.version(), &screen);
    let text = html::frame(&screen, place.as_ref(), &url, Timestamp::now().as_millisecond());
    typed(screen.status, "text/html; charset=utf-8", text.into())
}

/// The events of a place: `at` is its URL, `version` what the page shows.
async fn follow_live(State(page): State<Page>, request: Request) -> Response<Body> {
    let client = request.extensions().get::<caller::Client>().copied();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let url = query.get("at");
    let (path, of) = url.split_once('?').unwrap_or((&url, ""));
    let (Some(place), Some(caller::Client(client))) = (Place::parse(path, of), client) else {
        return answer::no_path();
    };
    let Some(watcher) = Watcher::enter(&page.watchers, client) else {
        tracing::warn!(%client, "too many pages follow the fleet: one was refused; see page.max_watchers");
        return answer::error(StatusCode::SERVICE_UNAVAILABLE, "too many pages follow the fleet");
    };
    let body = live::follow(page.looks, place, url, &query.get("version"), watcher, page.stop);
    typed(StatusCode::OK, "text/event-stream", body)
}
