//! Lines of a shell, which the original ran by `bash -c`, as programs with arguments.

/// What a shell would do more than cut into words.
const SHELLS_OWN: &str = "$;&|<>(){}*?[]~`\\!#\n%";

/// The program and its arguments, where the line is no more than that: by an absolute path, without `sudo`, which root does not need.
pub(super) fn program(line: &str) -> Option<Vec<String>> {
    if line.contains(|c| SHELLS_OWN.contains(c)) {
        return None;
    }
    let mut words = shlex::split(line)?;
    if words.first().is_some_and(|word| word == "sudo" || word == "/usr/bin/sudo") {
        words.remove(0);
    }
    let program = words.first()?;
    program.starts_with('/').then_some(words)
}

/// What a line prints that only echoes: `echo 3306`, `echo '/srv/mysql'`.
pub(super) fn echoed(line: &str) -> Option<String> {
    if line.contains(|c| SHELLS_OWN.contains(c)) {
        return None;
    }
    match shlex::split(line)?.as_slice() {
        [echo, word] if echo == "echo" || echo == "/bin/echo" => Some(word.clone()),
        _ => None,
    }
}

/// The service and what is done with it: `/etc/init.d/mysql stop`, `service mysql stop`, `systemctl stop mysql.service`.
pub(super) fn service(line: &str) -> Option<(String, String)> {
    if line.contains(|c| SHELLS_OWN.contains(c)) {
        return None;
    }
    let mut words = shlex::split(line)?;
    if words.first().is_some_and(|word| word == "sudo" || word == "/usr/bin/sudo") {
        words.remove(0);
    }
    let [program, first, rest @ ..] = words.as_slice() else { return None };
    let name = program.rsplit('/').next().unwrap_or(program);
    let (unit, verb) = match (name, rest) {
        ("service" | "invoke-rc.d", [verb]) => (first, verb),
        ("systemctl", [unit]) => (unit, first),
        (script, []) if program.strip_suffix(script).is_some_and(|dir| dir.ends_with("/init.d/")) => {
            return is_unit(script).then(|| (script.to_owned(), first.clone()));
        }
        _ => return None,
    };
    let unit = unit.trim_end_matches(".service");
    is_unit(unit).then(|| (unit.to_owned(), verb.clone()))
}

fn is_unit(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "@._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_program_only_where_no_shell_is_needed() {
        let words = |line| program(line).map(|words| words.join("|"));
        assert_eq!(
            words("/usr/local/bin/after --host 'db 1'").as_deref(),
            Some("/usr/local/bin/after|--host|db 1")
        );
        assert_eq!(words("sudo /bin/true").as_deref(), Some("/bin/true"));
        for line in [
            "",
            "true",
            "echo a; reboot",
            "/bin/a | /bin/b",
            "/bin/rm -f $1/*.pid",
            "/bin/sh -c 'a && b'",
            "/bin/echo 'a",
        ] {
            assert_eq!(words(line), None, "{line}");
        }
    }

    #[test]
    fn services_are_known_by_their_usual_lines() {
        let of = |line| service(line).map(|(unit, verb)| format!("{verb} {unit}"));
        for line in [
            "/etc/init.d/mysql stop",
            "service mysql stop",
            "sudo /usr/sbin/service mysql stop",
            "systemctl stop mysql.service",
        ] {
            assert_eq!(of(line).as_deref(), Some("stop mysql"), "{line}");
        }
        for line in [
            "mysqladmin shutdown",
            "/usr/local/mysql stop now",
            "systemctl stop a b",
            "service 'my sql' stop",
            "service mysql stop; true",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
        assert_eq!(echoed("echo '3306'").as_deref(), Some("3306"));
        assert_eq!(echoed("echo $(hostname)"), None);
    }
}
