//! A test binary that is a libtest-like harness on the host and a runner of named cases inside the guest.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde::{Deserialize, Serialize};

use super::{DiskSpec, IN_VM_ENV, RESULTS_ENV, VmError, VmOutcome, VmRun, unavailable_reason};

/// Of a group, run only the cases whose name contains this text.
const CASES_ENV: &str = "VM_CASES";

/// Set (as `CI` also is) where a missing VM is a failure, not a skip.
const REQUIRED_ENV: &str = "VM_REQUIRED";

const GUEST_FLAG: &str = "--in-guest";

/// How much of the guest's output a failure shows; the whole is rarely read.
const SHOWN_OUTPUT_BYTES: usize = 32 << 10;

type CaseFn = fn(&Guest) -> anyhow::Result<()>;

/// Prepares on the host; gives variables for the guest's environment.
type HostFn = fn() -> anyhow::Result<Vec<(OsString, OsString)>>;

/// Cases that share one boot, and so the state that earlier cases left: order matters, names are unique.
#[derive(Debug)]
pub struct Group {
    name: &'static str,
    run: VmRun,
    on_host: Option<HostFn>,
    setup: Option<CaseFn>,
    cases: Vec<(&'static str, CaseFn)>,
}

impl Group {
    pub fn new(name: &'static str) -> Self {
        Self { name, run: VmRun::new(""), on_host: None, setup: None, cases: Vec::new() }
    }

    #[must_use]
    pub fn disk(mut self, disk: DiskSpec) -> Self {
        self.run = self.run.disk(disk);
        self
    }

    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.run = self.run.memory_mib(memory_mib);
        self
    }

    /// For the whole boot, power-off included; the default is two minutes.
    #[must_use]
    pub fn time_limit(mut self, time_limit: Duration) -> Self {
        self.run = self.run.time_limit(time_limit);
        self
    }

    /// The host's loopback becomes 10.0.2.2 in the guest.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.run.host_network = true;
        self
    }

    /// An environment variable in the guest, where the host's own environment is not seen.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.run = self.run.env(name, value);
        self
    }

    /// Runs on the host before the boot, for example to build programs; what it gives is added to the guest's
    /// environment.
    #[must_use]
    pub fn on_host(mut self, prepare: HostFn) -> Self {
        self.on_host = Some(prepare);
        self
    }

    /// Runs before the cases; when it fails, no case runs.
    #[must_use]
    pub fn setup(mut self, setup: CaseFn) -> Self {
        self.setup = Some(setup);
        self
    }

    #[must_use]
    pub fn case(mut self, name: &'static str, case: CaseFn) -> Self {
        assert!(self.cases.iter().all(|(known, _)| *known != name), "two cases are named {name}");
        self.cases.push((name, case));
        self
    }

    fn wanted_cases(&self) -> Vec<(&'static str, CaseFn)> {
        let filter = std::env::var(CASES_ENV).unwrap_or_default();
        self.cases.iter().filter(|(name, _)| name.contains(&filter)).copied().collect()
    }
}

/// What a case gets inside the guest.
#[derive(Debug)]
pub struct Guest {
    disks: Vec<String>,
}

impl Guest {
    /// The device of the n-th disk that the group asked for, such as `/dev/vda`.
    ///
    /// # Panics
    /// When the group asked for fewer disks.
    pub fn disk(&self, index: usize) -> &str {
        &self.disks[index]
    }

    /// Runs a command that must succeed and returns its stdout. It has no stdin.
    ///
    /// # Errors
    /// When it cannot start or ends with another status than 0: the error has its stderr.
    pub fn run(&self, argv: &[&str]) -> anyhow::Result<String> {
        let (program, args) = argv.split_first().context("an empty command")?;
        let output = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {program}"))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{} failed with {}: {}",
            argv.join(" "),
            output.status,
            stderr.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The `main` of a VM suite: lists and runs the groups on the host, and the cases of one group in the guest.
pub fn suite_main(groups: Vec<Group>) -> ExitCode {
    suite_main_with(groups, Vec::new())
}

/// A test that runs on the host and boots what it likes with [`VmRun`].
pub type HostTest = fn() -> anyhow::Result<()>;

/// As [`suite_main`], with named tests that run on the host beside the groups.
pub fn suite_main_with(groups: Vec<Group>, host_tests: Vec<(&'static str, HostTest)>) -> ExitCode {
    let mut args = std::env::args();
    if args.nth(1).as_deref() == Some(GUEST_FLAG) {
        return guest_main(&groups, &args.next().unwrap_or_default());
    }
    let required = std::env::var_os(REQUIRED_ENV).is_some() || std::env::var_os("CI").is_some();
    let skipped =
        unavailable_reason().filter(|_| !required).map(|reason| format!("skipped, because {reason}"));
    let mut arguments = Arguments::from_args();
    if let Some(skipped) = &skipped
        && !arguments.list
    {
        eprintln!("{skipped}");
    }
    // Two emulated guests at once on a small machine would time each other out.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let groups = groups
        .into_iter()
        .map(|group| Trial::test(group.name, move || run_group(&group).map_err(Failed::from)));
    let host_tests = host_tests.into_iter().map(|(name, test)| {
        Trial::test(name, move || test().map_err(|error| Failed::from(format!("{error:#}"))))
    });
    let trials = groups.chain(host_tests).map(|trial| match &skipped {
        Some(skipped) => trial.with_kind(skipped.as_str()).with_ignored_flag(true),
        None => trial,
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// One line per case from the guest to the host.
#[derive(Debug, Serialize, Deserialize)]
struct CaseResult {
    case: String,
    error: Option<String>,
    elapsed_ms: u64,
}

const SETUP_CASE: &str = "(setup)";

fn run_group(group: &Group) -> Result<(), String> {
    let cases = group.wanted_cases();
    if cases.is_empty() {
        return Err(format!("{CASES_ENV} selects no case of the group {}", group.name));
    }
    let outcome = boot(group).map_err(|error| match error {
        VmError::Unavailable(_) => error.to_string(),
        VmError::Harness { source, .. } => format!("{source:#}"),
    })?;
    let names: Vec<_> = cases.iter().map(|(name, _)| *name).collect();
    print!("{}", verdict(group.name, &names, &outcome)?);
    Ok(())
}

/// The report of a boot; an error unless every case is known to have passed.
fn verdict(group: &str, cases: &[&str], outcome: &VmOutcome) -> Result<String, String> {
    let results = outcome
        .results
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<CaseResult>, _>>()
        .map_err(|error| format!("the guest wrote odd results: {error}: {}", outcome.results))?;

    let mut report = String::new();
    let mut failures = 0;
    for result in &results {
        let (verdict, detail) = match &result.error {
            None => ("ok", String::new()),
            Some(error) => ("FAILED", format!(": {error}")),
        };
        failures += usize::from(result.error.is_some());
        let _ = writeln!(report, "  {group}::{} {verdict} ({} ms){detail}", result.case, result.elapsed_ms);
    }
    for name in cases.iter().filter(|name| results.iter().all(|result| result.case != **name)) {
        failures += 1;
        let _ = writeln!(report, "  {group}::{name} NOT RUN");
    }
    let _ = writeln!(report, "  guest: {:?} after {:.1} s", outcome.end, outcome.elapsed.as_secs_f64());
    if failures == 0 && outcome.exit_status() == Some(0) {
        return Ok(report);
    }
    Err(format!(
        "{report}--- stdout of the guest\n{}\n--- stderr of the guest\n{}\n--- console of the guest\n{}\n{}",
        shown(&outcome.stdout),
        shown(&outcome.stderr),
        outcome.console_tail,
        hang(&outcome.hang_report),
    ))
}

fn boot(group: &Group) -> Result<VmOutcome, VmError> {
    let mut run = group.run.clone();
    run.binary = std::env::current_exe()
        .context("cannot tell the path of this test binary")
        .map_err(VmError::harness("starting a guest"))?;
    run = run.arg(GUEST_FLAG).arg(group.name);
    let prepared = group.on_host.map_or_else(|| Ok(Vec::new()), |prepare| prepare());
    for (name, value) in prepared.map_err(VmError::harness("preparing on the host"))? {
        run = run.env(name, value);
    }
    for name in [CASES_ENV, "RUST_LOG"] {
        if let Some(value) = std::env::var_os(name) {
            run = run.env(name, value);
        }
    }
    run.run()
}

fn hang(report: &str) -> String {
    match report {
        "" => String::new(),
        report => format!("--- what the guest's tasks waited for\n{}", shown(report)),
    }
}

fn shown(output: &str) -> &str {
    let mut start = output.len().saturating_sub(SHOWN_OUTPUT_BYTES);
    while !output.is_char_boundary(start) {
        start += 1;
    }
    &output[start..]
}

fn guest_main(groups: &[Group], name: &str) -> ExitCode {
    match run_cases(groups, name) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_cases(groups: &[Group], name: &str) -> anyhow::Result<bool> {
    if std::env::var_os(IN_VM_ENV).is_none() {
        bail!("{GUEST_FLAG} outside the guest would change this machine's volumes: refused");
    }
    let group =
        groups.iter().find(|group| group.name == name).with_context(|| format!("no group {name:?}"))?;
    let path = std::env::var_os(RESULTS_ENV).with_context(|| format!("{RESULTS_ENV} is not set"))?;
    let mut results = std::fs::File::create(path)?;
    let guest = Guest {
        disks: (b'a'..)
            .take(group.run.disks.len())
            .map(|letter| format!("/dev/vd{}", char::from(letter)))
            .collect(),
    };

    if let Some(setup) = group.setup {
        let result = run_case(SETUP_CASE, setup, &guest);
        record(&mut results, &result)?;
        if result.error.is_some() {
            return Ok(false);
        }
    }
    let mut all_passed = true;
    for (name, case) in group.wanted_cases() {
        println!("--- case {name}");
        eprintln!("--- case {name}");
        let result = run_case(name, case, &guest);
        all_passed &= result.error.is_none();
        record(&mut results, &result)?;
    }
    Ok(all_passed)
}

fn run_case(name: &str, case: CaseFn, guest: &Guest) -> CaseResult {
    let started = Instant::now();
    let error = match catch_unwind(AssertUnwindSafe(|| case(guest))) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        // The message and the place went to stderr by the panic hook.
        Err(panic) => Some(panic_text(panic.as_ref())),
    };
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    CaseResult { case: name.to_owned(), error, elapsed_ms }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("(no text)"))
}

fn record(results: &mut std::fs::File, result: &CaseResult) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(result)?;
    line.push(b'\n');
    results.write_all(&line)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::GuestEnd;
    use super::*;

    fn outcome(end: GuestEnd, results: &str) -> VmOutcome {
        let (stdout, stderr, console_tail) = ("out".into(), "err".into(), "panic text".into());
        VmOutcome {
            end,
            stdout,
            stderr,
            hang_report: String::new(),
            results: results.into(),
            console_tail,
            elapsed: Duration::from_secs(9),
        }
    }

    const PASSED: &str = r#"{"case":"a","error":null,"elapsed_ms":5}"#;
    const FAILED: &str = r#"{"case":"b","error":"no such volume","elapsed_ms":7}"#;

    #[test]
    fn only_all_cases_passed_is_a_pass() {
        let passed = outcome(GuestEnd::Exited(0), PASSED);
        assert!(verdict("g", &["a"], &passed).unwrap().contains("g::a ok (5 ms)"));
    }

    #[test]
    fn a_failed_case_is_named_with_its_error() {
        let failed = outcome(GuestEnd::Exited(1), &format!("{PASSED}\n{FAILED}\n"));
        let report = verdict("g", &["a", "b"], &failed).unwrap_err();
        assert!(
            report.contains("g::a ok") && report.contains("g::b FAILED (7 ms): no such volume"),
            "{report}"
        );
    }

    #[test]
    fn a_case_without_a_result_has_not_passed() {
        let died = outcome(GuestEnd::Died, PASSED);
        let report = verdict("g", &["a", "b"], &died).unwrap_err();
        assert!(report.contains("g::b NOT RUN") && report.contains("panic text"), "{report}");
    }

    #[test]
    fn a_status_that_contradicts_the_results_is_a_failure() {
        assert!(verdict("g", &["a"], &outcome(GuestEnd::Exited(1), PASSED)).is_err());
        assert!(verdict("g", &["a"], &outcome(GuestEnd::TimedOut, PASSED)).is_err());
    }
}
