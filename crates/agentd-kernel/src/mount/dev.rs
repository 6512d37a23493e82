//! A minimal `/dev`: the harmless nodes, a devpts instance and shared memory of its own.

use super::{tmpfs, tree};
use crate::At;
use agentd_core::{Layer, LayerError};
use rustix::mount::{MountFlags, mount};
use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::Path,
};

/// Nodes bound from the host's `/dev`.
const NODES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// Links as every Linux system has them.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Size of `/dev/shm`, bytes.
const SHM_BYTES: u64 = 256 << 20;

pub(super) fn clone_nodes() -> Result<Vec<OwnedFd>, LayerError> {
    NODES.iter().map(|node| tree::clone_tree(Path::new(node))).collect()
}

pub(super) fn apply(nodes: Vec<OwnedFd>) -> Result<(), LayerError> {
    tmpfs(Path::new("/dev"), "755", 1 << 16, MountFlags::NOEXEC)?;
    for (path, tree) in NODES.iter().zip(nodes) {
        fs::write(path, []).at(Layer::Mounts, || format!("make a place for {path}"))?;
        tree::attach(tree, Path::new(path))?;
    }
    for dir in ["/dev/pts", "/dev/shm"] {
        fs::create_dir(dir).at(Layer::Mounts, || format!("mkdir {dir}"))?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", "/dev/pts", "devpts", flags, Some(c"newinstance,ptmxmode=0666,mode=620"))
        .at(Layer::Mounts, || "mount devpts on /dev/pts".to_owned())?;
    for (target, link) in LINKS {
        symlink(target, link).at(Layer::Mounts, || format!("symlink {link}"))?;
    }
    tmpfs(Path::new("/dev/shm"), "1777", SHM_BYTES, MountFlags::NOEXEC)
}
