//! The digest of the conditions on which a proof depends.

use crate::has_subordinate_ids;
use agentd_kernel::{cgroup::Hierarchy, text::read};
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Kernel settings that allow or refuse the mechanisms of sandboxes.
const SETTINGS: [&str; 12] = [
    "user/max_user_namespaces",
    "user/max_mnt_namespaces",
    "user/max_pid_namespaces",
    "user/max_net_namespaces",
    "user/max_ipc_namespaces",
    "user/max_uts_namespaces",
    "user/max_cgroup_namespaces",
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "kernel/apparmor_restrict_unprivileged_unconfined",
    "kernel/yama/ptrace_scope",
    "kernel/seccomp/actions_avail",
];

/// The namespaces of the probing process that are part of the digest.
const NAMESPACES: [&str; 6] = ["user", "mnt", "pid", "net", "ipc", "cgroup"];

/// The lines of `/proc/self/status` that describe the rights of this process (`proc_pid_status(5)`).
const RIGHTS: [&str; 7] = ["Uid:", "Gid:", "Groups:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"];

/// Computes the digest of the conditions on which a proof of `backend` depends. These are the boot, the kernel and its settings,
/// this program, its rights, namespaces and cgroups, the directory of the probe's targets, and the files that the backend uses.
/// Returns `None` if the kernel does not provide one of them.
pub(super) fn digest(backend: &str, work_root: &Path, files: &[PathBuf]) -> Option<String> {
    let mut digest = Sha256::new();
    let mut add = |name: &str, value: &str| {
        digest.update((name.len() + value.len()).to_le_bytes());
        digest.update(name);
        digest.update([0]);
        digest.update(value);
    };
    add("backend", backend);
    add("boot", &read("/proc/sys/kernel/random/boot_id").ok()?);
    add("kernel", &read("/proc/version").ok()?);
    add("program", &identity(Path::new("/proc/self/exe"))?);
    for name in SETTINGS {
        // The absence of a setting is also a condition.
        add(name, &read(Path::new("/proc/sys").join(name)).unwrap_or_default());
    }
    for name in NAMESPACES {
        add(name, &fs::read_link(Path::new("/proc/self/ns").join(name)).ok()?.to_string_lossy());
    }
    let status = read("/proc/self/status").ok()?;
    for line in status.lines().filter(|line| RIGHTS.iter().any(|right| line.starts_with(right))) {
        add("rights", line);
    }
    add("label", &read("/proc/self/attr/current").unwrap_or_default());
    add("modules", &read("/sys/kernel/security/lsm").unwrap_or_default());
    add("groups", &read("/proc/self/cgroup").unwrap_or_default());
    add("controllers", &Hierarchy::detect().describe());
    add("ids", if has_subordinate_ids() { "subordinate" } else { "" });
    add("targets", &work_root.to_string_lossy());
    for path in files {
        add(&path.to_string_lossy(), &identity(path).unwrap_or_default());
    }
    let bytes = digest.finalize();
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns device, inode, size, mode and times of a file. Writing to the file changes them. Hashing the content would take as
/// long as creating a sandbox.
fn identity(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    let times = [(meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())];
    Some(format!("{}:{}:{}:{:o}:{times:?}", meta.dev(), meta.ino(), meta.size(), meta.mode()))
}
