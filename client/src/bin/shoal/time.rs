//! Times for people.

/// `2025-06-15 15:06:40Z`: UTC, because the machine's time zone is nobody's business on a shared screen.
pub(crate) fn readable(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000;
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", of_day / 3_600, of_day / 60 % 60, of_day % 60)
}

/// Year, month and day of a day counted from 1970-01-01 (proleptic Gregorian calendar). Years are counted from March,
/// so that the leap day is the last; 400 years have 146,097 days.
fn civil(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468; // from 0000-03-01
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        assert_eq!(readable(0), "1970-01-01 00:00:00Z");
        assert_eq!(readable(951_782_400_000), "2000-02-29 00:00:00Z");
        assert_eq!(readable(1_750_000_000_000), "2025-06-15 15:06:40Z");
        assert_eq!(readable(4_107_542_399_999), "2100-02-28 23:59:59Z");
        assert_eq!(readable(4_107_542_400_000), "2100-03-01 00:00:00Z");
    }

    #[test]
    fn every_day_has_a_successor() {
        let lengths = |year: u64| {
            let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
            [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        };
        let mut day = 0;
        for year in 1970..2450 {
            for (length, month) in lengths(year).into_iter().zip(1..) {
                for of_month in 1..=length {
                    assert_eq!(civil(day), (year, month, of_month));
                    day += 1;
                }
            }
        }
    }
}
