//! Contains a run of the matrix, so that no process, mount, file or cgroup of the run outlives it, however it ends.
//!
//! As root, a run has its own PID and mount namespace: when this process dies, the kernel kills every process in the namespace,
//! and the mounts of the namespace disappear. As an ordinary user, only the run's direct children are killed, and agentd ends the
//! processes that those children started. Files are below one [`Scratch`], which the next run removes. Cgroups are removed at the
//! end of the run, or by the next run.

use crate::{
    error::{Calling, LabError},
    scratch::Scratch,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

/// Environment variable that names the run's directory to the contained process.
const RUN: &str = "AGENTD_TEST_RUN";

/// Prefix of the cgroups that rows delegate to ordinary users.
pub const GROUPS: &str = "agentd-test-";

/// The file in the run's directory that lists the PID namespaces of the run, one `pid:[NUMBER]` per line.
pub const NAMESPACES: &str = "namespaces";

/// Options of `unshare`: every process in the namespace dies with `unshare`, which dies with this process.
pub const UNSHARE: [&str; 5] = ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"];

/// Returns the run's directory, in the contained process.
pub fn run_directory() -> Option<PathBuf> {
    std::env::var_os(RUN).map(PathBuf::from)
}

/// Starts this program again, contained, and waits for it.
pub fn contained(arguments: &[String]) -> Result<ExitStatus, LabError> {
    // The path must be short: the paths of Unix sockets below it are limited to 108 bytes.
    let parent = std::env::temp_dir().join(format!("agentd-tests-{}", rustix::process::getuid().as_raw()));
    let scratch = Scratch::new(&parent, remove_groups)?;
    let temporary = scratch.path().join("tmp");
    fs::create_dir(&temporary).on("mkdir", &temporary)?;
    // Run a copy, because a build step may replace the file.
    let current = std::env::current_exe().calling(|| "find the executable of xtask".to_owned())?;
    let program = scratch.path().join("xtask");
    fs::copy(&current, &program).on("copy", &current)?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    if rustix::process::geteuid().is_root() {
        // The shell is process 1 of the namespace and reaps orphans.
        let script = "readlink /proc/self/ns/pid >\"$1\"; shift; \"$@\"; exit $?";
        command.arg("unshare").args(UNSHARE).args(["sh", "-c", script, "sh"]).arg(scratch.path().join(NAMESPACES));
    }
    command.arg(program).args(arguments).env(RUN, scratch.path()).env("TMPDIR", &temporary).stdin(Stdio::null());
    let status = command.status().calling(|| "start setpriv and unshare".to_owned());
    remove_groups(scratch.path());
    status
}

/// Removes the cgroups of a run that has ended: those that the run delegated, and those of agentd's processes in its PID
/// namespaces. No other process sweeps the latter, because a PID is meaningless outside its namespace.
fn remove_groups(run: &Path) {
    let mut prefixes = vec![format!("{GROUPS}{}", run.file_name().unwrap_or_default().to_string_lossy())];
    let namespaces = fs::read_to_string(run.join(NAMESPACES)).unwrap_or_default();
    let numbers = namespaces.lines().filter_map(|line| line.strip_prefix("pid:[")?.strip_suffix(']'));
    prefixes.extend(numbers.map(|number| format!("agentd.{number}.")));
    remove_groups_below(Path::new("/sys/fs/cgroup"), &prefixes, false);
}

/// Removes cgroups whose name has one of the prefixes, and all cgroups below them (`all`). The kernel refuses to remove a cgroup
/// with a live process.
fn remove_groups_below(folder: &Path, prefixes: &[String], all: bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        let ours = all || prefixes.iter().any(|prefix| name.to_string_lossy().starts_with(prefix.as_str()));
        remove_groups_below(&entry.path(), prefixes, ours);
        if ours {
            // A group with a live process stays; a later run removes it.
            fs::remove_dir(entry.path()).ok();
        }
    }
}
