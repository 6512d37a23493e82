//! `/proc` of the sandbox's own pid namespace (`proc(5)`), processes of others hidden, dangerous entries covered.

use super::tree;
use crate::At;
use agentd_core::{Layer, LayerError};
use rustix::mount::{MountFlags, mount};
use std::path::Path;

/// Entries that tell of the host and that some kernels have and let everybody read. What only root of the host may open (`kcore`, `kmsg`,
/// `sysrq-trigger`, `timer_list` …) a payload can't, because it is never that; and all of `/proc` is read-only by Landlock.
const DANGEROUS: [&str; 7] = ["keys", "key-users", "kallsyms", "cmdline", "modules", "sched_debug", "timer_list"];

/// Mounts it at `place`, below which nobody but the sandbox being made can put a link. Who may not trace a process does not see it, of
/// whatever group he is (since Linux 5.8): with `hidepid=2` the group 0 sees all, and a sandbox that has the machine's ids may be in it.
pub(super) fn apply(place: &Path) -> Result<(), LayerError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", place, "proc", flags, Some(c"hidepid=4")).at(Layer::Mounts, || "mount proc on /proc".to_owned()).map_err(
        |error| {
            error.remedy(
                "the kernel refuses a new /proc where parts of the present one are covered, as in most containers: \
                 run agentd outside, or with an unmasked /proc",
            )
        },
    )?;
    DANGEROUS.iter().try_for_each(|name| tree::cover(Path::new("/dev/null"), &place.join(name)))
}

/// Makes the `/proc` at `place` read-only, where all below `/` is the sandbox's own and Landlock does not tell the two apart.
pub(super) fn protect(place: &Path) -> Result<(), LayerError> {
    let at =
        tree::open_beneath(rustix::fs::CWD, place, rustix::fs::OFlags::PATH).at(Layer::Mounts, || "open /proc".to_owned())?;
    tree::restrict(&at, libc::MOUNT_ATTR_RDONLY, place)
}
