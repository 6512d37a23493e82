//! Durations as people write them: `500ms`, `30s`, `1.5h`.

use crate::scaled;
use std::time::Duration;

/// Parses a duration. A number without a unit is in seconds.
///
/// # Errors
/// The message for the user, if `text` is not a duration or is zero.
pub fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is not a duration — use a value such as 500ms, 0.2s, 30s, 2m or 1.5h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let millis = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    match scaled(digits, millis) {
        Some(0) | None => Err(bad()),
        Some(millis) => Ok(Duration::from_millis(millis)),
    }
}

/// Parses a duration that may be `0`.
///
/// # Errors
/// As for [`parse`].
pub fn parse_or_zero(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { parse(text) }
}

/// Returns the text of a duration, which [`parse`] reads. A part of a millisecond is rounded down.
pub fn text(duration: Duration) -> String {
    let millis = duration.as_millis();
    match [(3_600_000, "h"), (60_000, "m"), (1000, "s")].iter().find(|(unit, _)| millis != 0 && millis.is_multiple_of(*unit)) {
        Some((unit, suffix)) => format!("{}{suffix}", millis / unit),
        None => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_duration_is_parsed_as_the_same_duration() {
        for (millis, written) in
            [(1, "1ms"), (1500, "1500ms"), (30_000, "30s"), (90_000, "90s"), (120_000, "2m"), (7_200_000, "2h")]
        {
            let duration = Duration::from_millis(millis);
            assert_eq!((text(duration).as_str(), parse(written)), (written, Ok(duration)));
        }
    }

    #[test]
    fn parse_accepts_units_and_rejects_other_text() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("7", 7000),
            ("1.5h", 5_400_000),
            ("0.2s", 200),
            ("0.001s", 1),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1d", "1.s", ".5s", "0", "0.0s", "0.1ms", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
