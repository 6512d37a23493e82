//! Runs every command of the README and of the examples in `--help` as written there.
//!
//! The commands of `docs/firecracker.md` are run by `./test` in the lab, on a machine with KVM.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

const README: &str = include_str!("../../../README.md");

/// Commands that are not run here: they download, take minutes, or need special hardware. The documents say so.
const SKIPPED: [&str; 12] = [
    // `./test` itself runs this suite.
    "./test",
    "apt-get install qemu-system-x86 qemu-utils",
    "agentd gondolin setup",
    "agentd gondolin setup --root ./rootfs",
    "agentd gondolin setup --offline /media/stick/downloads",
    "agentd run --backend gondolin -- uname -a",
    "agentd vm build --image debian:12",
    "agentd vm build --image ./rootfs --kernel linux-image-6.1.0-1-cloud-amd64.deb",
    "agentd run --backend firecracker -- sh -c \"uname -a > kernel\"",
    // Needs the internet; the suite `egress` has its own servers.
    "agentd run --net allow=example.com -- curl -sS https://example.com",
    // Takes seconds, and is tested by other suites.
    "agentd doctor",
    // `sandbox/disk.rs` tests `--disk`; the README has the command without that option.
    "agentd sandbox create dev --image debian:12 --memory 2G --disk 10G",
];

/// A wrapper that the commands find as `agentd`: it imports a local image instead of pulling one, types `exit` in the terminal of
/// `-it`, and stops `logs -f` after a second.
const AGENTD: &str = r#"#!/bin/bash
case "$*" in
"image pull "*) set -- image import "$TEST_DEBIAN" "$3" ;;
"sandbox logs -f "*) exec timeout --preserve-status --signal INT 1 "$TEST_AGENTD" "$@" ;;
*" -it "*) printf -v line '%q ' "$TEST_AGENTD" "$@"; printf 'exit\n' | script -qec "$line" /dev/null; exit ;;
esac
exec "$TEST_AGENTD" "$@"
"#;

fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

/// A home directory with a project, in which the commands run.
struct DocumentedDir(TempDir);

impl DocumentedDir {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for directory in ["bin", "home/.ssh", "home/project/data", "home/project/debs"] {
            fs::create_dir_all(place.path(directory)).unwrap();
        }
        fs::write(place.path("bin/agentd"), AGENTD).unwrap();
        fs::set_permissions(place.path("bin/agentd"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(place.path("home/.ssh/id_rsa"), "secret").unwrap();
        fs::write(place.path("home/project/data/words"), "b\na\n").unwrap();
        fs::write(place.path("home/project/Makefile"), "all test:\n\t@echo made\n").unwrap();
        place.package();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Builds a Debian package with one file.
    fn package(&self) {
        let tree = self.path("package");
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        fs::create_dir_all(tree.join("srv")).unwrap();
        fs::write(tree.join("srv/installed"), "").unwrap();
        let control =
            "Package: documented\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: test\n";
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        let built = Command::new("dpkg-deb")
            .args(["--root-owner-group", "--build"])
            .arg(&tree)
            .arg(self.path("home/project/debs"))
            .output();
        assert!(built.unwrap().status.success());
    }

    fn run(&self, line: &str) -> Output {
        let cache = std::env::temp_dir().join(format!("agentd-test-cache-{}", rustix::process::geteuid().as_raw()));
        let debian = std::env::var_os("AGENTD_DEBIAN").map(PathBuf::from);
        let debian = debian.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debian"));
        let search = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let mut bash = Command::new("bash");
        bash.args(["-c", line]).current_dir(self.path("home/project")).env("PATH", search).env("HOME", self.path("home"));
        bash.env("TEST_AGENTD", program()).env("TEST_DEBIAN", debian).env("AGENTD_DATA_DIR", self.path("data"));
        bash.env("XDG_CACHE_HOME", cache).stdin(Stdio::null()).output().unwrap()
    }
}

impl Drop for DocumentedDir {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.path("data/sandboxes/keeper/lock")).unwrap_or_default();
        if let Some(daemon) = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
            // The daemon may have ended already.
            rustix::process::kill_process(daemon, rustix::process::Signal::TERM).ok();
        }
    }
}

/// Returns the commands of a Markdown text: lines with a prompt in `console` blocks, and all lines of `sh` blocks.
fn of_document(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut kind = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), kind) {
            (Some(opened), None) => kind = Some(opened),
            (Some(_), Some(_)) => kind = None,
            (None, Some("console")) => commands.extend(line.strip_prefix("$ ").map(without_comment)),
            (None, Some("sh")) => commands.push(without_comment(line)),
            (None, _) => {}
        }
    }
    commands
}

fn without_comment(line: &str) -> String {
    line.split("  #").next().unwrap().trim().to_owned()
}

/// Returns the examples in the help texts.
fn of_help() -> Vec<String> {
    let commands: [&[&str]; 5] = [&["run"], &["call"], &["sandbox", "create"], &["gondolin", "setup"], &["vm", "build"]];
    let mut examples = Vec::new();
    for command in commands {
        let help = Command::new(program()).args(command).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let lines = help.lines().skip_while(|line| *line != "Examples:").filter_map(|line| line.strip_prefix("  agentd "));
        examples.extend(lines.map(|line| format!("agentd {}", line.trim())));
    }
    assert!(examples.len() >= 10, "{examples:?}");
    examples
}

/// Returns whether a command failed because this user may not set a limit, as the document says.
fn needs_other_user(command: &str, output: &Output) -> bool {
    let limits = ["--memory", "--pids", "--disk"].iter().any(|option| command.contains(option));
    let message = String::from_utf8_lossy(&output.stderr);
    limits && !rustix::process::geteuid().is_root() && (message.contains("cgroup") || message.contains("root"))
}

#[test]
fn documented_commands_work_as_written() {
    let place = DocumentedDir::new();
    let mut commands = of_document(README);
    assert!(commands.len() > 20, "{commands:?}");
    // A command in both is run once, in the order of the README.
    let others: Vec<String> = of_help().into_iter().filter(|example| !commands.contains(example)).collect();
    commands.extend(others);
    let mut failed = Vec::new();
    for command in &commands {
        if SKIPPED.contains(&command.as_str()) {
            continue;
        }
        // The first command of the README builds agentd; use the built program.
        let line = command.replace("cargo run --release -- run", "agentd run");
        let mut output = place.run(&line);
        if needs_other_user(&line, &output) {
            output = place.run(
                &line
                    .replace(" --memory 512M", "")
                    .replace(" --pids 64", "")
                    .replace(" --memory 2G", "")
                    .replace(" --disk 10G", ""),
            );
        }
        // The README shows this command with its error.
        let wanted = if line.contains("id_rsa") { Some(1) } else { Some(0) };
        if output.status.code() != wanted {
            failed.push(format!("{command}: {output:?}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let unknown: Vec<_> = SKIPPED.iter().filter(|known| !commands.iter().any(|command| command == *known)).collect();
    assert_eq!(unknown, Vec::<&&str>::new(), "no document contains these commands any more");
}
