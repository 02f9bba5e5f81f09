//! Watches copy-on-write stores while someone reads from them, and acts before they are full.
//!
//! Samples and decisions are pure functions of fill, size and time ([`forecast`], [`decide`]); [`Guardian::tick`] feeds them from one
//! listing and carries out extensions. Slowing and aborting are the caller's: it knows who reads what.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use protocol::ids::SnapshotId;
use protocol::snapshot::{Snapshot, Validity};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::provider::Provider;

/// Samples older than this say nothing about the present rate.
const WINDOW: Duration = Duration::from_secs(60);
const MAX_SAMPLES: usize = 120;

/// When to do what.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardianPolicy {
    /// Extend when the store is this full; absent: never.
    pub extend_at_percent: Option<f64>,
    /// By this much of its present size; 0: never extend.
    pub extend_by_percent: f64,
    /// Ask for a slower seed when it will be full within this time, in seconds; 0: never.
    pub slow_within_seconds: u64,
    /// Abort when it is this full and could not be extended.
    pub abort_at_percent: f64,
    /// Abort when it will be full within this time, in seconds, and could not be extended.
    pub abort_within_seconds: u64,
}

impl Default for GuardianPolicy {
    fn default() -> Self {
        Self {
            extend_at_percent: Some(70.0),
            extend_by_percent: 50.0,
            slow_within_seconds: 120,
            abort_at_percent: 97.0,
            abort_within_seconds: 5,
        }
    }
}

/// What was found or done about one watched snapshot.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// All is well; with the forecast, where there is one.
    Fine {
        /// Seconds until the store is full at the present rate.
        seconds_until_full: Option<f64>,
    },
    /// It was extended.
    Extended {
        /// New size in bytes.
        size_bytes: u64,
    },
    /// The reader should slow down its host's writers or itself; the forecast in seconds.
    Slow {
        /// Seconds until the store is full at the present rate.
        seconds_until_full: f64,
    },
    /// Whoever reads it must stop now, for this reason.
    Abort {
        /// In a sentence.
        reason: String,
    },
    /// The data are lost: everything read from it is worthless, for this reason.
    Lost {
        /// In a sentence.
        reason: String,
    },
}

/// The state of a store at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Time since any fixed start.
    pub at: Duration,
    /// Size of the store in bytes.
    pub size_bytes: u64,
    /// Fill in percent.
    pub fill_percent: f64,
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "a forecast needs no exact bytes")]
    fn used_bytes(&self) -> f64 {
        self.size_bytes as f64 * self.fill_percent.clamp(0.0, 100.0) / 100.0
    }

    #[expect(clippy::cast_precision_loss, reason = "a forecast needs no exact bytes")]
    fn free_bytes(&self) -> f64 {
        (self.size_bytes as f64 - self.used_bytes()).max(0.0)
    }
}

/// Seconds until the store is full, when it goes on filling as it did; `None` when it does not fill, or too little is known.
///
/// Bytes and not percent are counted, so that an extension in between does not look like an emptying. The steeper of the rate over the whole
/// window and the rate since the last sample counts: a burst must not hide behind a quiet minute.
#[must_use]
pub fn forecast(samples: &[Sample]) -> Option<f64> {
    let (first, last) = (samples.first()?, samples.last()?);
    let rate_since = |from: &Sample| {
        let seconds = last.at.checked_sub(from.at)?.as_secs_f64();
        (seconds > 0.0).then(|| (last.used_bytes() - from.used_bytes()) / seconds)
    };
    let recent = samples.len().checked_sub(2).and_then(|at| rate_since(&samples[at]));
    let rate = rate_since(first)?.max(recent.unwrap_or(0.0));
    (rate > 0.0).then(|| last.free_bytes() / rate)
}

/// What a policy demands.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Nothing.
    Wait,
    /// More room, in bytes.
    Extend(u64),
    /// Less speed.
    Slow,
    /// An end, for this reason.
    Abort(String),
}

/// Decides by the policy. `can_extend` is false where the store cannot be extended, or that has just failed.
#[must_use]
pub fn decide(
    policy: &GuardianPolicy,
    now: &Sample,
    seconds_until_full: Option<f64>,
    can_extend: bool,
) -> Decision {
    let within = |limit: u64| {
        #[expect(clippy::cast_precision_loss, reason = "settings in seconds are small")]
        let limit = limit as f64;
        seconds_until_full.is_some_and(|left| left <= limit)
    };
    let nearly_full = now.fill_percent >= policy.abort_at_percent || within(policy.abort_within_seconds);
    if can_extend
        && policy.extend_by_percent > 0.0
        && let Some(threshold) = policy.extend_at_percent
        && (now.fill_percent >= threshold || nearly_full)
    {
        return Decision::Extend(percent_of(now.size_bytes, policy.extend_by_percent));
    }
    if nearly_full {
        let left = seconds_until_full.map_or_else(String::new, |s| format!(" and full in {s:.0} s"));
        return Decision::Abort(format!("the snapshot's store is {:.1} % full{left}", now.fill_percent));
    }
    if within(policy.slow_within_seconds) { Decision::Slow } else { Decision::Wait }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and LVM rounds to extents anyway"
)]
fn percent_of(bytes: u64, percent: f64) -> u64 {
    ((bytes as f64 * percent / 100.0) as u64).max(1)
}

/// Remembers the samples of the watched snapshots between ticks.
#[derive(Debug)]
pub struct Guardian {
    policy: GuardianPolicy,
    history: BTreeMap<SnapshotId, VecDeque<Sample>>,
}

impl Guardian {
    /// A guardian without history.
    #[must_use]
    pub fn new(policy: GuardianPolicy) -> Self {
        Self { policy, history: BTreeMap::new() }
    }

    /// Looks at the watched snapshots once, extends what the policy says, and reports each. `now` is the time since any fixed start.
    /// Costs one listing, whatever the number; a second or less between ticks sees an overflow well within 5 s.
    ///
    /// # Errors
    /// When the provider cannot list; the caller asks again at its next tick.
    pub fn tick(
        &mut self,
        provider: &dyn Provider,
        watched: &[SnapshotId],
        now: Duration,
    ) -> Result<Vec<(SnapshotId, Action)>, Error> {
        self.history.retain(|id, _| watched.contains(id));
        if watched.is_empty() {
            return Ok(Vec::new());
        }
        let listed = provider.list()?;
        let look = |id: &SnapshotId| listed.iter().find(|s| s.id == *id);
        Ok(watched.iter().map(|id| (id.clone(), self.judge(provider, id, look(id), now))).collect())
    }

    fn judge(
        &mut self,
        provider: &dyn Provider,
        id: &SnapshotId,
        found: Option<&Snapshot>,
        now: Duration,
    ) -> Action {
        let Some(snapshot) = found else {
            return Action::Lost { reason: "it was removed".to_owned() };
        };
        if let Validity::Invalid(reason) = &snapshot.validity {
            return Action::Lost { reason: reason.clone() };
        }
        let (Some(size_bytes), Some(fill_percent)) = (snapshot.size_bytes, snapshot.fill_percent) else {
            return Action::Fine { seconds_until_full: None };
        };
        let sample = Sample { at: now, size_bytes, fill_percent };
        let samples = self.history.entry(id.clone()).or_default();
        samples.push_back(sample);
        while samples.len() > MAX_SAMPLES || samples.front().is_some_and(|s| s.at + WINDOW < now) {
            samples.pop_front();
        }
        let seconds_until_full = forecast(samples.make_contiguous());
        self.act(provider, id, &sample, seconds_until_full)
    }

    fn act(&self, provider: &dyn Provider, id: &SnapshotId, sample: &Sample, left: Option<f64>) -> Action {
        let mut why_not = String::new();
        if let Decision::Extend(bytes) = decide(&self.policy, sample, left, provider.features().extendable) {
            match extend(provider, id, bytes) {
                // Beyond the size that covers the whole origin LVM cuts again, and more is of no use.
                Ok(size_bytes) if size_bytes > sample.size_bytes => {
                    tracing::info!(snapshot = %id, size_bytes, fill_percent = sample.fill_percent, "extended a snapshot's store");
                    return Action::Extended { size_bytes };
                }
                Ok(_) => why_not = "; extending it had no effect".to_owned(),
                Err(error) => why_not = format!("; it could not be extended: {error}"),
            }
        }
        match decide(&self.policy, sample, left, false) {
            Decision::Abort(reason) => Action::Abort { reason: format!("{reason}{why_not}") },
            Decision::Slow => Action::Slow { seconds_until_full: left.unwrap_or(0.0) },
            Decision::Wait | Decision::Extend(_) => Action::Fine { seconds_until_full: left },
        }
    }
}

/// As much as is wanted, or all that is free.
fn extend(provider: &dyn Provider, id: &SnapshotId, bytes: u64) -> Result<u64, Error> {
    match provider.extend(id, bytes) {
        Err(Error::NoSpace { free_bytes, .. }) if free_bytes > 0 && free_bytes < bytes => {
            provider.extend(id, free_bytes)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(at_s: u64, size_mib: u64, fill_percent: f64) -> Sample {
        Sample { at: Duration::from_secs(at_s), size_bytes: size_mib << 20, fill_percent }
    }

    #[test]
    fn the_rate_gives_the_time_until_full() {
        // 10 of 100 MiB in 10 s: 90 MiB are left at 1 MiB/s.
        assert_eq!(forecast(&[sample(0, 100, 0.0), sample(10, 100, 10.0)]).unwrap().round(), 90.0);
        assert_eq!(forecast(&[sample(0, 100, 5.0)]), None, "one sample has no rate");
        assert_eq!(forecast(&[sample(0, 100, 5.0), sample(10, 100, 5.0)]), None, "nothing is written");
        assert_eq!(forecast(&[]), None);
    }

    #[test]
    fn a_burst_counts_more_than_the_quiet_before() {
        let samples = [sample(0, 100, 0.0), sample(50, 100, 0.0), sample(51, 100, 20.0)];
        assert_eq!(forecast(&samples).unwrap().round(), 4.0);
    }

    #[test]
    fn an_extension_in_between_is_no_emptying() {
        // The series of overflow-behaviour/autoextend.txt: the percentage falls while bytes go on growing.
        let samples = [sample(0, 16, 56.52), sample(1, 24, 50.23), sample(2, 36, 41.85)];
        let left = forecast(&samples).unwrap();
        assert!((5.0..9.0).contains(&left), "{left}");
    }

    #[test]
    fn a_policy_extends_first_slows_next_and_aborts_before_it_is_too_late() {
        let policy = GuardianPolicy::default();
        let at = |fill| sample(0, 100, fill);
        assert_eq!(decide(&policy, &at(10.0), None, true), Decision::Wait);
        assert_eq!(decide(&policy, &at(70.0), None, true), Decision::Extend(50 << 20));
        assert_eq!(
            decide(&policy, &at(20.0), Some(3.0), true),
            Decision::Extend(50 << 20),
            "a burst is not waited for"
        );
        assert_eq!(decide(&policy, &at(20.0), Some(60.0), true), Decision::Slow);
        assert_eq!(decide(&policy, &at(80.0), None, false), Decision::Wait);
        assert!(matches!(decide(&policy, &at(98.0), None, false), Decision::Abort(_)));
        let Decision::Abort(reason) = decide(&policy, &at(50.0), Some(4.2), false) else {
            panic!("it is late")
        };
        assert_eq!(reason, "the snapshot's store is 50.0 % full and full in 4 s");
        for never in [
            GuardianPolicy { extend_at_percent: None, ..policy },
            GuardianPolicy { extend_by_percent: 0.0, ..policy },
        ] {
            assert!(matches!(decide(&never, &at(98.0), None, true), Decision::Abort(_)));
        }
    }

    proptest! {
        #[test]
        fn no_series_breaks_the_forecast(series in proptest::collection::vec((0_u64..1000, any::<u64>(), any::<f64>()), 0..20)) {
            let samples: Vec<_> = series.into_iter().map(|(at, size_bytes, fill_percent)| Sample { at: Duration::from_secs(at), size_bytes, fill_percent }).collect();
            let left = forecast(&samples);
            prop_assert!(left.is_none_or(|l| l >= 0.0 || l.is_nan()));
        }
    }
}
