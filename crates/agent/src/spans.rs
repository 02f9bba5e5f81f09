//! Ended jobs as spans, from their journals: a job that outlived its agent is told of as a whole.

use std::borrow::Cow;
use std::time::SystemTime;

use job::journal::{Event, Record};
use job::{Outcome, Runner};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use trace::{Context, Kind, Past, Traces};

use crate::publish::{self, Ended};

/// Tells of each job that ends, until `shutdown`, and of those that ended by then.
pub(crate) async fn run(mut ended: Ended, runner: Runner, traces: Traces, shutdown: CancellationToken) {
    loop {
        let job = tokio::select! {
            biased;
            job = ended.recv() => job,
            () = shutdown.cancelled() => return,
        };
        let Some(job) = job else { return };
        // An ended job that was pruned meanwhile is no loss.
        if let Ok(records) = runner.records_since(job, 0).await {
            spans_of(&records).into_iter().for_each(|span| traces.tell(span));
        }
    }
}

/// The job, and each run of its steps and of their undoing.
fn spans_of(records: &[Record]) -> Vec<Past> {
    let (Some(first), Some(last)) = (records.first(), records.last()) else { return Vec::new() };
    let Event::Created { spec } = &first.event else { return Vec::new() };
    let asked: Option<Context> = spec.context["traceparent"].as_str().and_then(|text| text.parse().ok());
    let job = Context::of_thing(spec.id.as_uuid().into_bytes(), asked.as_ref());
    let mut runs = Runs { job, open: None, ended: Vec::new() };
    for record in records {
        runs.hear(record);
    }
    runs.close(last, Some("cut_short"));
    let mut whole = past(format!("job {}", spec.kind).into(), job, asked, first, last);
    whole.note("orchestrator.job.id", spec.id.to_string());
    if let Some(offer) = publish::offer_of(&spec.params) {
        whole.note("orchestrator.offer.id", offer.to_owned());
    }
    if let Event::Finished { outcome } = &last.event {
        whole.failed = failure(outcome).map(Cow::Borrowed);
    }
    runs.ended.push(whole);
    runs.ended
}

struct Runs {
    job: Context,
    open: Option<Past>,
    ended: Vec<Past>,
}

impl Runs {
    fn hear(&mut self, record: &Record) {
        match &record.event {
            Event::StepStarted { step, attempt } => self.begin(step.clone(), *attempt, record),
            Event::UndoStarted { step, attempt } => self.begin(format!("undo {step}"), *attempt, record),
            Event::StepFinished { output, .. } => {
                if let Some(open) = &mut self.open {
                    note_moved(open, output);
                }
                self.close(record, None);
            }
            Event::UndoFinished { .. } => self.close(record, None),
            Event::StepFailed { error, .. } | Event::UndoFailed { error, .. } => {
                self.close(record, Some(error.code.as_str()));
            }
            Event::AbortRequested { .. } => {
                if let Some(open) = &mut self.open {
                    open.failed = Some("aborted".into());
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, name: String, attempt: u32, record: &Record) {
        // The last run was cut short by the agent's own end: when, nobody wrote down.
        self.close(record, Some("cut_short"));
        let mut open = past(name.into(), self.job.sibling(), Some(self.job), record, record);
        if attempt > 1 {
            open.note("orchestrator.attempt", i64::from(attempt));
        }
        self.open = Some(open);
    }

    fn close(&mut self, record: &Record, failed: Option<&'static str>) {
        if let Some(open) = self.open.take() {
            let failed = open.failed.clone().or(failed.map(Cow::Borrowed));
            self.ended.push(Past { ended: SystemTime::from(record.at), failed, ..open });
        }
    }
}

fn past(
    name: Cow<'static, str>,
    context: Context,
    parent: Option<Context>,
    begun: &Record,
    ended: &Record,
) -> Past {
    Past {
        name,
        kind: Kind::Internal,
        context,
        parent,
        begun: SystemTime::from(begun.at),
        ended: SystemTime::from(ended.at),
        notes: Vec::new(),
        failed: None,
    }
}

/// What a step that moves data says of it.
fn note_moved(open: &mut Past, output: &Value) {
    for (key, name) in
        [("bytes_moved", "orchestrator.bytes_moved"), ("bytes_per_s", "orchestrator.bytes_per_second")]
    {
        if let Some(count) = output[key].as_i64() {
            open.note(name, count);
        }
    }
}

/// The code of what ended it.
fn failure(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Done { .. } => None,
        Outcome::Failed { failure, .. } => Some(failure.error.code.as_str()),
        Outcome::Aborted { .. } => Some("aborted"),
    }
}

#[cfg(test)]
#[path = "spans_tests.rs"]
mod tests;
