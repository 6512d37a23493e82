//! A minimal `/dev`: harmless device nodes, a new devpts instance, and private shared memory.

use super::{scratch::Scratch, tree};
use crate::ErrnoContext;
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{CWD, FileType, Mode},
    mount::{MountFlags, mount},
};
use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::Path,
};

/// Device nodes that are bound from the host's `/dev`.
pub(crate) const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Symbolic links that every Linux system has: target and name.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

pub(super) fn clone_nodes() -> Result<Vec<OwnedFd>, ControlError> {
    NODES.iter().map(|node| tree::clone_own(&Path::new("/dev").join(node))).collect()
}

/// Creates the mount points and links of a `/dev` in the empty directory `dev`.
pub(super) fn populate(dev: &Path) -> Result<(), ControlError> {
    for name in NODES {
        rustix::fs::mknodat(CWD, dev.join(name), FileType::RegularFile, Mode::empty(), 0)
            .during(Control::Mounts, || format!("create the mount point /dev/{name}"))?;
    }
    for name in ["pts", "shm"] {
        fs::create_dir(dev.join(name)).during(Control::Mounts, || format!("mkdir /dev/{name}"))?;
    }
    for (target, name) in LINKS {
        symlink(target, dev.join(name)).during(Control::Mounts, || format!("symlink /dev/{name}"))?;
    }
    Ok(())
}

/// Attaches the mounts of the `/dev` that is shown at `dev`.
pub(super) fn attach_mounts(dev: &Path, nodes: Vec<OwnedFd>, scratch: &Scratch) -> Result<(), ControlError> {
    for (name, node) in NODES.iter().zip(nodes) {
        tree::attach_own(&node, &dev.join(name))?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", dev.join("pts"), "devpts", flags, Some(c"newinstance,ptmxmode=0666,mode=620"))
        .during(Control::Mounts, || "mount devpts on /dev/pts".to_owned())?;
    let place = dev.join("shm");
    let shm = tree::clone_own(&scratch.directory("shm", 0o1777)?)?;
    tree::restrict(&shm, libc::MOUNT_ATTR_NOEXEC, &place)?;
    tree::attach_own(&shm, &place)
}
