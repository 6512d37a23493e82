//! Rules on the method and path of a request.
//!
//! A path is compared after one step of percent-decoding. A path that two servers could read differently (`%2F`, `..`, `//`, a
//! backslash, an escaped `%`) is refused, in a rule and in a request.

use std::fmt;

/// The reason why a text is not a path, or why a path is ambiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The path does not start with `/`.
    #[error("the path does not start with `/`")]
    Relative,
    /// A `%` without two hexadecimal digits.
    #[error("the path has a `%` without two hexadecimal digits")]
    Escape,
    /// An escaped `/`, `\`, `%`, or control character.
    #[error("the path has an escaped `/`, `\\`, `%` or control character, which not all servers read in the same way")]
    Hidden,
    /// A segment `.` or `..`.
    #[error("the path has a segment `.` or `..`")]
    Dots,
    /// Escaped bytes that are not UTF-8. Some servers decode the overlong form of `.` or `/`.
    #[error("the path has escaped bytes that are not UTF-8, which not all servers read in the same way")]
    Encoding,
    /// An empty segment (`//`).
    #[error("the path has an empty segment (`//`)")]
    Doubled,
    /// A byte that no path contains unescaped.
    #[error("the path has a space, a backslash, `?`, `#`, a control character or a character outside of ASCII")]
    Character,
    /// A `*` that is a part of a segment of a rule.
    #[error("a `*` in the path is only a part of a segment")]
    Wildcard,
}

/// A segment of the path of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Exactly(Vec<u8>),
    /// `*`: one segment that is not empty. As the last segment of a rule: all paths below.
    Any,
}

/// A method, or all methods, and the paths that are allowed with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRule {
    /// `None` for `*`.
    method: Option<String>,
    path: Vec<Segment>,
}

impl RequestRule {
    /// Reads a rule: a method or `*`, and a path in which a segment may be `*`.
    ///
    /// # Errors
    /// The path is ambiguous.
    pub fn new(method: &str, path: &str) -> Result<Self, PathError> {
        let mut segments = Vec::new();
        let raw = path.strip_prefix('/').ok_or(PathError::Relative)?.split('/');
        for (segment, raw) in segments_of(path.as_bytes())?.into_iter().zip(raw) {
            if raw == "*" {
                segments.push(Segment::Any);
            } else if raw.contains('*') {
                return Err(PathError::Wildcard);
            } else {
                segments.push(Segment::Exactly(segment));
            }
        }
        Ok(Self { method: (method != "*").then(|| method.to_owned()), path: segments })
    }

    /// Returns true if the rule allows the request. The path has no query.
    ///
    /// # Errors
    /// The path of the request is ambiguous.
    pub fn allows(&self, method: &str, path: &[u8]) -> Result<bool, PathError> {
        let asked = segments_of(path)?;
        if self.method.as_deref().is_some_and(|own| own != method) {
            return Ok(false);
        }
        let below = self.path.last() == Some(&Segment::Any) && asked.len() >= self.path.len();
        if !below && asked.len() != self.path.len() {
            return Ok(false);
        }
        Ok(self.path.iter().zip(&asked).all(|(own, asked)| match own {
            Segment::Exactly(own) => own == asked,
            Segment::Any => !asked.is_empty(),
        }))
    }
}

/// Splits an absolute path into decoded segments. Only the last one may be empty.
fn segments_of(path: &[u8]) -> Result<Vec<Vec<u8>>, PathError> {
    let path = path.strip_prefix(b"/").ok_or(PathError::Relative)?;
    let mut segments = Vec::new();
    let count = path.iter().filter(|byte| **byte == b'/').count() + 1;
    for (position, raw) in path.split(|byte| *byte == b'/').enumerate() {
        let segment = decode(raw)?;
        if segment.is_empty() && position + 1 < count {
            return Err(PathError::Doubled);
        }
        // Some servers cut parameters off before they look for dots (`..;a=b`).
        let plain = segment.split(|byte| *byte == b';').next().unwrap_or(&segment);
        // Some servers also ignore spaces at the end of a name.
        if matches!(plain.trim_ascii_end(), b"." | b"..") {
            return Err(PathError::Dots);
        }
        if std::str::from_utf8(&segment).is_err() {
            return Err(PathError::Encoding);
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn decode(raw: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or(PathError::Escape);
                let value = u8::try_from(digit()? * 16 + digit()?).map_err(|_| PathError::Escape)?;
                if value.is_ascii_control() || matches!(value, b'/' | b'\\' | b'%') {
                    return Err(PathError::Hidden);
                }
                decoded.push(value);
            }
            b'\\' | b'?' | b'#' | b' ' => return Err(PathError::Character),
            byte if byte.is_ascii_graphic() => decoded.push(byte),
            _ => return Err(PathError::Character),
        }
    }
    Ok(decoded)
}

/// The text form. Bytes that have a meaning in grants or paths are escaped.
impl fmt::Display for RequestRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.method.as_deref().unwrap_or("*"))?;
        for segment in &self.path {
            f.write_str("/")?;
            let Segment::Exactly(bytes) = segment else {
                f.write_str("*")?;
                continue;
            };
            for byte in bytes {
                if byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b',' | b'*') {
                    write!(f, "{}", char::from(*byte))?;
                } else {
                    write!(f, "%{byte:02X}")?;
                }
            }
        }
        Ok(())
    }
}
