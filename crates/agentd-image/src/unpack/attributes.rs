//! Policy for the owners, modes and extended attributes that an archive may set.

use rustix::{fs::XattrFlags, io::Errno};
use std::{
    ffi::OsStr,
    os::{fd::BorrowedFd, unix::ffi::OsStrExt},
};

/// The ownership of the files of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Files keep the archive's user and group ids and set-id bits. This needs root; the ids are mapped when the layer is
    /// mounted. Set-id files from an untrusted image are harmless in the store, which nobody else can enter (owned by root, mode
    /// 0700). Set-id bits are also harmless in a sandbox, which mounts everything `nosuid`. The bits are kept so that the
    /// unpacked image equals the original.
    Kept,
    /// All files belong to the caller, without set-id bits, which would lend the caller's own rights.
    Caller,
}

impl Ownership {
    /// Returns the ownership that this process can apply: [`Ownership::Kept`] needs root of the initial user namespace.
    pub fn of_this_process() -> Self {
        let every_id_is_itself = || {
            // In a user namespace, an id without a mapping cannot be assigned to a file (`man 7 user_namespaces`).
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

/// Marks a directory as opaque: overlayfs then hides its contents in the layers below. A mount in a user namespace (`-o
/// userxattr`) reads the `user.*` mark. A mount outside reads the `trusted.*` mark, which only root may write
/// (Documentation/filesystems/overlayfs.rst). A layer that root unpacked gets both marks, because it may be mounted either way,
/// and neither kind of mount reads the other mark.
pub(super) fn make_opaque(directory: BorrowedFd<'_>, ownership: Ownership) -> Result<(), Errno> {
    if ownership == Ownership::Kept {
        rustix::fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
    }
    rustix::fs::fsetxattr(directory, "user.overlay.opaque", b"y", XattrFlags::empty())
}

/// Sets the extended attributes that an archive may set, and returns the number of those that were left out. `user.*` is data.
/// All others grant authority. `security.capability` grants privileges. `trusted.*` and `user.overlay.*` control overlayfs: a
/// forged `redirect` shows another directory of the layers below. Labels and ACLs refer to users and policies of the host.
pub(super) fn keep(file: BorrowedFd<'_>, attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<u64, Errno> {
    let mut dropped = 0;
    for (name, value) in attributes {
        if !may_be_set(name) {
            dropped += 1;
            continue;
        }
        match rustix::fs::fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            Ok(()) => {}
            // The file system does not support extended attributes. A program that needs the attributes reports the cause more
            // clearly than this code could.
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
    fn attributes_outside_user_namespace_or_of_overlayfs_are_refused() {
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
    fn set_id_bits_are_kept_only_with_ownership_kept() {
        assert_eq!(Ownership::Kept.allowed(0o6755), 0o6755);
        assert_eq!(Ownership::Caller.allowed(0o7755), 0o1755);
    }
}
