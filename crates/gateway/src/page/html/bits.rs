//! Small things that many places show.

use jiff::Timestamp;
use maud::{Markup, PreEscaped, html};
use sys::units;

use super::super::act::Order;
use super::super::trouble::Grade;

/// An instant: the page's script shows how long ago it was, and its title when.
pub(super) fn age(at: Timestamp) -> Markup {
    let when = units::time(at);
    html! { time datetime=(at.to_string()) data-at=(at.as_millisecond()) title=(when) { (when) } }
}

/// The same, as part of a sentence.
pub(super) fn ago(at: Timestamp) -> Markup {
    let when = units::time(at);
    html! { time datetime=(at.to_string()) data-at=(at.as_millisecond()) data-ago title=(when) { (when) } }
}

/// The class of a grade.
pub(super) fn class(grade: Option<Grade>) -> &'static str {
    match grade {
        Some(Grade::Bad) => "bad",
        Some(Grade::Weak) => "weak",
        None => "good",
    }
}

/// A sign that does not lean on its colour.
pub(super) fn sign(grade: Option<Grade>) -> Markup {
    let (word, shape) = match grade {
        Some(Grade::Bad) => {
            ("in trouble", r#"<path d="M8 1 15 14H1Z"/><path class="ink" d="M8 6v4M8 11.6v.6"/>"#)
        }
        Some(Grade::Weak) => {
            ("worth a look", r#"<path d="M8 1 15 8 8 15 1 8Z"/><path class="ink" d="M8 5v4M8 10.4v.6"/>"#)
        }
        None => ("fine", r#"<circle cx="8" cy="8" r="5.5"/><path class="ink" d="m5.4 8.2 1.9 1.9 3.4-4"/>"#),
    };
    html! {
        svg .sign .(class(grade)) viewBox="0 0 16 16" role="img" aria-label=(word) { (PreEscaped(shape)) }
    }
}

/// A bar of so much of a hundred, with what it says in words.
pub(super) fn bar(percent: f64, grade: Option<Grade>, words: &str) -> Markup {
    let width = format!("{:.1}%", percent.clamp(0.0, 100.0));
    html! {
        svg .bar .(class(grade)) role="img" aria-label=(words) {
            title { (words) }
            rect .track width="100%" height="100%" rx="3" {}
            rect .full width=(width) height="100%" rx="3" {}
        }
    }
}

/// A bar beside a figure that says the same.
pub(super) fn share(percent: f64) -> Markup {
    let width = format!("{:.1}%", percent.clamp(0.5, 100.0));
    html! { svg .bar aria-hidden="true" { rect .full width=(width) height="100%" rx="3" {} } }
}

/// A command that can be copied.
pub(super) fn command(line: &str) -> Markup {
    html! {
        span .command { code { (line) } button type="button" data-copy=(line) aria-label="Copy this command" { "copy" } }
    }
}

/// A link to where an order is confirmed.
pub(super) fn order(order: &Order, word: &str) -> Markup {
    html! { a .order href=(order.link()) { (word) } }
}

/// A dash for what is not known.
pub(super) fn dash() -> Markup {
    html! { span .dim aria-label="not known" { "–" } }
}

/// A word of the wire for people: `not_ready` as `not ready`.
pub(super) fn word<T: serde::Serialize>(value: &T) -> String {
    let word = serde_json::to_value(value).unwrap_or_default();
    word.as_str().unwrap_or_default().replace('_', " ")
}

/// One or many.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{grouped} {}", if number == 1 { one } else { many })
}
