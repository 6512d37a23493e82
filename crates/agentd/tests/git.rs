//! Git in a sandbox: tests the statements of `docs/protected-paths.md` about each command, with real git, in each backend that
//! shares the host's kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

const BACKENDS: [&str; 2] = ["linux-native", "container"];

/// The directory `work` is a repository with a submodule, a subdirectory and tracked protected files; `linked` is a linked
/// worktree of the repository. On the branch `other`, the protected files have other content.
struct Repository(TempDir);

impl Repository {
    fn new() -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        fs::create_dir(made.root().join("home")).unwrap();
        made.on_host(
            "git init -q -b main work; cd work; git config user.name t; git config user.email t@example.org
             mkdir sub .vscode; echo one >file; echo one >sub/file; echo one >AGENTS.md; echo '{}' >.vscode/tasks.json
             git add -A; git commit -qm first; git clone -q --bare . ../upstream.git
             git submodule --quiet add ../upstream.git module; git commit -qm module
             git switch -qc other; echo two >AGENTS.md; echo '[]' >.vscode/tasks.json; echo two >sub/file; git commit -qam other
             git switch -q main; git worktree add -q ../linked -b linked
             for place in .git .git/modules/module; do git --git-dir $place config user.name t; \
                 git --git-dir $place config user.email t@e; done",
        );
        made
    }

    fn root(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join("work").join(name)
    }

    /// Runs a script on the host, which succeeds.
    fn on_host(&self, script: &str) -> String {
        let mut sh = Command::new("sh");
        sh.args(["-ec", script]).current_dir(self.root()).env("HOME", self.root().join("home"));
        sh.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "protocol.file.allow");
        let output = sh.env("GIT_CONFIG_VALUE_0", "always").output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        text(&output.stdout)
    }

    /// Runs a script in a sandbox, in the directory `at`, with these options, separated by spaces.
    fn run(&self, at: &str, backend: &str, options: &str, script: &str) -> Output {
        let cache = std::env::temp_dir().join(format!("agentd-test-cache-{}", rustix::process::geteuid().as_raw()));
        let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
        let mut run = Command::new(program);
        run.args(["run", "--backend", backend]).args(options.split_whitespace()).args(["--", "sh", "-ec", script]);
        run.current_dir(self.root().join(at)).env("HOME", self.root().join("home")).env("XDG_CACHE_HOME", cache);
        run.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a script that succeeds; returns what is printed to standard error.
    #[track_caller]
    fn works(&self, at: &str, backend: &str, options: &str, script: &str) -> String {
        let output = self.run(at, backend, options, script);
        assert!(output.status.success(), "{backend}: {script}: {output:?}");
        text(&output.stderr)
    }

    /// Runs a script that fails, with a message that names `option`. With that option, the script works.
    #[track_caller]
    fn works_with(&self, backend: &str, script: &str, option: &str) {
        let output = self.run("work", backend, "", script);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(option), "{backend}: {script}: {output:?}");
        self.works("work", backend, option, script);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn git_in_submodules_and_linked_worktrees_works_without_options() {
    for backend in BACKENDS {
        let repository = Repository::new();
        let said = repository.works(
            "work",
            backend,
            "",
            "git status -s; cd module; echo two >file; git commit -qam module; git switch -qc topic; cd ..; git add module
             git commit -qm module; echo two >file; git stash -q; git stash pop -q; git reset -q --hard; git tag t",
        );
        assert_eq!(said, "", "{backend}");
        let said =
            repository.works("work", backend, "", "git worktree add -q tree; cd tree; echo two >file; git commit -qam tree");
        assert!(said.contains("git directory created") && said.contains(".git/worktrees/tree"), "{backend}: {said}");
        assert_eq!(
            repository.on_host("git -C work log -1 --format=%s tree --; git -C work/module log -1 --format=%s main --"),
            "tree\nmodule\n"
        );
    }
}

#[test]
fn git_command_that_writes_settings_names_the_option_with_which_it_works() {
    for backend in BACKENDS {
        let repository = Repository::new();
        repository.works_with(backend, "git remote add origin ./up.git", "--unprotect .git/config");
        repository.on_host("git clone -q --bare work work/up.git");
        let push = "git push -q -u origin main && git config branch.main.remote";
        repository.works_with(backend, push, "--unprotect .git/config");
        repository.works_with(backend, "git sparse-checkout set sub", "--unprotect .git/config");
        repository.on_host("git -C work sparse-checkout disable");
        let update = "git -C module switch -q -d HEAD; git submodule --quiet update";
        repository.works_with(backend, update, "--unprotect .git/modules/module/config");
        // Git prints an error and ends with 0, so the script examines the created files.
        let add = "git -c protocol.file.allow=always submodule --quiet add $PWD/up.git second; git config submodule.second.url";
        let output = repository.run("work", backend, "", add);
        let options = "--unprotect .git/config --unprotect .gitmodules";
        assert!(!output.status.success() && text(&output.stderr).contains(options), "{backend}: {output:?}");
        repository.on_host("cd work; git reset -q --hard; rm -rf second .git/modules/second");
        let said = repository.works("work", backend, options, add);
        assert!(said.contains(".git/config") && said.contains(".git/modules/second"), "{backend}: {said}");
    }
}

#[test]
fn git_never_leaves_another_version_of_a_tracked_protected_file_in_silence() {
    let start = "cd work; git rebase --abort || git merge --abort || true; git switch -q -f main; git reset -q --hard start";
    for backend in BACKENDS {
        let repository = Repository::new();
        repository.on_host("git -C work tag start main");
        // The command, and whether git ends with success.
        for (command, succeeds) in [
            ("git switch -q other", true),
            ("git status >/dev/null; git reset -q --hard other", false),
            ("git merge -q other", false),
            ("git rebase -q other", false),
        ] {
            let output = repository.run("work", backend, "", command);
            let said = text(&output.stderr);
            let refused =
                ["AGENTS.md", ".vscode/tasks.json"].map(|file| said.contains(&format!("unable to unlink old '{file}'")));
            assert!(refused == [true, true] && output.status.success() == succeeds, "{backend}: {command}: {output:?}");
            let not_updated = said.matches("protected path not updated: ").count();
            assert_eq!(not_updated, if succeeds { 2 } else { 0 }, "{backend}: {command}: {said}");
            assert_eq!(fs::read_to_string(repository.path("AGENTS.md")).unwrap(), "one\n");
            // Released, they are written and reported as changed.
            repository.on_host(start);
            let said = repository.works("work", backend, "--unprotect AGENTS.md --unprotect .vscode", command);
            assert!(said.contains("AGENTS.md"), "{backend}: {command}: {said}");
            assert_eq!(repository.on_host("cat work/AGENTS.md work/.vscode/tasks.json; git -C work status -s"), "two\n[]\n");
            repository.on_host(start);
        }
    }
}

#[test]
fn git_reset_to_the_same_commit_works_after_the_index_is_refreshed() {
    for backend in BACKENDS {
        let repository = Repository::new();
        let output = repository.run("work", backend, "", "git reset -q --hard");
        // The index has the owner on the host. If the owner in the sandbox differs, git writes each file again.
        let is_other = (backend == "linux-native") == rustix::process::geteuid().is_root();
        assert_eq!(output.status.success(), !is_other, "{backend}: {output:?}");
        repository.works("work", backend, "", "git status >/dev/null; git reset -q --hard");
    }
}

#[test]
fn git_without_its_repository_names_the_option_that_shows_it() {
    for (at, option, shown) in [("work/sub", "--workspace", ""), ("linked", "--rw", ".git")] {
        for backend in BACKENDS {
            let repository = Repository::new();
            let git = repository.path(".git").display().to_string();
            let option = format!("{option} {}", repository.path(shown).display()).trim_end_matches('/').to_owned();
            let output = repository.run(at, backend, "", "git status");
            assert!(!output.status.success() && text(&output.stderr).contains(&option), "{backend}: {at}: {output:?}");
            let everyday = "git status -s; echo two >file; git commit -qam two; git switch -qc topic; git reset -q --hard HEAD~1
                            git switch -q -; git rebase -q HEAD~1; git merge -q topic; git gc -q";
            let said = repository.works(at, backend, &option, everyday);
            assert_eq!(said, "", "{backend}: {at}");
            for name in ["config", "info/attributes", "worktrees/linked/commondir", "modules/module/config"] {
                repository.on_host(&format!(
                    "test -e {git}/{name} || {{ mkdir -p $(dirname {git}/{name}); echo mine >{git}/{name}; }}"
                ));
                let output = repository.run(at, backend, &option, &format!("echo evil >>{git}/{name}"));
                assert!(!output.status.success(), "{backend}: {at}: {name}: {output:?}");
            }
        }
    }
}
