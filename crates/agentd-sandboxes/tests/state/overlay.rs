//! Overlayfs itself writes layers and reads them, in a user namespace as the sandboxes have it: before and after a squash it shows the
//! same, listings too.

use crate::place::{Place, name};
use agentd_sandboxes::{How, State};
use std::process::Command;

/// What each layer does to the tree that is seen.
const STEPS: [&str; 6] = [
    "mkdir -p a/b/c d/e; echo 1 >a/b/one; echo 2 >a/b/c/two; echo 3 >d/e/three; echo i >>etc/file",
    "rm a/b/one; rm -r d; mkdir d; echo 4 >d/four; ln d/four d/also; chmod 700 a",
    "rm -r a/b; mkdir a/b; echo 5 >a/b/five; rm -r etc; ln -s a etc",
    "rm etc; mkdir -p etc/deep/er; echo 6 >etc/deep/er/six; touch -d @9 a/b/five",
    "rm -r etc/deep; mkdir etc/deep; rm d/four; mkfifo d/pipe",
    "rm -r d; echo 7 >d; mkdir -p n/w; echo 8 >n/w/eight; rm n/w/eight; rm -r var/lib",
];

/// Mounts the sandbox over an image and does something in it; what that says.
fn inside(place: &Place, script: &str) -> String {
    let record = place.state.record(&name("a")).unwrap();
    place.state.before_mount(&record).unwrap();
    let layers = place.state.layer_paths(&record);
    let lower: Vec<_> = layers.sealed.iter().rev().map(|path| path.to_str().unwrap()).collect();
    let image = place.at("image");
    let lower = [lower, vec![image.to_str().unwrap()]].concat().join(":");
    let mount = r#"
        mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/tree,workdir=$2/work,userxattr,volatile" "$3"
        cd "$3"
        eval "$4""#;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-euc", mount, "sh", &lower])
        .arg(&layers.top)
        .arg(place.at("merged"))
        .arg(script)
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Lists all that is seen, and reads it.
fn seen(place: &Place) -> String {
    inside(place, r#"find . -printf '%p %M %l ' \( -type f -printf '%n %T@ ' -exec cat {} \; -o -printf '\n' \) | sort"#)
}

#[test]
fn what_overlayfs_wrote_shows_the_same_when_it_is_squashed() {
    let place = Place::new();
    for (path, content) in [("etc/file", "image"), ("var/lib/x", "x"), ("d/e/image", "x")] {
        let path = place.at("image").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    std::fs::create_dir(place.at("merged")).unwrap();
    place.sandbox("a");
    for step in STEPS {
        inside(&place, step);
        seal(&place.state);
    }
    // Deep enough, of layers in which little is done.
    for number in 0..7 {
        inside(&place, &format!("echo {number} >last; mkdir -p many; echo {number} >many/{number}"));
        seal(&place.state);
    }
    let before = seen(&place);
    assert!(before.contains("./many/6") && before.contains("./n/w") && !before.contains("eight"), "{before}");
    assert_eq!(place.state.squash(&name("a")).unwrap().layers, 13);
    assert_eq!(place.state.collect().unwrap().layers, 13);
    assert_eq!(seen(&place), before);
    place.assert_clean();
}

fn seal(state: &State) {
    state.snapshot(&name("a"), &name("passing"), How::Seal).unwrap();
    state.drop_snapshot(&name("a"), &name("passing")).unwrap();
}
