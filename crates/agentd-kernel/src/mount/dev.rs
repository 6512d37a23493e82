//! A minimal `/dev`: the harmless nodes, a devpts instance and shared memory of its own.

use super::{scratch::Scratch, tree};
use crate::At;
use agentd_core::{Layer, LayerError};
use rustix::{
    fs::{CWD, FileType, Mode},
    mount::{MountFlags, mount},
};
use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::Path,
};

/// Nodes bound from the host's `/dev`.
pub(crate) const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links as every Linux system has them.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

pub(super) fn clone_nodes() -> Result<Vec<OwnedFd>, LayerError> {
    NODES.iter().map(|node| tree::clone_own(&Path::new("/dev").join(node))).collect()
}

/// Makes what is in a `/dev`, but for the mounts, in the empty directory `dev`.
pub(super) fn populate(dev: &Path) -> Result<(), LayerError> {
    for name in NODES {
        rustix::fs::mknodat(CWD, dev.join(name), FileType::RegularFile, Mode::empty(), 0)
            .at(Layer::Mounts, || format!("make a place for /dev/{name}"))?;
    }
    for name in ["pts", "shm"] {
        fs::create_dir(dev.join(name)).at(Layer::Mounts, || format!("mkdir /dev/{name}"))?;
    }
    for (target, name) in LINKS {
        symlink(target, dev.join(name)).at(Layer::Mounts, || format!("symlink /dev/{name}"))?;
    }
    Ok(())
}

/// Attaches the mounts of a `/dev` that is shown at `dev`.
pub(super) fn furnish(dev: &Path, nodes: Vec<OwnedFd>, scratch: &Scratch) -> Result<(), LayerError> {
    for (name, node) in NODES.iter().zip(nodes) {
        tree::attach_own(&node, &dev.join(name))?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", dev.join("pts"), "devpts", flags, Some(c"newinstance,ptmxmode=0666,mode=620"))
        .at(Layer::Mounts, || "mount devpts on /dev/pts".to_owned())?;
    let place = dev.join("shm");
    let shm = tree::clone_own(&scratch.directory("shm", 0o1777)?)?;
    tree::restrict(&shm, libc::MOUNT_ATTR_NOEXEC, &place)?;
    tree::attach_own(&shm, &place)
}
