//! Protected paths: a command cannot change existing files that host tools execute or load, and new ones are reported.
//! Uses real git, inside and outside the sandbox.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

/// Returns the program under test; `AGENTD_BIN` names a copy if this user cannot read cargo's build directory.
fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

/// A repository with one commit and, next to it, a home directory.
struct Project {
    root: TempDir,
}

impl Project {
    fn new() -> Self {
        let project = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir(project.root.path().join("home")).unwrap();
        fs::create_dir(project.path("")).unwrap();
        project.git(&["init", "-q", "-b", "main"]);
        project.git(&["config", "user.name", "t"]);
        project.git(&["config", "user.email", "t@example.org"]);
        fs::write(project.path("file"), "one\n").unwrap();
        project.commit("first");
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("work").join(name)
    }

    fn git_in(&self, directory: &Path, args: &[&str]) -> Output {
        let mut git = Command::new("git");
        git.args(["-c", "protocol.file.allow=always", "-c", "safe.directory=*"]).args(args).current_dir(directory);
        git.env("HOME", self.root.path().join("home")).env("GIT_CONFIG_NOSYSTEM", "1").output().unwrap()
    }

    /// Runs git on the host and requires success.
    fn git(&self, args: &[&str]) -> String {
        let output = self.git_in(&self.path(""), args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        text(&output.stdout)
    }

    fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", message]);
    }

    fn command(&self, options: &[&str], command: &[&str]) -> Command {
        let cache = std::env::temp_dir().join(format!("agentd-test-cache-{}", rustix::process::geteuid().as_raw()));
        let mut run = Command::new(program());
        run.arg("run").args(options).arg("--").args(command).current_dir(self.path("")).stdin(Stdio::null());
        run.env("HOME", self.root.path().join("home")).env("XDG_CACHE_HOME", cache);
        run
    }

    fn run(&self, options: &[&str], script: &str) -> Output {
        let script = format!(
            "export GIT_CONFIG_COUNT=2 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' \
            GIT_CONFIG_KEY_1=protocol.file.allow GIT_CONFIG_VALUE_1=always\n{script}"
        );
        self.command(options, &["sh", "-c", &script]).output().unwrap()
    }

    /// Runs a script that must succeed; returns the reported changes, each as "CHANGE PATH".
    fn reported(&self, script: &str) -> Vec<String> {
        self.changes(&serde_json::from_slice(&self.run(&["--json"], script).stdout).unwrap())
    }

    /// Returns the changes in the JSON object of a script that succeeded, each as "CHANGE PATH".
    fn changes(&self, said: &Value) -> Vec<String> {
        assert_eq!(said["exit_code"], 0, "{said}");
        let one = |change: &Value| {
            let path = Path::new(change["path"].as_str().unwrap());
            let name = path.strip_prefix(self.path("").canonicalize().unwrap()).unwrap();
            format!("{} {}", change["change"].as_str().unwrap(), name.display())
        };
        said["protected_changes"].as_array().unwrap().iter().map(one).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn common_git_commands_work_and_are_not_reported() {
    let project = Project::new();
    let script = "set -e; git status -s; echo two >file; git commit -qam two; git switch -qc other; echo x >new; git add new
        git commit -qm new; git switch -q main; git merge -q other; git rebase -q HEAD~1; git reset -q --hard HEAD; git tag t; \
        git gc -q";
    assert_eq!(project.reported(script), Vec::<String>::new());
    assert_eq!(project.git(&["status", "-s"]), "");
}

#[test]
fn new_repositories_in_subdirectories_work_and_are_reported() {
    let project = Project::new();
    let script = "set -e; git init -q sub; git clone -q . ../work/clone; mkdir n; echo '{}' >n/package.json";
    assert_eq!(project.reported(script), ["created clone/.git", "created sub/.git"]);
    assert_eq!(project.reported("cd sub && git status -s && touch x && git add x"), Vec::<String>::new());
}

#[test]
fn npm_init_in_subdirectory_is_not_reported() {
    let project = Project::new();
    assert_eq!(project.reported("mkdir n && cd n && npm init -y >/dev/null"), Vec::<String>::new());
    assert!(project.path("n/package.json").exists());
}

#[test]
fn cargo_new_in_subdirectory_works_and_only_its_git_directory_is_reported() {
    let project = Project::new();
    // The toolchain is in the caller's home directory.
    let Some(real_home) = std::env::var_os("HOME").filter(|home| Path::new(home).join(".cargo/bin/cargo").exists()) else {
        // The unprivileged test user has no toolchain.
        assert!(!rustix::process::geteuid().is_root());
        return;
    };
    let script =
        "cargo new -q --vcs none sub/plain && cargo new -q --vcs git sub/repository && cargo init -q --lib --vcs none src";
    let output = project.command(&["--json"], &["sh", "-c", script]).env("HOME", real_home).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(project.changes(&said), ["created sub/repository/.git"]);
    for made in ["sub/plain/Cargo.toml", "sub/repository/src/main.rs", "src/src/lib.rs"] {
        assert!(project.path(made).exists(), "{made}: {said}");
    }
}

#[test]
fn bare_repository_that_replaces_git_directory_is_reported() {
    let project = Project::new();
    let script = "set -e; rm .git/HEAD; mkdir objects refs; echo 'ref: refs/heads/x' >HEAD; echo '[core]' >config; mkdir -p a/b
        git init -q --bare a/b/c";
    assert_eq!(project.reported(script), ["created ", "removed .git", "created a/b/c"]);
}

#[test]
fn created_rebase_todo_list_is_reported() {
    let project = Project::new();
    let script = "mkdir .git/rebase-merge && echo 'exec evil' >.git/rebase-merge/git-rebase-todo";
    assert_eq!(project.reported(script), ["created .git/rebase-merge/git-rebase-todo"]);
}

#[test]
fn hooks_directory_set_in_any_config_form_is_read_only() {
    for (config, extra) in [
        ("[core]\nhooksPath = src/../tools/hooks\n", None),
        ("[core]\nhooksPath = to\\\nols/\"hooks\"\n", None),
        ("[include]\npath = ../shared\n", Some(("shared", "[core]\nhooksPath = tools/hooks\n"))),
        ("[extensions]\nworktreeConfig = true\n", Some((".git/config.worktree", "[core]\nhooksPath = tools/hooks\n"))),
    ] {
        let project = Project::new();
        fs::create_dir_all(project.path("tools/hooks")).unwrap();
        fs::create_dir_all(project.path("src")).unwrap();
        fs::write(project.path(".git/config"), config).unwrap();
        if let Some((name, content)) = extra {
            fs::write(project.path(name), content).unwrap();
            assert!(!project.run(&[], &format!("echo evil >>{name}")).status.success(), "{config}");
        }
        let output = project.run(&[], "echo evil >tools/hooks/pre-commit");
        assert!(!output.status.success(), "{config}: {output:?}");
    }
}

#[test]
fn target_of_linked_hook_is_read_only_and_link_is_reported_once() {
    let project = Project::new();
    fs::create_dir_all(project.path("scripts/hooks")).unwrap();
    fs::write(project.path("scripts/x"), "mine").unwrap();
    fs::create_dir_all(project.path(".git/hooks")).unwrap();
    symlink("../../scripts/x", project.path(".git/hooks/pre-commit")).unwrap();
    assert!(!project.run(&[], "echo evil >scripts/x").status.success());
    // The hooks directory itself is a link.
    fs::remove_dir_all(project.path(".git/hooks")).unwrap();
    symlink("../scripts/hooks", project.path(".git/hooks")).unwrap();
    let output = project.run(&[], "echo evil >scripts/hooks/pre-commit");
    assert!(!output.status.success());
    assert_eq!(text(&output.stderr).matches("symbolic link").count(), 1, "{output:?}");
    assert_eq!(project.reported("rm .git/hooks; mkdir .git/hooks"), ["replaced .git/hooks"]);
}

#[test]
fn run_with_git_linked_to_endless_file_ends() {
    let project = Project::new();
    fs::remove_dir_all(project.path(".git")).unwrap();
    symlink("/proc/kmsg", project.path(".git")).unwrap();
    let output = project.run(&["--timeout", "20s"], "true");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn protected_file_replaced_by_host_during_run_is_reported() {
    let project = Project::new();
    fs::write(project.path("CLAUDE.md"), "mine").unwrap();
    let mut run = project.command(&["-i"], &["sh", "-c", "echo ready; read x; echo evil >CLAUDE.md"]);
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    // Rename over the file, as editors and git do: the kernel then detaches the sandbox's mount.
    fs::write(project.path("CLAUDE.new"), "mine").unwrap();
    fs::rename(project.path("CLAUDE.new"), project.path("CLAUDE.md")).unwrap();
    project.git(&["config", "remote.x.url", "y"]);
    run.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let output = run.wait_with_output().unwrap();
    let said = text(&output.stderr);
    for name in ["CLAUDE.md", ".git/config"] {
        assert!(said.lines().any(|line| line.contains("replaced: ") && line.contains(name)), "{name}: {said}");
    }
}

#[test]
fn json_reports_changes_after_supervisor_is_killed() {
    // Kill the supervisor, as a payload that compromised it could.
    let said = killed_while_running(|run| child(child(run)));
    assert_eq!(said["protected_incomplete"], false, "{said}");
}

#[test]
fn json_reports_incomplete_comparison_after_launcher_is_killed() {
    // Without its launcher, agentd does not know whether all processes of the sandbox ended.
    let said = killed_while_running(child);
    assert_eq!(said["protected_not_compared"][0]["cause"], "still-running", "{said}");
}

/// Kills the process that `victim` returns for that of `agentd run` while a command runs that created a protected path. Returns
/// the JSON object.
fn killed_while_running(victim: fn(Pid) -> Pid) -> Value {
    let project = Project::new();
    let script = "echo evil >AGENTS.md; echo ready >ready.new; mv ready.new ready; sleep 1000";
    let run = project.command(&["--json"], &["sh", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    while !project.path("ready").exists() {
        std::thread::yield_now();
    }
    kill_process(victim(Pid::from_child(&run)), Signal::KILL).unwrap();
    let said: Value = serde_json::from_slice(&run.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(said["reason"], "backend-lost", "{said}");
    let path = said["protected_changes"][0]["path"].as_str().unwrap();
    assert!(path.ends_with("AGENTS.md"), "{said}");
    said
}

/// Returns the only child of a process.
fn child(parent: Pid) -> Pid {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    Pid::from_raw(children.trim().parse().unwrap()).unwrap()
}

#[test]
fn json_object_that_cannot_be_printed_leaves_the_changes_on_standard_error() {
    let project = Project::new();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    for stdout in [Stdio::from(full), Stdio::from(closed)] {
        fs::remove_file(project.path("AGENTS.md")).ok();
        let output = project.command(&["--json"], &["sh", "-c", "echo evil >AGENTS.md"]).stdout(stdout).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(said.matches("protected path created: ").count(), 1, "{output:?}");
        assert!(said.contains("AGENTS.md"), "{said}");
    }
}

#[test]
fn json_object_without_reader_leaves_changes_on_standard_error() {
    let project = Project::new();
    let (_unread, mut full) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&full, 4096).unwrap();
    full.write_all(&[b' '; 4096]).unwrap();
    let script = "echo evil >AGENTS.md; mkdir ready; sleep 1000";
    let mut run = project.command(&["--json"], &["sh", "-c", script]);
    let mut run = run.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    while !project.path("ready").exists() {
        std::thread::yield_now();
    }
    // The first signal ends the command, a later one the wait for a reader.
    while run.try_wait().unwrap().is_none() {
        rustix::process::kill_process(rustix::process::Pid::from_child(&run), rustix::process::Signal::TERM).unwrap();
        std::thread::yield_now();
    }
    let output = run.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("protected path created: ") && said.contains("AGENTS.md"), "{output:?}");
}

#[test]
fn commit_in_submodule_and_worktree_works_and_their_settings_are_read_only() {
    let project = Project::new();
    project.git(&["clone", "-q", "--bare", ".", "../upstream.git"]);
    project.git(&["submodule", "--quiet", "add", "../upstream.git", "libs/sub"]);
    project.commit("submodule");
    project.git(&["worktree", "add", "-q", "tree"]);
    let script = "set -e; git config -l >/dev/null; cd libs/sub; echo x >x; git add x
        git -c user.name=t -c user.email=t@example.org commit -qm x; cd ../../tree; echo y >y; git add y; git commit -qm y";
    assert_eq!(project.reported(script), Vec::<String>::new());
    for name in [".git/modules/libs/sub/config", ".git/modules/libs/sub/hooks/x", ".git/worktrees/tree/commondir", "tree/.git"] {
        let output = project.run(&[], &format!("echo evil >>{name}"));
        assert!(!output.status.success() || text(&output.stderr).contains(name), "{name}: {output:?}");
    }
    // The git directories of a new worktree are reported, and the listed names in it.
    let reported = project.reported("git worktree add -q second");
    assert_eq!(reported, ["created .git/worktrees/second", "created second/.git", "created second/.gitmodules"]);
}

/// Shell functions that each create the path `$1`, with the names of the ways.
const CREATIONS: &str = r#"
    write() { echo evil >"$1"; }; directory() { mkdir "$1"; }
    link() { echo evil >"${1%/*}/own" && ln "${1%/*}/own" "$1"; }; symlink() { ln -s nowhere "$1"; }
    rename() { cp source moved && mv -T moved "$1"; }; renamed_directory() { mkdir -p deep/er && mv -T deep "$1"; }
    fifo() { mkfifo "$1"; }; append() { echo evil >>"$1"; }; copy() { cp source "$1"; }
"#;

const WAYS: [&str; 9] = ["write", "directory", "link", "symlink", "rename", "renamed_directory", "fifo", "append", "copy"];

#[test]
fn missing_path_in_a_protected_directory_cannot_be_created_in_any_way() {
    let project = Project::new();
    project.git(&["clone", "-q", "--bare", ".", "../upstream.git"]);
    project.git(&["submodule", "--quiet", "add", "../upstream.git", "sub"]);
    fs::write(project.path("source"), "evil").unwrap();
    // An empty directory of the user's is enough.
    let directories = [".git/hooks", ".git/modules/sub/hooks", ".vscode", ".git/remotes"];
    for directory in directories {
        fs::create_dir_all(project.path(directory)).unwrap();
    }
    let names = |directory: &str| fs::read_dir(project.path(directory)).unwrap().count();
    let before = directories.map(names);
    let mut script = CREATIONS.to_owned();
    for (way, directory) in WAYS.iter().flat_map(|way| directories.iter().map(move |directory| (way, directory))) {
        script.push_str(&format!("{way} {directory}/new 2>/dev/null && echo {way} {directory}\n"));
    }
    for directory in directories {
        script.push_str(&format!("mv {directory} away 2>/dev/null && echo moved {directory}\nrm -rf {directory} 2>/dev/null\n"));
    }
    script.push_str("mv .git/modules/sub .git/modules/other 2>/dev/null && echo moved; true");
    for backend in ["linux-native", "container"] {
        let output = project.run(&["--json", "--backend", backend], &script);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((said["stdout"]["text"].as_str(), &said["protected_changes"]), (Some(""), &serde_json::json!([])), "{said}");
        assert_eq!(directories.map(names), before, "{backend}");
    }
}

#[test]
fn missing_protected_path_created_in_any_way_is_reported_in_json() {
    let project = Project::new();
    fs::write(project.path("source"), "evil").unwrap();
    let paths = [".envrc", ".git/commondir", ".github/hooks", "sub/.vscode", "sub/a/.cargo/config.toml", "sub/a/AGENTS.md"];
    for way in WAYS {
        let script = format!(
            "{CREATIONS}\nset -e; mkdir -p .github sub/a/.cargo; for path in {}; do {way} ./$path; done",
            paths.join(" ")
        );
        assert_eq!(project.reported(&script), paths.map(|path| format!("created {path}")), "{way}");
        for path in paths.map(|path| project.path(path)) {
            fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)).unwrap();
        }
    }
}

#[test]
fn listed_names_in_subdirectories_are_writable_and_each_change_is_reported() {
    let project = Project::new();
    for name in ["a/.envrc", "a/AGENTS.md", "a/b/.npmrc", "a/.vscode/tasks.json"] {
        fs::create_dir_all(project.path(name).parent().unwrap()).unwrap();
        fs::write(project.path(name), "mine").unwrap();
    }
    let script =
        "set -e; cd a; echo evil >>.envrc; rm AGENTS.md; echo evil >b/new; mv b/new b/.npmrc; echo evil >.vscode/tasks.json
        ln .envrc link; echo evil >>link; rm link; mkdir c; echo evil >c/CLAUDE.md; git init -q d";
    let expected = [
        "changed a/.envrc",
        "changed a/.vscode/tasks.json",
        "removed a/AGENTS.md",
        "replaced a/b/.npmrc",
        "created a/c/CLAUDE.md",
        "created a/d/.git",
    ];
    assert_eq!(project.reported(script), expected);
    // Four changes in one directory have a line each, more have one line.
    let four = "set -e; for i in 1 2 3 4; do mkdir -p s/$i; echo >s/$i/.npmrc; done";
    assert_eq!(text(&project.run(&[], four).stderr).matches("protected path created: ").count(), 4);
    let said = text(&project.run(&[], "for i in 1 2 3 4 5; do echo evil >s/$i.code-workspace; done; echo evil >s/.envrc").stderr);
    let line = said.lines().find(|line| line.contains("protected paths in subdirectories: ")).unwrap();
    assert!(line.contains("/s: 6 created: .envrc, 1.code-workspace and 4 more of this kind: "), "{line}");
    assert_eq!(said.matches("protected path").count(), 1, "{said}");
}

#[test]
fn hundred_thousand_listed_names_end_the_run_with_a_bounded_report_that_names_what_was_left_out() {
    let project = Project::new();
    let script = "mkdir -p m/n; i=0; while [ $i -lt 100000 ]; do : >m/n/$i.code-workspace; i=$((i+1)); done; echo evil >AGENTS.md; \
        mkdir z; echo evil >z/.envrc";
    let said: Value = serde_json::from_slice(&project.run(&["--json", "--timeout", "600"], script).stdout).unwrap();
    let cause = |said: &Value| said["protected_not_compared"][0]["cause"].clone();
    assert_eq!(cause(&said), "too-many-listed");
    let changes = project.changes(&said);
    assert!((30_000..40_000).contains(&changes.len()), "{}", changes.len());
    assert_eq!(changes[0], "created AGENTS.md");
    assert!(changes[..3].contains(&"created z/.envrc".to_owned()), "{:?}", &changes[..3]);
    let warned = project.run(&[], "rm AGENTS.md z/.envrc");
    let warned = text(&warned.stderr);
    assert!(
        warned.contains("removed: ")
            && warned.contains("/z/.envrc")
            && warned.contains("comparison of protected paths incomplete: "),
        "{warned}"
    );
    assert!(warned.lines().count() < 10, "{warned}");
}

#[test]
fn protected_file_cannot_be_linked_and_its_change_through_an_older_hard_link_is_reported() {
    let project = Project::new();
    for name in ["CLAUDE.md", ".envrc"] {
        fs::write(project.path(name), "mine\n").unwrap();
    }
    fs::hard_link(project.path("CLAUDE.md"), project.path("other")).unwrap();
    let said = project.reported("ln .envrc new 2>/dev/null && echo evil >>new; echo evil >>other; mv other elsewhere");
    assert_eq!(said, ["changed CLAUDE.md"]);
    assert_eq!(fs::read_to_string(project.path(".envrc")).unwrap(), "mine\n");
}

#[test]
fn tree_of_a_build_is_compared_as_a_whole_and_what_was_left_out_is_named() {
    let project = Project::new();
    for number in 0..1500 {
        fs::create_dir_all(project.path("target").join(number.to_string())).unwrap();
    }
    let output = project.run(&[], "git init -q target/1499");
    let said = text(&output.stderr);
    assert!(said.contains("git directory created: ") && said.contains("target/1499/.git"), "{said}");
    assert!(!said.contains("comparison of protected paths incomplete"), "{said}");
    // A path that is too long for the kernel cannot be searched.
    let deep = "mkdir deep; cd deep; name=$(printf %0250d 0); for i in $(seq 20); do mkdir $name; cd -P $name; done";
    let said: Value = serde_json::from_slice(&project.run(&["--json"], deep).stdout).unwrap();
    assert_eq!(said["protected_incomplete"], true, "{said}");
    let [left_out] = &said["protected_not_compared"].as_array().unwrap()[..] else { panic!("{said}") };
    let place = project.path("deep").canonicalize().unwrap();
    assert!(Path::new(left_out["path"].as_str().unwrap()).starts_with(place), "{said}");
    assert_eq!(left_out["cause"], "unreadable");
    let warned = text(&project.run(&[], "true").stderr);
    assert!(warned.contains("comparison of protected paths incomplete: ") && warned.contains("--ro"), "{warned}");
}

#[test]
fn submodule_commands_work_with_git_config_unprotected() {
    let project = Project::new();
    project.git(&["clone", "-q", "--bare", ".", "upstream.git"]);
    project.git(&["clone", "-q", "--bare", ".", "../outer.git"]);
    let add = "git submodule --quiet add ./upstream.git sub";
    // Git reports that the settings cannot be written, and ends with 0 all the same.
    let output = project.run(&[], add);
    assert!(text(&output.stderr).contains("could not write config file .git/config"), "{output:?}");
    project.git(&["rm", "-q", "-f", "--cached", "sub", ".gitmodules"]);
    // The failed command left files that are protected in the next run.
    for left in ["sub", ".git/modules"] {
        fs::remove_dir_all(project.path(left)).unwrap();
    }
    fs::remove_file(project.path(".gitmodules")).unwrap();
    let output = project.run(&["--unprotect", ".git/config"], add);
    assert!(output.status.success(), "{output:?}");
    for name in [".gitmodules", ".git/config", ".git/modules/sub"] {
        assert!(text(&output.stderr).contains(name), "{name}: {output:?}");
    }
    project.commit("submodule");
    // A submodule that was initialised on the host is updated from the existing clone.
    project.git(&["submodule", "--quiet", "deinit", "-f", "sub"]);
    project.git(&["submodule", "--quiet", "init"]);
    let update = "git submodule --quiet update";
    let output = project.run(&["--unprotect", ".git/config", "--unprotect", ".git/modules"], update);
    assert!(output.status.success() && project.path("sub/file").exists(), "{output:?}");
}

#[test]
fn git_settings_that_name_programs_cannot_be_written() {
    let project = Project::new();
    let before = fs::read(project.path(".git/config")).unwrap();
    let mut script = String::new();
    for (key, value) in [
        ("remote.x.url", "ext::sh -c evil"),
        ("remote.x.url", "-oProxyCommand=evil"),
        ("remote.x.vcs", "evil"),
        ("remote.x.uploadpack", "evil"),
        ("remote.x.receivepack", "evil"),
        ("include.path", "../evil"),
        ("includeIf.gitdir:/.path", "../evil"),
        ("core.hooksPath", "evil"),
        ("core.fsmonitor", "evil"),
        ("core.sshCommand", "evil"),
        ("core.worktree", "/"),
        ("alias.status", "!evil"),
        ("filter.x.smudge", "evil"),
        ("credential.helper", "!evil"),
        ("protocol.ext.allow", "always"),
    ] {
        script.push_str(&format!("git config {key} '{value}' && echo written {key}\n"));
        script.push_str(&format!("git config --worktree {key} '{value}' 2>/dev/null && echo written {key}\n"));
    }
    script.push_str(
        "echo evil >>.git/config; mv .git/config x; cp x .git/config; rm -f .git/config; mv .git g && echo moved; true",
    );
    let output = project.run(&[], &script);
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("", Some(0)), "{output:?}");
    assert_eq!(fs::read(project.path(".git/config")).unwrap(), before);
    // With --unprotect the setting is written and reported.
    let output = project.run(&["--unprotect", ".git/config"], "git config core.fsmonitor evil");
    assert!(text(&output.stderr).contains("replaced: ") && text(&output.stderr).contains(".git/config"), "{output:?}");
}

#[test]
fn unprotect_affects_only_the_given_path() {
    let project = Project::new();
    fs::create_dir_all(project.path("tools")).unwrap();
    project.git(&["config", "core.hooksPath", "tools"]);
    let other = project.root.path().canonicalize().unwrap().join("other");
    fs::create_dir_all(other.join("tools")).unwrap();
    for place in [project.path("").canonicalize().unwrap(), other.clone()] {
        fs::write(place.join(".envrc"), "mine").unwrap();
    }
    let rw = ["--rw", other.to_str().unwrap()];
    let changed = |options: &[&str], path: &str| {
        let output = project.run(&[&rw, options].concat(), &format!("echo evil >>{path}"));
        output.status.success()
    };
    let there = other.join(".envrc").display().to_string();
    assert!(!changed(&[], ".envrc") && !changed(&[], &there) && !changed(&[], "tools/x"));
    assert!(!changed(&["--unprotect", ".envrc"], &there));
    assert!(!changed(&["--unprotect", &there], ".envrc"));
    assert!(changed(&["--unprotect", ".envrc"], ".envrc") && changed(&["--unprotect", &there], &there));
    // A directory that is protected only because core.hooksPath names it.
    assert!(changed(&["--unprotect", "tools"], "tools/x"));
    let outside = project
        .run(&["--workspace", "none", "--rw", project.path("").to_str().unwrap(), rw[0], rw[1], "--unprotect", ".envrc"], "true");
    assert!(text(&outside.stderr).contains("use an absolute path"), "{outside:?}");
}

#[test]
fn ineffective_unprotect_is_refused_and_error_names_effective_path() {
    let project = Project::new();
    project.git(&["clone", "-q", "--bare", ".", "../upstream.git"]);
    project.git(&["submodule", "--quiet", "add", "../upstream.git", "sub"]);
    project.commit("submodule");
    let hooks = project.path(".git/modules/sub/hooks");
    fs::create_dir_all(&hooks).unwrap();
    fs::write(hooks.join("pre-commit"), "mine").unwrap();
    fs::create_dir(project.path(".vscode")).unwrap();
    symlink(".git", project.path("link")).unwrap();
    let run = |path: &str, script: &str| project.run(&["--unprotect", path], script);
    for (path, named) in [
        (".git/modules/sub/hooks/pre-commit", ".git/modules/sub/hooks is read-only as a whole"),
        (".vscode/tasks.json", ".vscode is read-only as a whole"),
        ("link/config", "/work/.git/config — use that path"),
        ("sub/../.git/config", "/work/.git/config — use that path"),
        (".git", ".git/config"),
        (".git/confg", "Did you mean .git/config?"),
        ("agents.md", "Did you mean AGENTS.md?"),
        ("/etc/passwd", "no writable grant contains this path"),
    ] {
        let output = run(path, "true");
        assert_eq!(output.status.code(), Some(125), "{path}: {output:?}");
        assert!(text(&output.stderr).contains(named), "{path}: {output:?}");
    }
    for (path, written) in [
        (".git/modules/sub/hooks", ".git/modules/sub/hooks/pre-commit"),
        (".git/modules", ".git/modules/sub/config"),
        (".vscode", ".vscode/tasks.json"),
    ] {
        let output = run(path, &format!("echo x >>{written}"));
        assert!(output.status.success() && text(&output.stderr).contains(written), "{path}: {output:?}");
    }
}

#[test]
fn control_characters_in_reported_names_are_escaped() {
    let project = Project::new();
    let output = project.run(&[], "mkdir -p $(printf 'a\\033[2Jb\\nc') && cd a* && git init -q .");
    let said = text(&output.stderr);
    assert!(said.contains("git directory created: "), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains("b\nc"), "{said:?}");
}

#[test]
fn tracked_protected_file_not_updated_by_git_is_reported() {
    let project = Project::new();
    fs::write(project.path("AGENTS.md"), "one\n").unwrap();
    project.commit("agents");
    project.git(&["switch", "-qc", "other"]);
    fs::write(project.path("AGENTS.md"), "another\n").unwrap();
    project.commit("other");
    project.git(&["switch", "-q", "main"]);
    assert_eq!(project.reported("git switch -q other"), ["not-updated AGENTS.md"]);
    assert_eq!(project.git(&["status", "-s"]), " M AGENTS.md\n");
    project.git(&["restore", "AGENTS.md"]);
    assert_eq!(fs::read_to_string(project.path("AGENTS.md")).unwrap(), "another\n");
    // A file changed by the user and committed by the command is not reported.
    fs::write(project.path("AGENTS.md"), "the user's\n").unwrap();
    assert_eq!(project.reported("git commit -qam mine"), Vec::<String>::new());
}

#[test]
fn git_command_that_writes_config_fails_and_names_unprotect() {
    let project = Project::new();
    let remote = "git remote add origin https://example.org/x";
    let output = project.run(&[], remote);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("--unprotect .git/config"), "{output:?}");
    let output = project.run(&["--unprotect", ".git/config"], remote);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stderr).contains("replaced: ") && text(&output.stderr).contains(".git/config"), "{output:?}");
    assert!(!project.run(&["--unprotect", ".git/config"], "echo evil >.git/hooks/x").status.success());
    assert!(text(&project.run(&["--unprotect", "src"], "true").stderr).contains("not a protected path"));
}

#[test]
fn repository_outside_workspace_is_named_with_option_that_grants_it() {
    let project = Project::new();
    fs::create_dir(project.path("sub")).unwrap();
    fs::write(project.path("sub/x"), "").unwrap();
    let root = project.path("").canonicalize().unwrap();
    let inside = |directory: &str, options: &[&str], script: &str| {
        let mut command = project.command(options, &["sh", "-c", script]);
        command.current_dir(project.path(directory)).output().unwrap()
    };
    let output = inside("sub", &[], "git status");
    assert!(text(&output.stderr).contains(&format!("--workspace {}", root.display())), "{output:?}");
    project.git(&["worktree", "add", "-q", "../linked"]);
    let git = root.join(".git").display().to_string();
    let output = inside("../linked", &[], "git status");
    assert!(text(&output.stderr).contains(&format!("--rw {git}")), "{output:?}");
    // With --rw the linked worktree works, and the repository's hooks and settings are read-only.
    let commit = "git config --global safe.directory '*'; echo x >x && git add x && git commit -qm x";
    let output = inside("../linked", &["--rw", &git], commit);
    assert!(output.status.success(), "{output:?}");
    for name in ["config", "hooks/x", "worktrees/linked/commondir"] {
        let output = inside("../linked", &["--rw", &git], &format!("echo evil >>{git}/{name}"));
        assert!(!output.status.success(), "{name}");
    }
}
