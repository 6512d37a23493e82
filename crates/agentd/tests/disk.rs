//! `agentd run --disk`: what a command writes in its root lies on disk, within a limit, and goes with it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// The program under test; another copy of it where this user cannot reach cargo's.
fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

fn agentd(script: &str) -> Command {
    let cache = std::env::temp_dir().join(format!("agentd-test-cache-{}", rustix::process::geteuid().as_raw()));
    let mut command = Command::new(program());
    command.args(["run", "--workspace", "none", "--disk", "48M", "--", "sh", "-c", script]).env("XDG_CACHE_HOME", cache);
    command.current_dir("/").stdin(Stdio::null());
    command
}

/// Loop devices whose file has no name any more.
fn nameless() -> usize {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    devices
        .filter(|device| fs::read_to_string(device.path().join("loop/backing_file")).is_ok_and(|file| file.contains("(deleted)")))
        .count()
}

/// All in one, because devices are the machine's.
#[test]
fn what_is_written_has_a_limit_and_nothing_is_left_of_it() {
    if !rustix::process::geteuid().is_root() {
        let output = agentd("true").output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("root of the host"), "{output:?}");
        return;
    }
    let before = nameless();
    // More than there is room for: in one file, in many, and after some were removed.
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
    assert!(nameless() > before);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let began = Instant::now();
    while nameless() > before {
        assert!(began.elapsed() < Duration::from_secs(20), "a loop device is left");
        sleep(Duration::from_millis(20));
    }
}
