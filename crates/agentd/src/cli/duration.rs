//! Durations as people write them: `500ms`, `30s`, `2m`, `1h`.

use std::time::Duration;

/// Parses a duration; a bare number is seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is not a duration; write for example 500ms, 30s, 2m or 1h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let millis = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    match number.checked_mul(millis) {
        Some(0) | None => Err(bad()),
        Some(millis) => Ok(Duration::from_millis(millis)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1h", 3_600_000), ("7", 7000)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1d", "1.5s", "0", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
