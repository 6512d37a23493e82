//! The home directories that `/etc/passwd` names (`passwd(5)`). No environment variable changes them.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Returns the uid and the home directory of every user with an absolute home other than `/`.
pub(super) fn homes() -> Vec<(u32, PathBuf)> {
    // If the file cannot be read, no home directories are known.
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    passwd.split(|byte| *byte == b'\n').filter_map(entry).collect()
}

fn entry(line: &[u8]) -> Option<(u32, PathBuf)> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
    let uid = std::str::from_utf8(fields.get(2)?).ok()?.parse().ok()?;
    let home = Path::new(OsStr::from_bytes(fields.get(5)?));
    (home.is_absolute() && home != Path::new("/")).then(|| (uid, home.to_path_buf()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_line_without_usable_home_is_skipped() {
        assert_eq!(entry(b"ada:x:1000:1000::/home/ada:/bin/sh"), Some((1000, "/home/ada".into())));
        for line in [&b""[..], b"a:x:1", b"a:x:1:1::/:/bin/sh", b"a:x:1:1::home:/bin/sh", b"a:x:b:1::/home/a:/bin/sh"] {
            assert_eq!(entry(line), None, "{}", String::from_utf8_lossy(line));
        }
    }
}
