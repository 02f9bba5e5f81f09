//! The two short strings that an offer carries beside its address: the one-time token and the certificate's
//! fingerprint.

use std::fmt;
use std::str::FromStr;

use sys::hex;

/// The one-time secret that both ends of a seed share.
///
/// It never travels: each end proves that it knows it (see [`crate::donor`]). `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// A fresh random token.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// The token as 64 hexadecimal digits, to be carried in an offer. Treat the result as a password.
    pub fn expose(&self) -> String {
        hex::encode(self.0)
    }

    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl FromStr for Token {
    type Err = ParseSecretError;

    fn from_str(text: &str) -> Result<Self, ParseSecretError> {
        parse_hex(text).map(Self)
    }
}

/// SHA-256 of the donor's self-signed certificate (DER), shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub(crate) [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = ParseSecretError;

    fn from_str(text: &str) -> Result<Self, ParseSecretError> {
        parse_hex(text).map(Self)
    }
}

/// A token or fingerprint that is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits")]
pub struct ParseSecretError;

fn parse_hex(text: &str) -> Result<[u8; 32], ParseSecretError> {
    hex::decode(text).and_then(|bytes| bytes.try_into().ok()).ok_or(ParseSecretError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_form_and_hides_in_debug() {
        let token = Token::generate();
        assert_eq!(token.expose().parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&token.expose()[..8]));
    }

    #[test]
    fn a_malformed_secret_is_refused() {
        for text in ["", "ab", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert_eq!(text.parse::<Fingerprint>(), Err(ParseSecretError), "{text}");
        }
    }
}
