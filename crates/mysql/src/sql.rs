//! Values and names inside a statement's text.

use crate::error::{Error, Result};

/// A string literal that no content can leave: valid under every `sql_mode` and ASCII-compatible character set.
pub(crate) fn quote(text: &str) -> String {
    if text.bytes().all(|b| b.is_ascii_graphic() && b != b'\'' && b != b'\\') {
        return format!("'{text}'");
    }
    // A hexadecimal literal has no quote to close and no backslash whose meaning depends on NO_BACKSLASH_ESCAPES.
    let hex: String = text.bytes().map(|b| format!("{b:02X}")).collect();
    format!("x'{hex}'")
}

/// An identifier in backticks; refuses what no identifier can be.
///
/// # Errors
/// [`Error::Refused`] for an empty name, one with NUL, or one beyond the servers' length.
pub(crate) fn quote_identifier(name: &str) -> Result<String> {
    if name.is_empty() || name.contains('\0') || name.chars().count() > 64 {
        return Err(Error::Refused { reason: format!("{name:?} is no identifier") });
    }
    Ok(format!("`{}`", name.replace('`', "``")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_cannot_be_left() {
        assert_eq!(quote("binlog.000001"), "'binlog.000001'");
        assert_eq!(quote("a'b"), "x'612762'");
        assert_eq!(quote("a\\"), "x'615C'");
        assert_eq!(quote_identifier("a`b").unwrap(), "`a``b`");
        assert!(quote_identifier("a\0b").is_err() && quote_identifier("").is_err());
    }
}
