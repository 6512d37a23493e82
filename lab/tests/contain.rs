//! Kills `xtask test` while a step runs. Instead of cargo, the step runs a script that starts a process in a new session, mounts
//! a file system, and creates a control group. None of these may remain.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
};

/// The script. Each of its processes holds the write end of a FIFO, so the end of file shows that all of them have ended.
const CARGO: &str = r#"#!/bin/sh
exec 9>"$FIFO"
mkdir "$TMPDIR/mounted" && mount -t tmpfs none "$TMPDIR/mounted"
name=$(basename "$AGENTD_TEST_RUN")
mkdir "/sys/fs/cgroup/pids/agentd-test-$name"
setsid sh -c 'sleep 30; echo survived >&9' &
echo "$name" >&9
sleep 30
echo survived >&9
"#;

fn xtask(place: &Path) -> Child {
    let path = format!("{}:{}", place.join("bin").display(), std::env::var("PATH").unwrap());
    // The caller may ignore SIGINT, as a shell's background jobs do.
    let mut command = Command::new("env");
    command
        .arg("--default-signal=INT")
        .arg(env!("CARGO_BIN_EXE_xtask"))
        .arg("test")
        .arg("--logs")
        .arg(place.join("logs"))
        .arg("units");
    command.env("PATH", path).env("TMPDIR", place).env("FIFO", place.join("fifo")).env_remove("AGENTD_TEST_RUN");
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn set_cargo(place: &Path, script: &str) {
    fs::create_dir_all(place.join("bin")).unwrap();
    fs::write(place.join("bin/cargo"), script).unwrap();
    fs::set_permissions(place.join("bin/cargo"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Tests that need root: the runs of an ordinary user have no private namespaces. An ordinary user skips them:
/// `--skip as_root::`.
mod as_root {
    use super::*;

    #[test]
    fn killed_run_leaves_no_process_and_next_run_removes_its_files() {
        for signal in [Signal::KILL, Signal::TERM, Signal::INT] {
            let place = tempfile::tempdir().unwrap();
            let place = place.path();
            assert!(Command::new("mkfifo").arg(place.join("fifo")).status().unwrap().success());
            set_cargo(place, CARGO);
            let mut killed = xtask(place);
            let mut fifo = BufReader::new(File::open(place.join("fifo")).unwrap());
            let mut run = String::new();
            fifo.read_line(&mut run).unwrap();
            kill_process(Pid::from_child(&killed), signal).unwrap();
            let mut rest = String::new();
            fifo.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "", "{signal:?}");
            killed.wait().unwrap();
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains(&*place.to_string_lossy()), "{signal:?}: {mounts}");

            set_cargo(place, "#!/bin/sh\nexit 1\n");
            assert_eq!(xtask(place).wait().unwrap().code(), Some(1));
            let left: Vec<_> =
                fs::read_dir(place.join("agentd-tests-0")).unwrap().flatten().map(|entry| entry.file_name()).collect();
            assert_eq!(left, ["lock"], "{signal:?}");
            let group = format!("/sys/fs/cgroup/pids/agentd-test-{}", run.trim());
            assert!(run.starts_with("run-") && !Path::new(&group).exists(), "{signal:?}: {group}");
        }
    }
}
