//! Tests that overlayfs interprets the whiteouts and opaque marks of unpacked layers.

use crate::{
    fixtures::{Layout, Pack, archive, dir, file, gzip},
    import::reference,
    place::StoreDir,
};
use agentd_image::Store;
use std::{fs, process::Command};

/// Returns the layers of images that hide files in each possible way, and the files that must be visible.
fn hiding() -> [(Vec<Vec<u8>>, &'static str); 2] {
    let lower = archive(&[
        dir("./"),
        dir("kept/"),
        file("kept/file", ""),
        file("kept/gone", ""),
        dir("opaque/"),
        file("opaque/old", ""),
        dir("replaced/"),
        file("replaced/old", ""),
        dir("gone/"),
        file("gone/file", ""),
    ]);
    let upper = archive(&[
        dir("./"),
        dir("kept/"),
        file("kept/.wh.gone", ""),
        dir("opaque/"),
        file("opaque/.wh..wh..opq", ""),
        file("opaque/new", ""),
        file(".wh.replaced", ""),
        dir("replaced/"),
        file("replaced/new", ""),
        file(".wh.gone", ""),
    ]);
    let above_all = archive(&[dir("./"), file(".wh..wh..opq", ""), dir("kept/"), file("kept/new", "")]);
    let top = archive(&[dir("./"), file("top", "")]);
    [(vec![lower.clone(), upper], "./kept/file ./opaque/new ./replaced/new "), (vec![lower, above_all, top], "./kept/new ./top ")]
}

fn assert_all_visible(unshare: &[&str], options: &str) {
    for (layers, expected) in hiding() {
        assert_visible(unshare, options, &layers, expected);
    }
}

/// Mounts the image in a new mount namespace and compares the list of its files.
fn assert_visible(unshare: &[&str], options: &str, layers: &[Vec<u8>], expected: &str) {
    let place = StoreDir::new();
    fs::create_dir(place.at("layout")).unwrap();
    Layout(&place.at("layout")).with_image(layers, &[gzip as Pack; 3], "1");
    let store = Store::open(&place.at("store")).unwrap();
    let image = store.import(&place.at("layout"), &reference("a:1")).unwrap();
    let lower: Vec<_> = image.layers.iter().rev().map(|layer| layer.to_str().unwrap()).collect();
    fs::create_dir(place.at("merged")).unwrap();
    let script = r#"mount -t overlay overlay -o "lowerdir=$1$2" "$3" && cd "$3" && find . -type f | sort | tr '\n' ' '"#;
    let output = Command::new("unshare")
        .args(unshare)
        .args(["sh", "-c", script, "sh", &lower.join(":"), options])
        .arg(place.at("merged"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn overlay_mount_in_user_namespace_hides_removed_files() {
    assert_all_visible(&["--user", "--map-root-user", "--mount"], ",userxattr");
}

mod as_root {
    #[test]
    fn overlay_mount_without_user_namespace_hides_removed_files() {
        super::assert_all_visible(&["--mount"], "");
    }
}
