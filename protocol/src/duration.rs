//! Durations as people write and read them, in every command and every output: `20s`, `250ms`, `10m`, `2h`, `14d`.

use std::time::Duration;

use thiserror::Error;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DurationError {
    /// No digits at the front.
    #[error("'{0}' has no number: write for example 20s or 250ms")]
    NoNumber(String),
    /// The unit is missing or not one of ms, s, m or min, h, d.
    #[error("'{0}' has no unit that is known: use ms, s, m or min, h or d")]
    UnknownUnit(String),
    /// More milliseconds than 64 bits hold.
    #[error("'{0}' is too long a time")]
    TooLong(String),
}

/// Reads a whole number followed by a unit (`ms`, `s`, `min` or `m`, `h`, `d`).
///
/// # Errors
/// Says what is missing, and what to write instead.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    let number: u64 = match number.parse() {
        Ok(number) => number,
        Err(_) if number.is_empty() => return Err(DurationError::NoNumber(text.to_owned())),
        Err(_) => return Err(DurationError::TooLong(text.to_owned())),
    };
    let unit_ms: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(DurationError::UnknownUnit(text.to_owned())),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(|| DurationError::TooLong(text.to_owned()))
}

/// Writes a duration with one unit that a person reads at a glance: `870µs`, `84ms`, `2.4s`, `3m`, `2h`, `14d`.
#[must_use]
pub fn short(duration: Duration) -> String {
    let micros = duration.as_micros();
    let seconds = duration.as_secs();
    match seconds {
        _ if micros < 1_000 => format!("{micros}µs"),
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        for (text, ms) in [
            ("20ms", 20),
            ("20s", 20_000),
            ("3m", 180_000),
            ("10min", 600_000),
            ("2h", 7_200_000),
            ("14d", 1_209_600_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse(" 5 s "), Ok(Duration::from_secs(5)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(parse("s"), Err(DurationError::NoNumber("s".into())));
        assert_eq!(parse("20"), Err(DurationError::UnknownUnit("20".into())));
        assert_eq!(parse("20 weeks"), Err(DurationError::UnknownUnit("20 weeks".into())));
        assert_eq!(parse("20µs"), Err(DurationError::UnknownUnit("20µs".into())));
        assert_eq!(parse("99999999999999999999s"), Err(DurationError::TooLong("99999999999999999999s".into())));
        assert_eq!(parse("18446744073709551615d"), Err(DurationError::TooLong("18446744073709551615d".into())));
        assert_eq!(parse(""), Err(DurationError::NoNumber(String::new())));
    }

    #[test]
    fn short_form_keeps_one_unit() {
        assert_eq!(short(Duration::from_micros(870)), "870µs");
        assert_eq!(short(Duration::from_millis(84)), "84ms");
        assert_eq!(short(Duration::from_millis(2_440)), "2.4s");
        assert_eq!(short(Duration::from_secs(200)), "3m");
        assert_eq!(short(Duration::from_secs(7_300)), "2h");
        assert_eq!(short(Duration::from_secs(14 * 86_400)), "14d");
    }
}
