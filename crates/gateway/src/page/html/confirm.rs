//! Is it meant?

use maud::html;

use super::super::act::Order;
use super::{Part, Screen, bits};

/// Asks once more, or tells why it was not done.
pub(crate) fn confirm(order: &Order, token: &str, failure: Option<&str>) -> Screen {
    let question = order.question();
    let part = html! {
        section #confirm .card {
            h1 { (question) }
            @if let Some(failure) = failure {
                p .note .bad role="alert" { "It was not done: " (failure) }
                p { a href=(order.link()) { "Ask again" } }
            } @else {
                p { (order.consequence()) }
                form method="post" action="/act" {
                    @for (name, value) in order.fields() { input type="hidden" name=(name) value=(value); }
                    input type="hidden" name="token" value=(token);
                    button .do { "Yes, do it" } " "
                    a href=(order.place()) { "No" }
                }
            }
            p .dim { "At the command line: " (bits::command(&order.line())) }
        }
    };
    Screen::new(question, html! {}, vec![Part::whole("confirm", part)])
}
