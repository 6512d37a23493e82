//! Builds assets from a kernel package and a file tree, and refuses other files.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use agentd_vm::{AssetError, Assets, Builder};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// An ELF file with the version string of a kernel.
const KERNEL: &[u8] = b"\x7fELF of Linux version 6.1.0-9-x (who@where)";
const BUILT_IN: &str = "kernel/virtio_mmio.ko\nkernel/virtio_blk.ko\nkernel/overlay.ko\nkernel/ext4.ko\n\
                        kernel/vmw_vsock_virtio_transport.ko\n";

/// Writes a Debian package with these files.
fn package(path: &Path, files: &[(&str, &[u8])]) {
    let mut data = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        data.append_data(&mut header, name, *content).unwrap();
    }
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in [("debian-binary", b"2.0\n".to_vec()), ("data.tar", data.into_inner().unwrap())] {
        bytes.extend_from_slice(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).as_bytes());
        bytes.extend_from_slice(&content);
    }
    fs::write(path, bytes).unwrap();
}

struct AssetDir(tempfile::TempDir);

impl AssetDir {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(place.path("tree/etc")).unwrap();
        fs::write(place.path("tree/etc/hostname"), "name\n").unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn build(&self, kernel: &str) -> Result<Assets, AssetError> {
        let kernel = Some(self.path(kernel));
        Builder { layers: vec![self.path("tree")], source: "a tree".to_owned(), kernel }.build(&self.path("assets"))
    }

    fn whole_package(&self) {
        let files = [("boot/vmlinuz-6.1.0-9-x", KERNEL), ("lib/modules/6.1.0-9-x/modules.builtin", BUILT_IN.as_bytes())];
        package(&self.path("kernel.deb"), &files);
    }
}

#[test]
fn assets_of_package_and_tree_are_built_and_replaced() {
    let place = AssetDir::new();
    place.whole_package();
    for _ in 0..2 {
        let assets = place.build("kernel.deb").unwrap();
        assert_eq!(assets.manifest().kernel.release, "6.1.0-9-x");
        assert_eq!(fs::read(assets.vmlinux()).unwrap(), KERNEL);
        assets.verify().unwrap();
    }
    let mut names: Vec<_> = fs::read_dir(place.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["assets", "kernel.deb", "tree"]);
}

#[test]
fn missing_or_changed_asset_is_reported() {
    let place = AssetDir::new();
    place.whole_package();
    let assets = place.build("kernel.deb").unwrap();
    let vmlinux = assets.vmlinux();
    fs::remove_file(&vmlinux).unwrap();
    assert!(Assets::open(&place.path("assets")).unwrap_err().to_string().contains("agentd vm build"));
    fs::write(&vmlinux, KERNEL.to_ascii_uppercase()).unwrap();
    assert!(assets.verify().unwrap_err().to_string().contains("does not match the digest in the manifest"));
}

#[test]
fn file_without_usable_kernel_is_refused_and_leaves_no_assets() {
    let place = AssetDir::new();
    fs::write(place.path("text"), "words").unwrap();
    package(&place.path("other.deb"), &[("usr/bin/x", b"x")]);
    package(
        &place.path("bare.deb"),
        &[("boot/vmlinuz-6.1.0-9-x", KERNEL), ("lib/modules/6.1.0-9-x/modules.builtin", b"kernel/x.ko")],
    );
    for (kernel, why) in [
        ("text", "neither a Debian package"),
        ("other.deb", "no boot/vmlinuz"),
        ("bare.deb", "find the module virtio_mmio"),
        ("nothing", "No such file"),
    ] {
        let error = place.build(kernel).unwrap_err().to_string();
        assert!(error.contains(why), "{kernel}: {error}");
        assert!(!place.path("assets").exists());
    }
}

#[test]
fn unrelated_directory_is_not_replaced() {
    let place = AssetDir::new();
    place.whole_package();
    fs::create_dir(place.path("assets")).unwrap();
    fs::write(place.path("assets/mine"), "precious").unwrap();
    assert!(matches!(place.build("kernel.deb"), Err(AssetError::Occupied(_))));
    assert_eq!(fs::read(place.path("assets/mine")).unwrap(), b"precious");
}
