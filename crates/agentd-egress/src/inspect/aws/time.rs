//! Reads the time of a request, and compares it with the clock.

use agentd_core::calendar::days;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The maximum difference between the time of a request and the clock of this host. AWS has a similar limit. A signature for a
/// later time would be usable after the end of the sandbox.
const MAX_DIFFERENCE: Duration = Duration::from_secs(15 * 60);

/// Returns true if the time of a request (`YYYYMMDDTHHMMSSZ`) is close to `now`.
pub(super) fn is_current(time: &str, now: SystemTime) -> bool {
    let difference = |time: SystemTime| now.duration_since(time).unwrap_or_else(|later| later.duration());
    read(time).is_some_and(|time| difference(time) <= MAX_DIFFERENCE)
}

/// Reads a time.
fn read(time: &str) -> Option<SystemTime> {
    let digits = |from: usize, count: usize| {
        let text = time.get(from..from + count).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        text.parse::<u64>().ok()
    };
    if time.len() != 16 || time.get(8..9) != Some("T") || time.get(15..) != Some("Z") {
        return None;
    }
    let (year, month, day) = (digits(0, 4)?, digits(4, 2)?, digits(6, 2)?);
    let (hour, minute, second) = (digits(9, 2)?, digits(11, 2)?, digits(13, 2)?);
    if day > 31 || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days(year, month, day)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_that_of_the_civil_calendar() {
        for (text, seconds) in [
            ("19700101T000000Z", 0),
            ("20000228T235959Z", 951_782_399),
            ("20000229T000000Z", 951_782_400),
            ("20150830T123600Z", 1_440_938_160),
            ("20991231T000000Z", 4_102_358_400),
        ] {
            assert_eq!(read(text), Some(UNIX_EPOCH + Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "20150830T123600", "20150830 123600Z", "20151330T123600Z", "2015083oT123600Z", "19690101T000000Z"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn request_of_another_quarter_of_an_hour_is_not_current() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(is_current("20150830T123600Z", at(1_440_938_160 + 900)));
        assert!(is_current("20150830T123600Z", at(1_440_938_160 - 900)));
        assert!(!is_current("20150830T123600Z", at(1_440_938_160 + 901)));
        assert!(!is_current("20150830T123600Z", at(1_440_938_160 - 901)));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_time_or_none(text in "[0-9TZé]{0,17}") {
            read(&text);
        }
    }
}
