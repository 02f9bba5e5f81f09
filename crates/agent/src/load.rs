//! How busy this host is, and whether it should give a seed now.

use std::fs;

use protocol::host::HostLoad;
use protocol::mysql::ServerInfo;

use crate::config::DonorLimits;
use crate::host::Host;

/// What the system and the server say at this moment.
pub(crate) async fn measure(host: &Host, server: &ServerInfo) -> HostLoad {
    HostLoad {
        io_pressure_percent: fs::read_to_string("/proc/pressure/io").ok().and_then(|text| full_avg10(&text)),
        load_1m: fs::read_to_string("/proc/loadavg")
            .ok()
            .and_then(|text| text.split(' ').next()?.parse().ok()),
        cpus: std::thread::available_parallelism().map_or(0, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        threads_running: host.instance.threads_running().await,
        lag_seconds: unwanted_lag(host, server).await,
    }
}

/// A replica that is behind on purpose has no more to do than others.
async fn unwanted_lag(host: &Host, server: &ServerInfo) -> Option<u64> {
    let lag = server.lag_seconds?;
    Some(if lag == 0 { 0 } else { lag.saturating_sub(host.instance.wanted_delay().await) })
}

/// `full avg10=12.34 …` of a pressure file.
fn full_avg10(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("full "))?;
    line.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

/// Why this host should give nothing now, in words; empty when it may.
#[must_use]
pub(crate) fn overloaded(load: &HostLoad, limits: &DonorLimits) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(pressure) = load.io_pressure_percent
        && limits.io_pressure_percent > 0.0
        && pressure > limits.io_pressure_percent
    {
        problems.push(format!(
            "its disks are busy (all work waited {pressure:.0} % of the time, {:.0} % is its limit)",
            limits.io_pressure_percent
        ));
    }
    if let Some(threads) = load.threads_running
        && limits.threads_running > 0
        && threads > limits.threads_running
    {
        problems.push(format!("{threads} statements run at once, {} is its limit", limits.threads_running));
    }
    if let Some(lag) = load.lag_seconds
        && limits.lag_s > 0
        && lag > limits.lag_s
    {
        problems.push(format!("it is {lag} s behind its own source, {} s is its limit", limits.lag_s));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text = "some avg10=0.09 avg60=0.71 avg300=0.76 total=457445928\nfull avg10=63.25 avg60=0.00 avg300=0.06 total=6\n";
        assert_eq!(full_avg10(text), Some(63.25));
        assert_eq!(full_avg10("some avg10=1.00\n"), None);
        assert_eq!(full_avg10(""), None);
    }

    #[test]
    fn each_limit_is_told_by_itself_and_zero_is_none() {
        let limits = DonorLimits::default();
        let quiet = HostLoad { cpus: 2, ..HostLoad::default() };
        assert_eq!(overloaded(&quiet, &limits), [""; 0]);
        let cases = [
            (HostLoad { io_pressure_percent: Some(99.0), ..quiet.clone() }, "disks"),
            (HostLoad { threads_running: Some(5000), ..quiet.clone() }, "5000 statements"),
            (HostLoad { lag_seconds: Some(86_400), ..quiet }, "86400 s behind"),
        ];
        let off = DonorLimits { io_pressure_percent: 0.0, threads_running: 0, lag_s: 0 };
        for (load, words) in cases {
            let problems = overloaded(&load, &limits);
            assert!(problems.len() == 1 && problems[0].contains(words), "{problems:?}");
            assert_eq!(overloaded(&load, &off), [""; 0]);
        }
    }
}
