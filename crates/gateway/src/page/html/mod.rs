//! What places look like. Every text goes through a template, which escapes it.

mod bits;
mod confirm;
mod events;
mod fleet;
mod frame;
mod graph;
mod host;
mod now;
mod seed;
mod seeds;
mod snapshots;

use axum::http::StatusCode;
use maud::html;

use super::desk::{Desk, Moment};
use super::place::Place;
use super::screen::{Part, Screen};
pub(super) use confirm::confirm;
pub(super) use frame::frame;

/// What a place shows now.
pub(super) async fn screen(desk: &Desk, place: &Place) -> Screen {
    let moment = desk.moment();
    match place {
        Place::Now(filter) => now::screen(desk, &moment, filter),
        Place::Host(agent, level) => host::screen(desk, &moment, agent, *level).await,
        Place::Snapshots(filter) => snapshots::screen(desk, &moment, filter),
        Place::Seeds(filter) => seeds::screen(desk, &moment, filter),
        Place::Seed(job) => seed::screen(desk, &moment, *job).await,
        Place::Events(filter) => events::screen(desk, &moment, filter),
    }
}

/// A page for what is not there.
pub(super) fn missing(what: &str) -> Screen {
    let part = Part::whole(
        "missing",
        html! {
            section #missing .card {
                h1 { "Not here" }
                p { (what) }
                p { a href="/" { "What is wrong now" } " · " a href="/events" { "What happened" } }
            }
        },
    );
    let screen = Screen::new("Not here", html! {}, vec![part]);
    Screen { status: StatusCode::NOT_FOUND, ..screen }
}
