//! Points in time, as records contain them.

use agentd_core::calendar::{date, days};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

const SECOND: u64 = 1_000_000;
const DAY: u64 = 86_400;

/// The last microsecond of the year 9999. RFC 3339 cannot express later times.
const MAX: u64 = 253_402_300_799 * SECOND + 999_999;

/// A point in time in UTC, in microseconds since 1970. Its text form is that of RFC 3339 with six digits after the second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Timestamp(u64);

impl Timestamp {
    /// Returns the current time.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// Returns the time that is `micros` microseconds after the start of 1970, at most the end of the year 9999.
    pub fn from_micros(micros: u64) -> Self {
        Self(micros.min(MAX))
    }

    /// Returns the microseconds since the start of 1970.
    pub fn micros(self) -> u64 {
        self.0
    }

    /// Returns this time plus some seconds.
    #[must_use]
    pub fn plus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(SECOND)).min(MAX))
    }
}

/// A clock before 1970 counts as 1970.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let micros = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        Self(u64::try_from(micros).unwrap_or(MAX).min(MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0 / SECOND, self.0 % SECOND);
        let (year, month, day) = date(seconds / DAY);
        let (hour, minute, second) = (seconds % DAY / 3600, seconds % 3600 / 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

/// The text is not a time in the form of [`Timestamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time has the form 2026-01-31T23:59:59.000000Z")]
pub struct InvalidTimestamp;

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let number = |from: usize, to: usize| -> Option<u64> {
            let digits = text.get(from..to)?;
            digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
        };
        let parse = || {
            let day = days(number(0, 4)?, number(5, 7)?, number(8, 10)?)?;
            let seconds = (day * DAY)
                .checked_add(number(11, 13)?.checked_mul(3600)?)?
                .checked_add(number(14, 16)?.checked_mul(60)?)?
                .checked_add(number(17, 19)?)?;
            Some(Self(seconds.checked_mul(SECOND)?.checked_add(number(20, 26)?)?))
        };
        // Only the text of an existing date, and with these separators, is the text of its time.
        parse().filter(|time| time.to_string() == text).ok_or(InvalidTimestamp)
    }
}

impl TryFrom<String> for Timestamp {
    type Error = InvalidTimestamp;

    fn try_from(text: String) -> Result<Self, InvalidTimestamp> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_form_of_rfc_3339() {
        // The seconds are those of `date -u +%s -d`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
            (253_402_300_799, "9999-12-31T23:59:59.000000Z"),
        ] {
            assert_eq!(Timestamp(seconds * SECOND).to_string(), text);
            assert_eq!(text.parse(), Ok(Timestamp(seconds * SECOND)));
        }
    }

    #[test]
    fn other_forms_of_a_time_are_refused() {
        for text in [
            "",
            "2026-01-31T23:59:59Z",
            "2026-01-31T23:59:59.000000+00:00",
            "2026-02-29T00:00:00.000000Z",
            "2026-13-01T00:00:00.000000Z",
            "2026-00-01T00:00:00.000000Z",
            "2026-01-00T00:00:00.000000Z",
            "2026-01-01T24:00:00.000000Z",
            "2026-01-01T00:00:60.000000Z",
            "2026-01-01 00:00:00.000000Z",
            "1969-12-31T23:59:59.000000Z",
            "+026-01-01T00:00:00.000000Z",
            "2026-01-01T00:00:00.000000Z ",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(InvalidTimestamp), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_time_is_parsed_from_its_text(micros in 0..=MAX) {
            proptest::prop_assert_eq!(Timestamp(micros).to_string().parse(), Ok(Timestamp(micros)));
        }
    }
}
