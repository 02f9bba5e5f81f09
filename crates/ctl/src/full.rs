//! A whole screen of a terminal: the loop around what is shown there, and what all such screens share.
//!
//! Beside [`Out`](crate::output::Out) this is the only way to a terminal, and what comes from hosts is made harmless cell by cell.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph};
use sys::text;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::error::{CtlError, Result};
use crate::interrupt::Interrupt;
use crate::paint;

/// How a screen was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// By `q`.
    Done,
    /// By Ctrl-C.
    Interrupted,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grade {
    Fine,
    Weak,
    Bad,
}

/// What is on the screen, without a terminal.
pub trait View {
    /// It is drawn anew so often, whatever happens.
    const TICK: Duration;

    /// Heeds a key; Ctrl-C does not come here.
    fn key(&mut self, key: KeyCode) -> Option<Left>;

    /// Draws all of it.
    fn draw(&mut self, frame: &mut Frame<'_>, now: Timestamp);
}

/// The terminal as it was, again, whichever way this is left.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows it until the person leaves; `look` brings what is known now. Dropped earlier, it gives the terminal back.
///
/// # Errors
/// The terminal cannot be used.
pub async fn run<V: View>(mut view: V, mut look: impl FnMut(&mut V)) -> Result<Left> {
    let failed = |source: io::Error| CtlError::File { action: "use", path: "the terminal".into(), source };
    let mut interrupt = Interrupt::listen()?;
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let _restored = Restored;
    let mut keys = keys();
    let mut tick = interval(V::TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = tick.tick() => look(&mut view),
            () = interrupt.wait() => return Ok(Left::Interrupted),
            key = keys.recv() => match key {
                Some(Event::Key(key)) => if let Some(left) = heed(&mut view, key) { return Ok(left) },
                // Another size: drawn below.
                Some(_) => {}
                None => return Ok(Left::Done),
            },
        }
        terminal.draw(|frame| view.draw(frame, Timestamp::now())).map_err(failed)?;
    }
}

/// What a key press does, those included that mean the same on every screen.
pub(crate) fn heed<V: View>(view: &mut V, key: KeyEvent) -> Option<Left> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Some(Left::Interrupted);
    }
    view.key(key.code)
}

/// What the person types. The thread ends with the process: it waits in the terminal, which nothing else can wake.
fn keys() -> mpsc::UnboundedReceiver<Event> {
    let (typed, keys) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if typed.send(event).is_err() {
                return;
            }
        }
    });
    keys
}

/// A text in the middle, over what is there.
pub(crate) fn window(frame: &mut Frame<'_>, title: &str, content: &str) {
    let area = frame.area();
    let lines: Vec<Line<'_>> =
        content.lines().map(|line| Line::from(text::line(line).into_owned())).collect();
    let widest = lines.iter().map(Line::width).max().unwrap_or(0).max(title.chars().count());
    let width = u16::try_from(widest + 4).unwrap_or(u16::MAX).min(area.width);
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let place =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(format!(" {} ", text::line(title)));
    frame.render_widget(Paragraph::new(lines).block(block), place);
}

/// Nothing is told by colour alone.
pub(crate) fn colour(grade: Grade) -> Style {
    match grade {
        _ if paint::is_off() => Style::new(),
        Grade::Fine => Style::new(),
        Grade::Weak => Style::new().fg(Color::Yellow),
        Grade::Bad => Style::new().fg(Color::Red),
    }
}

/// The lines of a screen of that size.
#[cfg(test)]
pub(crate) fn drawn<V: View>(view: &mut V, width: u16, height: u16, now: Timestamp) -> Vec<String> {
    let mut terminal = ratatui::Terminal::new(ratatui::backend::TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view.draw(frame, now)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}
