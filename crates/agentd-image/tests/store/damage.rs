//! A store whose files a disk, or somebody, has changed: what is said of it, and that what is said helps.

use crate::{
    import::{good, layers, reference},
    made::{archive, docker_save, file},
    place::{Place, nobody},
};
use agentd_image::{Digest, Image, ImageError, Store};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Takes an image of these layers in.
fn import(place: &Place, store: &Store, layers: &[Vec<u8>], name: &str) -> Image {
    store.import(&saved(place, layers, name), &reference(name)).unwrap()
}

fn saved(place: &Place, layers: &[Vec<u8>], name: &str) -> PathBuf {
    fs::write(place.at("saved"), docker_save(layers, name)).unwrap();
    place.at("saved")
}

/// What is known of the layer with this tree.
fn about(image: &Image, layer: usize) -> PathBuf {
    image.layers[layer].with_file_name("about.json")
}

fn blob(place: &Place, digest: Digest) -> PathBuf {
    place.at("store/blobs/sha256").join(digest.hex())
}

fn configuration(place: &Place, image: &Image) -> PathBuf {
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(blob(place, image.digest)).unwrap()).unwrap();
    blob(place, manifest["config"]["digest"].as_str().unwrap().parse().unwrap())
}

#[test]
fn damaged_images_are_told_from_good_ones_and_what_their_error_says_mends_them() {
    type Hurt = fn(&Place, &Image);
    let ways: [(Hurt, &str); 6] = [
        (|_, image| fs::remove_file(about(image, 0)).unwrap(), "is not there"),
        (|_, image| fs::remove_dir_all(image.layers[1].parent().unwrap()).unwrap(), "is not there"),
        (|_, image| fs::write(about(image, 1), "{").unwrap(), "cannot be read"),
        (|place, image| fs::write(blob(place, image.digest), "{}").unwrap(), "has digest"),
        (|place, image| fs::remove_file(configuration(place, image)).unwrap(), "its configuration is not there"),
        (|place, image| fs::write(configuration(place, image), "{}").unwrap(), "its configuration has digest"),
    ];
    for (hurt, what) in ways {
        let place = Place::new();
        let store = Store::open(&place.at("store")).unwrap();
        let first = import(&place, &store, &layers(), "first:1");
        // Of the same layers.
        import(&place, &store, &layers(), "second:1");
        let whole = import(&place, &store, &[archive(&[file("f", "")])], "whole:1");
        hurt(&place, &first);

        let (good_ones, damaged): (Vec<_>, Vec<_>) = store.images().unwrap().into_iter().partition(Result::is_ok);
        assert_eq!(good_ones.into_iter().map(Result::unwrap).collect::<Vec<_>>(), std::slice::from_ref(&whole));
        let mut names = Vec::new();
        for error in damaged.into_iter().map(Result::unwrap_err) {
            let text = error.to_string();
            assert!(text.contains(what) && text.contains("`agentd image gc`"), "{text}");
            let ImageError::Damaged { reference, .. } = error else { panic!("{text}") };
            assert!(text.contains(&reference));
            names.push(reference);
        }
        assert_eq!(names, ["first:1", "second:1"].map(|name| reference(name).whole()));
        assert!(matches!(store.image(&reference("first:1")), Err(ImageError::Damaged { .. })));

        names.iter().for_each(|name| store.remove(&reference(name)).unwrap());
        store.gc(nobody).unwrap();
        assert_eq!(import(&place, &store, &layers(), "first:1"), first);
        assert_eq!(good(&store), [first, whole]);
    }
}

#[test]
fn an_image_whose_layer_in_the_store_is_damaged_is_not_taken_in() {
    let place = Place::new();
    let store = Store::open(&place.at("store")).unwrap();
    let old = import(&place, &store, &layers(), "old");
    store.remove(&reference("old")).unwrap();
    fs::remove_file(about(&old, 0)).unwrap();
    let error = store.import(&saved(&place, &layers(), "new"), &reference("new")).unwrap_err();
    assert!(matches!(&error, ImageError::Damaged { reference: of, .. } if *of == reference("new").whole()), "{error}");
    assert_eq!(good(&store), []);

    store.gc(nobody).unwrap();
    import(&place, &store, &layers(), "new");
}

#[test]
fn an_image_is_damaged_too_by_what_it_hides() {
    let place = Place::new();
    let store = Store::open(&place.at("store")).unwrap();
    let shared = import(&place, &store, &layers()[..1], "shared");
    let hiding = archive(&[file(".wh..wh..opq", "")]);
    let hides = import(&place, &store, &[layers().remove(0), hiding], "hides");
    assert_eq!(hides.layers.len(), 1);
    fs::remove_file(about(&shared, 0)).unwrap();
    // While it kept the layer, nobody could say which image to remove.
    assert_eq!(store.images().unwrap().iter().filter(|image| image.is_err()).count(), 2);
}

#[test]
fn a_damaged_list_of_images_is_replaced_as_its_error_says() {
    let place = Place::new();
    let store = Store::open(&place.at("store")).unwrap();
    let image = import(&place, &store, &layers(), "a");
    let list = place.at("store/images.json");
    fs::write(&list, "{").unwrap();
    for error in [
        store.images().unwrap_err(),
        store.gc(nobody).unwrap_err(),
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
