//! Parses the mount table (`proc_pid_mountinfo(5)`), to find the file system and the path in it that a path shows.

use agentd_kernel::text;
use std::{
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// The position of a file or directory in its file system, which is the same for every bind mount that shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DevicePath {
    /// Major and minor number, as written in the table.
    device: Vec<u8>,
    /// The path from the root of the file system.
    path: PathBuf,
}

impl DevicePath {
    /// Returns whether the position equals `other` or lies in it.
    pub fn lies_in(&self, other: &Self) -> bool {
        self.device == other.device && self.path.starts_with(&other.path)
    }
}

struct Mount {
    point: PathBuf,
    root: DevicePath,
}

/// The mounts visible from this process's root. A later mount covers an earlier one at the same point.
pub(super) struct Mounts(Vec<Mount>);

impl Mounts {
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&text::read_bytes("/proc/self/mountinfo")?))
    }

    fn parse(table: &[u8]) -> Self {
        let mount = |line: &[u8]| {
            let mut fields = line.split(|byte| *byte == b' ').skip(2);
            let device = fields.next()?.to_vec();
            let root = DevicePath { device, path: unescaped(fields.next()?) };
            Some(Mount { point: unescaped(fields.next()?), root })
        };
        Self(table.split(|byte| *byte == b'\n').filter_map(mount).collect())
    }

    /// Returns the position of the object at `path` in its file system; `path` must not contain links. `None` if no mount in the
    /// table contains it.
    pub fn place(&self, path: &Path) -> Option<DevicePath> {
        // `max_by_key` returns the last of several mounts at one point, which covers the others.
        let mount =
            self.0.iter().filter(|mount| path.starts_with(&mount.point)).max_by_key(|mount| mount.point.components().count())?;
        let rest = path.strip_prefix(&mount.point).ok()?;
        Some(DevicePath { path: mount.root.path.join(rest), ..mount.root.clone() })
    }

    /// Returns the mount points below `path`.
    pub fn points_below(&self, path: &Path) -> impl Iterator<Item = &Path> {
        self.mounts_below(path).map(|mount| mount.point.as_path())
    }

    /// Returns the positions that are mounted below `path`.
    pub fn places_below(&self, path: &Path) -> impl Iterator<Item = DevicePath> {
        self.mounts_below(path).map(|mount| mount.root.clone())
    }

    fn mounts_below(&self, path: &Path) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(move |mount| mount.point != path && mount.point.starts_with(path))
    }
}

/// Decodes a field of the table, in which spaces, tabs, newlines and backslashes are octal escapes.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, after @ ..] = rest {
        let escaped = after.get(..3).filter(|_| *byte == b'\\').and_then(octal);
        plain.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(plain).into()
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        21 20 0:5 / /dev rw - devtmpfs none rw\n\
        22 20 8:1 /home/ada/data /mnt/caf\xe9 rw - ext4 /dev/sda1 rw\n\
        23 20 8:1 /home/a\\040b /mnt/with\\040space\\134 rw - ext4 /dev/sda1 rw\n";

    #[test]
    fn place_of_bind_mount_equals_place_of_its_source() {
        let mounts = Mounts::parse(TABLE);
        let place = |path: &[u8]| mounts.place(&PathBuf::from(OsString::from_vec(path.to_vec()))).unwrap();
        assert_eq!(place(b"/mnt/caf\xe9/sub"), place(b"/home/ada/data/sub"));
        assert_eq!(place(b"/mnt/with space\\/x"), place(b"/home/a b/x"));
        assert!(place(b"/mnt/caf\xe9").lies_in(&place(b"/home/ada")));
        assert!(!place(b"/dev/home").lies_in(&place(b"/home")));
        assert_eq!(mounts.places_below(Path::new("/mnt")).count(), 2);
    }

    #[test]
    fn parse_of_damaged_mount_table_does_not_panic() {
        for table in [&b""[..], b"\n", b"1", b"1 2 3", b"1 2 8:1 / /a\\", b"1 2 8:1 / /a\\99 x", b"1 2 8:1 / /\\777"] {
            Mounts::parse(table);
        }
    }
}
