//! How a person names a job.

use std::str::FromStr;

use protocol::ids::JobId;

/// Fewer characters of an id would be a guess.
const SHORTEST: usize = 4;

/// A job, by its id or by a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobRef {
    /// Its id.
    Whole(JobId),
    /// The beginning or the end of its id, in small letters.
    Part(String),
}

impl FromStr for JobRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Whole(id));
        }
        let is_part = text.len() < 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if is_part && text.len() >= SHORTEST {
            return Ok(Self::Part(text.to_ascii_lowercase()));
        }
        Err(format!(
            "expected the id of a job (a UUID), or at least {SHORTEST} characters of its beginning or end"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_by_its_id_or_an_end_of_it() {
        let id = "01931111-0000-7000-8000-0000000000ab";
        assert_eq!(id.parse(), Ok(JobRef::Whole(id.parse().unwrap())));
        assert_eq!("00AB".parse(), Ok(JobRef::Part("00ab".to_owned())));
        assert_eq!("01931111-0000".parse(), Ok(JobRef::Part("01931111-0000".to_owned())));
        for none in ["", "0ab", "job7", "db7", "01931111-0000-7000-8000-0000000000ab0", "é123"] {
            assert!(none.parse::<JobRef>().is_err(), "{none}");
        }
    }
}
