//! Id maps (`user_namespaces(7)`): the host ids of a payload, and id-mapped mounts that show files of a host user as files of the
//! payload.

mod range;
mod subordinate;

pub use subordinate::Subordinate;

use crate::{ErrnoContext, syscall};
use agentd_core::{Control, ControlError};
use range::{HostIds, Range};
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// First host id assigned to sandboxes. `systemd`'s UIDS-GIDS document lists 1879048192 and up as unused.
pub const FIRST_HOST_ID: u32 = 0x7000_0000;

/// Host ids that are assigned in ranges if `/etc/subuid` and `/etc/subgid` have no line for `agentd`. They start above all ids
/// that are assigned by pid (`PID_MAX_LIMIT` is 2²²) and end where the unused ids end, at 2³¹.
const DEFAULT_RANGE: Range = Range { first: FIRST_HOST_ID + (1 << 22), count: 0x8000_0000 - FIRST_HOST_ID - (1 << 22) };

/// Number of ids in a range: all ids that Linux distributions use.
pub const RANGE: u32 = 1 << 16;

/// Directory of the lock files of ranges in use; each is named after the first user id of its range.
const LEASES: &str = "/run/agentd/ids";

/// User and group id of a payload that runs as an unprivileged user inside the sandbox.
pub const ORDINARY: u32 = 1000;

/// The ids of a payload: the first of `count` consecutive ids, in the sandbox and on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// User id in the sandbox.
    pub uid: u32,
    /// Group id in the sandbox.
    pub gid: u32,
    /// User id on the host.
    pub host_uid: u32,
    /// Group id on the host.
    pub host_gid: u32,
    /// Number of consecutive ids, including the first one.
    pub count: u32,
    /// Further ids in the sandbox, if they map to another range of the host.
    pub extra: Option<ExtraIds>,
}

/// A range of consecutive host ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraIds {
    /// The first user id.
    pub host_uid: u32,
    /// The first group id.
    pub host_gid: u32,
    /// Number of ids.
    pub count: u32,
}

impl IdMap {
    /// Returns the map for a launcher that is root: an unprivileged user in the sandbox, and a host id derived from the
    /// supervisor's pid. No other live process in the PID namespace of the launcher has that pid, so no other live sandbox
    /// created there has that host id.
    pub fn for_supervisor(supervisor: i32) -> Self {
        let host = FIRST_HOST_ID + supervisor.unsigned_abs();
        Self { uid: ORDINARY, gid: ORDINARY, host_uid: host, host_gid: host, count: 1, extra: None }
    }

    /// Returns the map for a launcher that is an unprivileged user: the same user in the sandbox and on the host.
    pub fn caller() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { uid, gid, host_uid: uid, host_gid: gid, count: 1, extra: None }
    }

    /// Returns the identity map of all ids that distributions use, for a launcher that is root of a machine used by this sandbox
    /// alone.
    pub fn same() -> Self {
        Self { uid: 0, gid: 0, host_uid: 0, host_gid: 0, count: RANGE, extra: None }
    }

    /// Returns the map in which root and all other ids are the same in the sandbox and on the host.
    #[must_use]
    pub fn as_root(self) -> Self {
        Self { uid: 0, gid: 0, ..self }
    }
}

/// A lease of a range of host ids, released when dropped. No other sandbox on this host has the range, unless it [is
/// shared](IdLease::is_shared).
#[derive(Debug)]
pub struct IdLease {
    /// The range, whose first id is root in the sandbox.
    pub id_map: IdMap,
    /// The locked file or bound socket that marks the range as taken. The kernel releases it when the process ends.
    lock: Option<OwnedFd>,
}

impl IdLease {
    /// Returns true if other sandboxes may use the same range.
    pub fn is_shared(&self) -> bool {
        self.lock.is_none()
    }

    /// Leases the first free range of the ids that `/etc/subuid` and `/etc/subgid` assign to `agentd`, or else of the ids that
    /// are unused by convention. Needs root.
    ///
    /// # Errors
    /// If the lines for `agentd` are invalid, a lock file cannot be opened or locked, or all ranges are taken.
    pub fn take() -> Result<Self, ControlError> {
        let ids = HostIds::configured(DEFAULT_RANGE)?;
        std::fs::create_dir_all(LEASES).during(Control::Idmap, || format!("mkdir {LEASES}"))?;
        for number in 0..ids.parts() {
            let id_map = ids.part(number);
            let path = format!("{LEASES}/{}", id_map.host_uid);
            let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::open(&path, flags, Mode::from(0o600)).during(Control::Idmap, || format!("open {path}"))?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { id_map, lock: Some(file) }),
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(ControlError::new(Control::Idmap, format!("lock {path}"), Some(errno.raw_os_error()))),
            }
        }
        Err(ControlError::new(Control::Idmap, format!("find a free range of host ids: all {} are in use", ids.parts()), None)
            .remedy("end some sandboxes, or assign agentd more ids in /etc/subuid and /etc/subgid"))
    }
}

/// Writes one line each to `uid_map` and `gid_map` of the user namespace of `pid`. [`IdMap::extra`] is not written. The parent
/// calls this once.
///
/// # Errors
/// The errno of writing a file of `/proc/PID`, and [`ForeignProc`](crate::proc::ForeignProc).
pub fn write_maps(pid: i32, id_map: IdMap, privileged: bool) -> Result<(), ControlError> {
    let directory = directory_of(pid)?;
    let write = |file: &str, content: String| {
        std::fs::write(directory.join(file), &content)
            .during(Control::Idmap, || format!("write '{content}' to {file} of the sandbox"))
    };
    if !privileged {
        write("setgroups", "deny".to_owned())?;
    }
    write("gid_map", format!("{} {} {}", id_map.gid, id_map.host_gid, id_map.count))?;
    write("uid_map", format!("{} {} {}", id_map.uid, id_map.host_uid, id_map.count))
}

fn directory_of(pid: i32) -> Result<PathBuf, ControlError> {
    crate::proc::directory_of(pid).map_err(|error| error.during(Control::Idmap, "write the id maps of a sandbox"))
}

/// Changes this process, which is inside the new user namespace, to the mapped user. The process keeps all capabilities in the
/// namespace. Supplementary groups are dropped where the kernel allows it: for root, and with subordinate ids
/// (`user_namespaces(7)`).
///
/// # Errors
/// The errno of `setgroups(2)`, `setresgid(2)` or `setresuid(2)`.
pub fn assume(id_map: IdMap, privileged: bool) -> Result<(), ControlError> {
    if privileged || id_map.extra.is_some() {
        syscall::credentials::clear_groups().during(Control::Idmap, || "drop the supplementary groups: setgroups".to_owned())?;
    }
    syscall::credentials::set_ids(id_map.uid, id_map.gid)
        .during(Control::Idmap, || format!("change to uid {} and gid {} in the sandbox", id_map.uid, id_map.gid))
}

/// Creates a user namespace for id-mapped mounts (`mount_setattr(2)`, `MOUNT_ATTR_IDMAP`). In such a mount, the `count` file
/// owners from `owner` on appear as the host ids from `shown` on. Both are pairs of uid and gid.
///
/// # Errors
/// If the helper process cannot be started, or its maps cannot be written or its namespace opened.
pub fn mapping(owner: (u32, u32), shown: (u32, u32), count: u32) -> Result<OwnedFd, ControlError> {
    let helper = syscall::user_namespace::Helper::in_user_namespace()
        .during(Control::Idmap, || "clone a user namespace for id-mapped mounts".to_owned())?;
    let id_map = IdMap { uid: owner.0, gid: owner.1, host_uid: shown.0, host_gid: shown.1, count, extra: None };
    write_maps(helper.pid(), id_map, true)?;
    rustix::fs::open(directory_of(helper.pid())?.join("ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .during(Control::Idmap, || "open the user namespace for id-mapped mounts".to_owned())
}

/// Id-maps the detached mount tree `tree` with `userns`. `path` names the tree in errors.
///
/// # Errors
/// The errno of `mount_setattr(2)`: `EINVAL` if the file system does not support id-mapped mounts.
pub fn map(tree: BorrowedFd<'_>, path: &Path, userns: &OwnedFd) -> Result<(), ControlError> {
    syscall::mounts::mount_setattr(tree, true, libc::MOUNT_ATTR_IDMAP, Some(userns.as_fd()))
        .during(Control::Idmap, || format!("mount_setattr idmap for {}", path.display()))
        .map_err(|error| {
            error.remedy(
                "use a directory on ext4, xfs, btrfs or tmpfs, such as a volume of the container: overlayfs has no id-mapped \
                 mounts; or run agentd as an ordinary user who owns the files",
            )
        })
}
