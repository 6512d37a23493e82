//! Base64 with one text for each sequence of bytes.

use data_encoding::BASE64;

/// Decodes padded base64. Returns `None` for any text but the one that [`BASE64`] encodes the bytes to: its decoder also accepts
/// several padded texts in a row.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.as_bytes()).ok().filter(|bytes| BASE64.encode(bytes) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_of_bytes_has_one_text() {
        assert_eq!(decode("YWI="), Some(b"ab".to_vec()));
        assert_eq!(decode(""), Some(Vec::new()));
        // Set bits after the last byte; a space; no padding; another alphabet; two texts in a row.
        for other in ["YWJ=", " YWI=", "YWI", "_-8=", "YQ==YWI=", "YQ==YWIj"] {
            assert_eq!(decode(other), None, "{other}");
        }
    }
}
