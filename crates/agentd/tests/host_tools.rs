//! The caller's toolchains and package caches are usable in a sandbox and stay unchanged on the host.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

const BACKENDS: [&str; 2] = ["linux-native", "container"];

/// Variables that relocate toolchains and caches. The environment of the test run may set some of them.
const MOVED: [&str; 8] =
    ["CARGO_HOME", "RUSTUP_HOME", "PYENV_ROOT", "NVM_DIR", "GOPATH", "npm_config_cache", "PIP_CACHE_DIR", "XDG_CACHE_HOME"];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A home directory with a secret, a toolchain and caches, and a workspace next to it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let place = Self(root);
        for folder in [
            ".ssh",
            ".nvm/versions/node/v1/bin",
            ".cargo/registry/src/a-1",
            ".npm/_cacache",
            "go/pkg/mod/m",
            ".m2/repository",
            "../work",
        ] {
            fs::create_dir_all(place.home(folder)).unwrap();
        }
        for file in [
            ".ssh/id_rsa",
            ".nvm/versions/node/v1/bin/tool",
            ".cargo/registry/src/a-1/lib.rs",
            ".npm/_cacache/entry",
            "go/pkg/mod/m/go.mod",
        ] {
            fs::write(place.home(file), format!("content of {file}\n")).unwrap();
        }
        fs::write(place.home(".nvm/versions/node/v1/bin/tool"), "#!/bin/sh\necho from the toolchain\n").unwrap();
        fs::set_permissions(place.home(".nvm/versions/node/v1/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    fn home(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join("home").join(name)
    }

    fn agentd(&self, options: &[&str], command: &[&str]) -> Command {
        let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
        let mut run = Command::new(program);
        run.arg("run").args(options).arg("--").args(command).current_dir(self.home("../work")).stdin(Stdio::null());
        for variable in MOVED {
            run.env_remove(variable);
        }
        let path =
            format!("{}:{}:/usr/bin:/bin", self.home(".nvm/versions/node/v1/bin").display(), self.home("other/bin").display());
        run.env("HOME", self.home("")).env("PATH", path);
        run
    }

    fn run(&self, options: &[&str], script: &str) -> Output {
        self.agentd(options, &["sh", "-c", script]).output().unwrap()
    }

    /// Returns type, mode, owner, link count, times, content and attributes of everything below the home directory.
    fn inventory(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut left = vec![self.home("")];
        while let Some(path) = left.pop() {
            let stat = path.symlink_metadata().unwrap();
            let content = if stat.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            let mut attributes = vec![0; 4096];
            let length = rustix::fs::llistxattr(&path, &mut attributes).unwrap_or(0);
            let owner = (stat.uid(), stat.gid(), stat.nlink());
            let times = (stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec());
            let about = format!("{:o} {owner:?} {times:?} {content:?} {:?}", stat.mode(), &attributes[..length]);
            if stat.is_dir() {
                left.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
            }
            found.insert(path, about);
        }
        found
    }
}

/// Tries every kind of change to the directory `$1` and the file `$1/$2`; continues after a failure.
const CHANGES: &str = r#"
    echo more >> "$1/$2"; true > "$1/$2"; chmod 777 "$1/$2" "$1"; touch -d 2001-01-01 "$1/$2" "$1"
    perl -e 'for my $p (@ARGV) { syscall(188, $p, "user.mark", "x", 1, 0);
        syscall(188, $p, "user.overlay.opaque", "y", 1, 0) }' "$1/$2" "$1"
    ln "$1/$2" "$1/hard"; ln -s / "$1/soft"; mkdir "$1/new"; echo new > "$1/new/file"; mknod "$1/whiteout" c 0 0
    mv "$1/$2" "$1/moved"; mv "$1/moved" "$1/$2"; rm -f "$1/$2"; mkdir "$1/$2"; rm -rf "$1"/*; mv "$1" "$1-away"; rm -rf "$1"
    chown 1:1 "$1"; umount "$1"; mount -o remount,rw "$1"; true
"#;

#[test]
fn cache_changed_in_sandbox_is_unchanged_on_host() {
    let place = Place::new();
    let before = place.inventory();
    for backend in BACKENDS {
        for (cache, file) in [(".cargo/registry", "src/a-1/lib.rs"), (".npm/_cacache", "entry"), ("go/pkg/mod", "m/go.mod")] {
            let script = format!("set -- \"$HOME/{cache}\" {file}; cat \"$1/$2\"; {CHANGES} ls -A \"$1\"");
            let output = place.run(&["--backend", backend], &script);
            let seen = text(&output.stdout);
            assert!(seen.starts_with("content of"), "{backend}: {cache} is not shown: {output:?}");
            assert!(!seen.contains(file.split('/').next().unwrap()) || seen.lines().count() == 1, "{backend}: {output:?}");
        }
    }
    assert_eq!(place.inventory(), before);
}

#[test]
fn toolchain_runs_and_cannot_be_changed() {
    let place = Place::new();
    let before = place.inventory();
    for backend in BACKENDS {
        let script = format!("tool; set -- '{}' tool; {CHANGES} tool", place.home(".nvm/versions/node/v1/bin").display());
        let output = place.run(&["--backend", backend], &script);
        assert_eq!(text(&output.stdout), "from the toolchain\nfrom the toolchain\n", "{backend}: {output:?}");
    }
    assert_eq!(place.inventory(), before);
}

#[test]
fn cache_written_by_one_sandbox_is_unchanged_in_next() {
    let place = Place::new();
    for backend in BACKENDS {
        let output = place.run(&["--backend", backend], "cd ~/.cargo/registry/src/a-1 && echo evil > lib.rs && cat lib.rs");
        assert_eq!(text(&output.stdout), "evil\n", "{output:?}");
        let output = place.run(&["--backend", backend], "cat ~/.cargo/registry/src/a-1/lib.rs");
        assert_eq!(text(&output.stdout), "content of .cargo/registry/src/a-1/lib.rs\n", "{output:?}");
    }
}

#[test]
fn cache_replaced_by_link_in_earlier_sandbox_is_not_mounted() {
    let place = Place::new();
    let cargo = place.home(".cargo");
    let script = format!("cd '{}' && rm -r registry && ln -s ../.ssh registry", cargo.display());
    let output = place.run(&["--rw", cargo.to_str().unwrap()], &script);
    assert!(output.status.success() && place.home(".cargo/registry").is_symlink(), "{output:?}");
    for backend in BACKENDS {
        let output = place.run(&["--backend", backend], "cat ~/.cargo/registry/id_rsa ~/.ssh/id_rsa; ls ~/.cargo");
        assert!(!text(&output.stdout).contains("content of"), "{output:?}");
    }
}

#[test]
fn cache_with_overlayfs_attributes_shows_no_other_directory() {
    let place = Place::new();
    let prepared = place.home(".cargo/registry/prepared");
    fs::create_dir(&prepared).unwrap();
    let file = prepared.join("file");
    fs::write(&file, "").unwrap();
    for redirect in ["/../../.ssh", "../../../.ssh", ".ssh"] {
        for (path, name, value) in
            [(&prepared, "user.overlay.redirect", redirect), (&file, "user.overlay.redirect", "/.ssh/id_rsa")]
        {
            rustix::fs::setxattr(path, name, value.as_bytes(), rustix::fs::XattrFlags::empty()).unwrap();
        }
        rustix::fs::setxattr(&file, "user.overlay.metacopy", b"", rustix::fs::XattrFlags::empty()).unwrap();
        for backend in BACKENDS {
            let output = place.run(&["--backend", backend], "cd ~/.cargo/registry/prepared && ls; cat id_rsa file");
            let seen = text(&output.stdout);
            assert!(seen.starts_with("file\n") && !seen.contains("id_rsa") && !seen.contains("content"), "{output:?}");
        }
    }
}

#[test]
fn credential_files_in_and_near_toolchains_are_not_visible() {
    let place = Place::new();
    let planted = [
        ".cargo/credentials.toml",
        ".npmrc",
        ".m2/settings.xml",
        ".npm/_cacache/.npmrc",
        ".nvm/versions/node/v1/etc/npmrc",
        ".nvm/.npmrc",
        ".m2/repository/settings.xml",
    ];
    fs::create_dir(place.home(".nvm/versions/node/v1/etc")).unwrap();
    for file in planted {
        fs::write(place.home(file), "planted-token").unwrap();
    }
    for backend in BACKENDS {
        let script = format!(
            "grep -rs planted-token ~ '{}'; cat ~/.cargo/registry/src/a-1/lib.rs; tool || echo no tool",
            place.home("").display()
        );
        let output = place.run(&["--backend", backend], &script);
        assert_eq!(text(&output.stdout), "content of .cargo/registry/src/a-1/lib.rs\nno tool\n", "{output:?}");
        // The error for the missing tool states why its toolchain is hidden.
        let missed = text(&place.agentd(&["--backend", backend], &["tool"]).output().unwrap().stderr);
        assert!(missed.contains("may hold credentials"), "{missed}");
    }
}

#[test]
fn options_hide_named_toolchains_and_caches() {
    let place = Place::new();
    let script = "tool; ls ~/.cargo/registry; ls ~/.npm/_cacache";
    for backend in BACKENDS {
        for (options, seen) in [
            (&["--no-host-tools"][..], "src\nentry\n"),
            (&["--no-host-tools=nvm,pyenv", "--no-host-caches=cargo,go"], "entry\n"),
            (&["--no-host-caches"], "from the toolchain\n"),
        ] {
            let output = place.run(&[&["--backend", backend], options].concat(), script);
            assert_eq!(text(&output.stdout), seen, "{options:?}: {output:?}");
        }
    }
    let explained = text(&place.run(&["--explain"], "true").stdout);
    assert!(explained.contains(".cargo/registry at ") && explained.contains("(copy-on-write)"), "{explained}");
    let explained = text(&place.run(&["--explain", "--no-host-caches"], "true").stdout);
    assert!(!explained.contains("copy-on-write"), "{explained}");
    for (options, message) in [
        (&["--no-host-caches=cargoo"][..], "cargo"),
        (&["--backend", "host-direct", "--no-host-caches"], "host-direct has no boundary"),
        (&["--backend", "host-direct", "--no-host-tools"], "host-direct has no boundary"),
    ] {
        let output = place.run(options, "true");
        assert!(output.status.code() == Some(125) && text(&output.stderr).contains(message), "{output:?}");
    }
}

#[test]
fn program_of_unknown_toolchain_is_not_found_and_error_names_ro_option() {
    let place = Place::new();
    for folder in ["other/bin", "other/lib"] {
        fs::create_dir_all(place.home(folder)).unwrap();
    }
    fs::rename(place.home(".nvm/versions/node/v1/bin/tool"), place.home("other/lib/thing")).unwrap();
    symlink("../lib/thing", place.home("other/bin/thing")).unwrap();
    let output = place.agentd(&[], &["thing"]).output().unwrap();
    let message = text(&output.stderr);
    let option = format!("--ro {}", place.home("other").display());
    assert!(output.status.code() == Some(127) && message.contains(&option), "{message}");
    // A shell does not report which program it did not find, but the text of its command names the program.
    let message = text(&place.run(&[], "thing --version").stderr);
    assert!(message.contains(&format!("other/bin, which is not visible in the sandbox — use {option}")), "{message}");
    // The text of a file is not read.
    fs::write(place.home("../work/script"), "thing --version").unwrap();
    let message = text(&place.run(&[], "sh ./script").stderr);
    let expected =
        format!("directory of PATH that is not visible in the sandbox — use --ro {}\n", place.home("other/bin").display());
    assert!(message.contains(&expected) && message.lines().count() == 2, "{message}");
    let message = text(&place.run(&["--ro", place.home("other").to_str().unwrap()], "missing").stderr);
    assert!(!message.contains("--ro"), "{message}");
    let shown = place.agentd(&["--ro", place.home("other").to_str().unwrap()], &["thing"]).output().unwrap();
    assert_eq!(text(&shown.stdout), "from the toolchain\n", "{shown:?}");
}

/// Tests that need the toolchain of root.
mod as_root {
    use super::*;

    #[test]
    fn cargo_builds_offline_from_host_registry() {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap());
        let place = Place::new();
        let work = place.home("../work");
        fs::create_dir(work.join("src")).unwrap();
        fs::write(work.join("src/main.rs"), "fn main() { cfg_if::cfg_if! { if #[cfg(unix)] { println!(\"built\") } } }\n")
            .unwrap();
        let manifest =
            "[package]\nname = \"w\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\ncfg-if = \"1\"\n[workspace]\n";
        fs::write(work.join("Cargo.toml"), manifest).unwrap();
        for backend in BACKENDS {
            let script = "rm -rf target Cargo.lock; cargo run -q --offline";
            let mut run = place.agentd(&["--backend", backend], &["sh", "-c", script]);
            run.env("HOME", &home).env("PATH", join(&home.join(".cargo/bin"))).env_remove("CARGO_TARGET_DIR");
            let output = run.output().unwrap();
            assert_eq!(text(&output.stdout), "built\n", "{backend}: {output:?}");
        }
    }
}

fn join(first: &Path) -> String {
    format!("{}:/usr/bin:/bin", first.display())
}
