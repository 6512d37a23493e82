//! `agentd run --disk`: files in the sandbox's root are stored on disk, within a limit, and are deleted with the sandbox.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Returns the program under test; `AGENTD_BIN` names a copy if this user cannot read cargo's build directory.
fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

fn agentd(script: &str) -> Command {
    let mut command = Command::new(program());
    command.args(["run", "--workspace", "none", "--disk", "48M", "--", "sh", "-c", script]);
    command.current_dir("/").stdin(Stdio::null());
    command
}

/// Counts loop devices whose backing file is deleted.
fn deleted_loop_devices() -> usize {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    devices
        .filter(|device| fs::read_to_string(device.path().join("loop/backing_file")).is_ok_and(|file| file.contains("(deleted)")))
        .count()
}

/// A single test, because it counts the devices of the whole host.
#[test]
fn root_on_disk_is_limited_and_removed_after_kill() {
    if !rustix::process::geteuid().is_root() {
        let output = agentd("true").output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("root of the host"), "{output:?}");
        return;
    }
    let before = deleted_loop_devices();
    // Exceed the size: with one file, with many files, and again after files were removed.
    let script = "
        ! dd if=/dev/zero of=/big bs=1M count=100 2>/dev/null || exit 1
        size=$(stat -c %s /big); test $size -gt 30000000 -a $size -lt 50331648 || exit 2
        rm /big; dd if=/dev/zero of=/small bs=1M count=20 2>/dev/null || exit 3
        i=0; while mkdir /d$i 2>/dev/null; do i=$((i+1)); test $i -lt 20000 || exit 4; done
        df -k / | tail -n 1 | awk '{ exit !($2 < 49152) }' || exit 5";
    let output = agentd(script).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    let mut killed =
        agentd("echo up; dd if=/dev/zero of=/big bs=1M count=10 2>/dev/null; sleep 600").stdout(Stdio::piped()).spawn().unwrap();
    let up = BufReader::new(killed.stdout.take().unwrap()).lines().next();
    assert_eq!(up.unwrap().unwrap(), "up");
    assert!(deleted_loop_devices() > before);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let began = Instant::now();
    while deleted_loop_devices() > before {
        assert!(began.elapsed() < Duration::from_secs(300), "a loop device remains");
        sleep(Duration::from_millis(20));
    }
}
