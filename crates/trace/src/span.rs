//! One thing that takes time.

use std::borrow::Cow;
use std::time::SystemTime;

use opentelemetry::{KeyValue, Value};

use crate::{Context, Traces};

/// Which side of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Asks another program and waits.
    Client,
    /// Answers another program.
    Server,
    /// Neither.
    Internal,
}

/// What has ended, from whoever wrote down when.
#[derive(Debug, Clone)]
pub struct Past {
    /// What happened: one of few words, so that spans can be counted by it.
    pub name: Cow<'static, str>,
    /// Which side of a conversation.
    pub kind: Kind,
    /// Which span it is.
    pub context: Context,
    /// The span that it is a part of.
    pub parent: Option<Context>,
    /// When it began.
    pub begun: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What else is known of it; see [`Past::note`].
    pub notes: Vec<KeyValue>,
    /// The code of the error that ended it.
    pub failed: Option<Cow<'static, str>>,
}

impl Past {
    /// Writes down what else is known.
    pub fn note(&mut self, key: &'static str, value: impl Into<Value>) {
        self.notes.push(KeyValue::new(key, value));
    }
}

/// What is under way; told when it is dropped. Costs nothing where spans are not sent.
#[derive(Debug)]
pub struct Span {
    traces: Traces,
    open: Option<Past>,
    passed_on: Option<Context>,
}

impl Span {
    pub(crate) fn open(
        traces: &Traces,
        name: Cow<'static, str>,
        kind: Kind,
        parent: Option<Context>,
    ) -> Self {
        let wanted = traces.is_on() && parent.is_none_or(|parent| parent.sampled);
        let now = SystemTime::now();
        let open = wanted.then(|| Past {
            name,
            kind,
            context: parent.map_or_else(Context::root, |parent| parent.sibling()),
            parent,
            begun: now,
            ended: now,
            notes: Vec::new(),
            failed: None,
        });
        Self { traces: traces.clone(), open, passed_on: parent }
    }

    /// Where what it causes elsewhere belongs: below it, or, where it is not told of, below its own parent.
    #[must_use]
    pub fn context(&self) -> Option<Context> {
        self.open.as_ref().map(|open| open.context).or(self.passed_on)
    }

    /// Writes down what else is known.
    pub fn note(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(open) = &mut self.open {
            open.note(key, value);
        }
    }

    /// It ends with an error of this code.
    pub fn fail(&mut self, code: impl Into<Cow<'static, str>>) {
        if let Some(open) = &mut self.open {
            open.failed = Some(code.into());
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            self.traces.tell(Past { ended: SystemTime::now(), ..open });
        }
    }
}
