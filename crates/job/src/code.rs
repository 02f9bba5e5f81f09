//! What kind of failure a step met: the bus's word, or one of the engine's own. A string in the journal.

use std::fmt;

use protocol::error::ErrorCode;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What kind of failure it is, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// A failure of what the step does, in the bus's words.
    Wire(ErrorCode),
    /// The parameters do not fit the kind of job.
    Params,
    /// An output is too large, is missing, or is not what was expected.
    Output,
    /// The journal could not be written.
    Journal,
    /// The step stopped because it was told to.
    Stopped,
    /// It was told to stop, did not, and was dropped.
    Unresponsive,
    /// It was dropped with the program's runtime.
    Dropped,
    /// It panicked.
    Panicked,
    /// A fault was put in on purpose.
    Injected,
}

impl Code {
    const OWN: [Self; 8] = [
        Self::Params,
        Self::Output,
        Self::Journal,
        Self::Stopped,
        Self::Unresponsive,
        Self::Dropped,
        Self::Panicked,
        Self::Injected,
    ];

    /// The code as it stands in the journal; the engine's own begin with `job.`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wire(code) => code.as_str(),
            Self::Params => "job.params",
            Self::Output => "job.output",
            Self::Journal => "job.journal",
            Self::Stopped => "job.stopped",
            Self::Unresponsive => "job.unresponsive",
            Self::Dropped => "job.dropped",
            Self::Panicked => "job.panicked",
            Self::Injected => "job.injected",
        }
    }

    /// The code in the bus's words, which know the engine's own as faults of the agent.
    #[must_use]
    pub fn on_the_wire(self) -> ErrorCode {
        match self {
            Self::Wire(ErrorCode::Unknown) => ErrorCode::Internal,
            Self::Wire(code) => code,
            _ => ErrorCode::Internal,
        }
    }
}

impl From<ErrorCode> for Code {
    fn from(code: ErrorCode) -> Self {
        Self::Wire(code)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    /// A journal of another version is read whatever its codes are called.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let own = Self::OWN.into_iter().find(|code| code.as_str() == text);
        Ok(own.unwrap_or_else(|| {
            let word = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(&text);
            Self::Wire(ErrorCode::deserialize(word).unwrap_or(ErrorCode::Unknown))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_from_its_journal_and_a_strange_one_is_no_error() {
        for code in Code::OWN.into_iter().chain([ErrorCode::Mysql.into(), ErrorCode::TimedOut.into()]) {
            let text = serde_json::to_string(&code).unwrap();
            assert_eq!(text, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<Code>(&text).unwrap(), code);
        }
        let strange: Code = serde_json::from_str("\"toy.loud\"").unwrap();
        assert_eq!(strange, Code::Wire(ErrorCode::Unknown));
        assert_eq!(strange.on_the_wire(), ErrorCode::Internal);
        assert_eq!(Code::Panicked.on_the_wire(), ErrorCode::Internal);
    }
}
