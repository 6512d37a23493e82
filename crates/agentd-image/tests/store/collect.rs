//! Tests of collection, and of concurrent use of a store.

use crate::{
    fixtures::{Layout, archive, docker_save, file, gzip, zstd},
    import::{assert_empty, good, layers, reference},
    place::{StoreDir, no_users},
};
use agentd_image::{Collected, ImageError, Store};
use std::{fs, os::unix::fs::PermissionsExt, sync::Barrier, thread};

#[test]
fn collection_removes_only_unused_layers() {
    let place = StoreDir::new();
    let store = Store::open(&place.at("store")).unwrap();
    // The second image shares a layer with the first.
    fs::write(place.at("first"), docker_save(&layers()[..2], "first")).unwrap();
    fs::write(place.at("second"), docker_save(&layers()[..1], "second")).unwrap();
    let first = store.import(&place.at("first"), &reference("first")).unwrap();
    let second = store.import(&place.at("second"), &reference("second")).unwrap();
    assert_eq!(store.gc(no_users).unwrap(), Collected::default());

    store.remove(&reference("first")).unwrap();
    assert!(matches!(store.remove(&reference("first")), Err(ImageError::NotFound { .. })));
    assert!(matches!(store.image(&reference("first")), Err(ImageError::NotFound { .. })));
    assert!(first.layers[1].exists());
    assert_eq!(store.gc(no_users).unwrap(), Collected { layers: 1, blobs: 2, bytes: 6 });
    assert!(!first.layers[1].exists());
    assert_eq!(good(&store), [second]);

    store.remove(&reference("second")).unwrap();
    store.gc(no_users).unwrap();
    fs::remove_file(place.at("store/images.json")).unwrap();
    assert_empty(&place.at("store"));
}

#[test]
fn concurrent_imports_and_collections_keep_the_image() {
    let place = StoreDir::new();
    fs::create_dir(place.at("layout")).unwrap();
    let many: Vec<_> = (0..300).map(|at| file(&format!("f{at}"), [1; 300])).collect();
    Layout(&place.at("layout")).with_image(&[archive(&many), layers().remove(1)], &[gzip, zstd], "1");
    let start = Barrier::new(6);
    let images: Vec<_> = thread::scope(|scope| {
        let importers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let store = Store::open(&place.at("store")).unwrap();
                    start.wait();
                    store.import(&place.at("layout"), &reference("a:1")).unwrap()
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..20 {
                    Store::open(&place.at("store")).unwrap().gc(no_users).unwrap();
                }
            });
        }
        importers.into_iter().map(|importer| importer.join().unwrap()).collect()
    });
    assert!(images.iter().all(|image| *image == images[0]));
    assert_eq!(fs::read_dir(&images[0].layers[0]).unwrap().count(), 300);
    assert_eq!(fs::read_dir(place.at("store/staging")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.at("store/layers")).unwrap().count(), 2);
}

#[test]
fn store_directory_open_to_other_users_is_refused() {
    let place = StoreDir::new();
    fs::create_dir(place.at("store")).unwrap();
    fs::set_permissions(place.at("store"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(Store::open(&place.at("store")), Err(ImageError::Place { .. })));
    std::os::unix::fs::symlink("store", place.at("link")).unwrap();
    assert!(matches!(Store::open(&place.at("link")), Err(ImageError::Place { .. })));
    Store::open(&place.at("new")).unwrap();
    assert_eq!(fs::metadata(place.at("new")).unwrap().permissions().mode() & 0o777, 0o700);
}
