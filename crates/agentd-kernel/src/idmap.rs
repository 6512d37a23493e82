//! Id maps (`user_namespaces(7)`): who the payload is on the host, and mounts that show a host user's files as the payload's.

mod range;
mod subordinate;

pub use subordinate::Subordinate;

use crate::{At, syscall};
use agentd_core::{Layer, LayerError};
use range::{HostIds, Range};
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// First host id given to sandboxes. `systemd`'s UIDS-GIDS document lists 1879048192 and up as unused.
pub const FIRST_HOST_ID: u32 = 0x7000_0000;

/// Host ids that are given in ranges where no others are set apart for that: above all that are given by pid (`PID_MAX_LIMIT` is 2²²), to the
/// end of the unused ones at 2³¹.
const USUAL: Range = Range { first: FIRST_HOST_ID + (1 << 22), count: 0x8000_0000 - FIRST_HOST_ID - (1 << 22) };

/// Ids of one range: all that Linux distributions use.
pub const RANGE: u32 = 1 << 16;

/// Where a range that is in use has a locked file, by its first user id.
const CLAIMS: &str = "/run/agentd/ids";

/// Who the payload is: the first of `count` ids inside and on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// User id on the host.
    pub host_uid: u32,
    /// Group id on the host.
    pub host_gid: u32,
    /// How many ids follow each other, these included.
    pub count: u32,
    /// The ids that follow inside, where on the host they lie elsewhere.
    pub rest: Option<Rest>,
}

/// Host ids that follow each other: their first ones, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// The first user id.
    pub host_uid: u32,
    /// The first group id.
    pub host_gid: u32,
    /// How many.
    pub count: u32,
}

impl Identity {
    /// For a launcher that is root: an ordinary user inside, and a host id that no other live sandbox has, because no other
    /// live process has this pid.
    pub fn own(supervisor: i32) -> Self {
        let host = FIRST_HOST_ID + supervisor.unsigned_abs();
        Self { uid: 1000, gid: 1000, host_uid: host, host_gid: host, count: 1, rest: None }
    }

    /// For a launcher that is an ordinary user: the same user.
    pub fn caller() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { uid, gid, host_uid: uid, host_gid: gid, count: 1, rest: None }
    }

    /// For a launcher that is root of a machine which is the sandbox's alone: all ids that distributions use, as they are.
    pub fn same() -> Self {
        Self { uid: 0, gid: 0, host_uid: 0, host_gid: 0, count: RANGE, rest: None }
    }

    /// Root inside; on the host what it is.
    #[must_use]
    pub fn as_root(self) -> Self {
        Self { uid: 0, gid: 0, ..self }
    }
}

/// A range of host ids, for as long as this lives. No other sandbox on this host has it, unless it [is shared](Claim::is_shared).
#[derive(Debug)]
pub struct Claim {
    /// The range: root inside is its first id.
    pub identity: Identity,
    /// Taken until it is closed, by whoever's death.
    lock: Option<OwnedFd>,
}

impl Claim {
    /// Whether other sandboxes may have it too.
    pub fn is_shared(&self) -> bool {
        self.lock.is_none()
    }

    /// Takes the first free range of those that `/etc/subuid` and `/etc/subgid` give to `agentd`, else of those that nobody uses. Needs root.
    pub fn take() -> Result<Self, LayerError> {
        let ids = HostIds::configured(USUAL)?;
        std::fs::create_dir_all(CLAIMS).at(Layer::Idmap, || format!("mkdir {CLAIMS}"))?;
        for number in 0..ids.parts() {
            let identity = ids.part(number);
            let path = format!("{CLAIMS}/{}", identity.host_uid);
            let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::open(&path, flags, Mode::from(0o600)).at(Layer::Idmap, || format!("open {path}"))?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { identity, lock: Some(file) }),
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(LayerError::new(Layer::Idmap, format!("lock {path}"), Some(errno.raw_os_error()))),
            }
        }
        Err(LayerError::new(Layer::Idmap, format!("find a free range of ids among {}", ids.parts()), None)
            .remedy("end some sandboxes, or give agentd more ids in /etc/subuid and /etc/subgid"))
    }
}

/// Writes the maps of the user namespace of `pid`, of ids that follow each other. Called by the parent, once.
pub fn write_maps(pid: i32, identity: Identity, privileged: bool) -> Result<(), LayerError> {
    let write = |file: &str, content: String| {
        std::fs::write(format!("/proc/{pid}/{file}"), &content)
            .at(Layer::Idmap, || format!("write '{content}' to {file} of the sandbox"))
    };
    if !privileged {
        write("setgroups", "deny".to_owned())?;
    }
    write("gid_map", format!("{} {} {}", identity.gid, identity.host_gid, identity.count))?;
    write("uid_map", format!("{} {} {}", identity.uid, identity.host_uid, identity.count))
}

/// Inside the new user namespace: becomes the mapped user. All capabilities in the namespace are kept. Supplementary groups are
/// dropped where that is allowed, as it is to root and with subordinate ids (`user_namespaces(7)`).
pub fn assume(identity: Identity, privileged: bool) -> Result<(), LayerError> {
    if privileged || identity.rest.is_some() {
        syscall::clear_groups().at(Layer::Idmap, || "setgroups to none".to_owned())?;
    }
    syscall::set_ids(identity.uid, identity.gid).at(Layer::Idmap, || format!("become uid {} inside", identity.uid))
}

/// A user namespace in which `count` ids of a file system from `owner` on are shown as the host ids from `shown` on
/// (`mount_setattr(2)`, `MOUNT_ATTR_IDMAP`).
pub fn mapping(owner: (u32, u32), shown: (u32, u32), count: u32) -> Result<OwnedFd, LayerError> {
    let helper =
        syscall::Helper::in_user_namespace().at(Layer::Idmap, || "clone a user namespace for id-mapped mounts".to_owned())?;
    let identity = Identity { uid: owner.0, gid: owner.1, host_uid: shown.0, host_gid: shown.1, count, rest: None };
    write_maps(helper.pid(), identity, true)?;
    rustix::fs::open(format!("/proc/{}/ns/user", helper.pid()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .at(Layer::Idmap, || "open the user namespace for id-mapped mounts".to_owned())
}

/// A detached, id-mapped copy of the mount tree at `path`.
pub fn mapped_tree(path: &Path, userns: &OwnedFd) -> Result<OwnedFd, LayerError> {
    let tree = crate::mount::clone_tree(path)?;
    map(tree.as_fd(), path, userns)?;
    Ok(tree)
}

/// Maps the ids of a mount tree that is attached nowhere; `path` is what it shows.
pub fn map(tree: BorrowedFd<'_>, path: &Path, userns: &OwnedFd) -> Result<(), LayerError> {
    syscall::mount_setattr(tree, true, libc::MOUNT_ATTR_IDMAP, Some(userns.as_fd()))
        .at(Layer::Idmap, || format!("mount_setattr idmap for {}", path.display()))
        .map_err(|error| {
            error.remedy("its file system does not support id-mapped mounts: use a directory on ext4, xfs, btrfs or tmpfs, or run agentd as the owner of the files")
        })
}
