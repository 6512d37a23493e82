//! `/proc` of the sandbox's own pid namespace (`proc(5)`), processes of others hidden, dangerous entries covered.

use super::tree;
use crate::At;
use agentd_core::{Layer, LayerError};
use rustix::mount::{MountFlags, mount};
use std::path::Path;

/// Entries that tell of the host and that some kernels have and let everybody read. What only root of the host may open (`kcore`, `kmsg`,
/// `sysrq-trigger`, `timer_list` …) a payload can't, because it is never that; and all of `/proc` is read-only by Landlock.
const DANGEROUS: [&str; 7] = [
    "/proc/keys",
    "/proc/key-users",
    "/proc/kallsyms",
    "/proc/cmdline",
    "/proc/modules",
    "/proc/sched_debug",
    "/proc/timer_list",
];

pub(super) fn apply() -> Result<(), LayerError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, Some(c"hidepid=2")).at(Layer::Mounts, || "mount proc on /proc".to_owned()).map_err(
        |error| {
            error.remedy(
                "the kernel refuses a new /proc where parts of the present one are covered, as in most containers: \
                 run agentd outside, or with an unmasked /proc",
            )
        },
    )?;
    DANGEROUS.iter().try_for_each(|path| tree::cover(Path::new("/dev/null"), Path::new(path)))
}
