//! Id maps (`user_namespaces(7)`): who the payload is on the host, and mounts that show a host user's files as the payload's.

use crate::{At, syscall};
use agentd_core::{Layer, LayerError};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// First host id given to sandboxes. `systemd`'s UIDS-GIDS document lists 1879048192 and up as unused.
pub const FIRST_HOST_ID: u32 = 0x7000_0000;

/// Who the payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// User id on the host.
    pub host_uid: u32,
    /// Group id on the host.
    pub host_gid: u32,
}

impl Identity {
    /// For a launcher that is root: an ordinary user inside, and a host id that no other live sandbox has, because no other
    /// live process has this pid.
    pub fn own(supervisor: i32) -> Self {
        let host = FIRST_HOST_ID + supervisor.unsigned_abs();
        Self { uid: 1000, gid: 1000, host_uid: host, host_gid: host }
    }

    /// For a launcher that is an ordinary user: the same user.
    pub fn caller() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { uid, gid, host_uid: uid, host_gid: gid }
    }
}

/// Writes the maps of the user namespace of `pid`. Called by the parent, once.
pub fn write_maps(pid: i32, identity: Identity, privileged: bool) -> Result<(), LayerError> {
    let write = |file: &str, content: String| {
        std::fs::write(format!("/proc/{pid}/{file}"), &content)
            .at(Layer::Idmap, || format!("write '{content}' to {file} of the sandbox"))
    };
    if !privileged {
        write("setgroups", "deny".to_owned())?;
    }
    write("gid_map", format!("{} {} 1", identity.gid, identity.host_gid))?;
    write("uid_map", format!("{} {} 1", identity.uid, identity.host_uid))
}

/// Inside the new user namespace: becomes the mapped user. All capabilities in the namespace are kept.
pub fn assume(identity: Identity, privileged: bool) -> Result<(), LayerError> {
    if privileged {
        syscall::clear_groups().at(Layer::Idmap, || "setgroups to none".to_owned())?;
    }
    syscall::set_ids(identity.uid, identity.gid).at(Layer::Idmap, || format!("become uid {} inside", identity.uid))
}

/// A user namespace in which `owner` of a file system is shown as the host id `shown` (`mount_setattr(2)`, `MOUNT_ATTR_IDMAP`).
pub fn mapping(owner: (u32, u32), shown: (u32, u32)) -> Result<OwnedFd, LayerError> {
    let helper =
        syscall::Helper::in_user_namespace().at(Layer::Idmap, || "clone a user namespace for id-mapped mounts".to_owned())?;
    let identity = Identity { uid: owner.0, gid: owner.1, host_uid: shown.0, host_gid: shown.1 };
    write_maps(helper.pid(), identity, true)?;
    rustix::fs::open(
        format!("/proc/{}/ns/user", helper.pid()),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .at(Layer::Idmap, || "open the user namespace for id-mapped mounts".to_owned())
}

/// A detached, id-mapped copy of the mount tree at `path`.
pub fn mapped_tree(path: &Path, userns: &OwnedFd) -> Result<OwnedFd, LayerError> {
    let tree = crate::mount::clone_tree(path)?;
    syscall::mount_setattr(tree.as_fd(), true, libc::MOUNT_ATTR_IDMAP, Some(userns.as_fd()))
        .at(Layer::Idmap, || format!("mount_setattr idmap for {}", path.display()))
        .map_err(|error| {
            error.remedy("its file system does not support id-mapped mounts: use a directory on ext4, xfs, btrfs or tmpfs, or run agentd as the owner of the files")
        })?;
    Ok(tree)
}
