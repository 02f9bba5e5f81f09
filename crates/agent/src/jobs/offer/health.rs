//! A donor that suffers from the seeds that it gives slows them down.

use std::time::Duration;

use crate::config::DonorLimits;
use crate::host::Host;

/// How often a donor looks whether the seed hurts it.
pub(super) const HEALTH_INTERVAL: Duration = Duration::from_secs(2);
/// Has all seeds that this host gives slow down while it is busier than it should be, and recover afterwards.
pub(super) async fn spare(host: &Host) {
    let seen = host.seen();
    let load = crate::load::measure(host, &seen.server).await;
    let limits = DonorLimits {
        io_pressure_percent: host.config.seed.ease_io_pressure_percent,
        ..host.config.seed.donor_limits.clone()
    };
    let problems = crate::load::overloaded(&load, &limits);
    match host.donor_throttle.heed(!problems.is_empty()) {
        Some(0) => tracing::info!("the host is well again: seeds are given at full speed"),
        Some(limit) if !problems.is_empty() => {
            tracing::warn!(
                bytes_per_s = limit,
                why = problems.join("; "),
                "the host is busy: seeds slow down"
            );
        }
        _ => {}
    }
}
