//! Lines of `orchestrator-ctl` that a person pastes into a shell.

use std::borrow::Cow;

/// The line with these arguments; a name from the bus is one word of a shell, and no option, whatever it holds.
pub(super) fn line(arguments: &[&str]) -> String {
    let mut line = String::from("orchestrator-ctl");
    for argument in arguments {
        line.push(' ');
        line.push_str(&word(argument));
    }
    line
}

fn word(argument: &str) -> Cow<'_, str> {
    let is_plain = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':' | b'/' | b'@' | b'+' | b'=')
    };
    if !argument.is_empty() && argument.bytes().all(is_plain) {
        return argument.into();
    }
    // A pasted line end would run what stands before it.
    format!("'{}'", sys::text::line(argument).replace('\'', r"'\''")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_the_bus_is_one_word_of_a_shell() {
        assert_eq!(line(&["host", "db1:3307", "status"]), "orchestrator-ctl host db1:3307 status");
        for (name, shown) in [
            ("$(rm -rf /)", "'$(rm -rf /)'"),
            ("a'b; reboot\n", r"'a'\''b; reboot '"),
            ("", "''"),
            ("x\u{202e}y\u{1b}[2J", r"'x\u{202e}y\u{1b}[2J'"),
        ] {
            assert_eq!(line(&["fleet", name]), format!("orchestrator-ctl fleet {shown}"));
        }
    }

    #[test]
    fn a_real_shell_runs_nothing_of_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let hit = dir.path().join("hit").display().to_string();
        for harm in [
            format!("a'b\"; touch {hit}; #"),
            format!("$(touch {hit})`touch {hit}`"),
            format!("x\n touch {hit} &"),
        ] {
            let script = format!("printf %s {}", word(&harm));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), sys::text::line(&harm), "{script}");
        }
        assert!(!dir.path().join("hit").exists());
    }
}
