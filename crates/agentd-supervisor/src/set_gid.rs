//! Sets the set-group-id bit of directories for commands.
//!
//! The filter refuses set-id bits, because a set-id file in a granted directory would have the caller's rights outside. On a
//! directory the set-group-id bit is harmless, and shared workspaces need it, but a filter cannot see file types. The filter
//! therefore passes such calls to the thread of [`crate::listener`].
//!
//! The thread opens the file once, rejects anything but a directory, and changes that open directory. The thread has the
//! commands' ids, mounts and Landlock domain, and drops its effective capabilities for the change, so it has no right that a
//! command lacks. It executes no program.

use agentd_kernel::{
    privileges::{self, Capabilities},
    seccomp::{Call, Listener, ModeChange, Target},
};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

/// Maximum length of a path, with its final zero byte (`PATH_MAX`).
const MAX_PATH: usize = 4096;
/// Flags that open a directory itself, without permission to read it.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Carries out one call.
pub fn change(listener: &Listener, call: &Call, change: ModeChange, kept: Capabilities) -> Result<(), Errno> {
    if change.mode & libc::S_ISUID != 0 {
        return Err(Errno::PERM);
    }
    let caller = Caller::open(listener, call)?;
    let (start, path) = match change.target {
        Target::Descriptor(number) => (caller.descriptor(number)?, None),
        Target::Path { directory, address } => {
            let path = caller.path(address)?;
            match emulated_descriptor(&path) {
                Some(number) => (caller.descriptor(number)?, None),
                None if path.to_bytes().starts_with(b"/") => (rustix::fs::open("/", DIRECTORY, Mode::empty())?, Some(path)),
                None if directory == libc::AT_FDCWD => (caller.entry("cwd")?, Some(path)),
                None => (caller.descriptor(directory)?, Some(path)),
            }
        }
    };
    // Thread ids are reused: the objects opened and read above belong to the caller only if the caller still waits.
    if !listener.is_waiting(call) {
        return Err(Errno::SRCH);
    }
    privileges::without_effective(kept, || {
        let directory = match path {
            Some(path) => {
                // A magic link of `/proc` would lead to the descriptors of this thread, not of the caller.
                rustix::fs::openat2(&start, &path, DIRECTORY, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
                    .map_err(not_a_directory)?
            }
            None => start,
        };
        // Before fchmodat2 (Linux 6.6), this path is the only way to change the mode of a file opened with `O_PATH`.
        rustix::fs::chmod(format!("/proc/self/fd/{}", directory.as_raw_fd()), Mode::from_raw_mode(change.mode))
    })
}

/// Maps `ENOTDIR` to `EPERM`: a regular file with the bit would run with the caller's group outside.
fn not_a_directory(errno: Errno) -> Errno {
    if errno == Errno::NOTDIR { Errno::PERM } else { errno }
}

/// Returns the number in `/proc/self/fd/NUMBER`. C libraries use such paths to change the mode of an open file without following
/// links.
fn emulated_descriptor(path: &CStr) -> Option<i32> {
    let digits = path.to_str().ok()?.strip_prefix("/proc/self/fd/")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// The calling thread, accessed through its directory in `/proc`.
struct Caller<'a> {
    call: &'a Call,
    place: OwnedFd,
}

impl<'a> Caller<'a> {
    /// Opens the caller's directory. Rejects a caller of another user, for whom this thread would act with the wrong rights.
    fn open(listener: &Listener, call: &'a Call) -> Result<Self, Errno> {
        let place = rustix::fs::openat(CWD, format!("/proc/{}", call.thread), DIRECTORY, Mode::empty())?;
        let owner = rustix::fs::statat(&place, "", AtFlags::EMPTY_PATH)?.st_uid;
        if !listener.is_waiting(call) || owner != rustix::process::geteuid().as_raw() {
            return Err(Errno::PERM);
        }
        Ok(Self { call, place })
    }

    fn entry(&self, name: &str) -> Result<OwnedFd, Errno> {
        open_directory(self.place.as_fd(), name)
    }

    /// Opens a directory that the caller has open.
    fn descriptor(&self, number: i32) -> Result<OwnedFd, Errno> {
        if number < 0 { Err(Errno::BADF) } else { self.entry(&format!("fd/{number}")) }
    }

    /// Reads a path from the caller's memory, page by page, because the page after the end of the path may not be mapped.
    fn path(&self, address: u64) -> Result<CString, Errno> {
        let mut path = Vec::new();
        while path.len() < MAX_PATH {
            let at = address.checked_add(path.len() as u64).ok_or(Errno::FAULT)?;
            let mut page = [0; MAX_PATH];
            let rest = MAX_PATH - usize::try_from(at % 4096).map_err(|_| Errno::FAULT)?;
            let wanted = rest.min(MAX_PATH - path.len());
            let read = self.call.read_memory(at, &mut page[..wanted])?;
            let part = &page[..read];
            let end = part.iter().position(|byte| *byte == 0);
            path.extend_from_slice(&part[..end.unwrap_or(read)]);
            match end {
                Some(_) if path.is_empty() => return Err(Errno::NOENT),
                Some(_) => return CString::new(path).map_err(|_| Errno::INVAL),
                None if read == 0 => return Err(Errno::FAULT),
                None => {}
            }
        }
        Err(Errno::NAMETOOLONG)
    }
}

fn open_directory(place: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(place, name, DIRECTORY, Mode::empty()).map_err(not_a_directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proc_self_fd_path_is_parsed_as_descriptor() {
        let number = |path: &CStr| emulated_descriptor(path);
        assert_eq!(number(c"/proc/self/fd/12"), Some(12));
        for path in [c"/proc/self/fd/", c"/proc/self/fd/1/x", c"/proc/self/fd/+1", c"/proc/1/fd/3", c"proc/self/fd/1"] {
            assert_eq!(number(path), None, "{path:?}");
        }
        assert_eq!(number(c"/proc/self/fd/99999999999"), None);
    }
}
