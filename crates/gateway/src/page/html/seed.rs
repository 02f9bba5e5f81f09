//! One seed: live, and its record afterwards.

use maud::{Markup, html};
use protocol::ids::{AgentId, JobId};
use protocol::params::JobsShowParams;
use protocol::seed::SeedStage;
use sys::units;

use super::super::act::Order;
use super::super::command;
use super::super::desk::Desk;
use super::super::past::{Run, Seed};
use super::super::place;
use super::super::pulse::Pulse;
use super::{Moment, Part, Screen, bits, graph, seeds};

pub(super) async fn screen(desk: &Desk, moment: &Moment, job: JobId) -> Screen {
    let seed = desk.past.seed(job);
    let beat = moment
        .fleet
        .iter()
        .map(|entry| &entry.heartbeat)
        .find(|beat| beat.jobs.iter().any(|of| of.id == job));
    let recipient = seed.as_ref().map(|seed| &seed.recipient).or(beat.map(|beat| &beat.agent));
    let Some(recipient) = recipient.cloned() else {
        return super::missing(&format!(
            "No seed {job} is known: it is older than two weeks, or of another bus."
        ));
    };
    let pulse = desk.pulses.of(job);
    let view = desk.query(&recipient, JobsShowParams { job }).await.ok();
    let is_over = seed.as_ref().is_some_and(|seed| seed.state.is_final());
    let state = seed.as_ref().map(|seed| seed.state).or(view.as_ref().map(|view| view.state));
    let summary =
        seed.as_ref().map(|seed| seed.summary.as_str()).or(view.as_ref().map(|view| view.summary.as_str()));
    let donor = view.as_ref().and_then(|view| view.donor.as_ref());
    let donor = donor.filter(|donor| !summary.is_some_and(|summary| summary.contains(donor.as_str())));
    let heading = html! {
        section #seed .heading {
            h1 { (bits::sign(state.and_then(seeds::grade))) "Seed of " a href=(place::host(&recipient)) { (recipient) } }
            p {
                @if let Some(state) = state { b { (bits::word(&state)) } " · " }
                (summary.unwrap_or_default())
                @if let Some(donor) = donor { " · from " a href=(place::host(donor)) { (donor) } }
                @if let Some(seed) = &seed { " · by " (seed.actor) ", began " (bits::ago(seed.begun)) }
            }
            @if let Some(error) = seed.as_ref().and_then(|seed| seed.error.as_ref()) {
                p .note .bad { (error.message) @for cause in &error.causes { br; span .dim { "because " } (cause) } }
            }
            @if let Some(pulse) = pulse.as_ref().filter(|_| !is_over) { p .big { (seeds::progress(pulse)) } (silence(pulse)) }
        }
    };
    let parts = vec![
        Part::whole("seed", heading),
        Part::whole("rate", card_rate(pulse.as_ref(), seed.as_ref())),
        Part::whole("stages", card_stages(seed.as_ref())),
        Part::whole("lines", card_lines(&recipient, job, is_over, desk.has_actions)),
    ];
    Screen::new(format!("Seed of {recipient}"), html! {}, parts)
}

fn silence(pulse: &Pulse) -> Markup {
    html! {
        @if let Some(silence) = &pulse.progress.silence {
            p .note .bad { "Nothing from the donor for " (units::duration(silence.silent_s)) "; it gives up after " (units::duration(silence.limit_s)) "." }
        }
    }
}

fn card_rate(pulse: Option<&Pulse>, seed: Option<&Seed>) -> Markup {
    let moved = seed.and_then(|seed| seed.moved_bytes).or(pulse.map(|pulse| pulse.progress.bytes_moved));
    html! {
        section #rate .card .broad aria-labelledby="rate-title" {
            h2 #rate-title { "Rate" }
            @match pulse {
                Some(pulse) => { (graph::rate(pulse)) }
                None => { p .dim { "This gateway has heard no progress of it: it ended before the gateway started, or has moved nothing yet." } }
            }
            dl .facts {
                @if let Some(moved) = moved { dt { "moved" } dd { (units::size(moved)) } }
                @if let Some(pulse) = pulse.filter(|_| !seed.is_some_and(|seed| seed.state.is_final())) {
                    dt { "in place" } dd { (units::size(pulse.progress.bytes_done)) " of " (units::size(pulse.progress.bytes_total)) }
                    dt { "files" } dd { (pulse.progress.files_done) " of " (pulse.progress.files_total) }
                }
            }
        }
    }
}

fn card_stages(seed: Option<&Seed>) -> Markup {
    html! {
        section #stages .card .broad aria-labelledby="stages-title" {
            h2 #stages-title { "Stages" }
            @let longest = seed.map_or(0.0, longest);
            ol .stages { @for stage in SeedStage::ALL { (stage_line(stage, seed, longest)) } }
        }
    }
}

/// Seconds of the longest stage.
fn longest(seed: &Seed) -> f64 {
    let seconds = seed.runs.iter().filter_map(|run| Some(run.ended?.duration_since(run.begun).as_secs_f64()));
    seconds.fold(0.0, f64::max)
}

fn stage_line(stage: SeedStage, seed: Option<&Seed>, longest: f64) -> Markup {
    let run = seed.and_then(|seed| seed.last_of(stage));
    let tries = seed.map_or(0, |seed| seed.runs.iter().filter(|run| run.stage == stage.as_str()).count());
    let is_over = seed.is_some_and(|seed| seed.state.is_final());
    let class = match run.map(|run| run.what.as_str()) {
        None => "ahead",
        Some("finished") => "good",
        Some("failed") => "bad",
        Some("undone" | "retrying") => "weak",
        Some(_) if is_over => "weak",
        Some(_) => "running",
    };
    let word = match class {
        "ahead" => "",
        "running" => "at work",
        _ => run.map(|run| run.what.as_str()).unwrap_or_default(),
    };
    html! {
        li .(class) {
            span .name { (stage.as_str()) }
            span .what { (word) @if tries > 1 { " (try " (tries) ")" } }
            span .took { (lasted(run, is_over)) }
            span .share { @if let Some(share) = run.and_then(|run| Some(run.ended?.duration_since(run.begun).as_secs_f64() / longest.max(0.1))) {
                (bits::share(share * 100.0))
            } }
            @if let Some(error) = run.and_then(|run| run.error.as_ref()) { span .cause { (error) } }
        }
    }
}

/// How long a try took, or has taken so far.
fn lasted(run: Option<&Run>, is_over: bool) -> Markup {
    match run {
        Some(Run { begun, ended: Some(ended), .. }) => length(*begun, *ended),
        Some(Run { begun, ended: None, .. }) if !is_over => bits::age(*begun),
        _ => html! {},
    }
}

/// Short stages are told to the tenth of a second.
fn length(from: jiff::Timestamp, to: jiff::Timestamp) -> Markup {
    let seconds = to.duration_since(from).as_secs_f64();
    html! { @if seconds < 60.0 { (format!("{:.1} s", seconds.max(0.0))) } @else { (seeds::took(from, to)) } }
}

fn card_lines(agent: &AgentId, id: JobId, is_over: bool, has_actions: bool) -> Markup {
    let (recipient, job) = (agent.as_str(), id.to_string());
    let lines: &[&[&str]] = if is_over {
        &[&["seed", "show", recipient, &job]]
    } else {
        &[&["seed", "watch", recipient, &job], &["seed", "abort", recipient, &job]]
    };
    html! {
        section #lines .card .broad aria-labelledby="lines-title" {
            h2 #lines-title { "At the command line" }
            @if has_actions && !is_over { p { (bits::order(&Order::Abort(agent.clone(), id), "abort it here")) } }
            @for line in lines { p { (bits::command(&command::line(line))) } }
        }
    }
}
