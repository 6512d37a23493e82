//! Escapes text from inside a sandbox, so that printing it to a terminal or a line-based log is harmless.
//!
//! A file name, an error message or a guest's report may contain escape sequences that rewrite the terminal or inject input. It
//! may also contain newlines that forge a log line, and marks that reverse the order of letters (CVE-2021-42574). agentd escapes
//! all such text before printing it. The output of a command is passed on unchanged.

use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt};

/// Escapes a name so that it prints as one word on one line and differs from every other name. Harmful characters and the
/// backslash are escaped as in Rust (`\n`, `\x1b`, `\u{202e}`, `\\`). Bytes that are not UTF-8 become `\xff`.
pub fn name(name: &(impl AsRef<OsStr> + ?Sized)) -> Escaped<'_> {
    Escaped { bytes: name.as_ref().as_bytes(), backslash: true }
}

/// Escapes a text like [`name`], but leaves backslashes: the text may contain names that are already escaped.
pub fn text(text: &str) -> Escaped<'_> {
    Escaped { bytes: text.as_bytes(), backslash: false }
}

/// Returns a JSON document in which harmful characters are escaped as `\uXXXX`. Such characters occur only in its strings.
pub fn json(document: &str) -> String {
    let mut out = String::with_capacity(document.len());
    for character in document.chars() {
        // Unescaped line breaks come from the serializer's layout; those in strings are already escaped.
        if character != '\n' && is_harmful(character) {
            out.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            out.push(character);
        }
    }
    out
}

/// Text that is escaped when displayed; see [`name`] and [`text`].
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a> {
    bytes: &'a [u8],
    backslash: bool,
}

/// Matches C0 and C1 controls, line and paragraph separators, and marks that change the text direction.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for chunk in self.bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\n' | '\r' | '\t' => write!(f, "{}", character.escape_default())?,
                    '\\' if self.backslash => f.write_str("\\\\")?,
                    _ if !is_harmful(character) => f.write_char(character)?,
                    _ if u32::from(character) < 0x80 => write!(f, "\\x{:02x}", u32::from(character))?,
                    _ => write!(f, "{}", character.escape_unicode())?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn name_with_controls_is_shown_escaped() {
        let raw = OsStr::from_bytes(b"a\x1b]0;title\x07\nb\\\xff\xc2\x9b1m\xe2\x80\xae\xc3\xa4 b");
        assert_eq!(name(raw).to_string(), r"a\x1b]0;title\x07\nb\\\xff\u{9b}1m\u{202e}ä b");
        assert_eq!(text(r"a\b").to_string(), r"a\b");
    }

    #[test]
    fn escaped_json_parses_to_the_same_document() {
        let value = serde_json::json!({ "a": "\u{9b}1m \u{202e} \u{7f} \n \x1b ä" });
        let printed = json(&format!("{value:#}"));
        assert!(!printed.contains(|c: char| c != '\n' && is_harmful(c)), "{printed}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).unwrap(), value);
    }

    proptest! {
        #[test]
        fn escaped_bytes_contain_no_control_character(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let shown = name(OsStr::from_bytes(&bytes)).to_string();
            prop_assert!(!shown.contains(is_harmful));
            prop_assert!(!text(&String::from_utf8_lossy(&bytes)).to_string().contains(is_harmful));
        }

        #[test]
        fn escaped_names_differ_if_names_differ(one in "[\\\\nxa\n]{0,5}", other in "[\\\\nxa\n]{0,5}") {
            prop_assert_eq!(one == other, name(&one).to_string() == name(&other).to_string());
        }
    }
}
