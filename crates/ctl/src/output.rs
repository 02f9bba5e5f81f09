//! Where words go: results to stdout, remarks to stderr, each result a line of JSON with `--json`. The only way out of this program,
//! and what comes from other machines passes it harmless.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde::Serialize;
use sys::text::{self, harmless};

use crate::paint;

/// The ways out of this program; clones share them.
#[derive(Debug, Clone)]
pub struct Out {
    json: bool,
    closed: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Out {
    /// Results as text or as JSON.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self { json, closed: Arc::default(), failure: Arc::default() }
    }

    /// True when results are JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        self.json
    }

    /// True when a person looks on at a terminal that can move its cursor: bars may move.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        !self.json && is_able() && io::stdout().is_terminal() && io::stderr().is_terminal()
    }

    /// True when nothing more can be written to stdout: nobody reads it any more (`… | head`), or it failed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// One result: a line of JSON, or what `render` makes of it.
    pub fn result<T: Serialize>(&self, value: &T, render: impl FnOnce(&T) -> String) {
        if self.json { self.json_line(value) } else { self.text(&render(value)) }
    }

    /// One line of JSON.
    pub fn json_line<T: Serialize>(&self, value: &T) {
        match serde_json::to_string(value) {
            Ok(line) => self.bytes(format!("{}\n", text::json(&line)).as_bytes()),
            Err(error) => self.note(&format!("cannot write a result as JSON: {error}")),
        }
    }

    /// Text on stdout; a line end is added where there is none.
    pub fn text(&self, text: &str) {
        if text.is_empty() {
            return;
        }
        let end = if text.ends_with('\n') { "" } else { "\n" };
        let text = coloured(harmless(text), io::stdout().is_terminal());
        self.bytes(format!("{text}{end}").as_bytes());
    }

    /// Content of a host on stdout: byte for byte where a program or a file takes it, harmless on a terminal.
    pub fn content(&self, bytes: &[u8]) {
        if io::stdout().is_terminal() {
            self.bytes(harmless(&String::from_utf8_lossy(bytes)).as_bytes());
        } else {
            self.bytes(bytes);
        }
    }

    fn bytes(&self, bytes: &[u8]) {
        let mut stdout = io::stdout().lock();
        if self.is_closed() {
            return;
        }
        if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            self.closed.store(true, Ordering::Relaxed);
            // A reader that has had enough is no failure.
            if error.kind() != io::ErrorKind::BrokenPipe {
                *self.failure.lock() = Some(error);
            }
        }
    }

    /// Why what was written to stdout is not whole, once.
    #[must_use]
    pub fn take_failure(&self) -> Option<io::Error> {
        self.failure.lock().take()
    }

    /// A remark for people on stderr.
    pub fn note(&self, text: &str) {
        let end = if text.ends_with('\n') { "" } else { "\n" };
        let text = coloured(harmless(text), io::stderr().is_terminal());
        // Nobody to tell when stderr is gone.
        write!(io::stderr().lock(), "{text}{end}").ok();
    }

    /// Asks a yes-or-no question on the terminal; `None` when there is no person to answer.
    #[must_use]
    pub fn ask(&self, question: &str) -> Option<bool> {
        if self.json || !io::stdin().is_terminal() {
            return None;
        }
        let question = format!("{} [y/N] ", harmless(question));
        // A person who keeps the remarks in a file is asked all the same.
        if io::stderr().is_terminal() {
            io::stderr().lock().write_all(question.as_bytes()).ok();
        } else {
            let mut terminal = std::fs::File::options().write(true).open("/dev/tty").ok()?;
            terminal.write_all(question.as_bytes()).ok();
        }
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).ok();
        Some(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }
}

/// True when the terminal, if there is one, can move its cursor and change colours.
fn is_able() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

fn coloured(text: Cow<'_, str>, is_terminal: bool) -> Cow<'_, str> {
    if is_terminal && is_able() && !paint::is_off() { paint::verdicts(&text).into() } else { text }
}
