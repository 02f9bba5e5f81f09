//! Scrapes as Prometheus makes them, and the programs of Prometheus.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use e2e::world::PATIENCE;
use testkit::poll;
use testkit::port::Port;

use crate::web;

/// Where a gateway is scraped.
#[derive(Debug)]
pub(crate) struct Target(Port);

/// What a scrape brought.
#[derive(Debug)]
pub(crate) struct Page(pub(crate) String);

impl Target {
    pub(crate) fn claim() -> Self {
        Self(Port::claim().unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.0.number()))
    }

    /// The lines of configuration for it.
    pub(crate) fn config(&self, more: &str) -> String {
        format!("metrics.listen = \"{}\"\n{more}\n", self.address())
    }

    /// One scrape; absent where nobody answers.
    pub(crate) async fn scrape(&self) -> Option<Page> {
        let reply = web::get(self.address(), "gateway", "/metrics").await?;
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(reply.kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        Some(Page(reply.body))
    }

    /// Scrapes until `wanted` finds what it looks for.
    pub(crate) async fn until<T>(&self, what: &str, wanted: impl Fn(&Page) -> Option<T>) -> T {
        poll::until_async(PATIENCE, what, || async { wanted(&self.scrape().await?) }).await
    }

    /// Scrapes until a sample has this value.
    pub(crate) async fn until_is(&self, sample: &str, value: f64) {
        self.until(&format!("{sample} to be {value}"), |page| {
            (page.value(sample) == Some(value)).then_some(())
        })
        .await;
    }
}

impl Page {
    /// The value of a sample, written as its name and some of its labels: `orchestrator_mysql_up host="db1"`.
    pub(crate) fn value(&self, sample: &str) -> Option<f64> {
        let (name, labels) = sample.split_once(' ').unwrap_or((sample, ""));
        let is_it = |line: &&str| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']));
            rest.is_some_and(|rest| labels.split(' ').all(|label| rest.contains(label)))
        };
        self.0.lines().find(is_it)?.rsplit_once(' ')?.1.parse().ok()
    }

    /// The same in the older format, which is all that `promtool check metrics` reads: counters and infos are declared by the names
    /// of their samples, and nothing marks the end.
    pub(crate) fn older(&self) -> String {
        let declared: Vec<(&str, &str)> =
            self.0.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        let mut text = String::new();
        for line in self.0.lines().filter(|line| !line.starts_with("# EOF") && !line.starts_with("# UNIT")) {
            let mut words: Vec<&str> = line.splitn(4, ' ').collect();
            let kind = declared.iter().find(|(name, _)| words.get(2) == Some(name)).map(|(_, kind)| *kind);
            let suffix = match kind {
                Some("counter") => "_total",
                Some("info") => "_info",
                _ => "",
            };
            let name = words.get(2).map(|name| format!("{name}{suffix}")).unwrap_or_default();
            if line.starts_with("# ") {
                words[2] = &name;
            }
            if words[..2] == ["#", "TYPE"] && words[3] == "info" {
                words[3] = "gauge";
            }
            text.push_str(&words.join(" "));
            text.push('\n');
        }
        text
    }
}

/// A file or directory of what operators take.
pub(crate) fn ops(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops").join(path)
}

/// Whether a program of Prometheus is there.
pub(crate) fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Runs promtool with that input.
pub(crate) fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(ops("prometheus"));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}
