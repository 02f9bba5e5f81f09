//! Pages that follow the fleet: server-sent events with what has changed, and a tick each second by which a page knows that it is
//! alive.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use futures_util::stream::{self, Stream};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::html;
use super::place::Place;
use super::screen::Screen;
use super::trouble::BusState;
use crate::http::listen::Connections;

/// Between two looks.
const TICK: Duration = Duration::from_secs(1);
/// A page connects anew after so many ticks, so that none follows for ever.
const TICKS: u32 = 1_800;
/// One look serves everybody who looks at the same place within this.
const SHARED_FOR: Duration = Duration::from_millis(900);
/// Places that are looked at for several at once.
const MAX_SHARED: usize = 128;
/// Screens that were sent lately; a page that connects is told only what has changed since its own.
const MAX_SENT: usize = 8;

type Slot = Arc<tokio::sync::Mutex<Option<(Instant, Arc<Screen>)>>>;

/// What is shown, looked at once for everybody.
#[derive(Debug)]
pub(super) struct Looks {
    pub(super) desk: Arc<Desk>,
    slots: Mutex<HashMap<String, Slot>>,
    sent: Mutex<VecDeque<(String, Arc<Screen>)>>,
}

impl Looks {
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        Self { desk, slots: Mutex::default(), sent: Mutex::default() }
    }

    /// What is at that place, as of a moment ago; `url` names it.
    pub(super) async fn at(&self, place: &Place, url: &str) -> Arc<Screen> {
        let slot = self.slot(url);
        let mut held = slot.lock().await;
        if let Some((at, screen)) = &*held
            && at.elapsed() < SHARED_FOR
        {
            return screen.clone();
        }
        let screen = Arc::new(html::screen(&self.desk, place).await);
        *held = Some((Instant::now(), screen.clone()));
        screen
    }

    /// Remembers what a page has been given.
    pub(super) fn remember(&self, version: String, screen: &Arc<Screen>) {
        let mut sent = self.sent.lock();
        if sent.iter().all(|(known, _)| *known != version) {
            if sent.len() >= MAX_SENT {
                sent.pop_front();
            }
            sent.push_back((version, screen.clone()));
        }
    }

    fn remembered(&self, version: &str) -> Option<Arc<Screen>> {
        self.sent.lock().iter().find(|(known, _)| known == version).map(|(_, screen)| screen.clone())
    }

    fn slot(&self, url: &str) -> Slot {
        let mut slots = self.slots.lock();
        if slots.len() >= MAX_SHARED {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        slots.entry(url.to_owned()).or_default().clone()
    }
}

/// A place among those who follow; given back when dropped.
#[derive(Debug)]
pub(super) struct Watcher {
    watchers: Arc<Connections>,
    client: IpAddr,
}

impl Watcher {
    /// None where there are too many.
    pub(super) fn enter(watchers: &Arc<Connections>, client: IpAddr) -> Option<Self> {
        watchers.enter(client).then(|| Self { watchers: watchers.clone(), client })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.leave(self.client);
    }
}

struct Following {
    looks: Arc<Looks>,
    place: Place,
    url: String,
    shown: Option<Arc<Screen>>,
    interval: Interval,
    ticks: u32,
    stop: CancellationToken,
    _watcher: Watcher,
}

/// Events of a place for a page that shows the state of `version`, until the gateway stops.
pub(super) fn follow(
    looks: Arc<Looks>,
    place: Place,
    url: String,
    version: &str,
    watcher: Watcher,
    stop: CancellationToken,
) -> Body {
    let mut interval = interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shown = looks.remembered(version);
    let following = Following { looks, place, url, shown, interval, ticks: 0, stop, _watcher: watcher };
    Body::from_stream(events(following))
}

fn events(following: Following) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(following, |mut following| async {
        let text = following.next().await?;
        Some((Ok(Bytes::from(text)), following))
    })
}

impl Following {
    async fn next(&mut self) -> Option<String> {
        tokio::select! {
            () = self.stop.cancelled() => return None,
            _ = self.interval.tick() => {}
        }
        self.ticks += 1;
        if self.ticks > TICKS {
            return None;
        }
        let screen = self.looks.at(&self.place, &self.url).await;
        let changes = match &self.shown {
            Some(shown) => screen.changes(shown),
            None => None,
        };
        let mut text = match changes {
            Some(changes) if changes.is_empty() => String::new(),
            Some(changes) => event("parts", &json!(changes)),
            None => event("all", &json!(whole(&screen))),
        };
        self.shown = Some(screen);
        let moment = self.looks.desk.moment();
        let bus = match moment.bus {
            BusState::Speaks => "speaks",
            BusState::Silent => "silent",
            BusState::Away => "away",
        };
        let heard = moment.heard.map(Timestamp::as_millisecond);
        text.push_str(&event(
            "tick",
            &json!({"now": moment.now.as_millisecond(), "heard": heard, "bus": bus}),
        ));
        Some(text)
    }
}

fn whole(screen: &Screen) -> String {
    let mut text = String::new();
    for part in &screen.parts {
        part.write(&mut text);
    }
    text
}

/// JSON has no line ends of its own, so that one line of data holds it.
fn event(name: &str, data: &serde_json::Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}
