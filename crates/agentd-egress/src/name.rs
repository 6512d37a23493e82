//! Host names in one normal form: lower case, A-labels (RFC 5890), no trailing dot.
//!
//! Grants, names in DNS queries, SNI and `Host` are compared in this form only. No decision about a flow depends on a comparison
//! of raw text.

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use std::{fmt, str::FromStr};

/// The maximum length of a name in text form, in bytes (RFC 1035, 2.3.4: 255 on the wire).
const MAX_NAME: usize = 253;
/// The maximum length of a label, in bytes (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// A host name in normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Box<str>);

/// The reason why a text is not a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name, or one of its labels, is empty.
    #[error("the host name has an empty label")]
    Empty,
    /// The name or a label is longer than DNS permits.
    #[error("the host name is longer than {MAX_NAME} bytes, or a label of it is longer than {MAX_LABEL}")]
    Long,
    /// The name has a byte that no host name contains.
    #[error("the host name has a character other than letters, digits, `-` and `_`")]
    Character,
    /// A label starts or ends with a hyphen.
    #[error("a label of the host name starts or ends with `-`")]
    Hyphen,
    /// The last label is a number. Resolvers read such a name as an IPv4 address (`127.1`, `0x7f000001`).
    #[error("the last label of the host name is a number, so resolvers read the name as an address")]
    Number,
    /// The name is not valid under IDNA (UTS 46).
    #[error("the host name is not valid under IDNA")]
    Idna,
}

impl HostName {
    /// Reads a name from a protocol message, in which an internationalised name is already in its ASCII form. Accepts one
    /// trailing dot and any case.
    ///
    /// # Errors
    /// The bytes are not a host name.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, NameError> {
        let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
        if bytes.is_empty() {
            return Err(NameError::Empty);
        }
        if bytes.len() > MAX_NAME {
            return Err(NameError::Long);
        }
        let mut name = String::with_capacity(bytes.len());
        let mut last: &[u8] = &[];
        for label in bytes.split(|byte| *byte == b'.') {
            check_label(label)?;
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            last = label;
        }
        if is_number(last) {
            return Err(NameError::Number);
        }
        Ok(Self(name.into()))
    }

    /// Returns the name in normal form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_label(label: &[u8]) -> Result<(), NameError> {
    let (Some(first), Some(last)) = (label.first(), label.last()) else {
        return Err(NameError::Empty);
    };
    if label.len() > MAX_LABEL {
        return Err(NameError::Long);
    }
    if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        return Err(NameError::Character);
    }
    if *first == b'-' || *last == b'-' {
        return Err(NameError::Hyphen);
    }
    Ok(())
}

/// Returns true if `inet_aton` reads a name with this last label as an address: decimal, octal or hexadecimal digits.
fn is_number(label: &[u8]) -> bool {
    let hexadecimal = label.strip_prefix(b"0x").or_else(|| label.strip_prefix(b"0X"));
    hexadecimal.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) || label.iter().all(u8::is_ascii_digit)
}

/// Reads a name that a person wrote: internationalised names are mapped to their ASCII form (UTS 46, non-transitional).
impl FromStr for HostName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let ascii = Uts46::new()
            .to_ascii(text.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore)
            .map_err(|_| NameError::Idna)?;
        Self::from_wire(ascii.as_bytes())
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name, or all names with at least one label below a name (`*.NAME`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamePattern {
    /// True for `*.NAME`, which does not match NAME itself.
    below: bool,
    name: HostName,
}

impl NamePattern {
    /// Returns the pattern `*.name`.
    pub fn below(name: HostName) -> Self {
        Self { below: true, name }
    }

    /// Returns the pattern that matches one name.
    pub fn exactly(name: HostName) -> Self {
        Self { below: false, name }
    }

    /// Returns true if the pattern matches one name only.
    pub fn is_exact(&self) -> bool {
        !self.below
    }

    /// Returns true if the pattern matches the name.
    pub fn matches(&self, name: &HostName) -> bool {
        let (own, name) = (self.name.as_str(), name.as_str());
        if self.below { name.strip_suffix(own).is_some_and(|above| above.len() > 1 && above.ends_with('.')) } else { name == own }
    }

    /// Returns true if the pattern matches every name that `other` matches.
    pub fn contains(&self, other: &Self) -> bool {
        self == other || self.below && self.matches(&other.name)
    }

    /// Returns true if some name matches both patterns.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self.below, other.below) {
            (false, _) => other.matches(&self.name),
            (true, false) => self.matches(&other.name),
            (true, true) => self.name == other.name || self.matches(&other.name) || other.matches(&self.name),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    #[test]
    fn spellings_of_one_name_have_one_normal_form() {
        for (text, normal) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("bücher。example", "xn--bcher-kva.example"),
            ("ｅxample.com", "example.com"),
            ("r3---sn-4g5e.example", "r3---sn-4g5e.example"),
            ("_service.my_db.example", "_service.my_db.example"),
            // A Cyrillic letter that looks like a Latin one is another name.
            ("еxample.com", "xn--xample-2of.com"),
        ] {
            assert_eq!(name(text).as_str(), normal, "{text}");
        }
    }

    #[test]
    fn texts_that_are_not_host_names_are_refused_with_the_reason() {
        let long = "a".repeat(64) + ".example";
        let total = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(62)].join(".");
        for (text, error) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("a..b", NameError::Empty),
            (".example", NameError::Empty),
            ("example..", NameError::Empty),
            (&long, NameError::Long),
            (&total, NameError::Long),
            ("a b.example", NameError::Character),
            ("evil\0.example.com", NameError::Character),
            ("a@example", NameError::Character),
            ("a/example", NameError::Character),
            ("-a.example", NameError::Hyphen),
            ("a-.example", NameError::Hyphen),
            ("127.1", NameError::Number),
            ("0x7f000001", NameError::Number),
            ("a.0x", NameError::Number),
            ("10.0.0.1", NameError::Number),
        ] {
            assert_eq!(HostName::from_wire(text.as_bytes()), Err(error), "{text:?}");
            assert!(text.parse::<HostName>().is_err(), "{text:?}");
        }
        assert_eq!("xn--a".parse::<HostName>(), Err(NameError::Idna));
        assert_eq!(HostName::from_wire("bücher.example".as_bytes()), Err(NameError::Character));
    }

    #[test]
    fn wildcard_matches_one_or_more_labels_below_and_nothing_else() {
        let pattern = NamePattern::below(name("files.example"));
        for matching in ["a.files.example", "a.b.files.example", "A.FILES.example."] {
            assert!(pattern.matches(&name(matching)), "{matching}");
        }
        for other in ["files.example", "xfiles.example", "files.example.evil", "example", "a.files.example.com", "afiles.example"]
        {
            assert!(!pattern.matches(&name(other)), "{other}");
        }
        for (other, overlaps) in [
            (NamePattern::below(name("files.example")), true),
            (NamePattern::below(name("a.files.example")), true),
            (NamePattern::below(name("example")), true),
            (NamePattern::exactly(name("a.files.example")), true),
            (NamePattern::exactly(name("files.example")), false),
            (NamePattern::below(name("xfiles.example")), false),
        ] {
            assert_eq!((pattern.overlaps(&other), other.overlaps(&pattern)), (overlaps, overlaps), "{other}");
        }
        let exact = NamePattern::exactly(name("files.example"));
        assert!(exact.matches(&name("Files.Example.")));
        assert!(!exact.matches(&name("a.files.example")));
    }

    proptest! {
        #[test]
        fn normal_form_is_stable_and_never_panics(text in "\\PC{0,80}") {
            if let Ok(name) = text.parse::<HostName>() {
                prop_assert_eq!(HostName::from_wire(name.as_str().as_bytes()), Ok(name.clone()));
                prop_assert_eq!(name.as_str().parse::<HostName>(), Ok(name.clone()));
                prop_assert!(name.as_str().parse::<std::net::IpAddr>().is_err());
            }
        }

        #[test]
        fn bytes_from_the_wire_are_ascii_names_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = HostName::from_wire(&bytes) {
                prop_assert!(name.as_str().is_ascii() && name.as_str().len() <= MAX_NAME);
            }
        }
    }
}
