//! Out-of-memory scores: choose which process the kernel kills when the memory of a sandbox runs out.
//!
//! The out-of-memory killer kills the process with the highest score (`proc_pid_oom_score_adj(5)`). A supervisor that uses a
//! megabyte may score above a command that fills pipes, sockets or a tmpfs, because the kernel does not count that memory as
//! resident memory of any process. Every command therefore starts with the highest adjustment, and the supervisor keeps its own
//! adjustment: it is chosen only when no command is left.
//!
//! A process may raise its own adjustment without a privilege, and lower it again to the earlier value. A child inherits the
//! adjustment. The supervisor therefore raises its own adjustment while it starts a command. It must use a descriptor opened
//! before its confinement, because nothing in a sandbox can open `/proc` for writing.

use agentd_core::{Control, ControlError};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// The highest adjustment (`OOM_SCORE_ADJ_MAX`).
const FIRST_TO_DIE: &[u8] = b"1000";

/// The out-of-memory adjustment of this process.
pub struct OomScore {
    file: OwnedFd,
    own: Vec<u8>,
}

impl OomScore {
    /// Opens the adjustment below `proc`, the launcher's `/proc`: a file open for writing would prevent the remount of the
    /// sandbox's own `/proc` as read-only.
    ///
    /// # Errors
    /// The errors of opening and reading the file.
    pub fn open(proc: BorrowedFd<'_>) -> Result<Self, ControlError> {
        let failed = |call: &str, errno: Errno| ControlError::new(Control::Process, call.to_owned(), Some(errno.raw_os_error()));
        let file = rustix::fs::openat(proc, "self/oom_score_adj", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed("open /proc/self/oom_score_adj", errno))?;
        let mut text = [0; 16];
        let read = rustix::io::read(&file, &mut text).map_err(|errno| failed("read /proc/self/oom_score_adj", errno))?;
        Ok(Self { file, own: text[..read].trim_ascii().to_vec() })
    }

    /// Calls `start`, whose child processes inherit the highest adjustment.
    ///
    /// The kernel keeps a single adjustment for all processes that share memory, if a process other than a child of `vfork(2)`
    /// has ever shared it (`MMF_MULTIPROCESS`). No such process may therefore share this process's memory.
    ///
    /// # Errors
    /// The errno of raising the adjustment; in that case, `start` is not called.
    pub fn start_expendable<T>(&self, start: impl FnOnce() -> T) -> Result<T, Errno> {
        rustix::io::pwrite(&self.file, FIRST_TO_DIE, 0)?;
        let started = start();
        // A supervisor that cannot restore its adjustment is as likely to be killed as its commands. The cgroup's counter still
        // reports the cause.
        rustix::io::pwrite(&self.file, &self.own, 0).ok();
        Ok(started)
    }

    /// Returns the number of the descriptor.
    pub(crate) fn descriptor(&self) -> i32 {
        self.file.as_raw_fd()
    }
}
