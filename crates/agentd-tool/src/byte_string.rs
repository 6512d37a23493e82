//! Strings of bytes in JSON: paths and contents need not be UTF-8.

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt, path::Path};

/// A string of bytes, such as a path. In JSON, it is a string if the bytes are UTF-8, and otherwise `{"base64": "…"}`.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteString(pub Vec<u8>);

/// The JSON forms of a [`ByteString`].
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form<'a> {
    Text(std::borrow::Cow<'a, str>),
    Encoded(Encoded),
}

/// Bytes that are not UTF-8.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded {
    base64: String,
}

impl ByteString {
    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the bytes as a path.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl fmt::Debug for ByteString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl From<&str> for ByteString {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<&[u8]> for ByteString {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<Vec<u8>> for ByteString {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&Path> for ByteString {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl Serialize for ByteString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => Form::Text(text.into()),
            Err(_) => Form::Encoded(Encoded { base64: BASE64.encode(&self.0) }),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ByteString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Form::deserialize(deserializer)? {
            Form::Text(text) => Ok(Self(text.into_owned().into_bytes())),
            Form::Encoded(Encoded { base64 }) => {
                BASE64.decode(base64.as_bytes()).map(Self).map_err(|error| de::Error::custom(format!("base64: {error}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_a_string_and_other_bytes_are_base64() {
        for (bytes, json) in [(&b"a\n\"b\0"[..], r#""a\n\"b\u0000""#), (b"\xff", r#"{"base64":"/w=="}"#), (b"", r#""""#)] {
            assert_eq!(serde_json::to_string(&ByteString::from(bytes)).unwrap(), json);
        }
    }

    #[test]
    fn other_json_is_refused() {
        for json in ["1", "null", "[1]", "{}", r#"{"base64":"!"}"#, r#"{"base64":"/w==","x":1}"#, r#"{"base64":"/w"}"#] {
            assert!(serde_json::from_str::<ByteString>(json).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn bytes_are_exact(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let json = serde_json::to_string(&ByteString(bytes.clone())).unwrap();
            prop_assert_eq!(serde_json::from_str::<ByteString>(&json).unwrap().0, bytes);
        }
    }
}
