//! What becomes of a test that cannot run on this machine.

use std::fmt;

/// Whether the machine promises to have all that `scripts/install-deps` installs.
fn promised() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// Says that a test does not run, because its machine lacks what `scripts/install-deps test` installs or what root may do.
///
/// # Panics
/// Under `CI`, which has all of it: a test that silently runs nowhere proves nothing.
#[track_caller]
pub fn lacking(why: impl fmt::Display) {
    assert!(!promised(), "this test must run under CI, and cannot, because {why}");
    odd(why);
}

/// Says that a test does not run, because its machine is a special one (a file system, devices, a download that CI does
/// without).
pub fn odd(why: impl fmt::Display) {
    eprintln!("skipped, because {why}");
}

/// Ends a test that cannot run here: `skip!("mounting needs root")`; see [`lacking`](crate::skip::lacking) for what CI makes
/// of it, and `skip!(odd: "…")` for machines that may lack it anywhere.
#[macro_export]
macro_rules! skip {
    (odd: $($why:tt)+) => {{
        $crate::skip::odd(format_args!($($why)+));
        return;
    }};
    ($($why:tt)+) => {{
        $crate::skip::lacking(format_args!($($why)+));
        return;
    }};
}
