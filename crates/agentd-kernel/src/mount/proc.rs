//! `/proc` of the sandbox's own PID namespace (`proc(5)`). Processes that a command may not trace are hidden, and dangerous
//! entries are covered.

use super::tree;
use crate::ErrnoContext;
use agentd_core::{Control, ControlError};
use rustix::mount::{MountFlags, mount};
use std::path::Path;

/// Entries with information about the host that are world-readable on some kernels. Entries that only root of the host may open
/// (`kcore`, `kmsg`, `sysrq-trigger` …) are not listed, because a payload is never root of the host. In addition, Landlock makes
/// all of `/proc` read-only.
const DANGEROUS: [&str; 7] = ["keys", "key-users", "kallsyms", "cmdline", "modules", "sched_debug", "timer_list"];

/// Limits for each user of a sandbox on quotas that the kernel also counts for the user who created the sandbox
/// (`Documentation/admin-guide/sysctl/user.rst`). By default, a user of the host has 128 inotify instances for all programs.
const USER_LIMITS: [(&str, &str); 2] = [("max_inotify_instances", "32"), ("max_inotify_watches", "65536")];

/// Mounts proc at `place`. Only the sandbox being created can put a link there. With `hidepid=4` (since Linux 5.8), a process
/// sees only processes that it may trace. With `hidepid=2`, members of group 0 would see all processes, and a payload with the
/// machine's ids may be in that group.
pub(super) fn apply(place: &Path, notes: &mut Vec<String>) -> Result<(), ControlError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", place, "proc", flags, Some(c"hidepid=4"))
        .during(Control::Mounts, || "mount proc on /proc".to_owned())
        .map_err(|error| {
            error.remedy(
                "run agentd outside of the container, or with an unmasked /proc: the kernel refuses a new /proc if parts of \
                 the current one are masked, as in most containers",
            )
        })?;
    limit_user(place, notes);
    DANGEROUS.iter().try_for_each(|name| tree::cover(Path::new("/dev/null"), &place.join(name)))
}

/// Writes the limits of this process's user namespace, in which the process must still have `CAP_SYS_RESOURCE`. A kernel without
/// inotify has no such limits. A limit that cannot be written is noted: the only consequence is that the sandbox can exhaust the
/// inotify quota of the user who created it.
fn limit_user(proc: &Path, notes: &mut Vec<String>) {
    for (name, value) in USER_LIMITS {
        match std::fs::write(proc.join("sys/user").join(name), value) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                notes.push(format!("user.{name} is not limited to {value}: write /proc/sys/user/{name}: {error}"));
            }
            _ => {}
        }
    }
}

/// Makes the `/proc` at `place` read-only, for roots in which Landlock permits writing everything below `/`.
pub(super) fn protect(place: &Path) -> Result<(), ControlError> {
    let at = tree::open_beneath(rustix::fs::CWD, place, rustix::fs::OFlags::PATH)
        .during(Control::Mounts, || "open /proc".to_owned())?;
    tree::restrict(&at, libc::MOUNT_ATTR_RDONLY, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inotify_limit_that_cannot_be_written_is_noted() {
        let place = tempfile::tempdir().unwrap();
        let mut notes = Vec::new();
        limit_user(place.path(), &mut notes);
        assert_eq!(notes, Vec::<String>::new());

        std::fs::create_dir_all(place.path().join("sys/user/max_inotify_instances")).unwrap();
        limit_user(place.path(), &mut notes);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].starts_with("user.max_inotify_instances is not limited to 32: write "), "{notes:?}");
        assert_eq!(std::fs::read_to_string(place.path().join("sys/user/max_inotify_watches")).unwrap(), "65536");
    }
}
