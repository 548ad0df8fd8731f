//! Durations and rates as people write them on a command line.

use shoal_protocol::duration::{self, DurationError};
use shoal_protocol::parameters::Rate;

/// Reads `20ms`, `20s`, `10m` (or `10min`), `2h`, `14d` as milliseconds.
pub(super) fn milliseconds(text: &str) -> Result<u64, DurationError> {
    // whole milliseconds below 2^64 by construction
    duration::parse(text).map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Reads events per second, such as `10` or `0.05`, to a thousandth.
pub(super) fn per_second(text: &str) -> Result<Rate, String> {
    let rate: f64 = text.parse().map_err(|_| "write a number of events per second, such as 2 or 0.5".to_owned())?;
    let millihertz = (rate * 1000.0).round();
    if (1.0..=f64::from(u32::MAX)).contains(&millihertz) {
        // in range by the line above, and whole by rounding
        Ok(Rate(millihertz as u32))
    } else {
        Err("the rate must be at least 0.001 per second".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("20ms", 20),
            ("20s", 20_000),
            ("10m", 600_000),
            ("10min", 600_000),
            ("2h", 7_200_000),
            ("14d", 1_209_600_000),
        ] {
            assert_eq!(milliseconds(text), Ok(ms), "{text}");
        }
        for text in ["", "20", "s", "2.5s", "-1s", "20weeks", "18446744073709551615d", "5€"] {
            assert!(milliseconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(per_second("10"), Ok(Rate(10_000)));
        assert_eq!(per_second("0.05"), Ok(Rate(50)));
        for text in ["", "0", "-1", "NaN", "inf", "fast", "1e12"] {
            assert!(per_second(text).is_err(), "{text}");
        }
    }
}
