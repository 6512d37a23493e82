//! Deep stacks become less deep, and show the same.

use crate::{
    layers::shown,
    place::{Place, name},
};
use agentd_sandboxes::{How, Of};
use std::{fs, os::unix::fs::MetadataExt};

/// Seals `count` layers of `a`, each with a file of its number.
fn deepen(place: &Place, count: usize) {
    for _ in 0..count {
        let number = place.state.record(&name("a")).unwrap().sealed.len();
        fs::write(place.top("a").join(number.to_string()), "").unwrap();
        fs::write(place.top("a").join("last"), number.to_string()).unwrap();
        let snapshot = name("passing");
        place.state.snapshot(&name("a"), &snapshot, How::Seal).unwrap();
        place.state.drop_snapshot(&name("a"), &snapshot).unwrap();
    }
}

fn depth(place: &Place) -> usize {
    place.state.record(&name("a")).unwrap().sealed.len()
}

#[test]
fn a_deep_stack_becomes_one_layer_whose_files_are_linked() {
    let place = Place::new();
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
fn what_snapshots_and_forks_have_stays_apart_and_what_all_have_is_merged_for_all() {
    let place = Place::new();
    place.sandbox("a");
    deepen(&place, 5);
    place.state.snapshot(&name("a"), &name("five"), How::Seal).unwrap();
    deepen(&place, 6);
    place.state.fork(&name("a"), Of::Now(How::Seal), &[name("b")]).unwrap();
    deepen(&place, 3);
    let seen = || (shown(&place.trees("a")), shown(&place.trees("b")));
    let before = seen();
    let five = || place.state.record(&name("a")).unwrap().snapshots[&name("five")].layers.clone();
    // First the longest run: the six that the fork has too.
    assert_eq!((depth(&place), place.state.squash(&name("a")).unwrap().layers), (14, 6));
    assert_eq!((depth(&place), five().len(), place.state.record(&name("b")).unwrap().sealed.len()), (9, 5, 6));
    assert_eq!(seen(), before);
    // Then, when it is deep again, those of the snapshot.
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
fn where_every_layer_is_somebodys_nothing_is_merged() {
    let place = Place::new();
    place.sandbox("a");
    for number in 0..13 {
        deepen(&place, 1);
        place.state.snapshot(&name("a"), &name(&format!("s{number}")), How::Seal).unwrap();
    }
    assert_eq!((depth(&place), place.state.squash(&name("a")).unwrap().layers), (13, 0));
    place.assert_clean();
}

#[test]
fn a_file_that_has_as_many_names_as_it_may_have_is_copied_and_keeps_them() {
    let place = Place::new();
    place.sandbox("a");
    fs::write(place.top("a").join("many"), "content").unwrap();
    let link = |number: u32| fs::hard_link(place.top("a").join("many"), place.top("a").join(format!("many-{number}")));
    // Not every file system has a limit.
    let names = 1 + (0..70_000).take_while(|number| link(*number).is_ok()).count();
    deepen(&place, 13);
    assert_eq!(place.state.squash(&name("a")).unwrap().layers, 13);
    let merged = place.trees("a").remove(0);
    let found = fs::metadata(merged.join("many-7")).unwrap();
    assert_eq!(fs::read_to_string(merged.join("many-7")).unwrap(), "content");
    assert!(found.nlink() >= names as u64 && fs::metadata(merged.join("many")).unwrap().ino() == found.ino());
}

#[test]
fn what_is_removed_while_it_is_squashed_is_read_to_the_end() {
    for _ in 0..3 {
        let place = Place::new();
        place.sandbox("a");
        deepen(&place, 12);
        // Enough to do.
        (0..3000).for_each(|number| fs::write(place.top("a").join(format!("f{number}")), "").unwrap());
        deepen(&place, 1);
        std::thread::scope(|scope| {
            let squashed = scope.spawn(|| place.state.squash(&name("a")));
            while place.count("staging") == 0 && !squashed.is_finished() {}
            place.state.remove(&name("a")).unwrap();
            place.state.collect().unwrap();
            // It may have been done, or not begun.
            let squashed = squashed.join().unwrap();
            assert!(matches!(squashed, Ok(_) | Err(agentd_sandboxes::StateError::NotFound { .. })), "{squashed:?}");
        });
        place.state.collect().unwrap();
        assert_eq!(place.count("layers"), 0);
        place.assert_clean();
    }
}

#[test]
fn what_is_mounted_stays_while_it_is_held() {
    let place = Place::new();
    place.sandbox("a");
    deepen(&place, 13);
    let hold = place.state.hold(&name("a")).unwrap();
    place.state.squash(&name("a")).unwrap();
    assert_eq!(place.state.collect().unwrap().layers, 0);
    drop(hold);
    assert_eq!(place.state.collect().unwrap().layers, 13);
}
