//! Workspace, working directory, home directory and grants.

use crate::place::{RunDir, program, text};
use std::{
    fs,
    process::{Command, Stdio},
};

#[test]
fn workspace_read_only_or_none_restricts_writes() {
    let place = RunDir::new();
    fs::write(place.work().join("file"), "here").unwrap();
    assert_eq!(text(&place.run(&["--workspace-ro"], &["cat", "file"]).stdout), "here");
    assert!(!place.run(&["--workspace-ro"], &["sh", "-c", "echo x > file"]).status.success());
    let file = place.work().join("file").display().to_string();
    assert!(!place.run(&["--workspace", "none"], &["cat", &file]).status.success());
    assert_eq!(text(&place.run(&["--workspace", "none", "--ro", &file], &["cat", &file]).stdout), "here");
    assert!(!place.run(&["--workspace", "none", "--ro", &file], &["sh", "-c", &format!("echo x > {file}")]).status.success());
}

#[test]
fn home_directory_as_workspace_fails_whatever_home_is_set_to() {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let me = rustix::process::geteuid().as_raw().to_string();
    let home = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|entry| entry[2] == me).unwrap()[5].to_owned();
    let place = RunDir::new();
    for other in [None, Some("/nonexistent")] {
        let mut command = place.command(&["--workspace", &home], &["true"]);
        match other {
            None => command.env_remove("HOME"),
            Some(home) => command.env("HOME", home),
        };
        // The home directory of user nobody may be missing, which fails with the same exit code.
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{other:?}: {output:?}");
    }
    fs::create_dir_all(place.root.path().join("home/.config/gh")).unwrap();
    for path in ["/tmp", "../home", "../home/.config", "../home/.ssh"] {
        let output = place.run(&["--rw", path], &["true"]);
        assert_eq!(output.status.code(), Some(125), "{path}: {output:?}");
    }
}

#[test]
fn path_entry_that_links_to_home_grants_nothing() {
    let place = RunDir::new();
    let home = place.root.path().canonicalize().unwrap().join("home");
    fs::create_dir(home.join(".local")).unwrap();
    std::os::unix::fs::symlink("..", home.join(".local/bin")).unwrap();
    let key = home.join(".ssh/id_rsa");
    let path = format!("{}:/usr/bin:/bin", home.join(".local/bin").display());
    let mut command = place.command(&[], &["cat", key.to_str().unwrap()]);
    let output = command.env("HOME", &home).env("PATH", path).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn relative_and_linked_directories_are_resolved() {
    let place = RunDir::new();
    let work = place.work().canonicalize().unwrap();
    fs::create_dir(work.join("sub")).unwrap();
    std::os::unix::fs::symlink(work.join("sub"), work.join("link")).unwrap();
    let (sub, link) = (work.join("sub").display().to_string() + "\n", work.join("link").display().to_string());
    // In the first three cases the current directory is the parent of the workspace.
    let cases: [&[&str]; 6] = [
        &["--workspace", "./sub"],
        &["--follow-links", "--workspace", "link"],
        &["--follow-links", "--workspace", &link],
        &["--cwd", "sub"],
        &["--cwd", "./link/."],
        &["--cwd", &link],
    ];
    for options in cases {
        let output = place.run(options, &["/bin/pwd"]);
        assert_eq!(text(&output.stdout), sub, "{options:?}: {output:?}");
    }
    let output = place.run(&["--cwd", "no/such"], &["/bin/pwd"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("create it, or use an absolute path in the sandbox"), "{output:?}");
}

#[test]
fn deleted_current_directory_fails_only_if_needed() {
    let place = RunDir::new();
    // The shell deletes its current directory, then executes agentd there.
    let run = |options: &str| {
        let gone = place.work().join("gone");
        fs::create_dir(&gone).unwrap();
        let script = format!("rmdir {} && exec {} run {options} -- /bin/pwd", gone.display(), program());
        let inner = place.command(&[], &[]);
        let mut shell = Command::new("sh");
        shell.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
        shell.args(["-c", &script]).current_dir(&gone).output().unwrap()
    };
    let work = place.work().canonicalize().unwrap().display().to_string();
    assert_eq!(text(&run("--workspace none --cwd /").stdout), "/\n");
    assert_eq!(text(&run(&format!("--workspace {work}")).stdout), format!("{work}\n"));
    let output = run("");
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("change to an existing directory, or use --workspace"), "{output:?}");
}

#[test]
fn host_direct_with_option_that_it_cannot_enforce_fails() {
    let place = RunDir::new();
    for options in [&["--workspace-ro"][..], &["--ro", "/usr"], &["--profile", "strict"], &["--net", "off"], &["--rw", ".:/x"]] {
        for backend in ["host-direct", "none"] {
            let output = place.run(&[&["--backend", backend], options].concat(), &["touch", "made"]);
            assert_eq!(output.status.code(), Some(125), "{options:?}: {output:?}");
            assert!(text(&output.stderr).contains("choose another backend or drop the option"), "{output:?}");
        }
    }
    assert!(!place.work().join("made").exists());
    assert!(place.run(&["--backend", "host-direct", "--net", "host", "--workspace", "none"], &["true"]).status.success());
}

#[test]
fn grant_with_target_is_mounted_at_target() {
    let place = RunDir::new();
    fs::create_dir(place.work().join("data")).unwrap();
    fs::write(place.work().join("data/file"), "here").unwrap();
    for options in [&["--rw", "data:/data", "--cwd", "/data"][..], &["--ro", "data:/data", "--cwd", "data"]] {
        let options = [&["--backend", "container", "--workspace", "none"], options].concat();
        let output = place.run(&options, &["cat", "/data/file", "file"]);
        assert_eq!(text(&output.stdout), "herehere", "{options:?}: {output:?}");
    }
    let output = place.run(&["--backend", "linux-native", "--rw", "data:/data"], &["true"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    // A colon that is part of an existing path does not separate a target.
    fs::create_dir_all(place.work().join("a:/b")).unwrap();
    fs::write(place.work().join("a:/b/file"), "colon").unwrap();
    let file = place.work().canonicalize().unwrap().join("a:/b/file");
    let output = place.run(&["--workspace", "none", "--ro", "a:/b"], &["cat", file.to_str().unwrap()]);
    assert_eq!(text(&output.stdout), "colon", "{output:?}");
}

#[test]
fn temporary_directory_that_does_not_exist_is_named_in_the_error() {
    let place = RunDir::new();
    let output = place.command(&[], &["true"]).env("TMPDIR", place.root.path().join("missing")).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("missing: No such file") && said.contains("set TMPDIR"), "{said}");
}
