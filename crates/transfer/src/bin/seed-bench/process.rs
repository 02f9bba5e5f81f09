//! Starting contestants, and what each side of them used.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

pub(crate) type Outcome<T> = Result<T, String>;

pub(crate) fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A command line for this very program.
pub(crate) fn own(args: &[&str]) -> Vec<String> {
    let program =
        std::env::current_exe().map_or_else(|_| "seed-bench".to_owned(), |path| path.display().to_string());
    std::iter::once(program).chain(args.iter().map(|&arg| arg.to_owned())).collect()
}

pub(crate) fn spawn(argv: &[String], input: Stdio) -> Outcome<Child> {
    Command::new(&argv[0])
        .args(&argv[1..])
        .stdin(input)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed(&format!("cannot run {}", argv[0])))
}

/// Starts commands, each reading what the one before writes.
pub(crate) fn pipeline(commands: &[Vec<String>]) -> Outcome<Vec<Child>> {
    let mut children: Vec<Child> = Vec::new();
    for argv in commands {
        let input = match children.last_mut().and_then(|child| child.stdout.take()) {
            Some(output) => Stdio::from(output),
            None => Stdio::null(),
        };
        children.push(spawn(argv, input)?);
    }
    Ok(children)
}

/// Waits for the processes of one side; gives their CPU seconds, by what waiting for them adds to the children's account.
pub(crate) fn finish(side: Vec<Child>) -> Outcome<f64> {
    let before = children_cpu_s()?;
    for mut child in side {
        let status = child.wait().map_err(failed("cannot wait for a contestant"))?;
        if !status.success() {
            return Err(format!("a contestant failed: {status}"));
        }
    }
    Ok(children_cpu_s()? - before)
}

pub(crate) fn children_cpu_s() -> Outcome<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(failed("getrusage"))?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Waits until something listens on `port` where `child` runs, without connecting: `nc` serves only the first who comes.
pub(crate) fn wait_listening(child: &Child, port: u16) -> Outcome<()> {
    let wanted = format!(":{port:04X} ");
    let table = format!("/proc/{}/net/tcp", child.id());
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        // `ip netns exec` enters the namespace a moment after it was started: until then this is another table.
        let table = fs::read_to_string(&table).map_err(failed("cannot read a table of sockets"))?;
        if table.lines().any(|line| line.contains(&wanted) && line.contains(" 0A ")) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(format!("nothing listens on port {port}"))
}

/// Runs a command to its end; its output is for the error only.
pub(crate) fn run(argv: &[&str]) -> Outcome<()> {
    let output = Command::new(argv[0])
        .args(&argv[1..])
        .output()
        .map_err(failed(&format!("cannot run {}", argv[0])))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", argv.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
