//! All seeds, those at work first.

use maud::{Markup, PreEscaped, html};
use protocol::job::JobState;
use sys::units;

use super::super::desk::Desk;
use super::super::past::Seed;
use super::super::place::{self, Filter};
use super::super::pulse::Pulse;
use super::super::trouble::Grade;
use super::{Moment, Part, Screen, bits};

/// Seeds that are shown.
const SHOWN: usize = 200;

pub(super) fn screen(desk: &Desk, _: &Moment, filter: &Filter) -> Screen {
    let (mut seeds, is_whole) = desk.past.look(|past| {
        let passes = |seed: &&Seed| {
            filter.has(&seed.cluster, "", || {
                format!(
                    "{} {} {} {} {}",
                    seed.recipient,
                    seed.cluster,
                    seed.summary,
                    seed.actor,
                    bits::word(&seed.state)
                )
            })
        };
        (past.seeds.newest().filter(passes).take(SHOWN).cloned().collect::<Vec<_>>(), past.is_whole)
    });
    seeds.sort_by_key(|seed| seed.state.is_final());
    let rows: Vec<(String, Markup)> = seeds
        .iter()
        .map(|seed| (format!("s-{}", seed.job), row(seed, desk.pulses.of(seed.job).as_ref())))
        .collect();
    let head = html! {
        h1 { "Seeds" }
        form #filter role="search" action="/seeds" {
            input #q name="q" type="search" value=(filter.text) placeholder="recipient, donor, actor, state …" aria-label="Filter seeds" autocomplete="off" spellcheck="false";
            button .go { "Filter" }
        }
    };
    let none = html! { p .calm { @if is_whole { "No seed of the last two weeks is known." } @else { "The stream of events is being read." } } };
    let open = match rows.is_empty() {
        true => format!("<section id=\"seeds\">{}<table class=\"list\"><tbody>", none.into_string()),
        false => format!("<section id=\"seeds\"><table class=\"list\">{}<tbody>", columns().into_string()),
    };
    Screen::new(
        "Seeds",
        head,
        vec![Part::of_rows("seeds", PreEscaped(open), rows, "</tbody></table></section>")],
    )
}

fn columns() -> Markup {
    html! { thead { tr {
        th scope="col" { "Recipient" } th scope="col" { "State" } th scope="col" { "Progress" } th scope="col" .wide { "About" }
        th scope="col" .wide { "Began" } th scope="col" .wide { "Took" } th scope="col" .wide { "Actor" }
    } } }
}

fn row(seed: &Seed, pulse: Option<&Pulse>) -> Markup {
    let grade = grade(seed.state);
    html! {
        tr .item .(bits::class(grade)) id=(format!("s-{}", seed.job)) {
            td .host { (bits::sign(grade)) a .row href=(format!("/seed/{}", seed.job)) { (seed.recipient) } }
            td { (bits::word(&seed.state)) @if let Some(run) = seed.runs.last() { " " span .dim { (run.stage) } } }
            td { @match pulse.filter(|_| !seed.state.is_final()) {
                Some(pulse) => (progress(pulse)),
                None => { @match seed.moved_bytes { Some(bytes) => { span .figure { (units::size(bytes)) } } None => (bits::dash()) } }
            } }
            td .wide { (seed.summary) }
            td .wide { (bits::ago(seed.begun)) }
            td .wide { @match seed.ended { Some(at) => (took(seed.begun, at)), None => (bits::age(seed.begun)) } }
            td .wide .dim { a href=(place::link("/events", &[("host", seed.recipient.as_str()), ("actor", &seed.actor)])) { (seed.actor) } }
        }
    }
}

/// How good a state is.
pub(super) fn grade(state: JobState) -> Option<Grade> {
    match state {
        JobState::Failed => Some(Grade::Bad),
        JobState::Aborted | JobState::Undoing => Some(Grade::Weak),
        _ => None,
    }
}

/// A length of time.
pub(super) fn took(from: jiff::Timestamp, to: jiff::Timestamp) -> Markup {
    let seconds = u64::try_from(to.duration_since(from).as_secs()).unwrap_or(0);
    html! { (units::duration(seconds)) }
}

/// A bar with what it says: `42 %, 1.2 GiB/s, 3m left`.
pub(super) fn progress(pulse: &Pulse) -> Markup {
    let progress = &pulse.progress;
    let percent = progress.bytes_done as f64 * 100.0 / (progress.bytes_total as f64).max(1.0);
    let left = progress.bytes_total.saturating_sub(progress.bytes_done);
    let eta = (progress.bytes_per_s > 0 && left > 0).then(|| left.div_ceil(progress.bytes_per_s));
    html! {
        (bits::bar(percent, None, &format!("{percent:.0} % of {}", units::size(progress.bytes_total))))
        " " span .figure { (format!("{percent:.0} %"))
            @if left > 0 && progress.bytes_per_s > 0 { ", " (units::rate(progress.bytes_per_s)) }
            @if let Some(eta) = eta { ", " (units::duration(eta)) " left" }
        }
    }
}
