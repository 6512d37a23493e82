//! Owners, modes and extended attributes: what of them an archive may set.

use rustix::{fs::XattrFlags, io::Errno};
use std::{
    ffi::OsStr,
    os::{fd::BorrowedFd, unix::ffi::OsStrExt},
};

/// Whose the files of a layer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The archive's user and group ids, set-id bits too. For root: the ids are mapped when the layer is mounted. Set-id files of a
    /// stranger are no danger where they lie, since nobody else can enter the store (root's own, mode 0700), nor in a sandbox,
    /// which mounts everything `nosuid`; and they are what makes an image whole (`sudo`, `ping` under a real uid 0).
    Kept,
    /// All belongs to the caller, without set-id bits: they would lend the caller's own rights, which no image means.
    Caller,
}

impl Ownership {
    /// What this process can do: [`Ownership::Kept`] needs root of the initial user namespace.
    pub fn of_this_process() -> Self {
        let every_id_is_itself = || {
            // `man 7 user_namespaces`: inside one, an id that has no mapping cannot be given to a file.
            let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
            map.split_whitespace().eq(["0", "0", "4294967295"])
        };
        if rustix::process::geteuid().is_root() && every_id_is_itself() { Self::Kept } else { Self::Caller }
    }

    pub(super) fn allowed(self, mode: u32) -> u32 {
        match self {
            Self::Kept => mode & 0o7777,
            Self::Caller => mode & 0o1777,
        }
    }
}

/// Marks a directory so that overlayfs shows nothing of the layers below in it. A mount in a user namespace (`-o userxattr`) reads
/// `user.*`, one outside `trusted.*`, which only root may write (Documentation/filesystems/overlayfs.rst). Whoever mounts a layer
/// that root unpacked may do it either way, and neither mark says a thing to the other.
pub(super) fn make_opaque(directory: BorrowedFd<'_>, ownership: Ownership) -> Result<(), Errno> {
    if ownership == Ownership::Kept {
        rustix::fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
    }
    rustix::fs::fsetxattr(directory, "user.overlay.opaque", b"y", XattrFlags::empty())
}

/// Sets those attributes that an archive may set, and says how many it may not. `user.*` is data. The rest is authority:
/// `security.capability` lends privileges, `trusted.*` and `user.overlay.*` steer overlayfs (a forged `redirect` shows another
/// place of the layers below), labels and ACLs name the host's own users and policies.
pub(super) fn keep(file: BorrowedFd<'_>, attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<u64, Errno> {
    let mut dropped = 0;
    for (name, value) in attributes {
        if !may_be_set(name) {
            dropped += 1;
            continue;
        }
        match rustix::fs::fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            Ok(()) => {}
            // A file system without them: the program that needs them says so better than we could.
            Err(Errno::NOTSUP) => dropped += 1,
            Err(errno) => return Err(errno),
        }
    }
    Ok(dropped)
}

fn may_be_set(name: &[u8]) -> bool {
    name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") && name.len() > 5 && name.len() <= 255 && !name.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attributes_that_are_data_may_be_set() {
        assert!(may_be_set(b"user.comment"));
        for name in [
            "security.capability",
            "trusted.overlay.opaque",
            "user.overlay.redirect",
            "system.posix_acl_access",
            "user.",
            "user.\0",
            "x",
        ] {
            assert!(!may_be_set(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn set_id_bits_are_roots_to_keep() {
        assert_eq!(Ownership::Kept.allowed(0o6755), 0o6755);
        assert_eq!(Ownership::Caller.allowed(0o7755), 0o1755);
    }
}
