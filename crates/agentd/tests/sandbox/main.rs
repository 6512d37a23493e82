//! `agentd sandbox`: named sandboxes across invocations, as their user meets them. Each test has a folder and so a keeper of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod crash;
mod disk;
mod place;

use place::{Place, kill, program, runs, text, until};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::MetadataExt,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

#[test]
fn what_is_written_is_there_the_next_time_and_gone_when_the_sandbox_is() {
    let place = Place::new();
    place.agentd(&["create", "dev"]);
    assert_eq!(place.agentd(&["diff", "dev"]), "");
    assert_eq!(place.sh("dev", "id -u; echo kept >/file; rm -f /etc/hosts; mkdir -p /srv/a"), "0\n");
    assert_eq!(place.sh("dev", "cat /file; ls /etc/hosts 2>&1 || true").lines().next(), Some("kept"));
    assert!(place.agentd(&["ls"]).contains("dev"));
    assert!(place.agentd(&["inspect", "dev"]).contains("\"state\": \"live\""));
    assert!(place.refused(&["create", "dev"]).contains("dev"));
    assert_eq!(place.agentd(&["diff", "dev"]), "D /etc/hosts\nA /file\nA /srv\nA /srv/a\n");
    place.agentd(&["restore", "dev", "created"]);
    assert_eq!(place.agentd(&["diff", "dev"]), "");
    place.is_whole();

    place.agentd(&["rm", "dev"]);
    assert!(place.refused(&["exec", "dev", "--", "true"]).contains("dev"));
    assert_eq!(place.agentd(&["ls"]), "");
    assert_eq!(fs::read_dir(place.path("data/sandboxes/layers")).unwrap().count(), 0);
}

#[test]
fn a_commands_end_is_what_the_caller_gets() {
    let place = Place::new();
    place.agentd(&["create", "dev"]);
    for (args, code) in [
        (&["exec", "dev", "--", "sh", "-c", "exit 7"][..], 7),
        (&["exec", "dev", "--", "no-such-program"], 127),
        (&["exec", "dev", "--", "/etc/passwd"], 126),
        (&["exec", "--timeout", "100ms", "dev", "--", "sleep", "60"], 124),
    ] {
        let output = place.output(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    }
    let mut cat =
        place.command(&["exec", "-i", "dev", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    cat.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(text(&cat.wait_with_output().unwrap().stdout), "through");
}

#[test]
fn a_command_ends_with_its_client_and_a_detached_one_does_not() {
    let place = Place::new();
    let mark = format!("{}", 100_000 + std::process::id());
    place.agentd(&["create", "dev"]);
    let mut client = place.command(&["exec", "dev", "--", "sleep", &mark]).spawn().unwrap();
    until("it runs", || place.agentd(&["ls"]).contains("live, 1 running"));
    client.kill().unwrap();
    client.wait().unwrap();
    until("it has ended", || place.agentd(&["ls"]).contains("live, 0 running"));

    place.agentd(&[
        "exec",
        "-d",
        "dev",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; while true; do date +%s%N >/tick; sleep 0.01; done",
    ]);
    until("its output is kept", || {
        let log = place.agentd(&["logs", "dev"]);
        log.contains("out\n") && log.contains("err\n")
    });
    assert!(place.agentd(&["ls"]).contains("live, 1 running"));
}

#[test]
fn a_paused_sandbox_stands_still() {
    let place = Place::new();
    place.agentd(&["create", "dev"]);
    let ticks =
        || fs::read_dir(place.path("data/sandboxes/layers")).unwrap().map(|layer| layer.unwrap().path().join("tree/tick"));
    place.agentd(&["exec", "-d", "dev", "--", "sh", "-c", "while true; do date +%s%N >/new; mv /new /tick; done"]);
    until("it runs", || ticks().any(|tick| tick.exists()));
    let tick = ticks().find(|tick| tick.exists()).unwrap();
    let now = || fs::read(&tick).unwrap();
    if !place.stops(&["pause", "dev"]) {
        let before = now();
        until("it goes on", || now() != before);
        return;
    }
    let (stands, began) = (now(), Instant::now());
    while began.elapsed() < Duration::from_millis(300) {
        assert_eq!(now(), stands);
    }
    assert!(place.refused(&["exec", "dev", "--", "true"]).contains("paused"));
    assert!(place.refused(&["cp", "dev:/etc/hostname", "-"]).contains("paused"));
    place.agentd(&["resume", "dev"]);
    until("it goes on", || now() != stands);
}

#[test]
fn a_snapshot_is_gone_back_to_and_forks_share_it() {
    let place = Place::new();
    place.agentd(&["create", "dev"]);
    place.sh("dev", "echo one >/file; echo same >/other");
    place.agentd(&["snapshot", "dev", "first"]);
    place.sh("dev", "echo two >/file; rm /other; echo new >/new");
    assert_eq!(place.agentd(&["diff", "dev", "--since", "first"]), "C /file\nA /new\nD /other\n");
    place.agentd(&["fork", "dev", "a", "b"]);
    assert_eq!(place.agentd(&["diff", "a"]), "");
    place.sh("a", "echo a >/file");
    assert_eq!(place.agentd(&["diff", "a"]), "C /file\n");
    assert_eq!(place.sh("b", "cat /file /new; ! test -e /other"), "two\nnew\n");
    assert_eq!(place.sh("dev", "cat /file"), "two\n");
    assert_eq!(place.sh("a", "cat /file"), "a\n");
    place.agentd(&["restore", "dev", "first"]);
    assert_eq!(place.sh("dev", "cat /file /other; ! test -e /new"), "one\nsame\n");
    assert!(place.refused(&["restore", "dev", "second"]).contains("second"));
    assert_eq!(place.sh("dev", "cat /file"), "one\n");
    place.agentd(&["rm", "dev", "a"]);
    assert_eq!(place.sh("b", "cat /file"), "two\n");
    place.is_whole();
}

/// Bytes of disk below a directory, each file once.
fn blocks(path: &std::path::Path) -> u64 {
    let mut all = 0;
    // What overlayfs closes to its user is empty.
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let about = entry.path().symlink_metadata().unwrap();
        all += about.blocks() * 512 + if about.is_dir() { blocks(&entry.path()) } else { 0 };
    }
    all
}

#[test]
fn two_hundred_forks_run_at_once_and_share_what_they_were_made_of() {
    let place = Place::new();
    let mark = format!("{}", 400_000 + std::process::id());
    place.agentd(&["create", "base"]);
    place.sh("base", "dd if=/dev/urandom of=/big bs=1M count=20 2>/dev/null; sync");
    let layers = place.path("data/sandboxes/layers");
    let names: Vec<String> = (0..200).map(|number| format!("fork-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    place.agentd(&[&["fork", "base"], names.as_slice()].concat());
    assert!(blocks(&layers) < 30 << 20, "{} bytes", blocks(&layers));
    for name in &names {
        place.agentd(&["exec", "-d", name, "--", "sh", "-c", &format!("test $(stat -c %s /big) = 20971520 && sleep {mark}")]);
    }
    until("all run", || place.agentd(&["ls"]).matches("live, 1 running").count() == names.len());
    place.agentd(&[&["rm"], names.as_slice()].concat());
    assert!(!runs(&format!("sleep\0{mark}")));
    assert!(blocks(&layers) < 30 << 20);
}

#[test]
fn a_snapshot_of_what_runs_is_of_one_moment_and_disturbs_nothing() {
    let place = Place::new();
    place.agentd(&["create", "dev"]);
    // The two files are equal but for one step, at any moment.
    let script = "exec 3>/open; i=0; while true; do i=$((i+1)); echo $i >/t; mv /t /a; echo $i >/t; mv /t /b; echo $i >&3; done";
    place.agentd(&["exec", "-d", "dev", "--", "sh", "-c", script]);
    until("it runs", || place.output(&["exec", "dev", "--", "test", "-s", "/b"]).status.success());
    if !place.stops(&["snapshot", "dev", "running"]) {
        assert!(!place.agentd(&["inspect", "dev"]).contains("running"));
        return;
    }
    assert!(place.agentd(&["ls"]).contains("live, 1 running"));
    place.agentd(&["fork", "dev", "still"]);
    let read = |script: &str| place.sh("still", script).split_whitespace().map(|n| n.parse::<u64>().unwrap()).collect::<Vec<_>>();
    let pair = read("cat /a /b");
    assert!(pair[0] - pair[1] <= 1, "{pair:?}");
    assert_eq!(read("cat /a /b"), pair);
    let count = |name: &str| place.sh(name, "wc -l </open").trim().parse::<u64>().unwrap();
    let before = count("dev");
    until("it goes on", || count("dev") > before);
    place.is_whole();
}

#[test]
fn a_keeper_that_is_killed_leaves_no_process_and_loses_no_sandbox() {
    let place = Place::new();
    let mark = format!("{}", 200_000 + std::process::id());
    for name in ["one", "two"] {
        place.agentd(&["create", name]);
        place.sh(name, &format!("echo {name} >/file"));
        place.agentd(&["exec", "-d", name, "--", "sleep", &mark]);
    }
    until("they run", || runs(&format!("sleep\0{mark}")));
    kill(place.keeper().unwrap());
    until("nothing of them is left", || !runs(&format!("sleep\0{mark}")));
    place.is_whole();
    for name in ["one", "two"] {
        assert_eq!(place.sh(name, "cat /file"), format!("{name}\n"));
    }
}

#[test]
fn one_that_nobody_uses_is_removed_when_its_time_is_over() {
    let place = Place::new();
    place.agentd(&["create", "short", "--idle-ttl", "1s"]);
    place.agentd(&["create", "long"]);
    // Long enough for the next command to find it on a slow machine.
    place.agentd(&["create", "total", "--ttl", "6s"]);
    place.agentd(&["exec", "-d", "total", "--", "sleep", "600"]);
    until("they are gone", || !place.agentd(&["ls"]).contains("short") && !place.agentd(&["ls"]).contains("total"));
    assert!(place.agentd(&["ls"]).contains("long"));
}

#[test]
fn a_layer_that_is_missing_is_told_each_time() {
    let place = Place::new();
    if rustix::process::geteuid().is_root() {
        // Nothing is missing, and nothing is said.
        let output = place.output(&["create", "dev", "--allow-degraded", "--memory", "64M"]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        return;
    }
    let limited = &["create", "dev", "--allow-degraded", "--memory", "64M"];
    let output = place.output(limited);
    let told = |output: &Output| text(&output.stderr).contains("not enforced");
    // Where a group is delegated, the limit holds.
    if told(&output) {
        for args in [&["exec", "dev", "--", "true"][..], &["exec", "-d", "dev", "--", "true"]] {
            let output = place.output(args);
            assert!(output.status.success() && told(&output), "{output:?}");
        }
        assert!(!place.output(&["create", "strict", "--memory", "64M"]).status.success());
    }
}

#[test]
fn what_programs_outside_may_obey_is_told_of() {
    let place = Place::new();
    fs::create_dir(place.path("work")).unwrap();
    place.agentd(&["create", "dev", "--workspace", place.path("work").to_str().unwrap()]);
    let make = format!("echo evil >{}/.bashrc", place.path("work").display());
    let output = place.output(&["exec", "dev", "--", "sh", "-c", &make]);
    assert!(text(&output.stderr).contains(".bashrc, which programs outside may execute"), "{output:?}");
    assert!(place.output(&["exec", "dev", "--", "true"]).stderr.is_empty());
}

#[test]
fn files_are_copied_in_and_out() {
    let place = Place::new();
    place.agentd(&["create", "dev"]);
    let content: Vec<u8> = (0..=255u8).cycle().take(100_000).collect();
    fs::write(place.path("here"), &content).unwrap();
    place.agentd(&["cp", "here", "dev:/srv-here"]);
    place.agentd(&["cp", "dev:/srv-here", "back"]);
    assert_eq!(fs::read(place.path("back")).unwrap(), content);
    assert!(place.refused(&["cp", "dev:/no/such", "x"]).contains("/no/such"));
    assert!(!place.path("x").exists());
    assert!(place.refused(&["cp", "here", "back"]).contains("NAME:PATH"));

    // One who copies from a pipe that nobody writes to waits alone.
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path("pipe"), 0o600.into()).unwrap();
    let _writer = fs::OpenOptions::new().read(true).write(true).open(place.path("pipe")).unwrap();
    let mut waiting = place.command(&["cp", "pipe", "dev:/srv-pipe"]).stderr(Stdio::null()).spawn().unwrap();
    let open = format!("/proc/{}/fd", place.keeper().unwrap().as_raw_nonzero());
    let has = |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|path| path == place.path("pipe"));
    until("the keeper has it", || fs::read_dir(&open).unwrap().flatten().any(has));
    assert_eq!(place.sh("dev", "echo served"), "served\n");
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}

#[test]
fn what_the_first_client_had_is_not_the_keepers() {
    let place = Place::new();
    let script = format!("umask 077; exec 9>{}; exec {} sandbox create dev", place.path("held").display(), program());
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("AGENTD_DATA_DIR", place.path("data"));
    assert!(shell.status().unwrap().success());
    let keeper = place.keeper().unwrap().as_raw_nonzero();
    let open =
        fs::read_dir(format!("/proc/{keeper}/fd")).unwrap().map(|fd| fs::read_link(fd.unwrap().path()).unwrap_or_default());
    assert!(!open.collect::<Vec<_>>().contains(&place.path("held")));
    assert_eq!(place.sh("dev", "stat -c %a /"), "755\n");
}

#[test]
fn a_name_is_no_path_and_a_sandbox_that_cannot_start_is_not_made() {
    let place = Place::new();
    for name in ["", "..", "../x", "a/b", "A", ".a", "a b"] {
        assert!(!place.output(&["create", name]).status.success(), "{name}");
    }
    assert!(!place.output(&["create", "dev", "--rw", "/no/such/place"]).status.success());
    assert_eq!(place.agentd(&["ls"]), "");
    place.is_whole();
}

#[test]
fn a_log_is_followed() {
    let place = Place::new();
    place.agentd(&["create", "dev"]);
    place.agentd(&["exec", "-d", "dev", "--", "sh", "-c", "echo first; while ! test -e /go; do sleep 0.01; done; echo second"]);
    until("there is a log", || place.agentd(&["logs", "dev"]).contains("first"));
    let mut follow = place.command(&["logs", "-f", "dev"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("first"));
    place.sh("dev", "touch /go");
    assert_eq!(lines.next().as_deref(), Some("second"));
    follow.kill().unwrap();
    follow.wait().unwrap();
}
