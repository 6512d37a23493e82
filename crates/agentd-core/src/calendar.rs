//! The Gregorian calendar, from 1970.

/// Returns the number of days of the years before `year`, in the Gregorian calendar.
fn days_before(year: u64) -> u64 {
    let before = year.saturating_sub(1);
    before * 365 + before / 4 - before / 100 + before / 400
}

fn month_lengths(year: u64) -> [u64; 12] {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

/// Returns the days since 1970 of a date; `None` before 1970, and for a month that no year has. A day beyond the end of its
/// month is one of the next month.
pub fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let months = month_lengths(year);
    let month = usize::try_from(month).ok().filter(|month| (1..=months.len()).contains(month))?;
    let before: u64 = months.iter().take(month - 1).sum();
    (days_before(year) + before + day.checked_sub(1)?).checked_sub(days_before(1970))
}

/// Returns the date of a number of days since 1970.
pub fn date(days: u64) -> (u64, u64, u64) {
    let days = days + days_before(1970);
    // A year has at most 366 days, so this year is not too late.
    let mut year = days / 366 + 1;
    while days_before(year + 1) <= days {
        year += 1;
    }
    let (mut month, mut day) = (1, days - days_before(year));
    for length in month_lengths(year) {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_day_has_one_date_and_each_date_one_day() {
        for (day, expected) in [
            (0, (1970, 1, 1)),
            (11_015, (2000, 2, 28)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
            (2_932_896, (9999, 12, 31)),
        ] {
            let (year, month, of_month) = expected;
            assert_eq!((date(day), days(year, month, of_month)), (expected, Some(day)));
        }
        for day in 0..60_000 {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), Some(day));
        }
        for (year, month, day) in [(1969, 12, 31), (2000, 0, 1), (2000, 13, 1), (2000, 1, 0)] {
            assert_eq!(days(year, month, day), None, "{year}-{month}-{day}");
        }
    }
}
