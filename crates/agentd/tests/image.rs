//! `agentd image` and `agentd run --image`: commands run in an image and may change files, and the image stays unchanged.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use rustix::fs::{XattrFlags, setxattr};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

/// Returns the program under test; `AGENTD_BIN` names a copy if this user cannot read cargo's build directory.
fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

/// The tree of an image, an image store, and a workspace.
struct ImageDir(TempDir);

impl ImageDir {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let root = place.path("tree");
        for dir in ["bin", "etc", "usr/share/doc"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("./test installs busybox-static");
        for name in ["sh", "id", "touch", "rm", "cat", "ls", "chmod", "ln", "chown", "stat", "mknod"] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        fs::write(root.join("etc/os-release"), "NAME=tiny\n").unwrap();
        fs::write(root.join("usr/share/doc/readme"), "read me\n").unwrap();
        // Identifies the layer of this test.
        fs::write(root.join("etc/mark"), place.name()).unwrap();
        fs::create_dir(place.path("work")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Returns an image name that no other test uses.
    fn name(&self) -> String {
        format!("agentd-test-{}", self.0.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_lowercase())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).current_dir(self.path("work")).env("AGENTD_DATA_DIR", self.path("data"));
        command
    }

    fn agentd(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    fn imported(&self) -> String {
        let name = self.name();
        self.import("tree", &name);
        name
    }

    /// Imports one of the directories; returns the output of the command.
    fn import(&self, tree: &str, name: &str) -> Output {
        let output = self.agentd(&["image", "import", self.path(tree).to_str().unwrap(), name]);
        assert!(output.status.success(), "{output:?}");
        output
    }

    /// Returns the layer in which the file `marked` contains the name of this test.
    fn layer(&self, marked: &str) -> Option<PathBuf> {
        let mut layers = fs::read_dir(self.path("data/images/layers")).unwrap().map(|layer| layer.unwrap().path());
        layers.find(|layer| fs::read_to_string(layer.join("tree").join(marked)).is_ok_and(|mark| mark == self.name()))
    }

    fn sh(&self, image: &str, script: &str) -> Output {
        self.agentd(&["run", "--image", image, "--", "sh", "-c", script])
    }
}

impl Drop for ImageDir {
    fn drop(&mut self) {
        self.agentd(&["image", "rm", &self.name()]);
        self.agentd(&["image", "gc"]);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn command_is_root_in_image_and_image_stays_unchanged() {
    let place = ImageDir::new();
    let image = place.imported();
    for _ in 0..2 {
        let script =
            "id -u; cat /etc/os-release; touch /x && rm -rf /usr && test ! -e /usr && echo gone > /etc/os-release && echo ok";
        let output = place.sh(&image, script);
        assert_eq!(text(&output.stdout), "0\nNAME=tiny\nok\n", "{output:?}");
    }
    assert!(Path::new("/usr/bin").exists() && !Path::new("/x").exists());
    assert_eq!(fs::read_to_string(place.path("tree/usr/share/doc/readme")).unwrap(), "read me\n");
}

#[test]
fn image_allows_operations_of_package_managers() {
    let place = ImageDir::new();
    let image = place.imported();
    let script = "touch /a && chmod 4755 /a && stat -c %a /a && ln /a /b && stat -c %h /b && ln -s /a /c && cat /c && echo ok";
    let output = place.agentd(&["run", "--image", &image, "--workspace", "none", "--", "sh", "-c", script]);
    assert_eq!(text(&output.stdout), "4755\n2\nok\n", "{output:?}");
    // With a writable workspace, set-id bits are refused: there, such files would belong to the caller.
    let output = place.sh(&image, "touch /a; chmod 4755 /a");
    assert!(text(&output.stderr).contains("not permitted"), "{output:?}");
    // Creating a device fails.
    let output = place.sh(&image, "mknod /d b 8 0 || echo refused");
    assert_eq!(text(&output.stdout), "refused\n", "{output:?}");
    if rustix::process::geteuid().is_root() {
        let output = place.sh(&image, "touch /a && chown 33:44 /a && stat -c %u:%g /a");
        assert_eq!(text(&output.stdout), "33:44\n", "{output:?}");
    }
}

#[test]
fn files_created_in_workspace_belong_to_caller() {
    let place = ImageDir::new();
    let image = place.imported();
    let output = place.sh(&image, "echo made > made && chmod 600 made && cat made");
    assert_eq!(text(&output.stdout), "made\n", "{output:?}");
    let made = fs::metadata(place.path("work/made")).unwrap();
    assert_eq!((made.uid(), made.permissions().mode() & 0o777), (rustix::process::geteuid().as_raw(), 0o600));
}

#[test]
fn layer_of_running_command_is_not_collected_after_rm() {
    let place = ImageDir::new();
    let image = place.imported();
    let script = "echo up; read go; cat /usr/share/doc/readme";
    let mut run = place.command(&["run", "-i", "--image", &image, "--", "sh", "-c", script]);
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut message = BufReader::new(run.stdout.take().unwrap()).lines();
    assert_eq!(message.next().unwrap().unwrap(), "up");
    assert!(place.agentd(&["image", "rm", &image]).status.success());
    assert!(place.agentd(&["image", "gc"]).status.success());
    assert!(place.layer("etc/mark").is_some());

    writeln!(run.stdin.take().unwrap(), "go").unwrap();
    assert_eq!(message.next().unwrap().unwrap(), "read me");
    assert!(run.wait().unwrap().success());
    // A concurrent test may collect the layer first.
    assert!(place.agentd(&["image", "gc"]).status.success());
    assert_eq!(place.layer("etc/mark"), None);
}

#[test]
fn import_reports_skipped_attributes() {
    let place = ImageDir::new();
    let message = text(&place.import("tree", &place.name()).stderr);
    assert_eq!(message, "");
    // Attributes that control overlayfs are not imported.
    for name in ["tree/etc", "tree/etc/os-release"] {
        setxattr(place.path(name), "user.overlay.redirect", b"/etc", XattrFlags::empty()).unwrap();
    }
    let message = text(&place.import("tree", &place.name()).stderr);
    assert_eq!(message, "agentd: not imported: 2 extended attributes\n");
}

#[test]
fn gc_reports_removed_layers_and_blobs() {
    let place = ImageDir::new();
    place.imported();
    place.agentd(&["image", "rm", &place.name()]);
    let message = text(&place.agentd(&["image", "gc"]).stdout);
    // The numbers depend on concurrent tests.
    assert!(message.contains(" layer") && message.contains(" blob") && message.ends_with(" MB freed\n"), "{message}");
}

#[test]
fn damaged_image_is_reported_and_others_are_listed() {
    let place = ImageDir::new();
    let (good, damaged) = (format!("{}-good", place.name()), place.name());
    place.import("tree", &good);
    fs::write(place.path("tree/etc/another"), place.name()).unwrap();
    place.import("tree", &damaged);
    fs::remove_file(place.layer("etc/another").unwrap().join("about.json")).unwrap();

    let outputs = [&["image", "ls"][..], &["image", "ls", "--json"]].map(|list| place.agentd(list));
    place.agentd(&["image", "rm", &good]);
    for output in outputs {
        assert_eq!(output.status.code(), Some(125));
        let (listed, message) = (text(&output.stdout), text(&output.stderr));
        assert!(listed.contains(&good) && !listed.contains(&format!("{damaged}:")), "{listed}");
        assert!(message.contains(&format!("{damaged}:latest is damaged")) && message.contains("agentd image gc"), "{message}");
    }
    assert!(text(&place.sh(&damaged, "true").stderr).contains("is damaged"));
}

#[test]
fn layer_of_named_sandbox_is_not_collected_after_rm() {
    let place = ImageDir::new();
    let image = place.imported();
    assert!(place.agentd(&["sandbox", "create", "dev", "--image", &image]).status.success());
    assert!(place.agentd(&["image", "rm", &image]).status.success());
    assert!(place.agentd(&["image", "gc"]).status.success());
    assert!(place.layer("etc/mark").is_some());
    let output = place.agentd(&[
        "sandbox",
        "exec",
        "dev",
        "--",
        "sh",
        "-c",
        "cat /usr/share/doc/readme; rm -r /usr; echo new >/etc/os-release",
    ]);
    assert_eq!(text(&output.stdout), "read me\n", "{output:?}");
    let changed = place.agentd(&["sandbox", "diff", "dev"]);
    let changed = text(&changed.stdout);
    assert!(changed.contains("C /etc/os-release\n") && changed.contains("D /usr\n"), "{changed}");

    assert!(place.agentd(&["sandbox", "rm", "dev"]).status.success());
    let daemon = fs::read_to_string(place.path("data/sandboxes/keeper/lock")).unwrap();
    let daemon = rustix::process::Pid::from_raw(daemon.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::TERM).unwrap();
    assert!(place.agentd(&["image", "gc"]).status.success());
    assert_eq!(place.layer("etc/mark"), None);
}

#[test]
fn run_with_unknown_image_fails_before_command_starts() {
    let place = ImageDir::new();
    let output = place.sh("agentd-test-nowhere", "touch made");
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("no image"), "{output:?}");
    assert!(!place.path("work/made").exists());
}

#[test]
fn image_with_backend_without_images_fails_before_command_starts() {
    let place = ImageDir::new();
    let image = place.imported();
    for backend in ["linux-native", "host-direct"] {
        for more in [&["--explain"][..], &[]] {
            let run = ["run", "--backend", backend, "--image", &image];
            let output = place.agentd(&[&run, more, &["--", "touch", "made"]].concat());
            assert_eq!(output.status.code(), Some(125), "{backend}: {output:?}");
        }
    }
    assert!(!place.path("work/made").exists());
}
