//! Parses extended headers of the `pax` format: lines of `length key=value`. The length determines the end of the value, which
//! may contain newlines.

use crate::error::UnpackError;
use rustix::fs::Timespec;
use std::io;

/// The supported fields of an extended header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) modified: Option<Timespec>,
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: bool,
}

/// Parses an extended header.
pub(super) fn parse(mut rest: &[u8]) -> Result<Records, UnpackError> {
    let mut records = Records::default();
    // Some writers pad the header with zero bytes.
    while rest.first().is_some_and(|byte| *byte != 0) {
        let (key, value, after) = split(rest).ok_or_else(|| malformed("a malformed extended header"))?;
        rest = after;
        match key {
            b"path" => records.path = Some(value.to_owned()),
            b"linkpath" => records.link = Some(value.to_owned()),
            b"size" => records.size = Some(number(value)?),
            b"uid" => records.uid = Some(number(value)?),
            b"gid" => records.gid = Some(number(value)?),
            b"mtime" => records.modified = Some(time(value)?),
            _ if key.starts_with(b"GNU.sparse.") => records.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    records.attributes.push((name.to_owned(), value.to_owned()));
                }
            }
        }
    }
    Ok(records)
}

/// Splits off the first record: returns its key, its value and the remaining bytes.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

fn number(value: &[u8]) -> Result<u64, UnpackError> {
    str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| malformed("a malformed number in an extended header"))
}

/// Parses seconds with an optional fraction, e.g. `1700000000.25`. The fraction of a negative time is ignored.
fn time(value: &[u8]) -> Result<Timespec, UnpackError> {
    let parse = || {
        let text = str::from_utf8(value).ok()?;
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let tv_sec: i64 = seconds.parse().ok()?;
        let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        let tv_nsec = if tv_sec < 0 { 0 } else { digits.parse::<u32>().ok()?.into() };
        Some(Timespec { tv_sec, tv_nsec })
    };
    parse().ok_or_else(|| malformed("a malformed time in an extended header"))
}

fn malformed(what: &'static str) -> UnpackError {
    UnpackError::Archive(io::Error::new(io::ErrorKind::InvalidData, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_values_may_contain_newlines_and_equals_signs() {
        let records = parse(b"27 SCHILY.xattr.user.a=x\ny\n19 path=a\nb=c d \xff\n\n").unwrap();
        assert_eq!(records.attributes, [(b"user.a".to_vec(), b"x\ny".to_vec())]);
        assert_eq!(records.path.unwrap(), b"a\nb=c d \xff\n");
    }

    #[test]
    fn pax_times_with_fraction_or_sign_are_parsed() {
        assert_eq!(parse(b"20 mtime=1700000.25\n").unwrap().modified, Some(Timespec { tv_sec: 1_700_000, tv_nsec: 250_000_000 }));
        assert_eq!(parse(b"12 mtime=-3\n").unwrap().modified, Some(Timespec { tv_sec: -3, tv_nsec: 0 }));
    }

    #[test]
    fn malformed_pax_header_is_refused() {
        for bytes in [
            &b"x"[..],
            b"5 a=b",
            b"99 a=b\n",
            b"1 a=b\n",
            b"0 \n",
            b"12 mtime=0.x\n",
            b"9 size=x\n",
            b"8 pathx\n",
            b"18446744073709551615 a=b\n",
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
