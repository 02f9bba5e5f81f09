//! What a place shows: parts that are told again when they change, and rows of parts.

use axum::http::StatusCode;
use maud::Markup;

/// One whole page, less its frame.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) status: StatusCode,
    pub(super) title: String,
    /// What does not change by itself: headings and forms.
    pub(super) head: String,
    pub(super) parts: Vec<Part>,
}

/// A piece that changes by itself. Its outermost element has its id.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) id: String,
    open: String,
    rows: Vec<(String, String)>,
    close: &'static str,
}

impl Screen {
    /// A page that is there.
    pub(super) fn new(title: impl Into<String>, head: Markup, parts: Vec<Part>) -> Self {
        Self { status: StatusCode::OK, title: title.into(), head: harmless(head), parts }
    }

    /// Names this state of all parts.
    pub(super) fn version(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in &self.parts {
            hasher.update(part.id.as_bytes()).update(part.open.as_bytes());
            for (id, row) in &part.rows {
                hasher.update(id.as_bytes()).update(row.as_bytes());
            }
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }

    /// What must be replaced of what `before` showed: ids with their new elements. None where all of it must.
    pub(super) fn changes(&self, before: &Self) -> Option<Vec<(String, String)>> {
        if self.parts.len() != before.parts.len() {
            return None;
        }
        let mut changes = Vec::new();
        for (now, then) in self.parts.iter().zip(&before.parts) {
            if now.id != then.id {
                return None;
            }
            now.changes(then, &mut changes);
        }
        Some(changes)
    }
}

impl Part {
    /// A piece that changes as a whole.
    pub(super) fn whole(id: impl Into<String>, markup: Markup) -> Self {
        Self { id: id.into(), open: harmless(markup), rows: Vec::new(), close: "" }
    }

    /// A piece of rows that change by themselves: what stands before them with its tags left open, the rows with their ids, and
    /// the tags that close it.
    pub(super) fn of_rows(
        id: impl Into<String>,
        open: Markup,
        rows: Vec<(String, Markup)>,
        close: &'static str,
    ) -> Self {
        let rows = rows.into_iter().map(|(id, row)| (id, harmless(row))).collect();
        Self { id: id.into(), open: harmless(open), rows, close }
    }

    /// All of it.
    pub(super) fn write(&self, text: &mut String) {
        text.push_str(&self.open);
        for (_, row) in &self.rows {
            text.push_str(row);
        }
        text.push_str(self.close);
    }

    fn changes(&self, before: &Self, changes: &mut Vec<(String, String)>) {
        let has_same_rows = self.rows.len() == before.rows.len()
            && self.rows.iter().zip(&before.rows).all(|((now, _), (then, _))| now == then);
        if self.open == before.open && has_same_rows {
            let rows = self.rows.iter().zip(&before.rows).filter(|(now, then)| now != then);
            changes.extend(rows.map(|(now, _)| now.clone()));
        } else {
            let mut text = String::new();
            self.write(&mut text);
            changes.push((self.id.clone(), text));
        }
    }
}

/// Markup in which no text of a host can act. The templates have made its angle brackets and quotes harmless; this shows what would turn
/// or hide what stands beside it.
fn harmless(markup: Markup) -> String {
    let markup = markup.into_string();
    match sys::text::harmless(&markup) {
        std::borrow::Cow::Borrowed(_) => markup,
        std::borrow::Cow::Owned(shown) => shown,
    }
}

#[cfg(test)]
mod tests {
    use maud::html;

    use super::*;

    fn screen(tile: &str, rows: &[(&str, &str)]) -> Screen {
        let rows = rows.iter().map(|(id, text)| ((*id).to_owned(), html! { tr id=(id) { td { (text) } } }));
        let open = maud::PreEscaped("<table id=\"fleet\"><tbody>".to_owned());
        let fleet = Part::of_rows("fleet", open, rows.collect(), "</tbody></table>");
        Screen::new("t", html! {}, vec![Part::whole("tile", html! { p #tile { (tile) } }), fleet])
    }

    #[test]
    fn only_rows_that_changed_are_told_again_and_all_of_them_when_their_order_changed() {
        let before = screen("2 hosts", &[("a", "up"), ("b", "up")]);
        let changed = |after: &Screen| {
            after.changes(&before).unwrap().into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        };
        assert!(changed(&screen("2 hosts", &[("a", "up"), ("b", "up")])).is_empty());
        assert_eq!(changed(&screen("2 hosts", &[("a", "up"), ("b", "down")])), ["b"]);
        assert_eq!(changed(&screen("3 hosts", &[("a", "up"), ("b", "up"), ("c", "up")])), ["tile", "fleet"]);
        assert_eq!(changed(&screen("2 hosts", &[("b", "up"), ("a", "up")])), ["fleet"]);
        assert_ne!(before.version(), screen("2 hosts", &[("b", "up"), ("a", "up")]).version());
    }

    #[test]
    fn a_text_of_a_host_neither_is_markup_nor_turns_the_line() {
        let shown = screen("<script>alert(1)</script>", &[("a", "\"><img onerror=x> \u{202e}gnp\u{200b}")]);
        let mut text = String::new();
        shown.parts.iter().for_each(|part| part.write(&mut text));
        assert!(text.contains("&lt;script&gt;") && text.contains("&quot;&gt;&lt;img"), "{text}");
        assert!(text.contains(r"\u{202e}gnp\u{200b}") && !text.contains('\u{202e}'), "{text}");
    }
}
