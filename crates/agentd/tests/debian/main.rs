//! Package managers work in an image of Debian as on a real host. Operations that a sandbox refuses fail with the tool's own
//! error, and the others succeed. `./test` creates the tree with `debootstrap`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod package;

use libtest_mimic::{Arguments, Trial};
use package::{PackageContent, PackageFile, package};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::Arc,
};
use tempfile::TempDir;

fn main() {
    let arguments = Arguments::from_args();
    let debian = if arguments.list { None } else { Some(Arc::new(Debian::new())) };
    let tests: [(&str, Test); 6] = [
        ("dpkg_preserves_modes_and_hard_links", modes_and_links),
        ("apt_installs_package", apt),
        ("file_owner_is_preserved_or_refused", owner),
        ("users_and_groups_can_be_created", users),
        ("package_with_device_node_fails_and_next_package_installs", device),
        ("installation_changes_neither_image_nor_host", unchanged),
    ];
    let trials = tests.into_iter().map(|(name, test)| {
        let debian = debian.clone();
        Trial::test(name, move || {
            test(debian.as_ref().ok_or("only listed")?);
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // Drop it to remove the image: `exit` runs no destructors.
    drop(debian);
    conclusion.exit();
}

/// A test with the image.
type Test = fn(&Debian);

/// The image, and a workspace with the packages.
struct Debian {
    place: TempDir,
    image: String,
}

impl Debian {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let debian = Self { place, image: format!("agentd-test-debian-{}", std::process::id()) };
        fs::create_dir(debian.path("work")).unwrap();
        let directories = || {
            vec![
                PackageFile::new("opt", 0o755, PackageContent::Directory),
                PackageFile::new("opt/made", 0o755, PackageContent::Directory),
            ]
        };
        let mut made = directories();
        made.push(PackageFile::new("opt/made/set-id", 0o4755, PackageContent::File("set-id\n")));
        made.push(PackageFile::new("opt/made/one", 0o640, PackageContent::File("linked\n")));
        made.push(PackageFile::new("opt/made/two", 0o640, PackageContent::HardLink("opt/made/one")));
        let mut owned = directories();
        owned
            .push(PackageFile { owner: (33, 44), ..PackageFile::new("opt/made/owned", 0o2755, PackageContent::File("owned\n")) });
        let mut device = directories();
        device.push(PackageFile::new("opt/made/before", 0o644, PackageContent::File("")));
        device.push(PackageFile::new("opt/made/null", 0o666, PackageContent::Device));
        for (name, entries) in [("made", made), ("owned", owned), ("device", device)] {
            fs::write(debian.path("work").join(format!("{name}.deb")), package(name, &entries).unwrap()).unwrap();
        }
        let output = debian.agentd(&["image", "import", tree().to_str().unwrap(), &debian.image]);
        assert!(output.status.success(), "{output:?}");
        // The device nodes that debootstrap has created in /dev.
        let output = String::from_utf8_lossy(&output.stderr);
        assert!(output.starts_with("agentd: not imported: ") && output.ends_with(" device nodes\n"), "{output}");
        debian
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn agentd(&self, args: &[&str]) -> Output {
        let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
        let mut command = Command::new(program);
        command.args(args).current_dir(self.path("work")).stdin(Stdio::null());
        command.env("AGENTD_DATA_DIR", self.path("data")).output().unwrap()
    }

    /// Runs a script in a sandbox of the image; returns the output of both streams.
    fn sh(&self, script: &str) -> String {
        // Grant the packages read-only: with a writable grant, set-id bits are refused.
        let work = self.path("work");
        let work = work.to_str().unwrap();
        let script = format!("exec 2>&1; export LC_ALL=C DEBIAN_FRONTEND=noninteractive; cd {work}; {script}");
        let options = ["run", "--backend", "container", "--image", &self.image, "--workspace", "none", "--ro", work];
        let output = self.agentd(&[&options[..], &["--", "sh", "-c", &script]].concat());
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        self.agentd(&["image", "rm", &self.image]);
        self.agentd(&["image", "gc"]);
    }
}

/// Returns the tree that `./test` creates; `AGENTD_DEBIAN` names a copy.
fn tree() -> PathBuf {
    let tree = std::env::var_os("AGENTD_DEBIAN")
        .map_or_else(|| [env!("CARGO_MANIFEST_DIR"), "../../target/debian"].iter().collect(), PathBuf::from);
    assert!(tree.join("usr/bin/dpkg").exists(), "{} is missing — run ./test, which creates it", tree.display());
    tree
}

/// Returns whether root in the sandbox can become another user: as root, or with subordinate ids (`AGENTD_TEST_IDS`).
fn has_others() -> bool {
    rustix::process::geteuid().is_root() || std::env::var_os("AGENTD_TEST_IDS").is_some()
}

/// Asserts that the output contains these lines in this order.
#[track_caller]
fn assert_lines(output: &str, lines: &[&str]) {
    let mut rest = output.lines().map(str::trim);
    for line in lines {
        assert!(rest.any(|next| next == *line), "no line '{line}' at this position of:\n{output}");
    }
}

fn modes_and_links(debian: &Debian) {
    let output = debian.sh("dpkg -i made.deb; echo ended $?; cd /opt/made; stat -c '%n %a %u:%g %h' *; \
         test one -ef two && echo one file; dpkg -s made; dpkg -r made; echo ended $?; test -e /opt/made || echo removed");
    let listed = ["one 640 0:0 2", "set-id 4755 0:0 1", "two 640 0:0 2", "one file"];
    let installed = [&["configured", "ended 0"][..], &listed, &["Status: install ok installed", "ended 0", "removed"]].concat();
    assert_lines(&output, &installed);
}

fn apt(debian: &Debian) {
    let output = debian.sh("apt-get install -y ./made.deb; echo ended $?; ls /opt/made");
    if has_others() {
        assert_lines(&output, &["Setting up made (1) ...", "configured", "ended 0", "one", "set-id", "two"]);
    } else {
        // apt becomes another user before it reads a package, which fails with a single id.
        assert_lines(&output, &["E: setgroups 65534 failed - setgroups (1: Operation not permitted)", "ended 100"]);
        let output = debian.sh("apt-get -o APT::Sandbox::User=root install -y ./made.deb; echo ended $?; ls /opt/made");
        assert_lines(&output, &["Setting up made (1) ...", "configured", "ended 0", "one", "set-id", "two"]);
    }
}

fn owner(debian: &Debian) {
    let output = debian.sh("dpkg -i owned.deb; echo ended $?; stat -c '%a %u:%g' /opt/made/owned; \
         dpkg -i made.deb; chown 1:2 /opt/made/one; echo ended $?; stat -c '%u:%g' /opt/made/one; dpkg --audit; echo whole $?");
    if has_others() {
        assert_lines(&output, &["configured", "ended 0", "2755 33:44", "configured", "ended 0", "1:2", "whole 0"]);
    } else {
        let refused = [
            "error setting ownership of 'opt/made/owned': Invalid argument",
            "ended 1",
            "stat: cannot statx '/opt/made/owned': No such file or directory",
            "configured",
            "chown: changing ownership of '/opt/made/one': Invalid argument",
            "ended 1",
            "0:0",
            "whole 0",
        ];
        assert_lines(&output, &refused);
    }
}

fn users(debian: &Debian) {
    // Each of these programs first opens an audit socket.
    let output = debian.sh("groupadd -r made && useradd -r -M -g made made && getent passwd made | cut -d: -f1; echo made $?; \
         echo made:secret | chpasswd; echo set $?; usermod -L made; echo locked $?; su made -s /bin/sh -c 'id -un'; \
         echo became $?");
    assert_lines(&output, &["made", "made 0", "set 0", "locked 0"]);
    if has_others() {
        assert_lines(&output, &["locked 0", "made", "became 0"]);
    }
}

fn device(debian: &Debian) {
    let output = debian.sh("dpkg -i device.deb; echo ended $?; ls /opt; mknod /opt/null c 1 3; echo ended $?; \
         dpkg -i made.deb; echo ended $?; ls /opt/made; dpkg --audit; echo whole $?");
    let refused = [
        "error creating device 'opt/made/null': Operation not permitted",
        "ended 1",
        "mknod: /opt/null: Operation not permitted",
        "ended 1",
        "configured",
        "ended 0",
        "one",
        "set-id",
        "two",
        "whole 0",
    ];
    assert_lines(&output, &refused);
    assert!(!output.contains("before"), "dpkg must remove the files that it unpacked before the device: {output}");
}

fn unchanged(debian: &Debian) {
    let install = "dpkg -i made.deb; echo ended $?";
    for _ in 0..2 {
        let output = debian.sh(&format!("ls /opt; dpkg -s made; {install}"));
        assert_lines(
            &output,
            &["dpkg-query: package 'made' is not installed and no information is available", "configured", "ended 0"],
        );
        assert!(output.starts_with("dpkg-query"), "{output}");
    }
    for opt in [tree().join("opt"), PathBuf::from("/opt")] {
        assert!(!opt.join("made").exists(), "{}", opt.display());
    }
}
