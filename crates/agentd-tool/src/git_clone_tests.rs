use super::*;
use crate::request::{ToolCall, ToolRequest};
use std::{os::unix::fs::symlink, path::Path};

fn request(to: &str) -> CloneRequest {
    CloneRequest {
        url: "https://127.0.0.1:9/r.git".to_owned(),
        to: to.into(),
        branch: None,
        depth: None,
        single_branch: false,
        submodules: false,
        credential: None,
        time_ms: None,
    }
}

fn code(directory: &Path, request: &CloneRequest) -> ErrorCode {
    let call = ToolCall { within: Some(directory.into()), request: ToolRequest::Clone(request.clone()) };
    clone(&Resolver::new(&call).unwrap(), request).unwrap_err().code
}

#[test]
fn destination_that_exists_or_leads_out_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("empty")).unwrap();
    symlink(outside.path(), directory.path().join("link")).unwrap();
    symlink("nowhere", directory.path().join("dangling")).unwrap();
    for (to, expected) in [
        ("empty", ErrorCode::AlreadyExists),
        ("link", ErrorCode::AlreadyExists),
        ("dangling", ErrorCode::AlreadyExists),
        ("link/r", ErrorCode::Outside),
        ("../r", ErrorCode::Outside),
        ("/tmp/r", ErrorCode::Outside),
        (".", ErrorCode::Invalid),
        ("missing/r", ErrorCode::NotFound),
    ] {
        assert_eq!(code(directory.path(), &request(to)), expected, "{to}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
}

#[test]
fn failed_clone_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    // Nobody listens at this port.
    assert_eq!(code(directory.path(), &request("r")), ErrorCode::Git);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn command_is_ended_at_the_deadline_with_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("git");
    fs::write(&program, "#!/bin/sh\nsleep 1000 &\necho $! >child\nsleep 1000\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let root = OwnedFd::from(fs::File::open(directory.path()).unwrap());
    let path = format!("{}:/usr/bin:/bin", directory.path().display());
    let environment = [("PATH".into(), path.into())];
    let pid = directory.path().join("child");
    let mut milliseconds = 500;
    // On a slow host, the deadline may pass before the program has started its child.
    while !pid.exists() {
        milliseconds *= 2;
        let deadline = Deadline::within(limits::CLONE_MS, Some(milliseconds));
        let git = GitProcesses { directory: &root, environment: &environment, deadline };
        assert_eq!(git.run(&["clone"]).unwrap_err().code, ErrorCode::Limit);
    }
    let child = fs::read_to_string(pid).unwrap();
    // The signal was sent; the kernel ends the process soon after. One that nobody has waited for is a zombie.
    let state = || fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
    while !state().is_empty() && !state().contains(") Z ") {
        std::thread::yield_now();
    }
}

#[test]
fn git_reads_no_configuration_but_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let outer = |arguments: &[&str]| {
        let made = std::process::Command::new("git").args(arguments).current_dir(directory.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    outer(&["init", "-q"]);
    outer(&["config", "core.fsmonitor", "touch pwned"]);
    fs::create_dir(directory.path().join("new")).unwrap();
    let root = OwnedFd::from(fs::File::open(directory.path().join("new")).unwrap());
    let settings = GitSettings::of(&request("r"), &|name| std::env::var_os(name)).unwrap();
    let listed = |environment: &[(OsString, OsString)]| {
        let deadline = Deadline::within(limits::CLONE_MS, None);
        let git = GitProcesses { directory: &root, environment, deadline };
        git.output(&["config", "--list", "--show-scope"]).unwrap().unwrap()
    };
    let own = listed(&alone(settings.environment.clone(), &root).unwrap());
    assert!(own.contains("command\tcore.hookspath=/dev/null"), "{own}");
    assert!(own.lines().all(|line| line.starts_with("command\t")), "{own}");
    // The repository around is read without the variable.
    assert!(listed(&settings.environment).contains("local\tcore.fsmonitor=touch pwned"));
}
