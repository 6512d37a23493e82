//! Namespaces of a suite on this host. Suites compare inventories of agentd's processes, mounts, and temporary files, so a suite
//! must not see those of a suite in another row that runs at the same time.

use super::contain::{NAMESPACES, UNSHARE};
use crate::tool;
use std::{path::Path, process::Command};

/// Script that mounts private directories for temporary files, and then runs a command as a child, because process 1 of the PID
/// namespace must reap orphans. The directory of the run, which may be in `/tmp`, keeps its path.
const PRIVATE: &str = r#"set -e
run=$1 namespaces=$2 own=$3; shift 3
readlink /proc/self/ns/pid >>"$namespaces"
mkdir -p "$own/tmp" "$own/var"
chmod 1777 "$own/tmp" "$own/var"
case $run in /tmp/*)
    mkdir -p "$own$run"
    mount --bind "$run" "$own$run"
esac
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind "$own/var" /var/tmp
mount --rbind "$own/tmp" /tmp
cd "$PWD"
set +e
"$@"
exit $?"#;

/// Returns a command that runs `command` in private PID and mount namespaces, with private directories for temporary files. An
/// ordinary user cannot create these namespaces, and runs the command unchanged.
pub fn private(command: Command, run: &Path, row: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return command;
    }
    let mut wrapped = Command::new("unshare");
    wrapped.args(UNSHARE).args(["sh", "-c", PRIVATE, "sh"]).arg(run).arg(run.join(NAMESPACES)).arg(row.join("private"));
    wrapped.arg(command.get_program()).args(command.get_args());
    tool::copy_settings(&command, &mut wrapped);
    wrapped
}

#[cfg(test)]
mod tests {
    /// Tests that need root. An ordinary user skips them: `--skip as_root::`.
    mod as_root {
        use super::super::*;
        use std::{fs, process::Stdio};

        #[test]
        fn suite_sees_neither_processes_nor_temporary_files_of_another_row() {
            let run = tempfile::tempdir_in("/tmp").unwrap();
            let in_row = |name: &str, script: &str| {
                let row = run.path().join(name);
                fs::create_dir_all(&row).unwrap();
                let mut command = Command::new("sh");
                command.args(["-euc", script]).current_dir(&row).env("RUN", run.path()).env_remove("HOME");
                private(command, run.path(), &row)
            };
            let first = "echo $$; touch /tmp/agentd-1 /var/tmp/agentd-1 /dev/shm/agentd-1 \"$RUN/shared\" own; echo; read line";
            let mut first = in_row("first", first).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut begun = [0; 3];
            std::io::Read::read_exact(first.stdout.as_mut().unwrap(), &mut begun).unwrap();
            let second = "cat \"$RUN/shared\" ../first/own; ls -d /tmp/agentd* /var/tmp/agentd* /dev/shm/agentd* || true
                ls -d /proc/[0-9]* | wc -l; pwd; echo ${HOME-unset}; exit 7";
            let second = in_row("second", second).output().unwrap();
            drop(first.stdin.take());
            first.wait().unwrap();
            let seen = String::from_utf8(second.stdout).unwrap();
            let lines: Vec<&str> = seen.lines().collect();
            assert!(lines[0].parse::<u32>().unwrap() < 6, "{seen}");
            assert_eq!(lines[1..], [run.path().join("second").to_str().unwrap(), "unset"]);
            assert_eq!(second.status.code(), Some(7));
            let namespaces = fs::read_to_string(run.path().join(NAMESPACES)).unwrap();
            assert_eq!(namespaces.lines().collect::<std::collections::BTreeSet<_>>().len(), 2, "{namespaces}");
        }
    }
}
