//! A squash reduces the depth of a stack, and does not change its merged view.

use crate::{
    layers::shown,
    place::{StateDir, name},
};
use agentd_sandboxes::{ForkSource, SaveMode};
use std::{fs, os::unix::fs::MetadataExt};

/// Commits `count` layers of `a`, each with a file named after its number.
fn deepen(place: &StateDir, count: usize) {
    for _ in 0..count {
        let number = place.state.record(&name("a")).unwrap().lower.len();
        fs::write(place.upper("a").join(number.to_string()), "").unwrap();
        fs::write(place.upper("a").join("last"), number.to_string()).unwrap();
        let snapshot = name("passing");
        place.state.snapshot(&name("a"), &snapshot, SaveMode::Commit).unwrap();
        place.state.drop_snapshot(&name("a"), &snapshot).unwrap();
    }
}

fn depth(place: &StateDir) -> usize {
    place.state.record(&name("a")).unwrap().lower.len()
}

#[test]
fn squash_of_deep_stack_links_files_into_one_layer() {
    let place = StateDir::new();
    place.sandbox("a");
    deepen(&place, 12);
    assert_eq!(place.state.squash(&name("a")).unwrap().layers, 0);
    deepen(&place, 1);
    let (before, trees) = (shown(&place.trees("a")), place.trees("a"));
    assert_eq!(place.state.squash(&name("a")).unwrap().layers, 13);
    assert_eq!((depth(&place), shown(&place.trees("a"))), (1, before.clone()));
    let inode = |tree: &std::path::Path| fs::metadata(tree.join("3")).unwrap().ino();
    assert_eq!(inode(&trees[3]), inode(&place.trees("a")[0]));
    assert_eq!(place.state.collect().unwrap().layers, 13);
    assert_eq!(shown(&place.trees("a")), before);
    place.assert_clean();
}

#[test]
fn squash_merges_no_run_across_snapshots_or_forks() {
    let place = StateDir::new();
    place.sandbox("a");
    deepen(&place, 5);
    place.state.snapshot(&name("a"), &name("five"), SaveMode::Commit).unwrap();
    deepen(&place, 6);
    place.state.fork(&name("a"), ForkSource::Now(SaveMode::Commit), &[name("b")]).unwrap();
    deepen(&place, 3);
    let seen = || (shown(&place.trees("a")), shown(&place.trees("b")));
    let before = seen();
    let five = || place.state.record(&name("a")).unwrap().snapshots[&name("five")].layers.clone();
    // The longest run is merged first: the six layers that the fork shares.
    assert_eq!((depth(&place), place.state.squash(&name("a")).unwrap().layers), (14, 6));
    assert_eq!((depth(&place), five().len(), place.state.record(&name("b")).unwrap().lower.len()), (9, 5, 6));
    assert_eq!(seen(), before);
    // Once the stack is deep again, the longest run consists of layers of `a` alone.
    deepen(&place, 4);
    let before = seen();
    assert_eq!(place.state.squash(&name("a")).unwrap().layers, 7);
    deepen(&place, 6);
    assert_eq!(place.state.squash(&name("a")).unwrap().layers, 7);
    assert_eq!(seen().1, before.1);
    place.state.collect().unwrap();
    place.state.restore(&name("a"), &name("five")).unwrap();
    place.state.collect().unwrap();
    assert_eq!(shown(&place.trees("a"))[std::path::Path::new("last")], "file 644 \"4\"".to_owned());
    place.assert_clean();
}

#[test]
fn squash_with_snapshot_of_every_layer_merges_nothing() {
    let place = StateDir::new();
    place.sandbox("a");
    for number in 0..13 {
        deepen(&place, 1);
        place.state.snapshot(&name("a"), &name(&format!("s{number}")), SaveMode::Commit).unwrap();
    }
    assert_eq!((depth(&place), place.state.squash(&name("a")).unwrap().layers), (13, 0));
    place.assert_clean();
}

#[test]
fn squash_copies_file_at_link_limit() {
    let place = StateDir::new();
    place.sandbox("a");
    fs::write(place.upper("a").join("many"), "content").unwrap();
    let link = |number: u32| fs::hard_link(place.upper("a").join("many"), place.upper("a").join(format!("many-{number}")));
    // Not every file system limits the number of links.
    let names = 1 + (0..70_000).take_while(|number| link(*number).is_ok()).count();
    deepen(&place, 13);
    assert_eq!(place.state.squash(&name("a")).unwrap().layers, 13);
    let merged = place.trees("a").remove(0);
    let found = fs::metadata(merged.join("many-7")).unwrap();
    assert_eq!(fs::read_to_string(merged.join("many-7")).unwrap(), "content");
    assert!(found.nlink() >= names as u64 && fs::metadata(merged.join("many")).unwrap().ino() == found.ino());
}

#[test]
fn remove_during_squash_leaves_no_layer() {
    for _ in 0..3 {
        let place = StateDir::new();
        place.sandbox("a");
        deepen(&place, 12);
        // Many files, so that the removal happens during the squash.
        (0..3000).for_each(|number| fs::write(place.upper("a").join(format!("f{number}")), "").unwrap());
        deepen(&place, 1);
        std::thread::scope(|scope| {
            let squashed = scope.spawn(|| place.state.squash(&name("a")));
            while place.count("staging") == 0 && !squashed.is_finished() {}
            place.state.remove(&name("a")).unwrap();
            place.state.collect().unwrap();
            // Either the squash was completed, or it had not begun.
            let squashed = squashed.join().unwrap();
            assert!(matches!(squashed, Ok(_) | Err(agentd_sandboxes::StoreError::NotFound { .. })), "{squashed:?}");
        });
        place.state.collect().unwrap();
        assert_eq!(place.count("layers"), 0);
        place.assert_clean();
    }
}

#[test]
fn squashed_layers_are_kept_while_held() {
    let place = StateDir::new();
    place.sandbox("a");
    deepen(&place, 13);
    let hold = place.state.hold(&name("a")).unwrap();
    place.state.squash(&name("a")).unwrap();
    assert_eq!(place.state.collect().unwrap().layers, 0);
    drop(hold);
    assert_eq!(place.state.collect().unwrap().layers, 13);
}
