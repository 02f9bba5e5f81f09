//! A board on a frame: a head that stays, as many hosts as fit, columns by their worth.

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table};
use sys::text;

use super::state::{Board, Bus, Entry};
use crate::full::{Grade, colour, window};
use crate::render;
use crate::units;

/// A column: its head, the widest that it gets, and its worth: where space is scarce those of the highest number go first.
struct Column {
    head: &'static str,
    most: usize,
    worth: u8,
    right: bool,
    cell: fn(&Entry, Timestamp) -> String,
}

const fn column(
    head: &'static str,
    most: usize,
    worth: u8,
    right: bool,
    cell: fn(&Entry, Timestamp) -> String,
) -> Column {
    Column { head, most, worth, right, cell }
}

const COLUMNS: [Column; 10] = [
    column("HOST", 40, 0, false, |entry, _| entry.host().to_owned()),
    column("CLUSTER", 20, 6, false, |entry, _| entry.cluster().to_owned()),
    column("DC", 12, 7, false, |entry, _| entry.dc().to_owned()),
    column("TROUBLE", 26, 1, false, |entry, _| entry.trouble().1),
    column("MYSQL", 48, 2, false, |entry, now| from_table(entry, now, 4)),
    column("DATADIR", 11, 9, true, |entry, now| from_table(entry, now, 5)),
    column("FREE", 11, 5, true, |entry, now| from_table(entry, now, 6)),
    column("SNAPSHOTS", 9, 8, true, |entry, now| from_table(entry, now, 7)),
    column("NEWEST", 18, 4, false, |entry, now| from_table(entry, now, 8)),
    column("JOBS", 40, 3, false, |entry, now| from_table(entry, now, 9)),
];

/// A cell as `fleet` shows it.
fn from_table(entry: &Entry, now: Timestamp, at: usize) -> String {
    match entry {
        Entry::Seen(seen) => render::fleet_row(seen, now).swap_remove(at),
        Entry::Missing(missing) if at == 4 => format!("last event {} ago", units::age(missing.since, now)),
        Entry::Missing(_) => String::new(),
    }
}

const HELP: &str = "\
↑ ↓ j k           the host before, the next one
PgUp PgDn space   a page back, a page on
g G Home End      the first host, the last one
enter             what is known of the marked host
/                 only hosts with these letters in name, cluster, DC, source or trouble
t                 only hosts in trouble, and all again
s                 order: trouble, host, cluster, free space, lag
Esc               back; from the list, out
q                 out";

/// Draws all of it.
pub(super) fn board(board: &mut Board, frame: &mut Frame<'_>, now: Timestamp) {
    let [head, list, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(2), Constraint::Length(1)])
            .areas(frame.area());
    board.page = usize::from(list.height.saturating_sub(1));
    let total = board.shown().len();
    board.marked = board.marked.min(total.saturating_sub(1));
    if board.marked < board.top {
        board.top = board.marked;
    } else if board.marked >= board.top + board.page {
        board.top = board.marked + 1 - board.page.max(1);
    }
    board.top = board.top.min(total.saturating_sub(board.page));
    frame.render_widget(title(board, usize::from(head.width), now), head);
    frame.render_widget(hosts(board, usize::from(list.width), now), list);
    frame.render_widget(footer(board, total, usize::from(foot.width)), foot);
    if board.help {
        window(frame, "Keys", HELP);
    } else if board.details
        && let Some(entry) = board.shown().get(board.marked)
    {
        window(frame, entry.host(), &details(entry, now));
    }
}

/// On a narrow terminal the clock goes first, then the jobs; what is wrong stays.
fn title(board: &Board, width: usize, now: Timestamp) -> Paragraph<'static> {
    let (all, troubled, jobs) = board.counts();
    let alarm = match (&board.bus, &board.blind) {
        (Bus::Silent(seconds), _) => Some(format!("the bus is silent for {}", units::duration(*seconds))),
        (Bus::Away, _) => Some("no connection to the bus: all this is old".to_owned()),
        (Bus::Speaks, Some(why)) => Some(format!("missing hosts cannot be told: {why}")),
        (Bus::Speaks, None) => None,
    };
    let alarm = alarm.map(|alarm| format!("  {}", text::line(&alarm)));
    let (name, hosts, trouble) = ("fleet", format!("  {all} hosts, "), format!("{troubled} in trouble"));
    let (mut clock, mut jobs) = (now.strftime("  %H:%M:%S UTC").to_string(), format!(", {jobs} jobs"));
    let alarm_width = alarm.as_ref().map_or(0, |alarm| alarm.chars().count());
    let least = name.len() + hosts.len() + trouble.len() + alarm_width;
    if least + clock.len() + jobs.len() > width {
        clock.clear();
    }
    if least + jobs.len() > width {
        jobs.clear();
    }
    let mut spans = vec![
        Span::styled(name, Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(clock + &hosts),
        Span::styled(trouble, colour(if troubled > 0 { Grade::Bad } else { Grade::Fine })),
        Span::raw(jobs),
    ];
    let loud = colour(Grade::Bad).add_modifier(Modifier::BOLD);
    spans.extend(alarm.map(|alarm| Span::styled(alarm, loud)));
    Paragraph::new(Line::from(spans))
}

fn hosts(board: &Board, width: usize, now: Timestamp) -> Table<'static> {
    let shown = board.shown();
    let onscreen: Vec<&Entry> = shown.iter().skip(board.top).take(board.page).copied().collect();
    let cells: Vec<Vec<String>> = onscreen
        .iter()
        .map(|entry| COLUMNS.iter().map(|c| text::line(&(c.cell)(entry, now)).into_owned()).collect())
        .collect();
    let wanted: Vec<usize> = COLUMNS
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let widest = cells.iter().map(|row: &Vec<String>| row[at].chars().count()).max().unwrap_or(0);
            widest.max(column.head.len()).min(column.most)
        })
        .collect();
    let kept = fitting(&wanted, width);
    let aligned = |at: usize, text: String| {
        Line::from(text).alignment(if COLUMNS[at].right { Alignment::Right } else { Alignment::Left })
    };
    let rows = onscreen.iter().zip(cells).enumerate().map(|(index, (entry, cells))| {
        let row = Row::new(kept.iter().map(|&at| aligned(at, cells[at].clone())));
        let style = colour(entry.trouble().0);
        let is_marked = board.top + index == board.marked;
        row.style(if is_marked { style.add_modifier(Modifier::REVERSED) } else { style })
    });
    let head = Row::new(kept.iter().map(|&at| aligned(at, COLUMNS[at].head.to_owned())));
    Table::new(rows, kept.iter().map(|&at| Constraint::Length(u16::try_from(wanted[at]).unwrap_or(u16::MAX))))
        .header(head.style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)))
        .column_spacing(2)
}

/// The columns for which there is room, in their order.
fn fitting(wanted: &[usize], width: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..COLUMNS.len()).collect();
    let room = |kept: &[usize]| kept.iter().map(|&at| wanted[at] + 2).sum::<usize>().saturating_sub(2);
    while kept.len() > 1 && room(&kept) > width {
        let least = (0..kept.len()).max_by_key(|&at| COLUMNS[kept[at]].worth).unwrap_or(0);
        kept.remove(least);
    }
    kept
}

/// Keys that the footer names, and their worth as columns have it.
const KEYS: [(&str, u8); 5] =
    [("q out", 1), ("/ filter", 2), ("s order", 4), ("t trouble", 3), ("? keys", 0)];

fn footer(board: &Board, total: usize, width: usize) -> Paragraph<'static> {
    if board.typing {
        return Paragraph::new(format!("/{}▏  enter: keep it   Esc: leave it", text::line(&board.filter)));
    }
    let last = (board.top + board.page).min(total);
    let more = match total - last {
        0 => String::new(),
        more => format!(", {more} more"),
    };
    let place =
        if total == 0 { "no host".to_owned() } else { format!("{}–{last} of {total}", board.top + 1) };
    let mut words = vec![format!("by {}", board.sort.word())];
    if board.only_trouble {
        words.push("only trouble".to_owned());
    }
    if !board.filter.is_empty() {
        words.push(format!("with {:?}", text::line(&board.filter)));
    }
    let mut keys = KEYS.to_vec();
    let line = |more: &str, words: &[String], keys: &[(&str, u8)]| {
        let keys: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
        format!("{place}{more}, {}   {}", words.join(", "), keys.join("  "))
    };
    let is_long = |line: String| line.chars().count() > width;
    while keys.len() > 1 && is_long(line(&more, &words, &keys)) {
        let least = (0..keys.len()).max_by_key(|&at| keys[at].1).unwrap_or(0);
        keys.remove(least);
    }
    let more = if is_long(line(&more, &words, &keys)) { "" } else { &more };
    while words.len() > 1 && is_long(line(more, &words, &keys)) {
        words.remove(0);
    }
    Paragraph::new(line(more, &words, &keys))
}

fn details(entry: &Entry, now: Timestamp) -> String {
    match entry {
        Entry::Seen(seen) => render::fleet_details(seen, now),
        Entry::Missing(missing) => format!(
            "{} of cluster {} in {}: {}, its last event was {} ago ({})\n",
            missing.host,
            missing.cluster,
            missing.dc,
            missing.state,
            units::age(missing.since, now),
            units::time(missing.since)
        ),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
