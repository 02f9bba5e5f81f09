//! How fast seeds move: samples of their progress, bounded for each and over all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::Client;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use parking_lot::Mutex;
use protocol::ids::JobId;
use protocol::seed::TransferProgress;
use protocol::subject::{self, Subject};
use tokio_util::sync::CancellationToken;

/// Jobs whose progress is kept; those that were heard of least lately go first.
const MAX_JOBS: usize = 256;
/// Samples of one job; beyond it every other one goes, so that a long seed keeps its whole curve.
const MAX_SAMPLES: usize = 480;
/// The first samples are so far apart at least.
const APART: Duration = Duration::from_millis(500);
/// The subscription is tried again after so long.
const PAUSE: Duration = Duration::from_secs(5);

/// Of all jobs.
#[derive(Debug, Default)]
pub(super) struct Pulses(Mutex<BTreeMap<JobId, Pulse>>);

/// Of one job.
#[derive(Debug, Clone)]
pub(super) struct Pulse {
    /// The last counters.
    pub(super) progress: TransferProgress,
    /// When they came.
    pub(super) heard: Instant,
    /// When they last differed from those before.
    pub(super) moved: Instant,
    /// When it was, bytes done by then, and bytes per second.
    pub(super) samples: VecDeque<(Timestamp, u64, u64)>,
    apart: Duration,
    sampled: Instant,
}

impl Pulses {
    /// One job's.
    pub(super) fn of(&self, job: JobId) -> Option<Pulse> {
        self.0.lock().get(&job).cloned()
    }

    /// Takes counters in.
    pub(super) fn take(&self, job: JobId, progress: TransferProgress, now: Instant, at: Timestamp) {
        let mut pulses = self.0.lock();
        if pulses.len() >= MAX_JOBS && !pulses.contains_key(&job) {
            let idle = pulses.iter().min_by_key(|(_, pulse)| pulse.heard).map(|(job, _)| *job);
            idle.map(|job| pulses.remove(&job));
        }
        let pulse = pulses.entry(job).or_insert_with(|| Pulse {
            progress: TransferProgress::default(),
            heard: now,
            moved: now,
            samples: VecDeque::new(),
            apart: APART,
            sampled: now,
        });
        if progress.bytes_done != pulse.progress.bytes_done {
            pulse.moved = now;
        }
        if pulse.samples.is_empty() || now.saturating_duration_since(pulse.sampled) >= pulse.apart {
            pulse.sampled = now;
            pulse.samples.push_back((at, progress.bytes_done, progress.bytes_per_s));
        }
        if pulse.samples.len() > MAX_SAMPLES {
            let mut keep = false;
            pulse.samples.retain(|_| {
                keep = !keep;
                keep
            });
            pulse.apart *= 2;
        }
        (pulse.progress, pulse.heard) = (progress, now);
    }
}

/// Listens to the progress of all jobs until `stop`.
pub(super) async fn listen(client: Client, pulses: Arc<Pulses>, stop: CancellationToken) {
    let listening = async {
        loop {
            if let Ok(mut messages) = client.bus().subscribe(subject::ALL_PROGRESS.to_owned()).await {
                while let Some(message) = messages.next().await {
                    let Ok(Subject::Progress { job, .. }) = Subject::parse(&message.subject) else {
                        continue;
                    };
                    if let Ok(progress) = serde_json::from_slice(&message.payload) {
                        pulses.take(job, progress, Instant::now(), Timestamp::now());
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = listening => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_seed_keeps_its_whole_curve_in_a_bounded_number_of_samples() {
        let pulses = Pulses::default();
        let (job, begin, at) = (JobId::generate(), Instant::now(), Timestamp::UNIX_EPOCH);
        for second in 0..36_000u32 {
            let progress = TransferProgress { bytes_done: u64::from(second), ..TransferProgress::default() };
            let after = Duration::from_secs(second.into());
            pulses.take(job, progress, begin + after, at + after);
        }
        let pulse = pulses.of(job).unwrap();
        assert!(
            (MAX_SAMPLES / 2 - 1..=MAX_SAMPLES).contains(&pulse.samples.len()),
            "{}",
            pulse.samples.len()
        );
        assert!(pulse.samples[0].1 <= 1 && pulse.samples.back().unwrap().1 > 35_800);
        for _ in 0..MAX_JOBS {
            pulses.take(
                JobId::generate(),
                TransferProgress::default(),
                begin + Duration::from_secs(40_000),
                at,
            );
        }
        assert!(pulses.of(job).is_none() && pulses.0.lock().len() == MAX_JOBS, "who was silent longest goes");
    }
}
