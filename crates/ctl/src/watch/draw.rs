//! A seed on a frame. Where lines are scarce the rate goes first, then the notes.

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Sparkline, Table};
use sys::text;

use super::board::{Passed, SeedBoard};
use super::tracker::{percent, progress_text};
use crate::full::{Grade, colour, window};
use crate::units;

const HELP: &str = "\
q Esc     out: the seed goes on, and what ends it is told
Ctrl-C    the same
?         this, and away again";

/// From so many lines on there is room for the rate.
const ROOM_FOR_RATE: u16 = 20;

/// Draws all of it.
pub(super) fn seed(board: &SeedBoard, frame: &mut Frame<'_>, now: Timestamp) {
    let area = frame.area();
    let stages = board.all_stages();
    let rate = if area.height >= ROOM_FOR_RATE { (area.height - ROOM_FOR_RATE) / 2 + 2 } else { 0 };
    let lines = |count: usize| Constraint::Length(u16::try_from(count).unwrap_or(u16::MAX));
    let [head, bar, graph, list, loads, notes, foot] = Layout::vertical([
        lines(2),
        lines(2),
        Constraint::Length(rate),
        lines(stages.len() + 1),
        lines(board.loads.len()),
        Constraint::Min(0),
        lines(1),
    ])
    .areas(area);
    frame.render_widget(title(board, now), head);
    progress(board, frame, bar);
    if rate > 0 {
        rates(board, frame, graph);
    }
    frame.render_widget(table(&stages, now), list);
    let loads_of = |(host, load): &(_, String)| Line::from(safe(&format!("{host}: {load}")));
    frame.render_widget(Paragraph::new(board.loads.iter().map(loads_of).collect::<Vec<_>>()), loads);
    let fit = board.notes.len().saturating_sub(usize::from(notes.height));
    let told = |(at, note): &(Timestamp, String)| {
        Line::from(safe(&format!("{} {note}", clock(*at)))).style(colour(Grade::Weak))
    };
    frame.render_widget(Paragraph::new(board.notes.iter().skip(fit).map(told).collect::<Vec<_>>()), notes);
    frame.render_widget(Paragraph::new("q out, the seed goes on   ? keys"), foot);
    if board.help {
        window(frame, "Keys", HELP);
    }
}

fn title(board: &SeedBoard, now: Timestamp) -> Paragraph<'static> {
    let view = &board.view;
    let donor = view.donor.as_ref().map_or_else(String::new, |donor| format!(" from {donor}"));
    let first = Line::from(vec![
        Span::styled(safe(&format!("{}{donor}", board.recipient)), Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(safe(&format!(
            "  {}, began {} ago by {}",
            now.strftime("%H:%M:%S UTC"),
            units::age(view.created_at, now),
            view.actor
        ))),
    ]);
    // The end of an id is enough to name it; its beginning is the time.
    let job: String = view.id.to_string().chars().skip(24).collect();
    Paragraph::new(vec![first, Line::from(safe(&format!("{}  job {job}", view.summary)))])
}

fn progress(board: &SeedBoard, frame: &mut Frame<'_>, area: Rect) {
    let [line, bar] = Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(area);
    let Some(progress) = &board.progress else {
        return frame.render_widget(Paragraph::new("nothing has come yet"), line);
    };
    let style = colour(if progress.silence.is_some() { Grade::Bad } else { Grade::Fine });
    frame.render_widget(Paragraph::new(safe(&progress_text(progress))).style(style), line);
    let filled = usize::from(bar.width) * usize::try_from(percent(progress)).unwrap_or(100) / 100;
    let empty = usize::from(bar.width) - filled;
    frame.render_widget(Paragraph::new("█".repeat(filled) + &"░".repeat(empty)), bar);
}

/// A column for each second in which there was news, the newest at the right.
fn rates(board: &SeedBoard, frame: &mut Frame<'_>, area: Rect) {
    let [line, graph] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    let skip = board.rates.len().saturating_sub(usize::from(area.width));
    let shown: Vec<u64> = board.rates.iter().skip(skip).map(|(_, rate)| *rate).collect();
    let most = shown.iter().max().copied().unwrap_or(0);
    let words = if most == 0 { String::new() } else { format!("rate, at most {}", units::rate(most)) };
    frame.render_widget(Paragraph::new(words), line);
    frame.render_widget(Sparkline::default().data(&shown), graph);
}

fn table(stages: &[(&str, Option<&Passed>)], now: Timestamp) -> Table<'static> {
    let row = |(name, passed): &(&str, Option<&Passed>)| {
        let Some(passed) = passed else { return Row::new(vec![safe(name)]) };
        let ended = passed.ended.unwrap_or(now);
        let seconds = u64::try_from(ended.duration_since(passed.began).as_secs()).unwrap_or(0);
        let row =
            Row::new(vec![safe(name), safe(&passed.state), clock(passed.began), units::duration(seconds)]);
        row.style(match passed.state.as_str() {
            "now" => Style::new().add_modifier(Modifier::BOLD),
            "failed" => colour(Grade::Bad),
            "done" => colour(Grade::Fine),
            _ => colour(Grade::Weak),
        })
    };
    let head = Row::new(["STAGE", "STATE", "BEGAN", "TOOK"])
        .style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED));
    let widths = [12, 10, 8, 12].map(Constraint::Length);
    Table::new(stages.iter().map(row), widths).header(head).column_spacing(2)
}

fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}

fn safe(words: &str) -> String {
    text::line(words).into_owned()
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
