//! The fleet on a whole screen of a terminal: troubled hosts first, to be scrolled, sorted, filtered and looked into.
//!
//! What is shown and what a key does to it is [`Board`], without a terminal; [`run`] is the loop around it. Beside
//! [`Out`](crate::output::Out) this is the only way to a terminal, and what comes from hosts is made harmless cell by cell.

mod draw;
mod state;

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

pub use state::{Board, Bus, Left};

use crate::error::{CtlError, Result};
use crate::exit::Exit;
use crate::watch::Interrupt;

/// Ages and silences are shown anew so often.
const TICK: Duration = Duration::from_secs(1);

/// The terminal as it was, again, whichever way this is left.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows a board until the person leaves; `look` brings what is known of the fleet now.
///
/// # Errors
/// The terminal cannot be used; Ctrl-C and SIGTERM end with 130.
pub async fn run(mut board: Board, mut look: impl FnMut(&mut Board)) -> Result<()> {
    let failed = |source: io::Error| CtlError::File { action: "use", path: "the terminal".into(), source };
    let mut interrupt = Interrupt::listen()?;
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let _restored = Restored;
    let mut keys = keys();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = tick.tick() => look(&mut board),
            () = interrupt.wait() => return Err(CtlError::Told(Exit::Interrupted)),
            key = keys.recv() => match key {
                Some(Event::Key(key)) => match board.key(key) {
                    None => {}
                    Some(Left::Done) => return Ok(()),
                    Some(Left::Interrupted) => return Err(CtlError::Told(Exit::Interrupted)),
                },
                // Another size: drawn below.
                Some(_) => {}
                None => return Ok(()),
            },
        }
        terminal.draw(|frame| draw::board(&mut board, frame, Timestamp::now())).map_err(failed)?;
    }
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
