//! Replaces each byte of a secret that a server sends by `*`, so that lengths do not change.
//!
//! A secret is recognised in plain text, as a part of base64 text, percent-encoded, and escaped as in JSON. Other forms, such as
//! a digest or a compressed copy, are not recognised.

use super::secret::MIN_VALUE;
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD};
use memchr::memmem;
use std::ops::Range;
use zeroize::Zeroizing;

const MASK: u8 = b'*';

/// The forms of the secrets of one host. They are zeroed when dropped.
pub(crate) struct Patterns(Vec<Zeroizing<Vec<u8>>>);

impl Patterns {
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = &'a Vec<u8>>) -> Self {
        let mut patterns: Vec<Zeroizing<Vec<u8>>> = Vec::new();
        for value in values {
            let escapes = [json(value, false), json(value, true), percent(value, false), percent(value, true)];
            let base64 = (0..3).flat_map(|before| base64(value, before));
            for form in [Zeroizing::new(value.clone())].into_iter().chain(escapes).chain(base64) {
                if !patterns.contains(&form) {
                    patterns.push(form);
                }
            }
        }
        Self(patterns)
    }

    /// Masks every secret in the bytes. Returns false if there is none.
    pub(crate) fn mask(&self, bytes: &mut [u8]) -> bool {
        let ranges = self.find(bytes);
        for range in &ranges {
            bytes[range.clone()].fill(MASK);
        }
        !ranges.is_empty()
    }

    /// Returns true if a text in lower case contains a secret. The case of the secret is ignored.
    pub(crate) fn in_lower_case(&self, text: &[u8]) -> bool {
        let lower = |pattern: &[u8]| Zeroizing::new(pattern.to_ascii_lowercase());
        self.0.iter().any(|pattern| memmem::find(text, &lower(pattern)).is_some())
    }

    /// Finds all occurrences, including those that overlap.
    fn find(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        for pattern in &self.0 {
            let mut from = 0;
            while let Some(at) = bytes.get(from..).and_then(|rest| memmem::find(rest, pattern)) {
                found.push(from + at..from + at + pattern.len());
                from += at + 1;
            }
        }
        found
    }

    /// Returns the length of the longest suffix of the bytes that is a prefix of a secret.
    fn open_end(&self, bytes: &[u8]) -> usize {
        let starts = |pattern: &[u8]| {
            let max = bytes.len().min(pattern.len().saturating_sub(1));
            (1..=max).rev().find(|length| bytes.ends_with(&pattern[..*length])).unwrap_or(0)
        };
        self.0.iter().map(|pattern| starts(pattern)).max().unwrap_or(0)
    }
}

/// Masks a stream. A suffix with which a secret could start is held back until the next bytes arrive.
pub(crate) struct Masker {
    patterns: std::sync::Arc<Patterns>,
    /// The bytes that are held back.
    held: Zeroizing<Vec<u8>>,
    /// The number of held bytes that belong to a secret which started earlier.
    masked: usize,
}

impl Masker {
    pub(crate) fn new(patterns: std::sync::Arc<Patterns>) -> Self {
        Self { patterns, held: Zeroizing::default(), masked: 0 }
    }

    /// Takes bytes, and returns the masked bytes that can be forwarded.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut all = Zeroizing::new(Vec::with_capacity(self.held.len() + bytes.len()));
        all.extend_from_slice(&self.held);
        all.extend_from_slice(bytes);
        let released = all.len() - self.patterns.open_end(&all);
        self.mask_prefix(all, released)
    }

    /// Returns the bytes that are held back at the end of the stream. If they are a long prefix of a secret, they are masked.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let all = std::mem::take(&mut self.held);
        let length = all.len();
        if length >= MIN_VALUE {
            self.masked = length;
        }
        self.mask_prefix(all, length)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(crate) fn patterns(&self) -> &Patterns {
        &self.patterns
    }

    /// Masks and returns the first `released` bytes of `all`, and holds the others back.
    fn mask_prefix(&mut self, all: Zeroizing<Vec<u8>>, released: usize) -> Vec<u8> {
        let mut out = all[..released].to_vec();
        let mut masked = self.masked;
        for range in std::iter::once(0..self.masked).chain(self.patterns.find(&all)) {
            let end = range.end.min(released);
            if range.start < end {
                out[range.start..end].fill(MASK);
                masked = masked.max(range.end);
            }
        }
        self.held = Zeroizing::new(all[released..].to_vec());
        self.masked = masked.saturating_sub(released);
        out
    }
}

/// Returns the characters of base64 text that depend only on the value, if `before` bytes modulo 3 precede it, in each of the two
/// alphabets.
fn base64(value: &[u8], before: usize) -> [Zeroizing<Vec<u8>>; 2] {
    let padded = Zeroizing::new([&[0; 3][..before], value].concat());
    let decided = (before * 8).div_ceil(6)..padded.len() * 8 / 6;
    [BASE64_NOPAD, BASE64URL_NOPAD].map(|alphabet| {
        let text = Zeroizing::new(alphabet.encode(&padded));
        Zeroizing::new(text.as_bytes()[decided.clone()].to_vec())
    })
}

/// Escapes a text as in JSON (RFC 8259, 7). Some encoders also escape `/`.
fn json(value: &[u8], slash: bool) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(value.len() * 2));
    for byte in value {
        if matches!(byte, b'"' | b'\\') || (slash && *byte == b'/') {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    text
}

/// Escapes a text for a URL (RFC 3986, 2).
fn percent(value: &[u8], upper: bool) -> Zeroizing<Vec<u8>> {
    let digits: &[u8; 16] = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
    let mut text = Zeroizing::new(Vec::with_capacity(value.len() * 3));
    for byte in value {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(*byte);
        } else {
            text.extend([b'%', digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::BASE64;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn masker(values: &[&str]) -> Masker {
        let values: Vec<_> = values.iter().map(|value| value.as_bytes().to_vec()).collect();
        Masker::new(Arc::new(Patterns::new(&values)))
    }

    /// Masks text that arrives in parts of `size` bytes.
    fn masked(values: &[&str], text: &str, size: usize) -> String {
        let mut masker = masker(values);
        let mut out: Vec<u8> = text.as_bytes().chunks(size).flat_map(|part| masker.feed(part)).collect();
        out.extend(masker.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn secret_is_masked_however_it_is_divided() {
        for size in 1..40 {
            let text = "x=secret-value; secret-valu, secret-valuesecret-value";
            let expected = "x=************; secret-valu, ************************";
            assert_eq!(masked(&["secret-value"], text, size), expected, "{size}");
        }
    }

    #[test]
    fn overlapping_secrets_are_masked_in_full() {
        for size in 1..30 {
            assert_eq!(
                masked(&["aabaabaab", "abXXabXXab"], ".aabaabaabaabXXabXXab.", size),
                format!(".{}.", "*".repeat(20)),
                "{size}"
            );
        }
    }

    #[test]
    fn encoded_forms_are_masked() {
        let value = r#"se"cr/et+va?ue"#;
        for text in [r#"se\"cr/et+va?ue"#, r#"se\"cr\/et+va?ue"#, "se%22cr%2Fet%2Bva%3Fue", "se%22cr%2fet%2bva%3fue"] {
            assert_eq!(masked(&[value], text, 5), "*".repeat(text.len()));
        }
        for user in ["u:", "us:", "use:", ""] {
            let plain = format!("{user}{value}");
            for (text, alphabet) in [(BASE64.encode(plain.as_bytes()), "std"), (BASE64URL_NOPAD.encode(plain.as_bytes()), "url")]
            {
                let out = masked(&[value], &text, 3);
                let left = out.bytes().filter(|byte| *byte != b'*' && *byte != b'=').count();
                assert!(left <= user.len() * 8 / 6 + 2, "{alphabet} {user}: {text} became {out}");
            }
        }
    }

    #[test]
    fn start_of_a_secret_at_the_end_of_the_stream_is_masked_if_it_is_long() {
        assert_eq!(masked(&["secret-value"], "x secret-v", 4), "x ********");
        assert_eq!(masked(&["secret-value"], "x secret", 4), "x secret");
    }

    #[test]
    fn bytes_that_start_no_secret_are_forwarded_at_once() {
        let mut masker = masker(&["secret-value"]);
        assert_eq!(masker.feed(b"data: 1\n\n"), b"data: 1\n\n");
        assert!(masker.is_empty());
        assert_eq!(masker.feed(b"data: s"), b"data: ");
        assert_eq!(masker.feed(b"un\n"), b"sun\n");
    }

    proptest! {
        #[test]
        fn division_does_not_matter_and_lengths_stay(text in "[ab]{0,60}", size in 1_usize..20) {
            let values = ["abaababa", "babababa"];
            let mut whole = text.clone().into_bytes();
            let found = masker(&values).patterns().mask(&mut whole);
            let out = masked(&values, &text, size);
            prop_assert_eq!(out.len(), text.len());
            prop_assert_eq!(found, whole.contains(&MASK));
            // A long start of a secret at the end is also masked.
            for (out, whole) in out.bytes().zip(whole) {
                prop_assert!(out == whole || out == MASK);
            }
        }
    }
}
