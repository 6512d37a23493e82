//! `agentd sandbox`: named sandboxes across invocations, as their user meets them. Each test has its own folder, and therefore
//! its own daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod changes;
mod crash;
mod daemon;
mod disk;
mod elsewhere;
#[path = "../support/exchange.rs"]
#[allow(dead_code, reason = "one suite counts its attempts")]
mod exchange;
mod grants;
#[path = "../support/json_document.rs"]
mod json_document;
mod place;
mod unproven;

use place::{SandboxDir, kill, program, runs, text, until};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::MetadataExt,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

#[test]
fn files_persist_between_execs_until_sandbox_is_removed() {
    let place = SandboxDir::new();
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
fn control_characters_in_names_are_escaped() {
    let place = SandboxDir::new();
    place.agentd(&["create", "dev"]);
    place.sh("dev", "touch \"$(printf '/a\\033]0;x\\007\\nD etc\\\\')\"");
    assert_eq!(place.agentd(&["diff", "dev"]), "A /a\\x1b]0;x\\x07\\nD etc\\\\\n");
    let refused = place.refused(&["cp", "dev:/no\u{1b}[2Jsuch\nfile", "-"]);
    assert!(refused.contains(r"no\x1b[2Jsuch\nfile"), "{refused:?}");
}

#[test]
fn exec_returns_exit_code_of_command() {
    let place = SandboxDir::new();
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
fn command_ends_with_its_client_unless_detached() {
    let place = SandboxDir::new();
    let mark = format!("{}", 100_000 + std::process::id());
    place.agentd(&["create", "dev"]);
    let mut client = place.command(&["exec", "dev", "--", "sleep", &mark]).spawn().unwrap();
    until("the command runs", || place.agentd(&["ls"]).contains("live, 1 command"));
    client.kill().unwrap();
    client.wait().unwrap();
    until("the command has ended", || place.agentd(&["ls"]).contains("live, 0 commands"));

    place.agentd(&[
        "exec",
        "-d",
        "dev",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; while true; do date +%s%N >/tick; sleep 0.01; done",
    ]);
    until("the output is in the log", || {
        let log = place.agentd(&["logs", "dev"]);
        log.contains("out\n") && log.contains("err\n")
    });
    assert!(place.agentd(&["ls"]).contains("live, 1 command"));
}

#[test]
fn paused_sandbox_makes_no_progress() {
    let place = SandboxDir::new();
    place.agentd(&["create", "dev"]);
    let ticks =
        || fs::read_dir(place.path("data/sandboxes/layers")).unwrap().map(|layer| layer.unwrap().path().join("tree/tick"));
    place.agentd(&["exec", "-d", "dev", "--", "sh", "-c", "while true; do date +%s%N >/new; mv /new /tick; done"]);
    until("the command runs", || ticks().any(|tick| tick.exists()));
    let tick = ticks().find(|tick| tick.exists()).unwrap();
    let now = || fs::read(&tick).unwrap();
    if !place.stops(&["pause", "dev"]) {
        let before = now();
        until("the command continues", || now() != before);
        return;
    }
    let (paused_at, began) = (now(), Instant::now());
    while began.elapsed() < Duration::from_millis(300) {
        assert_eq!(now(), paused_at);
    }
    assert!(place.refused(&["exec", "dev", "--", "true"]).contains("paused"));
    assert!(place.refused(&["cp", "dev:/etc/hostname", "-"]).contains("paused"));
    place.agentd(&["resume", "dev"]);
    until("the command continues", || now() != paused_at);
}

#[test]
fn restore_returns_to_snapshot_and_forks_are_independent() {
    let place = SandboxDir::new();
    place.agentd(&["create", "dev"]);
    place.sh("dev", "echo one >/file; echo same >/other");
    place.agentd(&["snapshot", "dev", "first"]);
    place.sh("dev", "echo two >/file; rm /other; echo new >/new");
    assert_eq!(place.agentd(&["diff", "dev", "--since", "first"]), "C /file\nA /new\nD /other\n");
    place.agentd(&["fork", "dev", "a", "b"]);
    assert_eq!(place.agentd(&["diff", "a"]), "");
    assert_eq!(place.agentd(&["diff", "a", "--since", "first"]), place.agentd(&["diff", "dev", "--since", "first"]));
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

/// Returns the disk usage below a directory in bytes.
fn blocks(path: &std::path::Path) -> u64 {
    let mut all = 0;
    // overlayfs' work directory cannot be read, but is empty.
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let about = entry.path().symlink_metadata().unwrap();
        all += about.blocks() * 512 + if about.is_dir() { blocks(&entry.path()) } else { 0 };
    }
    all
}

#[test]
fn two_hundred_running_forks_share_layers() {
    let place = SandboxDir::new();
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
    until("all commands run", || place.agentd(&["ls"]).matches("live, 1 command").count() == names.len());
    place.agentd(&[&["rm"], names.as_slice()].concat());
    assert!(!runs(&format!("sleep\0{mark}")));
    assert!(blocks(&layers) < 30 << 20);
}

#[test]
fn snapshot_of_busy_sandbox_is_consistent_and_command_continues() {
    let place = SandboxDir::new();
    place.agentd(&["create", "dev"]);
    // The numbers in the two files are equal, or differ by one.
    let script = "exec 3>/open; i=0; while true; do i=$((i+1)); echo $i >/t; mv /t /a; echo $i >/t; mv /t /b; echo $i >&3; done";
    place.agentd(&["exec", "-d", "dev", "--", "sh", "-c", script]);
    until("the command runs", || place.output(&["exec", "dev", "--", "test", "-s", "/b"]).status.success());
    if !place.stops(&["snapshot", "dev", "running"]) {
        assert!(!place.agentd(&["inspect", "dev"]).contains("running"));
        return;
    }
    assert!(place.agentd(&["ls"]).contains("live, 1 command"));
    place.agentd(&["fork", "dev", "still"]);
    let read = |script: &str| place.sh("still", script).split_whitespace().map(|n| n.parse::<u64>().unwrap()).collect::<Vec<_>>();
    let pair = read("cat /a /b");
    assert!(pair[0] - pair[1] <= 1, "{pair:?}");
    assert_eq!(read("cat /a /b"), pair);
    let count = |name: &str| place.sh(name, "wc -l </open").trim().parse::<u64>().unwrap();
    let before = count("dev");
    until("the command continues", || count("dev") > before);
    place.is_whole();
}

#[test]
fn killed_daemon_leaves_no_process_and_loses_no_sandbox() {
    let place = SandboxDir::new();
    let mark = format!("{}", 200_000 + std::process::id());
    for name in ["one", "two"] {
        place.agentd(&["create", name]);
        place.sh(name, &format!("echo {name} >/file"));
        place.agentd(&["exec", "-d", name, "--", "sleep", &mark]);
    }
    until("the commands run", || runs(&format!("sleep\0{mark}")));
    kill(place.daemon().unwrap());
    until("all commands have ended", || !runs(&format!("sleep\0{mark}")));
    place.is_whole();
    for name in ["one", "two"] {
        assert_eq!(place.sh(name, "cat /file"), format!("{name}\n"));
    }
}

#[test]
fn sandbox_is_removed_after_idle_or_total_ttl() {
    let place = SandboxDir::new();
    place.agentd(&["create", "short", "--idle-ttl", "1s"]);
    place.agentd(&["create", "long"]);
    // On a busy machine, the time may be over before the command starts.
    let starts = |ttl: &str| {
        place.agentd(&["create", "total", "--ttl", ttl]);
        let started = place.output(&["exec", "-d", "total", "--", "sleep", "600"]).status.success();
        until("it is removed, or the command runs", || started || !place.agentd(&["ls"]).contains("total"));
        started
    };
    assert!(["6s", "20s", "60s", "200s"].iter().any(|ttl| starts(ttl)));
    until("both are removed", || !place.agentd(&["ls"]).contains("short") && !place.agentd(&["ls"]).contains("total"));
    assert!(place.agentd(&["ls"]).contains("long"));
}

#[test]
fn missing_control_is_reported_by_create_and_exec() {
    let place = SandboxDir::new();
    if rustix::process::geteuid().is_root() {
        // No control is missing, so there is no warning.
        let output = place.output(&["create", "dev", "--allow-degraded", "--memory", "64M"]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        return;
    }
    let limited = &["create", "dev", "--allow-degraded", "--memory", "64M"];
    let output = place.output(limited);
    let is_reported = |output: &Output| text(&output.stderr).contains("not enforced");
    // With a delegated cgroup, the limit is enforced.
    if is_reported(&output) {
        for args in [&["exec", "dev", "--", "true"][..], &["exec", "-d", "dev", "--", "true"]] {
            let output = place.output(args);
            assert!(output.status.success() && is_reported(&output), "{output:?}");
        }
        assert!(!place.output(&["create", "strict", "--memory", "64M"]).status.success());
    }
}

#[test]
fn created_protected_path_is_reported_and_then_read_only() {
    let place = SandboxDir::new();
    fs::create_dir(place.path("work")).unwrap();
    place.agentd(&["create", "dev", "--workspace", place.path("work").to_str().unwrap()]);
    let make = format!("echo evil >{}/.bashrc", place.path("work").display());
    let output = place.output(&["exec", "dev", "--", "sh", "-c", &make]);
    assert!(text(&output.stderr).contains("created: ") && text(&output.stderr).contains(".bashrc"), "{output:?}");
    // The running sandbox does not protect that file, so it is restarted.
    let output = place.output(&["exec", "dev", "--", "sh", "-c", &make]);
    assert!(!output.status.success() && text(&output.stderr).contains("sandbox restarted"), "{output:?}");
    assert!(place.output(&["exec", "dev", "--", "true"]).stderr.is_empty());
}

#[test]
fn listed_name_created_in_a_subdirectory_is_reported_once_and_needs_no_restart() {
    let place = SandboxDir::new();
    fs::create_dir_all(place.path("work/sub")).unwrap();
    let work = place.path("work");
    place.agentd(&["create", "dev", "--workspace", work.to_str().unwrap()]);
    let change = |name: &str| format!("echo evil >>{}/{name}", work.display());
    for (how, name) in [("created", "sub/.envrc"), ("changed", "sub/.envrc"), ("created", "sub/deep/AGENTS.md")] {
        let make = format!("mkdir -p {}/sub/deep; {}", work.display(), change(name));
        let output = place.output(&["exec", "dev", "--", "sh", "-c", &make]);
        let said = text(&output.stderr);
        assert!(
            output.status.success() && said.contains(&format!("protected path {how}: ")) && said.contains(name),
            "{output:?}"
        );
        assert!(!said.contains("restarted"), "{said}");
    }
    place.agentd(&["exec", "-d", "dev", "--", "sh", "-c", &change("sub/.npmrc")]);
    until("the change is in the log", || place.agentd(&["logs", "dev"]).contains("sub/.npmrc"));
    assert!(text(&place.output(&["exec", "dev", "--", "true"]).stderr).contains("sub/.npmrc"));
    assert!(place.output(&["exec", "dev", "--", "true"]).stderr.is_empty());
}

#[test]
fn cp_copies_files_in_and_out() {
    let place = SandboxDir::new();
    place.agentd(&["create", "dev"]);
    let content: Vec<u8> = (0..=255u8).cycle().take(100_000).collect();
    fs::write(place.path("here"), &content).unwrap();
    place.agentd(&["cp", "here", "dev:/srv-here"]);
    place.agentd(&["cp", "dev:/srv-here", "back"]);
    assert_eq!(fs::read(place.path("back")).unwrap(), content);
    for (args, message) in [
        (["dev:/no/such", "x"], "/no/such: No such file or directory (os error 2) — check the path"),
        (["here", "dev:/no/such"], "/no/such: No such file or directory (os error 2) — check the path, and create its directory"),
        (["here", "dev:/etc"], "/etc: Is a directory (os error 21) — use the path of a regular file"),
        (
            ["dev:/srv-here", "missing/x"],
            "missing: No such file or directory (os error 2) — check the path, or create the directory",
        ),
        (["missing", "dev:/x"], "missing: No such file or directory (os error 2) — check the path"),
        (["here", "back"], "neither FROM nor TO is in a sandbox — write NAME:PATH"),
        (["here", "dev:back"], "dev:back: not an absolute path in the sandbox — write dev:/back"),
        (["dev:/srv-here", "dev:/x"], "both FROM and TO are in a sandbox — copy to a file of the host first"),
        (["here", "other:/x"], "no sandbox of this name exists — create the sandbox"),
    ] {
        let refused = place.refused(&["cp", args[0], args[1]]);
        assert!(refused.contains(message), "{args:?}: {refused}");
    }
    assert!(!place.path("x").exists());

    // However large it is, it is never in the daemon's memory.
    let peak = || {
        let status = fs::read_to_string(format!("/proc/{}/status", place.daemon().unwrap().as_raw_nonzero())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    fs::write(place.path("here"), vec![7; 64 << 20]).unwrap();
    let before = peak();
    place.agentd(&["cp", "here", "dev:/srv-here"]);
    place.agentd(&["cp", "dev:/srv-here", "back"]);
    assert_eq!(fs::metadata(place.path("back")).unwrap().len(), 64 << 20);
    assert!(peak() < before + (16 << 10), "{before} kB became {} kB", peak());

    // A FIFO without a writer is refused, without waiting.
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path("pipe"), 0o600.into()).unwrap();
    assert!(place.refused(&["cp", "pipe", "dev:/srv-pipe"]).contains("not a regular file"));
}

#[test]
fn daemon_inherits_no_umask_and_no_descriptor_of_its_first_client() {
    let place = SandboxDir::new();
    let script = format!("umask 077; exec 9>{}; exec {} sandbox create dev", place.path("held").display(), program());
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("AGENTD_DATA_DIR", place.path("data"));
    assert!(shell.status().unwrap().success());
    let daemon = place.daemon().unwrap().as_raw_nonzero();
    let open =
        fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().map(|fd| fs::read_link(fd.unwrap().path()).unwrap_or_default());
    assert!(!open.collect::<Vec<_>>().contains(&place.path("held")));
    assert_eq!(place.sh("dev", "stat -c %a /"), "755\n");
}

#[test]
fn create_with_invalid_name_or_grant_creates_nothing() {
    let place = SandboxDir::new();
    for name in ["", "..", "../x", "a/b", "A", ".a", "a b"] {
        assert!(!place.output(&["create", name]).status.success(), "{name}");
    }
    assert!(!place.output(&["create", "dev", "--rw", "/no/such/place"]).status.success());
    assert_eq!(place.agentd(&["ls"]), "");
    place.is_whole();
}

#[test]
fn terminal_of_an_exec_without_input_does_not_wait_for_input() {
    let place = SandboxDir::new();
    place.agentd(&["create", "dev"]);
    for input in [Stdio::piped(), Stdio::null()] {
        let exec = ["exec", "-t", "dev", "--", "sh", "-c", "cat; test -t 1 && echo ended"];
        let mut child = place.command(&exec).stdin(input).stdout(Stdio::piped()).spawn().unwrap();
        // Kept open: the end of the command must not depend on the end of the caller's input.
        let open = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(open);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "ended\r\n".to_owned()));
    }
    let refused = place.output(&["exec", "-it", "dev", "--", "cat"]);
    assert!(
        refused.status.code() == Some(125) && text(&refused.stderr).contains("standard input is not a terminal"),
        "{refused:?}"
    );
}

#[test]
fn logs_follow_prints_new_output() {
    let place = SandboxDir::new();
    place.agentd(&["create", "dev"]);
    place.agentd(&["exec", "-d", "dev", "--", "sh", "-c", "echo first; while ! test -e /go; do sleep 0.01; done; echo second"]);
    until("the first line is in the log", || place.agentd(&["logs", "dev"]).contains("first"));
    let mut follow = place.command(&["logs", "-f", "dev"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("first"));
    place.sh("dev", "touch /go");
    assert_eq!(lines.next().as_deref(), Some("second"));
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn protected_paths_created_by_host_are_reported_and_read_only_at_next_exec() {
    let place = SandboxDir::new();
    let work = place.path("work");
    fs::create_dir(&work).unwrap();
    place.agentd(&["create", "dev", "--workspace", work.to_str().unwrap()]);
    place.sh("dev", "true");
    // The user creates a repository; the running sandbox does not protect it.
    let git = Command::new("git").args(["init", "-q"]).arg(&work).output().unwrap();
    assert!(git.status.success());
    let script = |name: &str| format!("echo evil >>{}/{name}", work.display());
    let output = place.output(&["exec", "dev", "--", "sh", "-c", &script(".git/config")]);
    assert!(!output.status.success(), "{output:?}");
    assert!(text(&output.stderr).contains("git directory created: "), "{output:?}");
    // The host replaces a protected file.
    fs::write(work.join("new"), "[core]\n").unwrap();
    fs::rename(work.join("new"), work.join(".git/config")).unwrap();
    let output = place.output(&["exec", "dev", "--", "sh", "-c", &script(".git/config")]);
    assert!(!output.status.success() && text(&output.stderr).contains("replaced: "), "{output:?}");
    // Each change is reported once.
    assert!(place.output(&["exec", "dev", "--", "true"]).stderr.is_empty());
}

#[test]
fn protected_path_change_by_detached_command_is_logged_and_reported_by_next_exec() {
    let place = SandboxDir::new();
    let work = place.path("work");
    fs::create_dir(&work).unwrap();
    place.agentd(&["create", "dev", "--workspace", work.to_str().unwrap()]);
    let script = format!("echo evil >{}/.envrc", work.display());
    place.agentd(&["exec", "-d", "dev", "--", "sh", "-c", &script]);
    until("the change is in the log", || place.agentd(&["logs", "dev"]).contains("created: "));
    let output = place.output(&["exec", "dev", "--", "true"]);
    assert!(text(&output.stderr).contains(".envrc"), "{output:?}");
    assert!(place.output(&["exec", "dev", "--", "true"]).stderr.is_empty());
}

#[test]
fn cp_out_of_sandbox_does_not_follow_links() {
    let place = SandboxDir::new();
    let work = place.path("work");
    fs::create_dir_all(&work).unwrap();
    fs::create_dir(place.path("home")).unwrap();
    fs::write(place.path("home/key"), "mine").unwrap();
    place.agentd(&["create", "dev", "--workspace", work.to_str().unwrap()]);
    let script =
        format!("cd {0} && ln -s ../home out && ln -s ../home/key note && echo evil >/evil && mkfifo /fifo", work.display());
    place.sh("dev", &script);
    for to in ["work/out/key", "work/out/new", "work/out"] {
        assert!(place.refused(&["cp", "dev:/evil", to]).contains("symbolic link"), "{to}");
    }
    place.agentd(&["cp", "dev:/evil", "work/note"]);
    assert_eq!(fs::read_to_string(place.path("home/key")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(place.path("work/note")).unwrap(), "evil\n");
    assert!(place.refused(&["cp", "work/out/key", "dev:/x"]).contains("symbolic link"));
    // Files that are not regular are refused, without waiting.
    assert!(!place.output(&["cp", "dev:/fifo", "x"]).status.success());
    assert!(!place.output(&["cp", "dev:/evil/..", "."]).status.success());
}
