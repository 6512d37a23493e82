//! Tests of a store with damaged files: the errors, and that the remedy in each error repairs the store.

use crate::{
    fixtures::{archive, docker_save, file},
    import::{good, layers, reference},
    place::{StoreDir, no_users},
};
use agentd_image::{Digest, Image, ImageError, Store};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Imports an image of these layers.
fn import(place: &StoreDir, store: &Store, layers: &[Vec<u8>], name: &str) -> Image {
    store.import(&saved(place, layers, name), &reference(name)).unwrap()
}

fn saved(place: &StoreDir, layers: &[Vec<u8>], name: &str) -> PathBuf {
    fs::write(place.at("saved"), docker_save(layers, name)).unwrap();
    place.at("saved")
}

/// Returns the path of the description of a layer.
fn about(image: &Image, layer: usize) -> PathBuf {
    image.layers[layer].with_file_name("about.json")
}

fn blob(place: &StoreDir, digest: Digest) -> PathBuf {
    place.at("store/blobs/sha256").join(digest.hex())
}

fn configuration(place: &StoreDir, image: &Image) -> PathBuf {
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(blob(place, image.digest)).unwrap()).unwrap();
    blob(place, manifest["config"]["digest"].as_str().unwrap().parse().unwrap())
}

#[test]
fn damaged_image_is_reported_and_its_remedy_repairs_the_store() {
    type Damage = fn(&StoreDir, &Image);
    let ways: [(Damage, &str); 6] = [
        (|_, image| fs::remove_file(about(image, 0)).unwrap(), "is missing"),
        (|_, image| fs::remove_dir_all(image.layers[1].parent().unwrap()).unwrap(), "is missing"),
        (|_, image| fs::write(about(image, 1), "{").unwrap(), "cannot be parsed"),
        (|place, image| fs::write(blob(place, image.digest), "{}").unwrap(), "has digest"),
        (|place, image| fs::remove_file(configuration(place, image)).unwrap(), "its configuration is missing"),
        (|place, image| fs::write(configuration(place, image), "{}").unwrap(), "its configuration has digest"),
    ];
    for (damage, cause) in ways {
        let place = StoreDir::new();
        let store = Store::open(&place.at("store")).unwrap();
        let first = import(&place, &store, &layers(), "first:1");
        // This image has the same layers as the first.
        import(&place, &store, &layers(), "second:1");
        let undamaged = import(&place, &store, &[archive(&[file("f", "")])], "whole:1");
        damage(&place, &first);

        let (good_ones, damaged): (Vec<_>, Vec<_>) = store.images().unwrap().into_iter().partition(Result::is_ok);
        assert_eq!(good_ones.into_iter().map(Result::unwrap).collect::<Vec<_>>(), std::slice::from_ref(&undamaged));
        let mut names = Vec::new();
        for error in damaged.into_iter().map(Result::unwrap_err) {
            let text = error.to_string();
            assert!(text.contains(cause) && text.contains("`agentd image gc`"), "{text}");
            let ImageError::Damaged { reference, .. } = error else { panic!("{text}") };
            assert!(text.contains(&reference));
            names.push(reference);
        }
        assert_eq!(names, ["first:1", "second:1"].map(|name| reference(name).whole()));
        assert!(matches!(store.image(&reference("first:1")), Err(ImageError::Damaged { .. })));

        names.iter().for_each(|name| store.remove(&reference(name)).unwrap());
        store.gc(no_users).unwrap();
        assert_eq!(import(&place, &store, &layers(), "first:1"), first);
        assert_eq!(good(&store), [first, undamaged]);
    }
}

#[test]
fn import_of_image_with_damaged_stored_layer_fails() {
    let place = StoreDir::new();
    let store = Store::open(&place.at("store")).unwrap();
    let old = import(&place, &store, &layers(), "old");
    store.remove(&reference("old")).unwrap();
    fs::remove_file(about(&old, 0)).unwrap();
    let error = store.import(&saved(&place, &layers(), "new"), &reference("new")).unwrap_err();
    assert!(matches!(&error, ImageError::Damaged { reference: of, .. } if *of == reference("new").whole()), "{error}");
    assert_eq!(good(&store), []);

    store.gc(no_users).unwrap();
    import(&place, &store, &layers(), "new");
}

#[test]
fn image_with_damaged_hidden_layer_is_damaged() {
    let place = StoreDir::new();
    let store = Store::open(&place.at("store")).unwrap();
    let shared = import(&place, &store, &layers()[..1], "shared");
    let hiding = archive(&[file(".wh..wh..opq", "")]);
    let hides = import(&place, &store, &[layers().remove(0), hiding], "hides");
    assert_eq!(hides.layers.len(), 1);
    fs::remove_file(about(&shared, 0)).unwrap();
    // Both images are reported, because each of them keeps the damaged layer in the store.
    assert_eq!(store.images().unwrap().iter().filter(|image| image.is_err()).count(), 2);
}

#[test]
fn damaged_image_list_is_reported_and_its_remedy_repairs_the_store() {
    let place = StoreDir::new();
    let store = Store::open(&place.at("store")).unwrap();
    let image = import(&place, &store, &layers(), "a");
    let list = place.at("store/images.json");
    fs::write(&list, "{").unwrap();
    for error in [
        store.images().unwrap_err(),
        store.gc(no_users).unwrap_err(),
        store.import(&place.at("saved"), &reference("a")).unwrap_err(),
    ] {
        assert!(matches!(&error, ImageError::Index { path, .. } if same(path, &list)), "{error}");
        assert!(error.to_string().contains("remove that file"), "{error}");
    }
    fs::remove_file(list).unwrap();
    assert_eq!(import(&place, &store, &layers(), "a"), image);
}

fn same(one: &Path, other: &Path) -> bool {
    fs::canonicalize(one).unwrap() == fs::canonicalize(other).unwrap()
}
