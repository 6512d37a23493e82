//! Packages are unpacked in an image of Debian as they would be on a machine of its own; what cannot be is refused by the tool's own
//! words, and the rest goes on. `./test` makes the tree, with `debootstrap`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod package;

use libtest_mimic::{Arguments, Trial};
use package::{Entry, What, package};
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
    let tests: [(&str, Test); 5] = [
        ("a_package_is_unpacked_with_its_modes_and_links", modes_and_links),
        ("apt_installs_a_package", apt),
        ("an_owner_is_kept_or_refused", owner),
        ("a_device_node_is_refused_and_the_rest_goes_on", device),
        ("the_image_and_the_host_stay_as_they_are", unchanged),
    ];
    let trials = tests.into_iter().map(|(name, test)| {
        let debian = debian.clone();
        Trial::test(name, move || {
            test(debian.as_ref().ok_or("only listed")?);
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // The image is removed, which leaving would not do.
    drop(debian);
    conclusion.exit();
}

/// One statement about it.
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
        let directories = || vec![Entry::new("opt", 0o755, What::Directory), Entry::new("opt/made", 0o755, What::Directory)];
        let mut made = directories();
        made.push(Entry::new("opt/made/set-id", 0o4755, What::File("set-id\n")));
        made.push(Entry::new("opt/made/one", 0o640, What::File("linked\n")));
        made.push(Entry::new("opt/made/two", 0o640, What::HardLink("opt/made/one")));
        let mut owned = directories();
        owned.push(Entry { owner: (33, 44), ..Entry::new("opt/made/owned", 0o2755, What::File("owned\n")) });
        let mut device = directories();
        device.push(Entry::new("opt/made/before", 0o644, What::File("")));
        device.push(Entry::new("opt/made/null", 0o666, What::Device));
        for (name, entries) in [("made", made), ("owned", owned), ("device", device)] {
            fs::write(debian.path("work").join(format!("{name}.deb")), package(name, &entries).unwrap()).unwrap();
        }
        let output = debian.agentd(&["image", "import", tree().to_str().unwrap(), &debian.image]);
        assert!(output.status.success(), "{output:?}");
        // Those that debootstrap makes in /dev, where its user may.
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.starts_with("agentd: left out: ") && said.ends_with(" device nodes\n"), "{said}");
        debian
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn agentd(&self, args: &[&str]) -> Output {
        let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
        let cache = std::env::temp_dir().join(format!("agentd-test-cache-{}", rustix::process::geteuid().as_raw()));
        let mut command = Command::new(program);
        command.args(args).current_dir(self.path("work")).stdin(Stdio::null());
        command.env("XDG_CACHE_HOME", cache).env("AGENTD_DATA_DIR", self.path("data")).output().unwrap()
    }

    /// What a script says, on both streams, in a sandbox of the image.
    fn sh(&self, script: &str) -> String {
        // The packages read-only: where the caller's files can be changed, set-id bits are refused.
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

/// Where `./test` makes the tree; another copy of it where this user cannot reach that.
fn tree() -> PathBuf {
    let tree = std::env::var_os("AGENTD_DEBIAN")
        .map_or_else(|| [env!("CARGO_MANIFEST_DIR"), "../../target/debian"].iter().collect(), PathBuf::from);
    assert!(tree.join("usr/bin/dpkg").exists(), "./test makes a tree of Debian in {}", tree.display());
    tree
}

/// Whether root inside can become another user: as root's, and with subordinate ids, which `AGENTD_TEST_IDS` says this user has.
fn has_others() -> bool {
    rustix::process::geteuid().is_root() || std::env::var_os("AGENTD_TEST_IDS").is_some()
}

/// Checks that these lines are there, in this order.
#[track_caller]
fn assert_says(said: &str, lines: &[&str]) {
    let mut rest = said.lines().map(str::trim);
    for line in lines {
        assert!(rest.any(|next| next == *line), "no '{line}', or not there, in:\n{said}");
    }
}

fn modes_and_links(debian: &Debian) {
    let said = debian.sh("dpkg -i made.deb; echo ended $?; cd /opt/made; stat -c '%n %a %u:%g %h' *; \
         test one -ef two && echo one file; dpkg -s made; dpkg -r made; echo ended $?; test -e /opt/made || echo removed");
    let listed = ["one 640 0:0 2", "set-id 4755 0:0 1", "two 640 0:0 2", "one file"];
    let installed = [&["configured", "ended 0"][..], &listed, &["Status: install ok installed", "ended 0", "removed"]].concat();
    assert_says(&said, &installed);
}

fn apt(debian: &Debian) {
    let said = debian.sh("apt-get install -y ./made.deb; echo ended $?; ls /opt/made");
    if has_others() {
        assert_says(&said, &["Setting up made (1) ...", "configured", "ended 0", "one", "set-id", "two"]);
    } else {
        // It becomes another user before it reads a package, and with the one id of an ordinary user there is no other.
        assert_says(&said, &["E: setgroups 65534 failed - setgroups (1: Operation not permitted)", "ended 100"]);
        let said = debian.sh("apt-get -o APT::Sandbox::User=root install -y ./made.deb; echo ended $?; ls /opt/made");
        assert_says(&said, &["Setting up made (1) ...", "configured", "ended 0", "one", "set-id", "two"]);
    }
}

fn owner(debian: &Debian) {
    let said = debian.sh("dpkg -i owned.deb; echo ended $?; stat -c '%a %u:%g' /opt/made/owned; \
         dpkg -i made.deb; chown 1:2 /opt/made/one; echo ended $?; stat -c '%u:%g' /opt/made/one; dpkg --audit; echo whole $?");
    if has_others() {
        assert_says(&said, &["configured", "ended 0", "2755 33:44", "configured", "ended 0", "1:2", "whole 0"]);
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
        assert_says(&said, &refused);
    }
}

fn device(debian: &Debian) {
    let said = debian.sh("dpkg -i device.deb; echo ended $?; ls /opt; mknod /opt/null c 1 3; echo ended $?; \
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
    assert_says(&said, &refused);
    assert!(!said.contains("before"), "what came before it was taken away again: {said}");
}

fn unchanged(debian: &Debian) {
    let install = "dpkg -i made.deb; echo ended $?";
    for _ in 0..2 {
        let said = debian.sh(&format!("ls /opt; dpkg -s made; {install}"));
        assert_says(
            &said,
            &["dpkg-query: package 'made' is not installed and no information is available", "configured", "ended 0"],
        );
        assert!(said.starts_with("dpkg-query"), "{said}");
    }
    for opt in [tree().join("opt"), PathBuf::from("/opt")] {
        assert!(!opt.join("made").exists(), "{}", opt.display());
    }
}
