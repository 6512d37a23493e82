//! Rows on this machine as an ordinary user: the user's login, subordinate ids and delegated control groups.

use super::{Failures, RowRun, SKIP_ROOTS};
use crate::{
    error::{Calling, LabError, format_error},
    matrix::{contain::GROUPS, step::User},
    tool,
};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

/// The ordinary user of the rows on this machine.
const USER: u32 = 65534;

/// Script that runs a command with subordinate ids for the user: enough ids for all sandboxes that run at once, in a separate
/// mount namespace.
const WITH_IDS: &str = "#!/bin/sh -e
for file in /etc/subuid /etc/subgid; do mount --bind \"${0%/*}/ids\" $file; done
exec \"$@\"
";

impl RowRun<'_> {
    pub(super) fn as_ordinary_user(&self, user: User) -> Result<(), LabError> {
        let (run, stripped) = (&self.context.run, &self.context.programs()?.stripped);
        let suites = self.suites()?;
        let temporary = self.folder.join("tmp");
        fs::create_dir(&temporary).on("mkdir", &temporary)?;
        for name in suites.iter().map(|suite| suite.name.as_str()).chain(["agentd"]) {
            let file = self.folder.join(name);
            fs::copy(stripped.join(name), &file).on("copy to", &file)?;
            chown(&file, Some(USER), Some(USER)).on("chown", &file)?;
        }
        for folder in [self.folder, &temporary] {
            chown(folder, Some(USER), Some(USER)).on("chown", folder)?;
        }
        log_in(USER)?;
        let groups = if user == User::Group { delegate(run)? } else { Vec::new() };
        let with_ids = self.folder.join("with_ids");
        if user == User::Ids {
            let ids = self.folder.join("ids");
            fs::write(&ids, format!("{USER}:1700000000:6000000\n")).on("write", &ids)?;
            fs::write(&with_ids, WITH_IDS).on("write", &with_ids)?;
            fs::set_permissions(&with_ids, fs::Permissions::from_mode(0o755)).on("chmod", &with_ids)?;
        }
        let mut failures = Failures::default();
        for suite in suites {
            let mut command = Command::new("sh");
            // The shell joins the cgroups, then executes the suite.
            let join = "while [ \"$1\" != -- ]; do echo $$ >\"$1/tasks\"; shift; done; shift; exec \"$@\"";
            command.args(["-euc", join, "sh"]).args(&groups).arg("--");
            if user == User::Ids {
                command.args(["unshare", "--mount"]).arg(&with_ids);
            }
            let place = |name: &str, path: PathBuf| format!("{name}={}", path.display());
            command.args(["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin"]).args([
                place("HOME", self.folder.to_path_buf()),
                place("TMPDIR", temporary.clone()),
                place("AGENTD_BIN", self.folder.join("agentd")),
                place("AGENTD_DEBIAN", run.join("debian")),
                place("AGENTD_TEST_DATA", run.join("data")),
                format!("AGENTD_TEST_BACKENDS={}", self.chosen.row.backends),
            ]);
            if user == User::Ids {
                command.arg("AGENTD_TEST_IDS=apart");
            }
            let id = USER.to_string();
            command.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]).arg(self.folder.join(&suite.name));
            command.args(SKIP_ROOTS.split(' '));
            command.current_dir(self.folder);
            failures.note(self.suite(suite, command));
        }
        for group in groups {
            fs::remove_dir(&group).on("rmdir", &group)?;
        }
        failures.first()
    }
}

/// Creates the user's runtime directory, as a login does. Without it, agentd could not store proofs, because this user has no
/// home directory either. The directory is on a file system in this run's own mount namespace.
fn log_in(user: u32) -> Result<(), LabError> {
    let users = Path::new("/run/user");
    fs::create_dir_all(users).on("mkdir", users)?;
    tool::output(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "tmpfs"]).arg(users))?;
    let own = users.join(user.to_string());
    fs::create_dir(&own).on("mkdir", &own)?;
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).on("chmod", &own)?;
    chown(&own, Some(user), Some(user)).on("chown", &own)
}

/// Creates the cgroups that a user's service manager would delegate, one for each controller of cgroup version 1.
fn delegate(run: &Path) -> Result<Vec<PathBuf>, LabError> {
    let name = format!("{GROUPS}{}", run.file_name().unwrap_or_default().to_string_lossy());
    let mut groups = Vec::new();
    for controller in ["memory", "pids", "cpu", "cpuacct", "cpuset"] {
        let hierarchy = Path::new("/sys/fs/cgroup").join(controller);
        if hierarchy.join("tasks").exists() {
            let group = hierarchy.join(&name);
            fs::create_dir_all(&group).on("mkdir", &group)?;
            if controller == "cpuset" {
                copy_cpuset(&hierarchy, &group)?;
            }
            let files = fs::read_dir(&group).on("list", &group)?.flatten().map(|entry| entry.path());
            for path in files.chain([group.clone()]) {
                chown(&path, Some(USER), Some(USER)).on("chown", &path)?;
            }
            groups.push(group);
        }
    }
    if groups.is_empty() {
        return Err(format_error("/sys/fs/cgroup", "no control groups of version 1 — run the row on another machine"));
    }
    Ok(groups)
}

/// Assigns a new group the processors and memory nodes of its parent: without them, it accepts no process
/// (`cgroup-v1/cpusets.rst`).
fn copy_cpuset(parent: &Path, group: &Path) -> Result<(), LabError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(name), group.join(name));
        fs::write(&to, fs::read(&from).on("read", &from)?).on("write", &to)?;
    }
    Ok(())
}
