//! Faults on purpose, for tests with real processes: always compiled, inert unless a [`Inject`] with faults is passed.
//!
//! A list of faults is a text, `ACTION@[KIND/][undo:]STEP:MOMENT[=VALUE]`, several joined by `;`:
//! - `fail@transfer:begin`, `fail@undo:swap:end=2`: the first VALUE attempts (default: all) fail, retryably;
//! - `repeat@swap`: the step runs twice in a row;
//! - `die@transfer:end`: the process kills itself with SIGKILL;
//! - `pause@seed/swap:begin=/tmp/go`: makes `/tmp/go.reached`, then waits until `/tmp/go` exists.
//!
//! The moments: `begin` (started is journalled, the step has not run), `end` (the step ran, its end is not journalled)
//! and, for `die` and `pause`, `done` (its end, or its failure, is journalled).

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{Code, Scope, StepError};

const POLL: Duration = Duration::from_millis(5);

/// The faults that a runner strikes with; none by default. Clones share the counts of `fail`.
#[derive(Debug, Clone, Default)]
pub struct Inject {
    points: Arc<[Point]>,
}

/// Why a text is not a list of faults.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the fault {text:?} is not valid: {why}")]
pub struct InvalidFault {
    text: String,
    why: &'static str,
}

/// Whether a fault strikes a step or its undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Run,
    Undo,
}

/// When it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Begin,
    End,
    Done,
}

#[derive(Debug)]
struct Point {
    kind: Option<String>,
    phase: Phase,
    step: String,
    moment: Moment,
    action: Action,
}

#[derive(Debug)]
enum Action {
    /// Fails this many times more.
    Fail(AtomicU32),
    Repeat,
    Die,
    Pause(PathBuf),
}

/// The faults for one step of one job.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    points: Arc<[Point]>,
    chosen: Vec<usize>,
}

impl FromStr for Inject {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let faults = text.split(';').map(str::trim).filter(|fault| !fault.is_empty());
        Ok(Self { points: faults.map(parse).collect::<Result<_, _>>()? })
    }
}

fn parse(text: &str) -> Result<Point, InvalidFault> {
    let invalid = |why| InvalidFault { text: text.to_owned(), why };
    let (action, rest) = text.split_once('@').ok_or_else(|| invalid("it has no @"))?;
    let (place, value) = match rest.split_once('=') {
        Some((place, value)) => (place, Some(value)),
        None => (rest, None),
    };
    let (kind, place) = match place.split_once('/') {
        Some((kind, place)) => (Some(kind.to_owned()), place),
        None => (None, place),
    };
    let (phase, place) =
        place.strip_prefix("undo:").map_or((Phase::Run, place), |place| (Phase::Undo, place));
    let (step, moment) = match place.split_once(':') {
        Some((step, "begin")) => (step, Moment::Begin),
        Some((step, "end")) => (step, Moment::End),
        Some((step, "done")) => (step, Moment::Done),
        Some(_) => return Err(invalid("the moment must be begin, end or done")),
        None if action == "repeat" => (place, Moment::Begin),
        None => return Err(invalid("it has no moment")),
    };
    let action = match (action, value) {
        ("fail", None) => Action::Fail(AtomicU32::new(u32::MAX)),
        ("fail", Some(times)) => Action::Fail(
            times.parse::<u32>().map_err(|_| invalid("its value is not a number of times"))?.into(),
        ),
        ("repeat", None) => Action::Repeat,
        ("die", None) => Action::Die,
        ("pause", Some(path)) if path.starts_with('/') => Action::Pause(PathBuf::from(path)),
        ("pause", _) => return Err(invalid("pause needs the absolute path of a file to wait for")),
        ("repeat" | "die", Some(_)) => return Err(invalid("it takes no value")),
        _ => return Err(invalid("the action must be fail, repeat, die or pause")),
    };
    if step.is_empty() || (moment == Moment::Done && matches!(action, Action::Fail(_) | Action::Repeat)) {
        return Err(invalid("there is nothing to strike at this point"));
    }
    Ok(Point { kind, phase, step: step.to_owned(), moment, action })
}

impl Inject {
    pub(crate) fn at(&self, kind: &str, phase: Phase, step: &str) -> Fault {
        let here = |point: &Point| {
            point.phase == phase && point.step == step && point.kind.as_deref().is_none_or(|of| of == kind)
        };
        let chosen =
            self.points.iter().enumerate().filter(|(_, point)| here(point)).map(|(at, _)| at).collect();
        Fault { points: Arc::clone(&self.points), chosen }
    }
}

impl Fault {
    pub(crate) fn repeats(&self) -> bool {
        self.actions(Moment::Begin).any(|action| matches!(action, Action::Repeat))
    }

    /// Strikes in the step's own task, so that a pause is stopped, or dropped, like the step.
    pub(crate) async fn strike(&self, moment: Moment, scope: &Scope) -> Result<(), StepError> {
        for action in self.actions(moment) {
            match action {
                Action::Fail(left) => {
                    let count =
                        |left: u32| (left > 0).then(|| if left == u32::MAX { left } else { left - 1 });
                    if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok() {
                        return Err(StepError::new(Code::Injected, "a fault was injected").retryable());
                    }
                }
                Action::Repeat => {}
                Action::Die => die(),
                Action::Pause(path) => tokio::select! {
                    () = pause(path) => {}
                    () = scope.cancelled() => return Err(StepError::stopped()),
                },
            }
        }
        Ok(())
    }

    /// Strikes in the driver, after the journal; a pause ends early when `stop` fires.
    pub(crate) async fn strike_done(&self, stop: &CancellationToken) {
        for action in self.actions(Moment::Done) {
            match action {
                Action::Die => die(),
                Action::Pause(path) => tokio::select! {
                    () = pause(path) => {}
                    () = stop.cancelled() => {}
                },
                Action::Fail(_) | Action::Repeat => {}
            }
        }
    }

    fn actions(&self, moment: Moment) -> impl Iterator<Item = &Action> {
        self.chosen.iter().map(|&at| &self.points[at]).filter(move |p| p.moment == moment).map(|p| &p.action)
    }
}

async fn pause(path: &Path) {
    let mut reached = path.as_os_str().to_owned();
    reached.push(".reached");
    if let Err(error) = tokio::fs::write(&reached, b"").await {
        tracing::error!(path = %path.display(), %error, "cannot tell that a pause is reached");
    }
    while !tokio::fs::try_exists(path).await.unwrap_or(false) {
        tokio::time::sleep(POLL).await;
    }
}

/// Dies as from `kill -9`: no destructor, no handler, no flush.
fn die() {
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_faults_is_read_and_strikes_only_its_place() {
        let text = "fail@transfer:begin=2; die@seed/undo:swap:done;repeat@swap ;pause@start:end=/tmp/a=b";
        let inject: Inject = text.parse().unwrap();
        assert_eq!(inject.points.len(), 4);
        assert_eq!(inject.at("any", Phase::Run, "transfer").chosen, [0]);
        assert_eq!(inject.at("seed", Phase::Undo, "swap").chosen, [1]);
        assert!(inject.at("other", Phase::Undo, "swap").chosen.is_empty());
        assert!(inject.at("seed", Phase::Run, "swap").repeats());
        assert!(!inject.at("seed", Phase::Undo, "swap").repeats());
        assert!(matches!(&inject.points[3].action, Action::Pause(path) if path == Path::new("/tmp/a=b")));
        assert!("".parse::<Inject>().unwrap().points.is_empty());
    }

    #[test]
    fn what_is_no_fault_is_refused_with_the_reason() {
        for bad in [
            "die",
            "die@",
            "die@swap",
            "die@swap:middle",
            "die@swap:end=3",
            "fail@swap:begin=often",
            "fail@swap:done",
            "pause@swap:begin",
            "pause@swap:begin=go",
            "explode@swap:begin",
            "repeat@swap=2",
            "die@:begin",
        ] {
            let error = bad.parse::<Inject>().unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
    }
}
