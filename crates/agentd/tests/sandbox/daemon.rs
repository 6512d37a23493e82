//! The daemon from the command line: `agentd daemon`, its log, and a daemon of another version.

use crate::place::{SandboxDir, runs, text, until};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    process::{Child, Command, Output, Stdio},
};

/// A daemon of protocol 99: it holds the lock, and replies to every connection with `Reply::Failed(Failure::Version(99))`.
const OTHER_VERSION: &str = r"
import fcntl, os, socket, sys
lock = open('lock', 'w')
fcntl.flock(lock, fcntl.LOCK_EX)
lock.write('%d\n' % os.getpid())
lock.flush()
listener = socket.socket(socket.AF_UNIX)
listener.bind('socket')
listener.listen()
print('ready', flush=True)
while True:
    client, _ = listener.accept()
    client.recv(1)
    client.sendall(bytes([3, 0, 0, 0, 0, 1, 1, 99]))
    client.recv(1 << 20)
    client.close()
";

fn daemon(place: &SandboxDir, args: &[&str]) -> Output {
    place.agentd_itself().arg("daemon").args(args).stdin(Stdio::null()).output().unwrap()
}

/// Runs `agentd daemon`, which must succeed, and returns its output.
fn daemon_output(place: &SandboxDir, args: &[&str]) -> String {
    let output = daemon(place, args);
    assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    text(&output.stdout)
}

fn status(place: &SandboxDir) -> serde_json::Value {
    serde_json::from_str(&daemon_output(place, &["status", "--json"])).unwrap()
}

#[test]
fn status_without_a_daemon_starts_none() {
    let place = SandboxDir::new();
    for _ in 0..2 {
        assert!(daemon_output(&place, &["status"]).starts_with("no daemon is running"));
        assert_eq!(status(&place)["running"], false);
        assert_eq!(daemon_output(&place, &["stop"]), "no daemon is running\n");
        assert_eq!(daemon(&place, &["log"]).status.code(), Some(125));
        assert!(place.daemon().is_none());
        // In the second round the directory of sandboxes exists.
        assert_eq!(place.agentd(&["ls"]), "");
    }
}

#[test]
fn status_names_process_version_sandboxes_and_a_private_log() {
    let place = SandboxDir::new();
    place.agentd(&["create", "dev"]);
    place.agentd(&["exec", "-d", "dev", "--", "sleep", "1000"]);
    let pid = place.daemon().unwrap().as_raw_nonzero().get();
    let shown = daemon_output(&place, &["status"]);
    let version = env!("CARGO_PKG_VERSION");
    for part in [format!("process    {pid}\n"), format!("version    {version} "), "sandboxes  1\n".to_owned()] {
        assert!(shown.contains(&part), "{part}: {shown}");
    }
    let status = status(&place);
    assert_eq!((&status["pid"], &status["version"]), (&pid.into(), &version.into()));
    assert_eq!(status["sandboxes"], serde_json::json!([{ "name": "dev", "state": "live", "commands": 1 }]));
    let log = fs::metadata(status["log"].as_str().unwrap()).unwrap();
    assert_eq!(log.permissions().mode() & 0o7777, 0o600);
    let log = daemon_output(&place, &["log"]);
    assert!(log.contains("daemon started") && log.contains("sandbox started name=dev"), "{log}");
}

#[test]
fn stop_kills_commands_and_keeps_files() {
    let place = SandboxDir::new();
    let mark = format!("{}", 400_000 + std::process::id());
    place.agentd(&["create", "dev"]);
    place.sh("dev", "echo kept >/file");
    place.agentd(&["exec", "-d", "dev", "--", "sleep", &mark]);
    let pid = place.daemon().unwrap().as_raw_nonzero();
    let message = daemon_output(&place, &["stop"]);
    assert_eq!(message, format!("daemon {pid} stopped: the processes of dev have ended; the files of all sandboxes are kept\n"));
    assert!(place.daemon().is_none() && !runs(&format!("sleep\0{mark}")));
    assert!(daemon_output(&place, &["log"]).contains("daemon ended why=\"signal\""));
    assert_eq!(daemon_output(&place, &["stop"]), "no daemon is running\n");
    assert_eq!(place.sh("dev", "cat /file"), "kept\n");
}

#[test]
fn log_follow_prints_warning_for_unreadable_request() {
    let place = SandboxDir::new();
    place.agentd(&["create", "dev"]);
    let mut follow = place.agentd_itself().args(["daemon", "log", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("daemon started")));
    let mut client = UnixStream::connect(place.path("data/sandboxes/keeper/socket")).unwrap();
    client.write_all(&[3, 0, 0, 0, 0, 8, 99, 99]).unwrap();
    assert!(lines.any(|line| line.contains("WARN") && line.contains("cannot read request")));
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn log_level_of_daemon_is_that_of_client_that_starts_it() {
    let place = SandboxDir::new();
    let created = place.command(&["create", "dev"]).env("AGENTD_LOG", "agentd_daemon=debug").output().unwrap();
    assert!(created.status.success(), "{created:?}");
    until("the request is in the log", || daemon_output(&place, &["log"]).contains("request kind=\"create\" name=\"dev\""));
}

fn other_version(place: &SandboxDir) -> Child {
    let folder = place.path("data/sandboxes/keeper");
    fs::create_dir_all(&folder).unwrap();
    for private in ["data", "data/sandboxes", "data/sandboxes/keeper"] {
        fs::set_permissions(place.path(private), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let mut python = Command::new("python3");
    let mut other = python.args(["-c", OTHER_VERSION]).current_dir(&folder).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    other
}

#[test]
fn daemon_of_other_version_fails_with_remedy() {
    let place = SandboxDir::new();
    let mut other = other_version(&place);
    for output in [place.output(&["create", "dev"]), daemon(&place, &["status"])] {
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        let message = text(&output.stderr);
        assert!(message.contains("daemon 99") && message.contains("`agentd daemon stop`"), "{message}");
    }
    let message = daemon_output(&place, &["stop"]);
    assert!(message.starts_with(&format!("daemon {} stopped: ", other.id())), "{message}");
    assert!(!other.wait().unwrap().success());
    place.agentd(&["create", "dev"]);
}
