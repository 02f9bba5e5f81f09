//! Where in a trace something happens, as it travels between programs.

use std::fmt;
use std::str::FromStr;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator};
use sys::hex;

/// A text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no traceparent such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
pub struct NoContext;

/// One span of one trace; as a text, a W3C `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
    /// Whether the trace is kept at all: whoever began it has chosen.
    pub(crate) sampled: bool,
}

impl Context {
    /// The first span of a trace of its own.
    pub(crate) fn root() -> Self {
        let ids = RandomIdGenerator::default();
        Self { trace: ids.new_trace_id(), span: ids.new_span_id(), sampled: true }
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self { span: RandomIdGenerator::default().new_span_id(), ..*self }
    }

    /// The span that belongs to a thing with a random id of its own (a UUID of version 4 or 7): the same each time it is asked for, in
    /// the trace of `parent`, or in one of the thing's own.
    #[must_use]
    pub fn of_thing(id: [u8; 16], parent: Option<&Self>) -> Self {
        let mut span = [0; 8];
        span.copy_from_slice(&id[8..]);
        let own = Self { trace: TraceId::from_bytes(id), span: SpanId::from_bytes(span), sampled: true };
        parent.map_or(own, |parent| Self { span: own.span, ..*parent })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [trace, span] = [hex::encode(self.trace.to_bytes()), hex::encode(self.span.to_bytes())];
        write!(f, "00-{trace}-{span}-0{}", u8::from(self.sampled))
    }
}

impl FromStr for Context {
    type Err = NoContext;

    /// Strict for version 00; of a later one the beginning is taken, as the standard wants.
    fn from_str(text: &str) -> Result<Self, NoContext> {
        let (head, rest) = text.split_at_checked(55).ok_or(NoContext)?;
        let parts: Vec<&str> = head.split('-').collect();
        let [version, trace, span, flags] = parts[..] else { return Err(NoContext) };
        let is_hex = |part: &str, len: usize| {
            part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let well_formed = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
        let ended = if version == "00" { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
        if !well_formed || !ended || version == "ff" {
            return Err(NoContext);
        }
        let trace = TraceId::from_hex(trace).map_err(|_| NoContext)?;
        let span = SpanId::from_hex(span).map_err(|_| NoContext)?;
        if trace == TraceId::INVALID || span == SpanId::INVALID {
            return Err(NoContext);
        }
        let flags = u8::from_str_radix(flags, 16).map_err(|_| NoContext)?;
        Ok(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_is_read_as_it_is_written() {
        let read: Context = EXAMPLE.parse().unwrap();
        assert_eq!(read.to_string(), EXAMPLE);
        let root = Context::root();
        assert_eq!(root.to_string().parse::<Context>(), Ok(root));
        assert_eq!(root.sibling().trace, root.trace);
        assert_ne!(root.sibling().span, root.span);
        // The sender has chosen not to keep it: that choice travels on.
        let quiet: Context = EXAMPLE.replace("-01", "-00").parse().unwrap();
        assert!(!quiet.sibling().sampled);
    }

    #[test]
    fn what_is_no_traceparent_is_refused_and_a_later_version_is_read_by_its_beginning() {
        let later = format!("cc{}-what-comes", &EXAMPLE[2..]);
        assert_eq!(later.parse::<Context>(), EXAMPLE.parse());
        let none = [
            "",
            "00",
            &EXAMPLE.to_uppercase(),
            &format!("{EXAMPLE}-more"),
            &format!("{EXAMPLE}0"),
            &EXAMPLE.replace("00-", "ff-"),
            &EXAMPLE.replace("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
            &EXAMPLE.replace("b7ad6b7169203331", "0000000000000000"),
            &EXAMPLE.replace("b7ad", "é7d"),
            &EXAMPLE.replace('-', "_"),
        ];
        for text in none {
            assert_eq!(text.parse::<Context>(), Err(NoContext), "{text}");
        }
    }

    #[test]
    fn a_thing_has_the_same_span_each_time_below_whoever_asked_for_it() {
        let id = *b"\x01\x93\xaa\xbb\xcc\xdd\x7e\xee\x80\x01\x02\x03\x04\x05\x06\x07";
        let parent: Context = EXAMPLE.parse().unwrap();
        let below = Context::of_thing(id, Some(&parent));
        assert_eq!(below.trace, parent.trace);
        assert_eq!(below, Context::of_thing(id, Some(&parent)));
        assert_eq!(Context::of_thing(id, None).span, below.span);
        assert_ne!(Context::of_thing(id, None).trace, parent.trace);
    }
}
