//! The calendar of snapshots and proofs: clusters by days.

use std::collections::BTreeMap;

use jiff::ToSpan as _;
use jiff::civil::Date;
use maud::{Markup, PreEscaped, html};

use super::super::desk::Desk;
use super::super::past::{Day, day};
use super::super::place::{self, Filter};
use super::super::trouble::{Grade, Kind};
use super::{Moment, Part, Screen, bits};

/// Days that are shown, today first.
const DAYS: i64 = 14;
/// Clusters that are shown.
const MAX_ROWS: usize = 1_000;

/// What a day without a snapshot means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blank {
    /// None was made.
    Missing,
    /// None was made yet: it is today.
    Open,
    /// The stream does not reach that far, or is not read.
    Unknown,
}

/// What is known of the days before the stream begins.
struct Horizon {
    days: Vec<Date>,
    /// The first day of which all is known; none while the stream is being read, or where it cannot be.
    known: Option<Date>,
}

impl Horizon {
    fn blank(&self, date: Date) -> Blank {
        match self.known {
            Some(known) if date < known => Blank::Unknown,
            None => Blank::Unknown,
            Some(_) if self.days.first() == Some(&date) => Blank::Open,
            Some(_) => Blank::Missing,
        }
    }
}

/// A cluster with what is wrong with it now, and its days.
struct Row {
    cluster: String,
    grade: Option<Grade>,
    days: BTreeMap<Date, Day>,
}

pub(super) fn screen(desk: &Desk, moment: &Moment, filter: &Filter) -> Screen {
    desk.past.see(&moment.fleet);
    let (horizon, rows) = rows(desk, moment, filter);
    let found = rows.len();
    let lines: Vec<(String, Markup)> = rows
        .iter()
        .take(MAX_ROWS)
        .enumerate()
        .map(|(index, of)| (format!("r-{index}"), row(index, of, &horizon)))
        .collect();
    let open = format!(
        "<section id=\"calendar\" class=\"scroll\" tabindex=\"0\" aria-label=\"Calendar\">{}<table class=\"calendar\">{}<tbody>",
        note(found, desk.past.look(|past| past.is_whole)).into_string(),
        columns(&horizon).into_string()
    );
    let part = Part::of_rows("calendar", PreEscaped(open), lines, "</tbody></table></section>");
    Screen::new("Snapshots", head(filter), vec![part])
}

/// Clusters that pass the filter, those in trouble first: of the calendar, and of the fleet where it has none.
fn rows(desk: &Desk, moment: &Moment, filter: &Filter) -> (Horizon, Vec<Row>) {
    let today = day(moment.now);
    let days: Vec<Date> = (0..DAYS).filter_map(|back| today.checked_sub(back.days()).ok()).collect();
    let first = days.last().copied().unwrap_or(today);
    let (known, mut clusters) = desk.past.look(|past| {
        let known = if past.is_whole { Some(past.begins.map_or(today, day)) } else { None };
        let owned = past.calendar.rows(first).map(|(cluster, days)| (cluster.to_owned(), days));
        (known, owned.collect::<BTreeMap<String, BTreeMap<Date, Day>>>())
    });
    for entry in &moment.fleet {
        if !clusters.contains_key(&entry.heartbeat.cluster) {
            clusters.insert(entry.heartbeat.cluster.clone(), BTreeMap::new());
        }
    }
    let troubles = desk.troubles(moment);
    let mut worst: BTreeMap<&str, Grade> = BTreeMap::new();
    for trouble in &troubles {
        if let (Kind::NoSnapshot | Kind::NoProof, Some(cluster)) = (trouble.kind, &trouble.cluster) {
            let grade = worst.entry(cluster).or_insert(trouble.kind.grade());
            *grade = (*grade).min(trouble.kind.grade());
        }
    }
    let passes = |(cluster, _): &(String, _)| filter.has(cluster, "", || cluster.clone());
    let row =
        |(cluster, days): (String, _)| Row { grade: worst.get(cluster.as_str()).copied(), cluster, days };
    let mut rows: Vec<Row> = clusters.into_iter().filter(passes).map(row).collect();
    rows.sort_by_key(|row| row.grade.map_or(2, |grade| u8::from(grade == Grade::Weak)));
    (Horizon { days, known }, rows)
}

fn head(filter: &Filter) -> Markup {
    let made = Day { made: 1, ..Day::default() };
    html! {
        h1 { "Snapshots and proofs" }
        form #filter role="search" action="/snapshots" {
            input #q name="q" type="search" value=(filter.text) placeholder="cluster …" aria-label="Filter clusters" autocomplete="off" spellcheck="false";
            button .go { "Filter" }
        }
        p .legend {
            span { (mark(Some(Day { proven: 1, ..made }), Blank::Missing)) " proven: a server came up on it" }
            span { (mark(Some(made), Blank::Missing)) " protected: made, not proven" }
            span { (mark(None, Blank::Missing)) " missing" }
            span { (mark(None, Blank::Open)) " not yet" }
            span { (mark(None, Blank::Unknown)) " not known" }
        }
    }
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

fn row(index: usize, row: &Row, horizon: &Horizon) -> Markup {
    let cluster = &row.cluster;
    html! {
        tr .item id=(format!("r-{index}")) {
            th scope="row" { (bits::sign(row.grade)) a .row href=(place::link("/", &[("cluster", cluster)])) { (cluster) } }
            @for date in &horizon.days {
                td { (cell(cluster, *date, row.days.get(date).copied(), horizon.blank(*date))) }
            }
        }
    }
}

fn cell(cluster: &str, date: Date, day: Option<Day>, blank: Blank) -> Markup {
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
    html! { a .cell href=(link) title=(format!("{date}: {}", words(day, blank))) { (mark(day, blank)) } }
}

fn words(day: Option<Day>, blank: Blank) -> String {
    let Some(day) = day else {
        let word = match blank {
            Blank::Missing => "no snapshot was made",
            Blank::Open => "no snapshot was made yet",
            Blank::Unknown => "not known",
        };
        return word.to_owned();
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
fn mark(day: Option<Day>, blank: Blank) -> Markup {
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
        None if blank == Blank::Missing => {
            ("missing", "missing", r#"<rect width="16" height="16" rx="4"/><path d="M4.5 8h7"/>"#)
        }
        None if blank == Blank::Open => (
            "open",
            "not yet",
            r#"<rect x="0.5" y="0.5" width="15" height="15" rx="3.5"/><path d="M5.5 8h5"/>"#,
        ),
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
        assert_eq!(words(Some(proven), Blank::Missing), "2 snapshots made, 1 proven, 1 still there");
        assert_eq!(words(None, Blank::Missing), "no snapshot was made");
        assert_eq!(words(None, Blank::Unknown), "not known");
        for (day, blank, class) in [
            (Some(proven), Blank::Missing, "proven"),
            (Some(Day { made: 1, ..Day::default() }), Blank::Missing, "protected"),
            (Some(Day { made: 1, lost: 1, ..Day::default() }), Blank::Missing, "lost"),
            (Some(Day { made: 1, failed: 1, ..Day::default() }), Blank::Missing, "proof failed"),
            (None, Blank::Missing, "missing"),
            (None, Blank::Unknown, "not known"),
            (None, Blank::Open, "not yet"),
        ] {
            assert!(mark(day, blank).into_string().contains(class), "{class}");
        }
        assert_eq!(day(Timestamp::UNIX_EPOCH).to_string(), "1970-01-01");
    }
}
