//! Overlayfs, asked whether it reads the layers as they were meant.

use crate::{
    import::reference,
    made::{Layout, Pack, archive, dir, file, gzip},
    place::Place,
};
use agentd_image::Store;
use std::{fs, process::Command};

/// The layers of images in which each way of hiding something is used, and what must be seen of them.
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

fn all_are_seen(unshare: &[&str], options: &str) {
    for (layers, expected) in hiding() {
        seen(unshare, options, &layers, expected);
    }
}

/// Mounts the image in a mount namespace of its own and lists the files in it.
fn seen(unshare: &[&str], options: &str, layers: &[Vec<u8>], expected: &str) {
    let place = Place::new();
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
fn a_mount_in_a_user_namespace_shows_what_the_layers_say() {
    all_are_seen(&["--user", "--map-root-user", "--mount"], ",userxattr");
}

#[test]
fn a_mount_by_root_shows_what_the_layers_say() {
    // An ordinary user has no other mounts than those above.
    if rustix::process::geteuid().is_root() {
        all_are_seen(&["--mount"], "");
    }
}
