//! The audit log.

use jiff::Timestamp;
use maud::{Markup, html};

use super::super::desk::Desk;
use super::super::past::Line;
use super::super::place::{self, EventsFilter};
use super::{Moment, Part, Screen, bits};

/// Lines of one page.
const SHOWN: usize = 200;

const KINDS: [(&str, &str); 7] = [
    ("", "any kind"),
    ("job", "jobs"),
    ("snapshot", "snapshots"),
    ("mysql", "MySQL"),
    ("agent", "agents"),
    ("command.denied", "denied commands"),
    ("events.dropped", "lost events"),
];

pub(super) fn screen(desk: &Desk, _: &Moment, filter: &EventsFilter) -> Screen {
    let (lines, has_more, oldest, is_whole) = desk.past.look(|past| {
        let (lines, has_more) = past.log.find(&filter.wanted, SHOWN);
        (lines, has_more, past.log.oldest().map(|line| line.at), past.is_whole)
    });
    let part = html! {
        section #log .log-page {
            @if let Some(wrong) = &filter.wrong { p .note .bad { (wrong) } }
            @if lines.is_empty() { p .calm { "No event passes this filter." } } @else { (table(&lines, true)) }
            p .pages {
                @if filter.wanted.before.is_some() { a href=(filter.link(None)) { "the newest" } " " }
                @if let Some(last) = lines.last().filter(|_| has_more) { a rel="next" href=(filter.link(Some(last.sequence))) { "older" } }
            }
            (reach(oldest, is_whole, has_more))
        }
    };
    Screen::new("Events", head(filter), vec![Part::whole("log", part)])
}

fn reach(oldest: Option<Timestamp>, is_whole: bool, has_more: bool) -> Markup {
    html! {
        @if !is_whole { p .note { "The stream of events has not been read to its end." } }
        @else if let Some(oldest) = oldest.filter(|_| !has_more) {
            p .dim { "Kept here since " (bits::ago(oldest)) ". What is older: " (bits::command("orchestrator-ctl events")) }
        }
    }
}

fn head(filter: &EventsFilter) -> Markup {
    let wanted = &filter.wanted;
    let field = |name: &str, label: &str, value: &str| {
        html! {
            input name=(name) value=(value) placeholder=(label) aria-label=(label) autocomplete="off" spellcheck="false";
        }
    };
    let is_other = !KINDS.iter().any(|(kind, _)| *kind == wanted.kind);
    html! {
        h1 { "Events" }
        form #filter role="search" action="/events" {
            input #q name="q" type="search" value=(wanted.text) placeholder="text …" aria-label="Filter events" autocomplete="off" spellcheck="false";
            (field("host", "host", &wanted.host))
            (field("cluster", "cluster", &wanted.cluster))
            select name="kind" aria-label="kind" {
                @for (kind, title) in KINDS { option value=(kind) selected[wanted.kind == kind] { (title) } }
                @if is_other { option value=(wanted.kind) selected { (wanted.kind) } }
            }
            (field("actor", "actor", &wanted.actor))
            (field("since", "since: 2h, 2026-11-22", &filter.since))
            (field("until", "until", &filter.until))
            button .go { "Filter" }
        }
    }
}

/// Lines as a table; `has_host`: they are of several hosts.
pub(super) fn table(lines: &[Line], has_host: bool) -> Markup {
    html! {
        table .list .events {
            thead { tr {
                th scope="col" { "When" } @if has_host { th scope="col" { "Host" } } th scope="col" { "Kind" } th scope="col" { "What" } th scope="col" .wide { "Actor" }
            } }
            tbody { @for line in lines {
                tr .item .bad[line.is_bad] {
                    td .when { (bits::ago(line.at)) }
                    @if has_host { td .host { a .row href=(place::host(&line.host)) { (line.host) } } }
                    td { span .kind-of { (line.kind) } }
                    td .text { (line.text) @if let Some(seed) = line.seed { " " a href=(format!("/seed/{seed}")) { "seed" } } }
                    td .wide .dim { (line.actor) }
                }
            } }
        }
    }
}
