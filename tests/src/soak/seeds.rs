//! Seeds of a round: begun by ctl, struck, judged.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::ids::{JobId, SnapshotId};
use protocol::job::{JobState, JobView};
use protocol::params::*;
use serde_json::Value;
use testkit::poll;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::fleet::{Data, Fleet};
use super::plan::{Fault, HOSTS, Old, Round, SeedPlan};
use crate::world::{self, PATIENCE};

/// How the names of a seed's own files begin.
const MARK: &str = ".orch";
/// Old data whose time is over are gone within a sweep of the agent, a minute.
const SWEPT: Duration = Duration::from_secs(120);

/// One recipient's seed.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) at: usize,
    pub(super) job: JobId,
    before: Data,
}

/// What one ctl has begun.
#[derive(Debug)]
pub(super) struct Seeds {
    pub(super) plan: SeedPlan,
    pub(super) begun: Vec<Begun>,
    given: Data,
    ctl: Pid,
    said: JoinHandle<(ExitStatus, String)>,
}

impl Seeds {
    /// A snapshot of the donor, and ctl with it; returns when each recipient has a job.
    pub(super) async fn begin(fleet: &mut Fleet, plan: &SeedPlan) -> Self {
        fleet.mark(plan.donor).await;
        let mut before = Vec::new();
        for at in &plan.recipients {
            fleet.mark(*at).await;
            before.push(fleet.data(*at).await);
        }
        let given = fleet.data(plan.donor).await;
        let create = SnapshotCreateParams { keep_s: None, size_bytes: None };
        let job = fleet.call(plan.donor, create).await.job;
        let made = fleet.succeeded(plan.donor, job).await.result.unwrap();
        let snapshot: SnapshotId = serde_json::from_value(made["id"].clone()).unwrap();

        let words = words(plan, &snapshot);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut child = world::ctl_command(&fleet.nats.url(), &words).spawn().unwrap();
        let ctl = Pid::from_raw(child.id().unwrap().cast_signed());
        let (tell, mut told) = mpsc::unbounded_channel();
        let (out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let said = tokio::spawn(async move {
            let mut said = String::new();
            let read = async {
                let mut lines = BufReader::new(out).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Some(begun) = begun(&line) {
                        let _ = tell.send(begun);
                    }
                }
                drop(tell);
            };
            tokio::join!(read, async { err.read_to_string(&mut said).await.ok() });
            (child.wait().await.unwrap(), said)
        });
        let mut jobs = Vec::new();
        for at in 0..plan.recipients.len() {
            let next = tokio::time::timeout(PATIENCE, told.recv()).await;
            let Some(next) = next.expect("ctl does not begin a seed") else {
                panic!("ctl has begun {at} of {plan:?}: {:?}", said.await);
            };
            jobs.push(next);
        }
        let of = |at: usize| jobs.iter().find(|(host, _)| host == HOSTS[at]).unwrap().1;
        let begun = plan.recipients.iter().zip(before);
        let begun = begun.map(|(at, before)| Begun { at: *at, job: of(*at), before }).collect();
        Self { plan: plan.clone(), begun, given, ctl, said }
    }

    /// The part of a fault that is the seeds'.
    pub(super) async fn strike(&self, fleet: &Fleet, fault: Fault) {
        for begun in &self.begun {
            match fault {
                // It may have ended with its seed.
                Fault::KillCtl(at) if at == begun.at && !self.said.is_finished() => {
                    let _ = kill(self.ctl, Signal::SIGKILL);
                }
                Fault::Abort(at) if at == begun.at => {
                    let host = &fleet.hosts[at];
                    world::serving(&fleet.client, &host.id()).await;
                    // It may be past its end, or past the point of no return.
                    let _ = world::try_call(&fleet.client, host, JobsAbortParams { job: begun.job }).await;
                }
                _ => {}
            }
        }
    }

    /// Waits for the ends, without a limit of speed any more.
    pub(super) async fn end(&self, fleet: &Fleet) -> Vec<JobView> {
        let mut ended = Vec::new();
        for begun in &self.begun {
            let (host, job) = (&fleet.hosts[begun.at], begun.job);
            poll::until_async(2 * PATIENCE, "the seed to take its new limit", || async {
                let throttle = SeedThrottleParams { job, bytes_per_s: 0 };
                let faster = world::try_call(&fleet.client, host, throttle).await;
                let view = fleet.call(begun.at, JobsShowParams { job }).await;
                (faster.is_ok() || view.state.is_final()).then_some(())
            })
            .await;
            ended.push(fleet.ended(begun.at, job).await);
        }
        ended
    }

    /// Whether each recipient has the donor's data or its own, as its seed's end says, and why it may have ended so; what
    /// is expected of it from now on.
    pub(super) async fn judge(
        self,
        fleet: &mut Fleet,
        round: &Round,
        ended: &[JobView],
    ) -> Vec<(usize, Data)> {
        let mut now = Vec::new();
        for (begun, view) in self.begun.iter().zip(ended) {
            let error = view.error.as_ref().map(ToString::to_string).unwrap_or_default();
            println!("      {} from {}: {:?} {error}", HOSTS[begun.at], HOSTS[self.plan.donor], view.state);
            let data = fleet.data(begun.at).await;
            match view.state {
                JobState::Succeeded => {
                    has(&data, &self.given, &begun.before);
                    self.old_data(fleet, round, begun).await;
                }
                JobState::Aborted if round.has(|fault| fault == Fault::Abort(begun.at)) => {
                    assert!(
                        data == begun.before,
                        "{}: aborted, and not as before: {data:?}",
                        HOSTS[begun.at]
                    );
                }
                JobState::Failed if round.excuses(self.plan.donor, begun.at) && !error.is_empty() => {
                    assert!(data == begun.before, "{}: failed, and not as before: {data:?}", HOSTS[begun.at]);
                }
                other => panic!("{other:?}, though nothing in this round ends the seed: {error}"),
            }
            now.push((begun.at, fleet.data(begun.at).await));
        }
        let told = tokio::time::timeout(2 * PATIENCE, self.said).await.expect("ctl does not end").unwrap();
        let all = ended.iter().all(|view| view.state == JobState::Succeeded);
        let of = |fault: Fault| match fault {
            Fault::KillCtl(at) => self.begun.iter().any(|begun| begun.at == at),
            // An agent whose clock is wrong refuses what it is asked.
            Fault::Jump(..) => true,
            _ => false,
        };
        assert!(told.0.success() == all || round.has(of), "ctl ended otherwise than its seeds: {told:?}");
        now
    }

    /// Old data that are kept are put back, or lapse.
    async fn old_data(&self, fleet: &Fleet, round: &Round, begun: &Begun) {
        let host = &fleet.hosts[begun.at];
        if self.plan.old == Old::PutBack {
            let job = fleet.call(begun.at, SeedUndoParams { job: begun.job }).await.job;
            let view = fleet.ended(begun.at, job).await;
            if view.state == JobState::Succeeded {
                assert_eq!(fleet.data(begun.at).await, begun.before, "an undo puts all of it back");
            } else {
                // An hour had passed by a clock that jumped.
                assert!(round.jumps(begun.at), "{}: undo: {:?}", HOSTS[begun.at], view.error);
            }
        }
        poll::until_async(SWEPT, format!("the old data of {} to go", host.id()), || async {
            let entries =
                [host.db.base(), host.db.datadir()].map(|dir| std::fs::read_dir(dir).unwrap().flatten());
            let is_ours = |name: OsString| name.to_string_lossy().starts_with(MARK);
            (!entries.into_iter().flatten().any(|entry| is_ours(entry.file_name()))).then_some(())
        })
        .await;
    }
}

fn words(plan: &SeedPlan, snapshot: &SnapshotId) -> Vec<String> {
    let mut words: Vec<String> = ["--json", "seed", "start"].map(str::to_owned).into();
    words.extend(plan.recipients.iter().map(|at| HOSTS[*at].to_owned()));
    let fixed =
        ["--from", HOSTS[plan.donor], "--snapshot", snapshot.as_str(), "--stop-mysql", "--allow-primary"];
    words.extend(fixed.map(str::to_owned));
    words.extend(["--compression", "none", "--transport"].map(str::to_owned));
    words.push(if plan.store { "store" } else { "tcp" }.to_owned());
    if plan.delta {
        words.push("--delta".to_owned());
    }
    if plan.bytes_per_s > 0 {
        words.extend(["--throttle".to_owned(), format!("{}B", plan.bytes_per_s)]);
    }
    match plan.old {
        Old::Gone => {}
        Old::PutBack => words.extend(["--keep-old", "1h"].map(str::to_owned)),
        Old::Lapses => words.extend(["--keep-old", "3s"].map(str::to_owned)),
    }
    words
}

/// The host and the job of a line that says that a seed has begun.
fn begun(line: &str) -> Option<(String, JobId)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let job = serde_json::from_value(line["job"].clone()).ok()?;
    (line["update"] == "begun").then(|| (line["host"].as_str().unwrap_or_default().to_owned(), job))
}

/// All of the donor's data and nothing else, in another datadir than before.
fn has(data: &Data, given: &Data, before: &Data) {
    assert_eq!(
        (&data.rows, &data.generation),
        (&given.rows, &given.generation),
        "other rows than the donor's"
    );
    assert_ne!(data.inode, before.inode, "the datadir was not swapped");
    // While old data are kept the new ones bear the mark of their seed.
    let lasting = |path: &&PathBuf| !path.to_string_lossy().starts_with(MARK);
    let names = |data: &Data| data.names.keys().filter(lasting).cloned().collect::<Vec<_>>();
    assert_eq!(names(data), names(given), "other files than the donor's");
}
