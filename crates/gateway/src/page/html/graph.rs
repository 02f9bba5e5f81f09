//! The rate of a transfer as a picture.

use maud::{Markup, html};
use sys::units;

use super::super::pulse::Pulse;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 140.0;

/// Bytes per second over time; nothing before there are two samples.
pub(super) fn rate(pulse: &Pulse) -> Markup {
    let samples: Vec<(f64, f64)> =
        pulse.samples.iter().map(|(at, _, rate)| (at.as_millisecond() as f64, *rate as f64)).collect();
    let (Some((first, _)), Some((last, _))) = (samples.first(), samples.last()) else { return html! {} };
    let (first, span) = (*first, last - first);
    let peak = samples.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    if span <= 0.0 || peak <= 0.0 {
        return html! {};
    }
    let point = |(at, rate): &(f64, f64)| {
        format!("{:.1},{:.1}", (at - first) / span * WIDTH, HEIGHT - rate / peak * (HEIGHT - 8.0))
    };
    let line: Vec<String> = samples.iter().map(point).collect();
    let area = format!("0,{HEIGHT} {} {WIDTH},{HEIGHT}", line.join(" "));
    let (top, seconds) = (units::rate(peak as u64), (span / 1000.0) as u64);
    let words = format!("rate over {}, at most {top}", units::duration(seconds));
    html! {
        figure .graph {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(words) {
                line .grid x1="0" x2=(WIDTH) y1="8" y2="8" {}
                line .grid x1="0" x2=(WIDTH) y1=(HEIGHT / 2.0 + 4.0) y2=(HEIGHT / 2.0 + 4.0) {}
                polygon .area points=(area) {}
                polyline .line points=(line.join(" ")) {}
            }
            figcaption { span { (top) " at most" } span .dim { "over " (units::duration(seconds)) } }
        }
    }
}
