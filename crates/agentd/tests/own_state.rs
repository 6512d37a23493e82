//! Payloads attack agentd's own files: a sandbox cannot reach them, and agentd trusts nothing that a payload wrote.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

fn program() -> PathBuf {
    std::env::var_os("AGENTD_BIN").map_or_else(|| env!("CARGO_BIN_EXE_agentd").into(), PathBuf::from)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A workspace and, next to it, a home directory with a secret.
struct OwnStateDir(TempDir);

impl OwnStateDir {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["home/.ssh", "home/.local/share", "home/.cache", "work"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("home/.ssh/id_rsa"), "secret").unwrap();
        Self(root)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn agentd(&self) -> Command {
        let mut command = Command::new(program());
        command.current_dir(self.path("work")).env("HOME", self.path("home")).stdin(Stdio::null());
        command.env("AGENTD_DATA_DIR", self.path("home/.local/share/agentd"));
        command
    }

    fn run(&self, options: &[&str], script: &str) -> Output {
        self.agentd().arg("run").args(options).args(["--", "sh", "-c", script]).output().unwrap()
    }

    /// Runs with options that must be refused, and returns the error message.
    fn refused(&self, options: &[&str]) -> String {
        let output = self.run(options, "true");
        assert_eq!(output.status.code(), Some(125), "{options:?}: {output:?}");
        text(&output.stderr)
    }
}

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn forged_cache_entry_does_not_disable_sandbox() {
    let place = OwnStateDir::new();
    let run = |script: &str| {
        // CI systems commonly put the cache into the workspace.
        let mut command = place.agentd();
        command.env("XDG_CACHE_HOME", place.path("work/.cache")).args(["run", "--", "sh", "-c", script]);
        command.output().unwrap()
    };
    assert!(run("true").status.success());
    let forge = r#"mkdir -p .cache/agentd; cd .cache/agentd
        for entry in probe-auto.json proven-linux-native.json proven-container.json; do
            test -e $entry || echo '[]' >$entry
            sed -i 's/"backend":"[^"]*"/"backend":"host-direct"/; s/"name":"[^"]*"/"name":"host-direct"/' $entry
        done; chmod 700 .; chmod 600 *"#;
    assert!(run(forge).status.success());
    let secret = place.path("home/.ssh/id_rsa");
    let output = run(&format!("cat {}", secret.display()));
    assert!(!output.status.success() && !text(&output.stdout).contains("secret"), "{output:?}");
}

#[test]
fn grant_of_data_or_cache_directory_fails_with_remedy() {
    let place = OwnStateDir::new();
    let data = place.path("home/.local/share/agentd");
    fs::create_dir_all(data.join("sandboxes/keeper")).unwrap();
    for path in [data.parent().unwrap(), &data, &data.join("sandboxes"), &data.join("sandboxes/keeper")] {
        for option in ["--ro", "--rw", "--workspace"] {
            let said = place.refused(&[option, arg(path)]);
            assert!(said.contains(arg(&data)) && said.contains("AGENTD_DATA_DIR"), "{option}: {said}");
        }
    }
    for backend in ["linux-native", "container"] {
        let said = place.refused(&["--backend", backend, "--ro", arg(&data)]);
        assert!(said.contains(arg(&data)), "{backend}: {said}");
        let said = place.refused(&["--backend", backend, "--explain", "--ro", arg(&data)]);
        assert!(said.contains(arg(&data)), "{backend}: {said}");
    }
    assert!(place.run(&["--ro", arg(&place.path("work"))], "true").status.success());
    // A default folder stays refused if the variable names another one, so the message does not propose that.
    let mut run = place.agentd();
    let output = run.env_remove("AGENTD_DATA_DIR").args(["run", "--ro", arg(&data), "--", "true"]).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(125) && said.contains(arg(&data)) && !said.contains("AGENTD_DATA_DIR"), "{said}");
}

#[test]
fn cache_directory_of_the_user_holds_nothing_of_agentd_and_can_be_granted() {
    let place = OwnStateDir::new();
    let cache = place.path("home/.cache");
    let forge = format!("mkdir {0}/agentd && echo '[]' >{0}/agentd/proven-linux-native.json", arg(&cache));
    let output = place.run(&["--rw", arg(&cache)], &forge);
    assert!(output.status.success(), "{output:?}");
    // Nothing that a payload left there is trusted, and the directory is not refused afterwards.
    let output = place.run(&["--rw", arg(&cache)], &format!("cat {}", arg(&place.path("home/.ssh/id_rsa"))));
    assert!(!output.status.success() && !text(&output.stdout).contains("secret"), "{output:?}");
    assert!(text(&output.stderr).contains("id_rsa"), "{output:?}");
}

#[test]
fn probe_uses_no_temporary_directory_that_the_command_may_change() {
    let place = OwnStateDir::new();
    let temporary = place.path("work/tmp");
    fs::create_dir(&temporary).unwrap();
    let run = |options: &[&str]| {
        let mut command = place.agentd();
        command.env("TMPDIR", &temporary).arg("run").args(options).args(["--", "true"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stderr).matches("set TMPDIR to a directory outside").count()
    };
    let modified = || fs::metadata(&temporary).unwrap().modified().unwrap();
    let before = modified();
    assert_eq!(run(&[]), 1);
    assert_eq!(run(&["--workspace", "none", "--rw", arg(&place.path("work"))]), 1);
    // `doctor` always probes.
    let mut doctor = place.agentd();
    let output = doctor.env("TMPDIR", &temporary).args(["doctor", "--backend", "linux-native"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(modified(), before);
    assert_eq!(run(&["--workspace", "none"]), 0);
    let elsewhere = place.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    assert_eq!(run(&["--workspace", arg(&elsewhere)]), 0);
}

#[test]
fn payload_cannot_connect_to_daemon_socket() {
    let place = OwnStateDir::new();
    let sandbox = |args: &[&str]| {
        let output = place.agentd().arg("sandbox").args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    sandbox(&["create", "one"]);
    sandbox(&["exec", "one", "--", "true"]);
    let data = place.path("home/.local/share/agentd");
    let connect = format!(
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('{}'); print('reached')",
        data.join("sandboxes/keeper/socket").display()
    );
    for option in ["--ro", "--rw"] {
        let mut run = place.agentd();
        let output = run.args(["run", option, arg(data.parent().unwrap()), "--", "python3", "-c", &connect]).output().unwrap();
        assert!(!text(&output.stdout).contains("reached"), "{option}: {output:?}");
    }
    sandbox(&["rm", "one"]);
}

#[test]
fn root_payload_cannot_edit_sandbox_record() {
    let place = OwnStateDir::new();
    let sandboxes = place.path("home/.local/share/agentd/sandboxes");
    let mut create = place.agentd();
    assert!(create.args(["sandbox", "create", "one"]).output().unwrap().status.success());
    let content = || -> Vec<Vec<u8>> {
        let found = Command::new("find").arg(&sandboxes).args(["-name", "*.json"]).output().unwrap();
        text(&found.stdout).lines().map(|path| fs::read(path).unwrap()).collect()
    };
    let before = content();
    assert!(!before.is_empty());
    let edit = format!("find {} -name '*.json' -exec sh -c 'echo x >>\"$0\"' {{}} ';'", sandboxes.display());
    place.run(&["--rw", arg(sandboxes.parent().unwrap())], &edit);
    assert!(content() == before);
}

#[test]
fn missing_data_directory_in_workspace_fails_before_command_starts() {
    let place = OwnStateDir::new();
    let data = place.path("work/deep/data");
    let mut run = place.agentd();
    let output = run.env("AGENTD_DATA_DIR", &data).args(["run", "--", "mkdir", "-p", "deep/data"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(text(&output.stderr).contains("AGENTD_DATA_DIR") && !data.exists(), "{output:?}");
}

#[test]
fn xdg_data_home_in_workspace_is_not_used() {
    let place = OwnStateDir::new();
    let share = place.path("work/.local/share");
    let agentd = |args: &[&str]| {
        let mut command = place.agentd();
        command.env_remove("AGENTD_DATA_DIR").env("XDG_DATA_HOME", &share);
        let output = command.args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    agentd(&["run", "--", "mkdir", "-p", ".local/share/agentd"]);
    // As root the data directory is system-wide, and no test touches that.
    if !is_root() {
        agentd(&["image", "ls"]);
        assert!(place.path("home/.local/share/agentd").exists());
    }
    assert_eq!(fs::read_dir(share.join("agentd")).unwrap().count(), 0);
}

#[test]
fn read_only_grant_in_which_agentd_would_create_its_data_directory_fails() {
    let place = OwnStateDir::new();
    // A sandbox that is live when agentd creates the folder would see the key and the socket of the daemon.
    let data = place.path("work/new/data");
    fs::create_dir(place.path("work/new")).unwrap();
    for backend in ["linux-native", "container"] {
        let mut run = place.agentd();
        run.args(["run", "--backend", backend, "--workspace", "none", "--ro", arg(&place.path("work/new")), "--", "true"]);
        let output = run.env("AGENTD_DATA_DIR", &data).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(text(&output.stderr).contains(arg(&data)), "{output:?}");
    }
}

#[test]
fn named_sandbox_with_grant_of_data_directory_fails() {
    let place = OwnStateDir::new();
    let data = place.path("home/.local/share/agentd");
    for option in ["--ro", "--rw"] {
        let mut create = place.agentd();
        let output = create.args(["sandbox", "create", "one", option, arg(data.parent().unwrap())]).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(text(&output.stderr).contains(arg(&data)), "{output:?}");
    }
}

#[test]
fn agentd_executable_in_workspace_cannot_be_changed_or_moved() {
    let place = OwnStateDir::new();
    let own = place.path("work/a/b/agentd");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::copy(program(), &own).unwrap();
    let before = fs::read(&own).unwrap();
    let script = "
        mv a x && exit 1; mv a/b x && exit 2; mv a/b/agentd x && exit 3; rm -f a/b/agentd && exit 4
        (echo x >>a/b/agentd) && exit 5; ln -f a/x a/b/agentd && exit 6; chmod 777 a/b/agentd && exit 7
        echo x >a/b/other && mv a/b/other a/b/beside && echo x >a/other || exit 8
        exit 0";
    for backend in ["linux-native", "container"] {
        let mut run = Command::new(&own);
        run.current_dir(place.path("work")).env("HOME", place.path("home")).env("AGENTD_DATA_DIR", place.path("data"));
        let output = run.args(["run", "--backend", backend, "--", "sh", "-c", script]).output().unwrap();
        assert!(output.status.success(), "{backend}: {output:?}");
    }
    assert!(fs::read(&own).unwrap() == before);
}

#[test]
fn host_direct_in_environment_variable_fails() {
    let place = OwnStateDir::new();
    for name in ["host-direct", "none", " Host_Direct "] {
        let output = place.agentd().env("AGENTD_BACKEND", name).args(["run", "--", "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(text(&output.stderr).contains("--backend"), "{output:?}");
    }
}

#[test]
fn backend_variable_selects_backend_of_run_and_explain() {
    let place = OwnStateDir::new();
    for (setting, options, backend) in [
        ("container", &[][..], "container"),
        ("", &[], "linux-native"),
        ("container", &["--backend", "linux-native"], "linux-native"),
        ("container", &["--backend", "auto"], "linux-native"),
    ] {
        let said = |more: &str, field: &str| {
            let mut run = place.agentd();
            let output = run.env("AGENTD_BACKEND", setting).arg("run").args(options).args([more, "--", "true"]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            text(&output.stdout).lines().find(|line| line.trim_start().starts_with(field)).unwrap().to_owned()
        };
        assert!(said("--explain", "backend").ends_with(backend), "{setting} {options:?}");
        assert!(said("--json", "\"backend\"").contains(backend), "{setting} {options:?}");
    }
}

#[test]
fn backend_that_shares_host_kernel_fails_kernel_isolation_requirement() {
    let place = OwnStateDir::new();
    for backend in ["linux-native", "container", "host-direct"] {
        let said = place.refused(&["--backend", backend, "--require", "kernel-isolation"]);
        assert!(said.contains("kernel"), "{said}");
    }
    // No microVM is set up in this data directory.
    let said = place.refused(&["--require", "kernel-isolation"]);
    assert!(said.contains("kernel"), "{said}");
}

/// Tests that need root. An ordinary user skips them: `--skip as_root::`.
mod as_root {
    use super::*;

    #[test]
    fn grant_of_the_runtime_directory_of_another_user_fails() {
        let place = OwnStateDir::new();
        for made in ["/run/user/1000", "/run/user/1000/agentd"] {
            let script = r#"mount -t tmpfs none /run && mkdir -p "$0" && chown -R 1000:1000 /run/user/1000 &&
                exec "$1" run --workspace none "$2" /run/user/1000 -- true"#;
            for access in ["--ro", "--rw"] {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", script, made, arg(&program()), access]).current_dir("/");
                let output = command.env("HOME", place.path("home")).output().unwrap();
                assert_eq!(output.status.code(), Some(125), "{output:?}");
                assert!(text(&output.stderr).contains("/run/user/1000/agentd"), "{output:?}");
            }
        }
    }

    #[test]
    fn grant_of_bind_mounted_data_directory_fails() {
        let place = OwnStateDir::new();
        let data = place.path("home/.local/share/agentd");
        fs::create_dir_all(data.join("sandboxes")).unwrap();
        for (shown, granted) in [
            ("home/.local/share", "work/other"),
            ("home/.local/share/agentd", "work"),
            ("home/.local/share/agentd/sandboxes", "work/other"),
            ("home/.local/share/agentd/sandboxes", "work"),
        ] {
            let other = place.path("work/other");
            fs::create_dir_all(&other).unwrap();
            // A mount point that is not UTF-8 does not hide the others.
            let script = r#"latin=$(printf 'caf\351'); mount -t tmpfs none /run && mkdir "/run/$latin" &&
            mount -t tmpfs none "/run/$latin" && mount --bind "$0" "$1" && exec "$2" run --workspace none --ro "$3" -- true"#;
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", script]).args([place.path(shown), other, program(), place.path(granted)]);
            command.env("HOME", place.path("home")).env("AGENTD_DATA_DIR", &data).current_dir("/");
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(125), "{shown}: {output:?}");
            assert!(text(&output.stderr).contains(arg(&data)), "{shown}: {output:?}");
        }
    }

    #[test]
    fn root_with_home_of_another_user_does_not_follow_links() {
        let place = OwnStateDir::new();
        let victim = place.path("victim");
        fs::create_dir(&victim).unwrap();
        fs::remove_dir(place.path("home/.cache")).unwrap();
        std::os::unix::fs::symlink(&victim, place.path("home/.cache")).unwrap();
        for path in [place.path("home"), place.path("home/.local"), place.path("home/.local/share")] {
            std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
        }
        let mut run = place.agentd();
        let output = run.env_remove("AGENTD_DATA_DIR").env_remove("XDG_CACHE_HOME").args(["run", "--", "true"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
        assert_eq!(fs::read_dir(place.path("home/.local/share")).unwrap().count(), 0);
    }
}
