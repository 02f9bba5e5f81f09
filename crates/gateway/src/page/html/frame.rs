//! The frame of every page.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::super::place::Place;
use super::super::screen::Screen;

const NAV: [(&str, &str, &str); 4] = [
    ("/", "Now", "g n"),
    ("/snapshots", "Snapshots", "g s"),
    ("/seeds", "Seeds", "g d"),
    ("/events", "Events", "g e"),
];

const KEYS: [(&str, &str); 8] = [
    ("/", "filter"),
    ("j k ↓ ↑", "next, previous row"),
    ("Enter", "open it"),
    ("c", "copy its command"),
    ("g n, g s, g d, g e", "now, snapshots, seeds, events"),
    ("Esc", "leave the filter, or this"),
    ("u", "back"),
    ("?", "this"),
];

/// The whole document; `url` is what it follows.
pub(crate) fn frame(screen: &Screen, place: Option<&Place>, url: &str, now_ms: i64) -> String {
    let mut parts = String::new();
    for part in &screen.parts {
        part.write(&mut parts);
    }
    let live = place.map(|_| url).unwrap_or_default();
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (screen.title) " · orchestrator" }
                link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='4' fill='%232b59c3'/%3E%3Cpath d='M4 5h8M4 8h8M4 11h5' stroke='white' stroke-width='1.6'/%3E%3C/svg%3E";
                link rel="stylesheet" href="/page.css";
                script src="/page.js" defer {}
            }
            body data-live=(live) data-version=(screen.version()) data-now=(now_ms) {
                a .skip href="#main" { "To the contents" }
                header .top {
                    a .brand href="/" { "orchestrator" }
                    nav aria-label="Pages" { @for (path, name, keys) in NAV {
                        a href=(path) title=(keys) aria-current=[is_here(place, path).then_some("page")] { (name) }
                    } }
                    span #live .live role="status" { "as of " time { (clock(now_ms)) } }
                    button #keys type="button" aria-label="Keys" title="Keys" { "?" }
                }
                main #main tabindex="-1" {
                    (PreEscaped(&screen.head))
                    div #parts { (PreEscaped(&parts)) }
                }
                (help())
            }
        }
    };
    markup.into_string()
}

fn clock(now_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(now_ms).map(sys::units::time).unwrap_or_default()
}

fn is_here(place: Option<&Place>, path: &str) -> bool {
    match place {
        Some(Place::Now(_) | Place::Host(..)) => path == "/",
        Some(Place::Snapshots(_)) => path == "/snapshots",
        Some(Place::Seeds(_) | Place::Seed(_)) => path == "/seeds",
        Some(Place::Events(_)) => path == "/events",
        None => false,
    }
}

fn help() -> Markup {
    html! {
        dialog #help aria-labelledby="help-title" {
            h2 #help-title { "Keys" }
            dl .keys { @for (keys, what) in KEYS { dt { kbd { (keys) } } dd { (what) } } }
            form method="dialog" { button { "Close" } }
        }
    }
}
