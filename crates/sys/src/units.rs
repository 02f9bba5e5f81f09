//! Sizes, rates, durations and times as people write and read them.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SpanRelativeTo, Timestamp};

const UNITS: [(&str, u64); 4] = [("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40)];

/// Reads a size: `50M` and `50MiB` count in 1024, `50MB` in 1000. Bytes. A number without a unit is not guessed at, and `Mb` are
/// bits.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("{text:?} is no size: write it like 500K, 64M, 1.5G, 100MB or 4096B");
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit.trim() {
        "B" => 1.0,
        "" if number == 0.0 => 1.0,
        "" => return Err(format!("{text:?} has no unit: write {text}B, {text}K, {text}M or {text}G")),
        bits if bits.len() > 1
            && bits.ends_with('b')
            && bits.starts_with(|c: char| c.is_ascii_uppercase()) =>
        {
            return Err(format!("{text:?} counts bits: write bytes, like 64M or 100MB"));
        }
        unit => {
            let upper = unit.to_ascii_uppercase();
            let (index, (_, binary)) =
                UNITS.iter().enumerate().find(|(_, (name, _))| upper.starts_with(name)).ok_or_else(wrong)?;
            match &upper[1..] {
                "" | "IB" => *binary as f64,
                "B" => 1000f64.powi(index as i32 + 1),
                _ => return Err(wrong()),
            }
        }
    };
    let bytes = number * factor;
    // 2^53: beyond it an f64 is no exact count of bytes, and no disk is that large.
    if bytes > 9.0e15 {
        return Err(format!("{text:?} is beyond every disk"));
    }
    Ok(bytes.round() as u64)
}

/// Reads a rate: a size, with or without `/s`; `0`, `off` and `none` lift the limit. Bytes per second.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    match text.trim() {
        "off" | "none" | "unlimited" => Ok(0),
        text => parse_size(text.strip_suffix("/s").unwrap_or(text)),
    }
}

/// Reads a duration: `90s`, `5m`, `2h30m`, `7d`. Seconds.
pub fn parse_seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no duration: write it like 30s, 5m, 2h30m or 7d");
    match text.parse::<u64>() {
        Ok(0) => return Ok(0),
        Ok(_) => return Err(format!("{text:?} has no unit: write {text}s, {text}m, {text}h or {text}d")),
        Err(_) => {}
    }
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    u64::try_from(length.as_secs()).map_err(|_| wrong())
}

/// Reads a time-out, at least a millisecond: as [`parse_seconds`], and fractions such as `500ms`.
pub fn parse_timeout(text: &str) -> Result<std::time::Duration, String> {
    let milliseconds = match text.strip_suffix("ms").map(str::parse::<u64>) {
        Some(Ok(milliseconds)) => milliseconds,
        _ => parse_seconds(text)?.saturating_mul(1000),
    };
    if milliseconds == 0 || milliseconds > 24 * 3600 * 1000 {
        return Err(format!("{text:?} is no time-out: from 1ms to 24h"));
    }
    Ok(std::time::Duration::from_millis(milliseconds))
}

/// Reads an instant: RFC 3339, a local date and time, or how long ago (`2h`).
pub fn parse_since(text: &str) -> Result<Timestamp, String> {
    let now = Timestamp::now();
    let since = parse_since_at(text, now)?;
    if since > now + jiff::SignedDuration::from_mins(5) {
        return Err(format!("{} has not come yet; a time without a zone is this machine's", time(since)));
    }
    Ok(since)
}

fn parse_since_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(instant);
    }
    if let Ok(local) = text.parse::<DateTime>()
        && let Ok(zoned) = local.to_zoned(TimeZone::system())
    {
        return Ok(zoned.timestamp());
    }
    let wrong = || {
        format!("{text:?} is no time: write it like 2026-11-22T10:00:00Z, \"2026-11-22 10:00\" or 2h (ago)")
    };
    let seconds = parse_seconds(text).map_err(|_| wrong())?;
    let back = jiff::SignedDuration::from_secs(i64::try_from(seconds).map_err(|_| wrong())?);
    now.checked_sub(back).map_err(|_| wrong())
}

/// A size for people, in units of 1024: `1.5 GiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// A size that may be negative.
#[must_use]
pub fn signed_size(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "" };
    format!("{sign}{}", size(bytes.unsigned_abs()))
}

/// A rate for people: `120.3 MiB/s`.
#[must_use]
pub fn rate(bytes_per_s: u64) -> String {
    format!("{}/s", size(bytes_per_s))
}

/// A length of time for people, its two largest units: `2h 5m`.
#[must_use]
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// How long ago an instant was, by this machine's clock; `0s` for instants of a clock that runs ahead.
#[must_use]
pub fn age(instant: Timestamp, now: Timestamp) -> String {
    let seconds = u64::try_from(now.duration_since(instant).as_secs()).unwrap_or(0);
    match seconds {
        60..3600 => format!("{}m", seconds / 60),
        _ => duration(seconds),
    }
}

/// An instant for people, to the second, with its zone.
#[must_use]
pub fn time(instant: Timestamp) -> String {
    instant.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("4096B", 4096),
            ("5gb", 5_000_000_000),
            ("50M", 50 << 20),
            ("50MiB", 50 << 20),
            ("50MB", 50_000_000),
            ("1.5g", 3 << 29),
            ("2 KiB", 2048),
            ("10B", 10),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            "4096",
            "50",
            "50Mb",
            "50Gb",
            "M",
            "-5M",
            "5X",
            "5Mb/s",
            "1e9",
            "99999999T",
            "5Mi",
            "nan",
            "inf",
            "1.2.3",
        ] {
            assert!(parse_size(bad).is_err(), "{bad:?} must be refused");
        }
        assert_eq!(parse_rate("80M/s"), Ok(80 << 20));
        assert_eq!(parse_rate("off"), Ok(0));
        assert_eq!(parse_rate("0"), Ok(0));
        assert!(parse_rate("50").unwrap_err().contains("write 50B, 50K, 50M or 50G"));
        assert!(parse_rate("50Mb/s").unwrap_err().contains("counts bits"));
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [("0", 0), ("90s", 90), ("5m", 300), ("2h30m", 9000), ("7d", 604_800)] {
            assert_eq!(parse_seconds(text), Ok(seconds), "{text}");
        }
        for bad in ["", "30", "-5s", "5 parsecs", "1e9"] {
            assert!(parse_seconds(bad).is_err(), "{bad:?} must be refused");
        }
        assert_eq!(parse_timeout("500ms"), Ok(std::time::Duration::from_millis(500)));
        assert!(parse_timeout("0").is_err());
    }

    #[test]
    fn an_instant_is_a_time_or_how_long_ago() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        assert_eq!(parse_since_at("2h", now).unwrap().to_string(), "2026-11-22T08:00:00Z");
        assert_eq!(parse_since_at("2026-11-21T10:00:00Z", now).unwrap().to_string(), "2026-11-21T10:00:00Z");
        assert!(parse_since_at("2026-11-21 10:00", now).is_ok());
        assert!(parse_since_at("yesterday-ish", now).unwrap_err().contains("write it like"));
    }

    #[test]
    fn figures_are_shown_in_the_unit_that_fits() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(signed_size(-(5 << 20)), "-5.0 MiB");
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(3725), "1h 2m");
    }
}
