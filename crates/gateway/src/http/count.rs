//! How many requests were answered, and how.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::Response;
use parking_lot::Mutex;

use super::answer::Break;

/// What kind of endpoint was asked; it travels with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// One that reads.
    Read,
    /// One that changes a host.
    Act,
    /// One of a seed.
    Seed,
    /// The page for people.
    Page,
    /// The metrics themselves.
    Metrics,
    /// None, or one that was refused before it was known.
    Other,
}

impl Class {
    /// As a label's value.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Act => "act",
            Self::Seed => "seed",
            Self::Page => "page",
            Self::Metrics => "metrics",
            Self::Other => "other",
        }
    }
}

/// Class, and HTTP status; no status where the connection was broken instead of an answer.
pub(crate) type Kind = (Class, Option<u16>);

/// The requests of all listeners.
#[derive(Debug, Default)]
pub(crate) struct Requests(Mutex<BTreeMap<Kind, u64>>);

impl Requests {
    /// Counts one by its answer.
    pub(crate) fn count(&self, answer: &Response<Body>) {
        let class = answer.extensions().get::<Class>().copied().unwrap_or(Class::Other);
        let is_broken = answer.extensions().get::<Break>().is_some();
        let status = (!is_broken).then(|| answer.status().as_u16());
        *self.0.lock().entry((class, status)).or_default() += 1;
    }

    /// All so far.
    pub(crate) fn all(&self) -> BTreeMap<Kind, u64> {
        self.0.lock().clone()
    }
}
