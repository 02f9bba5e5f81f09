//! Text of others on its way to a terminal or a log: what could steer the terminal, reorder a line or hide in it is shown instead of
//! obeyed, for example as `\u{1b}`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Whether a character of foreign text acts instead of being seen: controls, line ends of Unicode, what changes the direction of
/// writing, what has no width, fillers and tags. Line feed and tab act as well, but are what [`line`] is for.
fn acts(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
                | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
        )
}

/// The text with everything that acts shown; lines and tabs stay, since text of several lines is meant to have them.
#[must_use]
pub fn harmless(text: &str) -> Cow<'_, str> {
    escaped(text, |c, shown| shown.extend(c.escape_unicode()))
}

/// As [`harmless`], for a place that holds one line: a name, a cell of a table. Line ends and tabs become spaces, so that no text
/// passes for the line below.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    match harmless(text) {
        text if text.contains(['\n', '\t']) => text.replace(['\n', '\t'], " ").into(),
        text => text,
    }
}

/// Text of several lines below the line that it belongs to: each but the first begins with `indent`, so that none passes for ours.
#[must_use]
pub fn indented(text: &str, indent: &str) -> String {
    harmless(text.trim_end()).replace('\n', &format!("\n{indent}"))
}

/// JSON that says the same to whoever parses it and does nothing to a terminal.
#[must_use]
pub fn json(json: &str) -> Cow<'_, str> {
    escaped(json, |c, shown| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(shown, "\\u{unit:04x}");
        }
    })
}

fn escaped(text: &str, show: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(acts) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) { show(c, &mut shown) } else { shown.push(c) }
    }
    shown.into()
}

/// How the lines of a log are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLines {
    /// Text: a line per event, whatever it quotes.
    Text,
    /// A JSON object per line.
    Json,
}

/// A log's end, for writers that pass each event whole and at once.
#[derive(Debug)]
pub struct Log<W> {
    out: W,
    lines: LogLines,
}

impl<W: Write> Log<W> {
    /// Writes to `out`.
    pub fn new(out: W, lines: LogLines) -> Self {
        Self { out, lines }
    }
}

impl<W: Write> Write for Log<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = match self.lines {
            LogLines::Text => line(text),
            LogLines::Json => json(text),
        };
        self.out.write_all(format!("{text}\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_shown_and_the_rest_is_as_it_was() {
        assert_eq!(harmless("a\tb\nMüller 数据库 e\u{301}"), "a\tb\nMüller 数据库 e\u{301}");
        assert_eq!(harmless("\u{1b}[2Jgone\r\u{9b}1m\0\u{7f}"), r"\u{1b}[2Jgone\u{d}\u{9b}1m\u{0}\u{7f}");
        assert_eq!(harmless("db\u{202e}7\u{200b}\u{2066}\u{feff}"), r"db\u{202e}7\u{200b}\u{2066}\u{feff}");
        assert_eq!(harmless("\u{e0041}\u{2028}\u{3164}\u{ad}"), r"\u{e0041}\u{2028}\u{3164}\u{ad}");
        assert_eq!(line("one\ndb7  succeeded\tyes"), "one db7  succeeded yes");
        assert_eq!(indented("one\nnext: rm\n", "    "), "one\n    next: rm");
    }

    #[test]
    fn json_stays_exact() {
        let value = "\u{9b}2J\u{202e}\u{e0041}\u{7f} ü";
        let shown = json(&format!("\"{value}\"")).into_owned();
        assert!(shown.chars().all(|c| !acts(c)), "{shown}");
        assert_eq!(shown, r#""\u009b2J\u202e\udb40\udc41\u007f ü""#);
    }

    #[test]
    fn an_event_of_a_log_is_one_line() {
        let mut out = Vec::new();
        Log::new(&mut out, LogLines::Text).write_all(b"WARN x\n2026 ERROR forged\x1b]0;t\x07\n").unwrap();
        Log::new(&mut out, LogLines::Json).write_all("{\"a\":\"\u{202e}\"}\n".as_bytes()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "WARN x 2026 ERROR forged\\u{1b}]0;t\\u{7}\n{\"a\":\"\\u202e\"}\n");
    }
}
