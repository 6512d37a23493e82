//! Layers that overlayfs itself writes and reads, in a user namespace as in a sandbox. A squash changes neither the content nor
//! the listings of the mounted tree.

use crate::place::{StateDir, name};
use agentd_sandboxes::{SandboxStore, SaveMode};
use std::process::Command;

/// The commands that produce the changes of each layer.
const STEPS: [&str; 6] = [
    "mkdir -p a/b/c d/e; echo 1 >a/b/one; echo 2 >a/b/c/two; echo 3 >d/e/three; echo i >>etc/file",
    "rm a/b/one; rm -r d; mkdir d; echo 4 >d/four; ln d/four d/also; chmod 700 a",
    "rm -r a/b; mkdir a/b; echo 5 >a/b/five; rm -r etc; ln -s a etc",
    "rm etc; mkdir -p etc/deep/er; echo 6 >etc/deep/er/six; touch -d @9 a/b/five",
    "rm -r etc/deep; mkdir etc/deep; rm d/four; mkfifo d/pipe",
    "rm -r d; echo 7 >d; mkdir -p n/w; echo 8 >n/w/eight; rm n/w/eight; rm -r var/lib",
];

/// Mounts the sandbox over an image, runs a script in the mounted tree, and returns the output of the script.
fn inside(place: &StateDir, script: &str) -> String {
    let record = place.state.record(&name("a")).unwrap();
    place.state.before_mount(&record).unwrap();
    let layers = place.state.layer_paths(&record);
    let lower: Vec<_> = layers.lower.iter().rev().map(|path| path.to_str().unwrap()).collect();
    let image = place.at("image");
    let lower = [lower, vec![image.to_str().unwrap()]].concat().join(":");
    let mount = r#"
        mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/tree,workdir=$2/work,userxattr,volatile" "$3"
        cd "$3"
        eval "$4""#;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-euc", mount, "sh", &lower])
        .arg(&layers.upper)
        .arg(place.at("merged"))
        .arg(script)
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Lists the mounted tree with the content of all files.
fn seen(place: &StateDir) -> String {
    inside(place, r#"find . -printf '%p %M %l ' \( -type f -printf '%n %T@ ' -exec cat {} \; -o -printf '\n' \) | sort"#)
}

#[test]
fn squash_of_overlayfs_layers_shows_same_tree() {
    let place = StateDir::new();
    for (path, content) in [("etc/file", "image"), ("var/lib/x", "x"), ("d/e/image", "x")] {
        let path = place.at("image").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    std::fs::create_dir(place.at("merged")).unwrap();
    place.sandbox("a");
    for step in STEPS {
        inside(&place, step);
        commit(&place.state);
    }
    // More layers with small changes, so that the stack is deep enough for a squash.
    for number in 0..7 {
        inside(&place, &format!("echo {number} >last; mkdir -p many; echo {number} >many/{number}"));
        commit(&place.state);
    }
    let before = seen(&place);
    assert!(before.contains("./many/6") && before.contains("./n/w") && !before.contains("eight"), "{before}");
    assert_eq!(place.state.squash(&name("a")).unwrap().layers, 13);
    assert_eq!(place.state.collect().unwrap().layers, 13);
    assert_eq!(seen(&place), before);
    place.assert_clean();
}

fn commit(state: &SandboxStore) {
    state.snapshot(&name("a"), &name("passing"), SaveMode::Commit).unwrap();
    state.drop_snapshot(&name("a"), &name("passing")).unwrap();
}
