//! Bytes as lower-case hexadecimal digits.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

/// Two digits per byte.
#[must_use]
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    HEXLOWER.encode(bytes.as_ref())
}

/// The bytes that digits of either case stand for; absent for anything else.
#[must_use]
pub fn decode(digits: &str) -> Option<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_their_digits_and_nothing_else_is_read() {
        assert_eq!(encode([0, 0x2f, 0xff]), "002fff");
        assert_eq!(decode("002FfF"), Some(vec![0, 0x2f, 0xff]));
        for text in ["0", "0g", "é", " 00"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
