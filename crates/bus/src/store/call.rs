//! What the recipient asks of the donor, and the answers: fixed little-endian headers, parsed as hostile input.

use bytes::{BufMut, Bytes, BytesMut};

/// Most bytes that one call carries towards the donor.
pub(super) const BODY_MAX: usize = 64 * 1024;
const VERSION: u8 = 1;
const CALL_LEN: usize = 40;
const ANSWER_LEN: usize = 16;

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A new connection.
    Open = 1,
    /// Bytes for the donor, or only how far the recipient has come.
    Data = 2,
    /// The connection is over.
    Close = 3,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) kind: Kind,
    /// No bytes follow these.
    pub(super) last: bool,
    /// The taker that speaks: a new one makes the connections of an older one void.
    pub(super) taker: u64,
    /// The connection.
    pub(super) channel: u64,
    /// How many bytes came before `body`.
    pub(super) at: u64,
    /// How many bytes of the other direction were taken.
    pub(super) taken: u64,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(CALL_LEN + self.body.len());
        out.put_slice(&[VERSION, self.kind as u8, u8::from(self.last), 0, 0, 0, 0, 0]);
        for number in [self.taker, self.channel, self.at, self.taken] {
            out.put_u64_le(number);
        }
        out.put_slice(&self.body);
        out.freeze()
    }

    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let (head, body) = bytes.split_first_chunk::<CALL_LEN>()?;
        let kind = match head[1] {
            1 => Kind::Open,
            2 => Kind::Data,
            3 => Kind::Close,
            _ => return None,
        };
        if head[0] != VERSION || head[2] > 1 || head[3..8] != [0; 5] || body.len() > BODY_MAX {
            return None;
        }
        Some(Self {
            kind,
            last: head[2] == 1,
            taker: number(head, 8),
            channel: number(head, 16),
            at: number(head, 24),
            taken: number(head, 32),
            body: bytes.slice(CALL_LEN..),
        })
    }
}

/// How a call was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Done.
    Done = 0,
    /// There is no such connection (any more).
    Unknown = 1,
    /// It cannot be done now; the text says why.
    Refused = 2,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    /// How many bytes of the connection have arrived.
    pub(super) received: u64,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn done(received: u64) -> Self {
        Self { verdict: Verdict::Done, received, text: String::new() }
    }

    pub(super) fn unknown() -> Self {
        Self { verdict: Verdict::Unknown, received: 0, text: String::new() }
    }

    pub(super) fn refused(text: String) -> Self {
        Self { verdict: Verdict::Refused, received: 0, text }
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(ANSWER_LEN + self.text.len());
        out.put_slice(&[VERSION, self.verdict as u8, 0, 0, 0, 0, 0, 0]);
        out.put_u64_le(self.received);
        out.put_slice(&self.text.as_bytes()[..self.text.floor_char_boundary(1024)]);
        out.freeze()
    }

    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let (head, text) = bytes.split_first_chunk::<ANSWER_LEN>()?;
        let verdict = match head[1] {
            0 => Verdict::Done,
            1 => Verdict::Unknown,
            2 => Verdict::Refused,
            _ => return None,
        };
        if head[0] != VERSION || text.len() > 1024 {
            return None;
        }
        let shown = String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect();
        Some(Self { verdict, received: number(head, 8), text: shown })
    }
}

/// Eight bytes of a header; `at` is within it.
fn number(head: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&head[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn calls_and_answers_survive_the_wire() {
        let call = Call {
            kind: Kind::Data,
            last: true,
            taker: 1,
            channel: u64::MAX,
            at: 3,
            taken: 4,
            body: Bytes::from_static(b"question"),
        };
        assert_eq!(Call::decode(&call.encode()), Some(call));
        for answer in [Answer::done(7), Answer::unknown(), Answer::refused("no bucket".into())] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_bounded_or_refused(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            if let Some(call) = Call::decode(&bytes) {
                prop_assert!(call.body.len() <= BODY_MAX);
                prop_assert_eq!(call.encode(), bytes.clone());
            }
            if let Some(answer) = Answer::decode(&bytes) {
                prop_assert!(!answer.text.contains(char::is_control));
            }
        }
    }
}
