//! `/proc` of the sandbox's own pid namespace (`proc(5)`), processes of others hidden, dangerous entries covered.

use super::tree;
use crate::At;
use agentd_core::{Layer, LayerError};
use rustix::mount::{MountFlags, mount};
use std::path::Path;

/// Files that say something about the host or act on it. The payload has no capability that would let it use most of them;
/// they are covered so that this does not hang on one line of defence.
const MASKED: [&str; 12] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kallsyms",
    "/proc/kmsg",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/sysrq-trigger",
    "/proc/latency_stats",
    "/proc/kpagecount",
    "/proc/cmdline",
    "/proc/modules",
];

pub(super) fn apply() -> Result<(), LayerError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, Some(c"hidepid=2")).at(Layer::Mounts, || "mount proc on /proc".to_owned()).map_err(
        |error| {
            error.remedy("the kernel refuses a new /proc where parts of the present one are covered, as in most containers: run agentd outside, or with an unmasked /proc")
        },
    )?;
    for path in MASKED {
        let path = Path::new(path);
        if path.symlink_metadata().is_ok() {
            tree::attach(tree::clone_tree(Path::new("/dev/null"))?, path)?;
        }
    }
    // Everything below is the kernel's settings.
    let sys = tree::clone_tree(Path::new("/proc/sys"))?;
    tree::make_read_only(&sys, Path::new("/proc/sys"))?;
    tree::attach(sys, Path::new("/proc/sys"))
}
