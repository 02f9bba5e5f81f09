//! The calendar of snapshots and proofs: clusters by days.

use std::collections::BTreeMap;

use jiff::ToSpan as _;
use jiff::civil::Date;
use maud::{Markup, PreEscaped, html};

use super::super::desk::Desk;
use super::super::past::{Day, day};
use super::super::place::{self, Filter};
use super::{Moment, Part, Screen, bits};

/// Days that are shown, today included.
const DAYS: i64 = 14;
/// Clusters that are shown.
const MAX_ROWS: usize = 1_000;

/// What is known of the days before the stream begins.
struct Horizon {
    days: Vec<Date>,
    /// The first day of which all is known; none while the stream is being read, or where it cannot be.
    known: Option<Date>,
}

pub(super) fn screen(desk: &Desk, moment: &Moment, filter: &Filter) -> Screen {
    desk.past.see(&moment.fleet);
    let today = day(moment.now);
    let days: Vec<Date> = (0..DAYS).rev().filter_map(|back| today.checked_sub(back.days()).ok()).collect();
    let (horizon, mut rows) = desk.past.look(|past| {
        let first = days.first().copied().unwrap_or(today);
        let known = if past.is_whole { Some(past.begins.map_or(today, day)) } else { None };
        let passes = |(cluster, _): &(&str, _)| filter.has(cluster, "", || (*cluster).to_owned());
        let rows: Vec<(String, BTreeMap<Date, Day>)> = past
            .calendar
            .rows(first)
            .filter(passes)
            .map(|(cluster, days)| (cluster.to_owned(), days))
            .collect();
        (Horizon { days: days.clone(), known }, rows)
    });
    for entry in &moment.fleet {
        let cluster = &entry.heartbeat.cluster;
        if filter.has(cluster, "", || cluster.clone())
            && let Err(at) = rows.binary_search_by(|(known, _)| known.cmp(cluster))
        {
            rows.insert(at, (cluster.clone(), BTreeMap::new()));
        }
    }
    let found = rows.len();
    let lines: Vec<(String, Markup)> = rows
        .iter()
        .take(MAX_ROWS)
        .enumerate()
        .map(|(index, (cluster, days))| (format!("r-{index}"), row(index, cluster, days, &horizon)))
        .collect();
    let head = html! {
        h1 { "Snapshots and proofs" }
        form #filter role="search" action="/snapshots" {
            input #q name="q" type="search" value=(filter.text) placeholder="cluster …" aria-label="Filter clusters" autocomplete="off" spellcheck="false";
            button .go { "Filter" }
        }
        p .legend {
            span { (mark(Some(Day { made: 1, proven: 1, ..Day::default() }), true)) " proven: a server came up on it" }
            span { (mark(Some(Day { made: 1, ..Day::default() }), true)) " protected: made, not proven" }
            span { (mark(None, true)) " missing" }
            span { (mark(None, false)) " not known" }
        }
    };
    let open = format!(
        "<section id=\"calendar\" class=\"scroll\" tabindex=\"0\" aria-label=\"Calendar\">{}<table class=\"calendar\">{}<tbody>",
        note(found, desk.past.look(|past| past.is_whole)).into_string(),
        columns(&horizon).into_string()
    );
    let part = Part::of_rows("calendar", PreEscaped(open), lines, "</tbody></table></section>");
    Screen::new("Snapshots", head, vec![part])
}

fn note(found: usize, is_whole: bool) -> Markup {
    html! {
        @if found == 0 { p .calm { "No cluster is known." } }
        @if found > MAX_ROWS { p .calm { "The first " (MAX_ROWS) " of " (found) " clusters; filter for the others." } }
        @if !is_whole { p .note { "The stream of events has not been read to its end: what is gone since is missing here." } }
    }
}

fn columns(horizon: &Horizon) -> Markup {
    html! {
        thead { tr {
            th scope="col" { "Cluster" }
            @for date in &horizon.days {
                th scope="col" .weekend[is_weekend(*date)] { span .dow { (date.strftime("%a")) } " " (date.strftime("%d")) }
            }
        } }
    }
}

fn is_weekend(date: Date) -> bool {
    date.weekday().to_monday_zero_offset() >= 5
}

fn row(index: usize, cluster: &str, days: &BTreeMap<Date, Day>, horizon: &Horizon) -> Markup {
    html! {
        tr .item id=(format!("r-{index}")) {
            th scope="row" { a .row href=(place::link("/", &[("cluster", cluster)])) { (cluster) } }
            @for date in &horizon.days {
                td { (cell(cluster, *date, days.get(date).copied(), horizon.known.is_some_and(|known| *date >= known))) }
            }
        }
    }
}

fn cell(cluster: &str, date: Date, day: Option<Day>, is_known: bool) -> Markup {
    let until = date.tomorrow().unwrap_or(date);
    let link = place::link(
        "/events",
        &[
            ("cluster", cluster),
            ("kind", "snapshot"),
            ("since", &date.to_string()),
            ("until", &until.to_string()),
        ],
    );
    html! { a .cell href=(link) title=(format!("{date}: {}", words(day, is_known))) { (mark(day, is_known)) } }
}

fn words(day: Option<Day>, is_known: bool) -> String {
    let Some(day) = day else {
        return if is_known { "no snapshot was made".to_owned() } else { "not known".to_owned() };
    };
    let mut words = format!("{} made, {} proven", bits::count(day.made, "snapshot", "snapshots"), day.proven);
    for (count, what) in [(day.failed, "failed to be proven"), (day.lost, "lost"), (day.kept, "still there")]
    {
        if count > 0 {
            words.push_str(&format!(", {count} {what}"));
        }
    }
    words
}

/// A sign that does not lean on its colour.
fn mark(day: Option<Day>, is_known: bool) -> Markup {
    let (class, word, shape) = match day {
        Some(day) if day.proven > 0 => {
            ("proven", "proven", r#"<rect width="16" height="16" rx="4"/><path d="m4.2 8.3 2.6 2.6 5-5.6"/>"#)
        }
        Some(day) if day.failed > 0 => (
            "missing",
            "proof failed",
            r#"<rect width="16" height="16" rx="4"/><path d="m5 5 6 6m0-6-6 6"/>"#,
        ),
        Some(day) if day.is_protected() => (
            "protected",
            "protected",
            r#"<rect width="16" height="16" rx="4"/><circle cx="8" cy="8" r="2.6"/>"#,
        ),
        Some(_) => {
            ("missing", "lost", r#"<rect width="16" height="16" rx="4"/><path d="m5 5 6 6m0-6-6 6"/>"#)
        }
        None if is_known => {
            ("missing", "missing", r#"<rect width="16" height="16" rx="4"/><path d="M4.5 8h7"/>"#)
        }
        None => ("unknown", "not known", r#"<rect x="0.5" y="0.5" width="15" height="15" rx="3.5"/>"#),
    };
    html! { svg .mark .(class) viewBox="0 0 16 16" role="img" aria-label=(word) { (PreEscaped(shape)) } }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_day_is_told_in_words_and_by_its_shape() {
        let proven = Day { made: 2, proven: 1, kept: 1, ..Day::default() };
        assert_eq!(words(Some(proven), true), "2 snapshots made, 1 proven, 1 still there");
        assert_eq!(words(None, true), "no snapshot was made");
        assert_eq!(words(None, false), "not known");
        for (day, is_known, class) in [
            (Some(proven), true, "proven"),
            (Some(Day { made: 1, ..Day::default() }), true, "protected"),
            (Some(Day { made: 1, lost: 1, ..Day::default() }), true, "lost"),
            (Some(Day { made: 1, failed: 1, ..Day::default() }), true, "proof failed"),
            (None, true, "missing"),
            (None, false, "not known"),
        ] {
            assert!(mark(day, is_known).into_string().contains(class), "{class}");
        }
        assert_eq!(day(Timestamp::UNIX_EPOCH).to_string(), "1970-01-01");
    }
}
