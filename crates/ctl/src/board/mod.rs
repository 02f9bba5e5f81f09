//! The fleet on a whole screen of a terminal: troubled hosts first, to be scrolled, sorted, filtered and looked into.

mod draw;
mod state;

use std::time::Duration;

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;

pub use state::{Board, Bus};

use crate::full::{Left, View};

impl View for Board {
    /// Ages and silences are shown anew so often.
    const TICK: Duration = Duration::from_secs(1);

    fn key(&mut self, key: KeyCode) -> Option<Left> {
        self.heed(key)
    }

    fn draw(&mut self, frame: &mut Frame<'_>, now: Timestamp) {
        draw::board(self, frame, now);
    }
}
