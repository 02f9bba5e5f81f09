//! What `sys` has once is not done a second time elsewhere: starting programs, changing owners and modes by path, moving by path,
//! sharing blocks, writing hexadecimal digits, making foreign text harmless. Tests and what is for developers only may.

use regex::Regex;

/// Kept out of all crates but `sys`.
struct Rule {
    what: Regex,
    instead: &'static str,
    /// Beginnings of paths where it stands until its code is moved, or stays, with the reason.
    but: &'static [(&'static str, &'static str)],
}

/// Crates that never run on a host.
const FOR_DEVELOPERS: [&str; 5] =
    ["crates/testkit/", "crates/xtask/", "crates/transfer/src/bin/", "crates/bus/examples/", "tests/"];

/// The rules on the ground floor.
pub(crate) struct Ground(Vec<Rule>);

impl Ground {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let rule = |what, instead, but| Ok::<_, regex::Error>(Rule { what: Regex::new(what)?, instead, but });
        Ok(Self(vec![
            rule(
                r"\bCommand::new\(",
                "start programs by sys::process",
                &[
                    ("crates/mysql/src/", "not moved yet: its own process module, with limits by landlock"),
                    ("crates/agent/src/", "not moved yet: the programs of streams"),
                ],
            )?,
            rule(
                r"\bl?chown\(|\bset_permissions\(",
                "change owners and modes by descriptor",
                &[
                    ("crates/mysql/src/hold.rs", "systemd's run directory is root's"),
                    ("crates/mysql/src/rundir.rs", "a private server's run directory is root's"),
                    ("crates/mysql/src/binlog/apply.rs", "a temporary directory of root's"),
                    ("crates/snapshot/src/", "its trees lie in directories of root's"),
                ],
            )?,
            rule(
                r"\bfs::rename\(",
                "move by sys::file::rename",
                &[
                    ("crates/mysql/src/hold.rs", "systemd's run directory is root's"),
                    ("crates/mysql/src/rundir.rs", "a private server's run directory is root's"),
                    ("crates/snapshot/src/tree/", "its directories are synced once all is in place"),
                ],
            )?,
            rule(
                r"\be?print(ln)?!|\bstd(out|err)\(\)",
                "what a person reads goes through ctl's output or a log of sys::text: it may come from another host",
                &[
                    ("crates/ctl/src/output.rs", "the way out"),
                    ("crates/ctl/src/main.rs", "the log's end"),
                    ("crates/agent/src/main.rs", "the log's end, and words on its own configuration"),
                    ("crates/gateway/src/main.rs", "the log's end, and words on its own configuration"),
                ],
            )?,
            rule(r"FICLONE|ioctl_ficlone", "share blocks by sys::file::share_blocks", &[])?,
            rule(
                r":02x\}|HEXLOWER",
                "write hexadecimal digits by sys::hex",
                &[
                    ("crates/protocol/", "knows no other crate"),
                    ("crates/snapshot/src/lvm/tags.rs", "LVM's own way to write what its tags cannot hold"),
                ],
            )?,
        ]))
    }

    /// Pure: what a line of code of that file does besides `sys`.
    pub(crate) fn line(&self, path: &str, line: &str) -> Vec<&'static str> {
        let is_free =
            path.starts_with("crates/sys/") || FOR_DEVELOPERS.iter().any(|start| path.starts_with(start));
        if is_free || line.trim_start().starts_with("//") {
            return Vec::new();
        }
        let allowed = |rule: &&Rule| !rule.but.iter().any(|(start, _)| path.starts_with(start));
        self.0
            .iter()
            .filter(allowed)
            .filter(|rule| rule.what.is_match(line))
            .map(|rule| rule.instead)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sys_has_is_refused_elsewhere() {
        let ground = Ground::new().unwrap();
        for line in [
            "let child = std::process::Command::new(program);",
            "std::os::unix::fs::chown(path, None, None)?;",
            "fs::set_permissions(path, mode)?;",
            "std::fs::rename(from, to)?;",
            "libc::ioctl(to, libc::FICLONE, from)",
            "format!(\"{byte:02x}\")",
            "println!(\"{summary}\");",
            "write!(std::io::stderr(), \"{why}\")?;",
        ] {
            assert_eq!(ground.line("crates/bus/src/x.rs", line).len(), 1, "{line}");
            assert_eq!(ground.line("crates/sys/src/x.rs", line).len(), 0, "{line}");
            assert_eq!(ground.line("crates/bus/src/x.rs", &format!("    // {line}")).len(), 0, "{line}");
        }
        assert_eq!(ground.line("crates/bus/src/x.rs", "clap::Command::named(x)").len(), 0);
    }
}
