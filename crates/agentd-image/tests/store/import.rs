//! Tests of imports: accepted formats, and refused sources, which must leave nothing in the store.

use crate::{
    fixtures::{
        self, Entry, Layout, Pack, archive, config, device, dir, docker_save, file, gzip, hard_link, podman_save, symlink, zstd,
    },
    place::StoreDir,
};
use agentd_image::{
    Image, ImageConfig, ImageError, Reference, Store,
    unpack::{Bound, UnpackError},
};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

pub fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Returns three layers. The third is the same as the first.
pub fn layers() -> Vec<Vec<u8>> {
    let first = archive(&[dir("./"), dir("etc/"), file("etc/name", "first")]);
    let second = archive(&[dir("etc/"), file("etc/.wh.name", ""), file("etc/other", "second")]);
    vec![first.clone(), second, first]
}

const PACK: [Pack; 3] = [gzip, zstd, gzip];

/// Returns all images of a store; fails if one is damaged.
pub fn good(store: &Store) -> Vec<Image> {
    store.images().unwrap().into_iter().map(Result::unwrap).collect()
}

/// Checks that a failed import left nothing in the store.
pub fn assert_empty(store: &Path) {
    for folder in ["blobs/sha256", "layers", "staging"] {
        assert_eq!(fs::read_dir(store.join(folder)).unwrap().count(), 0, "{folder}");
    }
    assert!(!store.join("images.json").exists());
}

fn assert_whole(image: &Image) {
    // The first layer is also the third, and keeps only the upper position.
    assert_eq!(image.layers.len(), 2);
    assert_eq!(fs::read(image.layers[0].join("etc/other")).unwrap(), b"second");
    assert_eq!(fs::read(image.layers[1].join("etc/name")).unwrap(), b"first");
    assert_eq!(image.size, 11);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = ImageConfig {
        env: vec![pair("PATH", "/bin"), pair("A", "b=c")],
        entrypoint: vec!["/bin/sh".into()],
        cmd: vec!["-c".into(), "id".into()],
        working_dir: "/srv".into(),
        user: "1000:1000".into(),
    };
    assert_eq!(image.config, expected);
}

#[test]
fn oci_layout_is_imported_from_directory_and_archive() {
    let place = StoreDir::new();
    let descriptor = Layout(&place.at("layout")).with_image_in_new_folder();
    for (name, bytes) in [("plain.tar", None), ("packed.tar.gz", Some(gzip as Pack))] {
        let archive = Layout(&place.at("layout")).archive();
        fs::write(place.at(name), bytes.map_or(archive.clone(), |pack| pack(&archive))).unwrap();
    }
    for source in ["layout", "plain.tar", "packed.tar.gz"] {
        let store = Store::open(&place.at(&format!("store of {source}"))).unwrap();
        let image = store.import(&place.at(source), &reference("example.org/a:1")).unwrap();
        assert_whole(&image);
        assert_eq!(json!(image.digest.to_string()), descriptor["digest"]);
        assert_eq!(store.image(&reference("example.org/a:1")).unwrap(), image);
        assert_eq!(good(&store), [image]);
    }
}

impl Layout<'_> {
    fn with_image_in_new_folder(&self) -> serde_json::Value {
        fs::create_dir(self.0).unwrap();
        self.with_image(&layers(), &PACK, "1")
    }
}

#[test]
fn docker_save_and_podman_save_archives_are_imported() {
    let place = StoreDir::new();
    for (program, save) in [("docker", docker_save as fn(&[Vec<u8>], &str) -> Vec<u8>), ("podman", podman_save)] {
        fs::write(place.at("saved.tar"), save(&layers(), "a:1")).unwrap();
        fs::write(place.at("saved.tar.gz"), gzip(&save(&layers(), "a:1"))).unwrap();
        let store = Store::open(&place.at(&format!("store of {program}"))).unwrap();
        let image = store.import(&place.at("saved.tar"), &reference("a:1")).unwrap();
        assert_whole(&image);
        assert_eq!(store.import(&place.at("saved.tar.gz"), &reference("a:1")).unwrap(), image);
    }
}

#[test]
fn root_archive_in_any_compression_becomes_one_layer() {
    let place = StoreDir::new();
    let root = archive(&[dir("bin/"), file("bin/sh", "#!"), file("manifest.json", "{}")]);
    let store = Store::open(&place.at("store")).unwrap();
    let packs: [Pack; 3] = [<[u8]>::to_vec, gzip, zstd];
    let images = packs.map(|pack| {
        fs::write(place.at("root"), pack(&root)).unwrap();
        store.import(&place.at("root"), &reference("root:1")).unwrap()
    });
    assert_eq!(images[0].layers.len(), 1);
    assert_eq!(fs::read(images[0].layers[0].join("bin/sh")).unwrap(), b"#!");
    assert_eq!((&images[1], &images[2]), (&images[0], &images[0]));
    assert_eq!(images[0].config, ImageConfig { working_dir: "/".into(), ..ImageConfig::default() });
}

#[test]
fn directory_becomes_one_layer_without_files_outside_it() {
    let place = StoreDir::new();
    let root = place.at("root");
    fs::create_dir_all(root.join("d/empty")).unwrap();
    let long = "n".repeat(150);
    fs::write(root.join("d").join(&long), "long").unwrap();
    fs::write(place.at("outside"), "secret").unwrap();
    std::os::unix::fs::symlink("../../outside", root.join("d/link")).unwrap();
    fs::hard_link(root.join("d").join(&long), root.join("again")).unwrap();
    fs::set_permissions(root.join("d/empty"), fs::Permissions::from_mode(0o711)).unwrap();
    rustix::fs::setxattr(root.join("again"), "user.note", b"n\n=", rustix::fs::XattrFlags::empty()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();

    let store = Store::open(&place.at("store")).unwrap();
    let image = store.import(&root, &reference("tree")).unwrap();
    let layer = &image.layers[0];
    let file = fs::metadata(layer.join("again")).unwrap();
    assert_eq!(fs::read(layer.join("again")).unwrap(), b"long");
    assert_eq!(file.ino(), fs::metadata(layer.join("d").join(&long)).unwrap().ino());
    assert_eq!(file.mtime(), fs::metadata(root.join("again")).unwrap().mtime());
    assert_eq!(fs::read_link(layer.join("d/link")).unwrap(), Path::new("../../outside"));
    assert_eq!(fs::metadata(layer.join("d/empty")).unwrap().mode() & 0o7777, 0o711);
    let mut value = [0; 10];
    assert_eq!(rustix::fs::getxattr(layer.join("again"), "user.note", &mut value[..]), Ok(3));
    assert!(!layer.join("socket").exists());
    assert_eq!(store.import(&root, &reference("again")).unwrap().digest, image.digest);
}

#[test]
fn image_of_several_platforms_selects_that_of_this_machine() {
    let place = StoreDir::new();
    fs::create_dir(place.at("layout")).unwrap();
    let layout = Layout(&place.at("layout"));
    let layers = [layers().remove(0)];
    let platform = |descriptor: &serde_json::Value, architecture: &str| {
        let mut descriptor = descriptor.clone();
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture, "variant": "v8"});
        descriptor
    };
    let mut foreign = config(&layers);
    foreign["architecture"] = json!("s390x");
    let foreign = layout.image(&foreign, &layers);
    let ours = layout.image(&config(&layers), &layers);
    let index = |manifests: &[serde_json::Value]| json!({"schemaVersion": 2, "manifests": manifests});
    let inner = index(&[platform(&foreign, "s390x"), platform(&ours, fixtures::architecture())]);
    let inner = layout.blob("application/vnd.oci.image.index.v1+json", inner.to_string().as_bytes());
    layout.index(&index(&[inner]));
    let store = Store::open(&place.at("store")).unwrap();
    let image = store.import(&place.at("layout"), &reference("a")).unwrap();
    assert_eq!(json!(image.digest.to_string()), ours["digest"]);

    // The platform is given in the index, or only in the configuration of the image.
    for only in [platform(&foreign, "s390x"), foreign] {
        layout.index(&index(&[only]));
        let error = store.import(&place.at("layout"), &reference("b")).unwrap_err();
        assert!(matches!(&error, ImageError::Platform { offered, .. } if offered == &["linux/s390x"]), "{error}");
    }
}

#[test]
fn blob_with_wrong_digest_is_refused_and_nothing_is_stored() {
    let place = StoreDir::new();
    let layout = place.at("layout");
    Layout(&layout).with_image_in_new_folder();
    let store = Store::open(&place.at("store")).unwrap();
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let whole = fs::read(&path).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            let error = store.import(&layout, &reference("a:1")).unwrap_err();
            // A damaged compressed stream may fail to decompress before the digest is compared.
            assert!(matches!(error, ImageError::Digest { .. } | ImageError::Layer { .. }), "{error}");
            assert_empty(&place.at("store"));
        }
        fs::write(&path, whole).unwrap();
    }
    store.import(&layout, &reference("a:1")).unwrap();
}

#[test]
fn layer_with_diff_id_other_than_configured_is_refused() {
    let place = StoreDir::new();
    fs::create_dir(place.at("layout")).unwrap();
    let layout = Layout(&place.at("layout"));
    let (configured, actual) = (archive(&[file("a", "1")]), archive(&[file("a", "2")]));
    let descriptor = layout.image(&config(std::slice::from_ref(&configured)), &[gzip(&actual)]);
    layout.index(&json!({"schemaVersion": 2, "manifests": [descriptor]}));
    fs::write(place.at("saved.tar"), {
        let saved = docker_save(&[configured], "a");
        let at = saved.windows(4).position(|window| window == b"1\0\0\0").unwrap();
        [&saved[..at], b"2", &saved[at + 1..]].concat()
    })
    .unwrap();
    let store = Store::open(&place.at("store")).unwrap();
    for source in ["layout", "saved.tar"] {
        let error = store.import(&place.at(source), &reference("a")).unwrap_err();
        assert!(matches!(error, ImageError::Digest { what: "an unpacked layer", .. }), "{source}: {error}");
        assert_empty(&place.at("store"));
    }
}

#[test]
fn hostile_layer_is_refused_and_nothing_is_stored() {
    let place = StoreDir::new();
    fs::write(place.at("root.tar"), archive(&[file("fine", ""), symlink("l", ".."), file("l/f", "")])).unwrap();
    fs::write(place.at("links.tar"), archive(&[file("fine", ""), hard_link("h", "/../../outside")])).unwrap();
    let store = Store::open(&place.at("store")).unwrap();
    for source in ["root.tar", "links.tar"] {
        let error = store.import(&place.at(source), &reference("a")).unwrap_err();
        assert!(matches!(error, ImageError::Layer { .. }), "{error}");
        assert_empty(&place.at("store"));
    }
}

#[test]
fn file_that_is_not_an_image_is_refused() {
    let place = StoreDir::new();
    fs::write(place.at("words"), "words ".repeat(1000)).unwrap();
    fs::write(place.at("packed words"), gzip(b"words")).unwrap();
    fs::write(place.at("nothing"), "").unwrap();
    let store = Store::open(&place.at("store")).unwrap();
    for source in ["words", "packed words", "nothing"] {
        let error = store.import(&place.at(source), &reference("a")).unwrap_err();
        assert!(matches!(error, ImageError::NotAnImage { .. }), "{source}: {error}");
    }
    assert!(matches!(store.import(&place.at("absent"), &reference("a")), Err(ImageError::Io { .. })));
    assert_empty(&place.at("store"));
}

#[test]
fn error_of_unreadable_archive_contains_its_cause() {
    let place = StoreDir::new();
    let mut huge = tar::Header::new_ustar();
    huge.set_path("huge").unwrap();
    huge.set_size(9 << 30);
    huge.set_cksum();
    fs::write(place.at("huge"), [huge.as_bytes(), &[0; 1024][..]].concat()).unwrap();
    fs::write(place.at("sparse"), archive(&[Entry { kind: tar::EntryType::GNUSparse, ..file("f", "") }])).unwrap();
    let store = Store::open(&place.at("store")).unwrap();
    let refused = |source: &str| match store.import(&place.at(source), &reference("a")).unwrap_err() {
        ImageError::Archive { source, .. } => source,
        other => panic!("{other}"),
    };
    assert!(matches!(refused("huge"), UnpackError::TooLarge { bound: Bound::File, .. }));
    assert!(matches!(refused("sparse"), UnpackError::Unsupported { .. }));
    assert_empty(&place.at("store"));
}

#[test]
fn skipped_devices_and_attributes_of_image_are_counted() {
    let place = StoreDir::new();
    let with_capability = |name: &str| file(name, "").attribute("SCHILY.xattr.security.capability", b"1");
    let layers =
        [archive(&[device("a"), device("b"), with_capability("f")]), archive(&[device("c"), with_capability("d"), dir("e")])];
    fs::write(place.at("saved"), docker_save(&layers, "a")).unwrap();
    let store = Store::open(&place.at("store")).unwrap();
    let image = store.import(&place.at("saved"), &reference("a")).unwrap();
    assert_eq!((image.skipped_devices, image.skipped_attributes), (3, 2));
    // The counts include layers that the store already has.
    assert_eq!(store.import(&place.at("saved"), &reference("b")).unwrap().skipped_devices, 3);
}

#[test]
fn import_under_reference_with_digest_is_refused() {
    let place = StoreDir::new();
    let layout = place.at("layout");
    let descriptor = Layout(&layout).with_image_in_new_folder();
    let store = Store::open(&place.at("store")).unwrap();
    // The digest of the image itself is also refused: most sources have no digest before the import, and one rule applies to all
    // of them.
    let own = descriptor["digest"].as_str().unwrap();
    for digest in [own, &format!("sha256:{}", "0".repeat(64)), &format!("sha512:{}", "0".repeat(128))] {
        for name in ["good", "good:1"] {
            let error = store.import(&layout, &reference(&format!("{name}@{digest}"))).unwrap_err();
            assert!(matches!(error, ImageError::NamedByDigest { .. }), "{error}");
            assert!(error.to_string().contains("without a digest"), "{error}");
        }
    }
    assert_empty(&place.at("store"));
}

#[test]
fn digest_with_path_is_refused() {
    let place = StoreDir::new();
    fs::create_dir(place.at("layout")).unwrap();
    let descriptor = json!({"mediaType": "x", "digest": "sha256:../../../../../../outside", "size": 1});
    Layout(&place.at("layout")).index(&json!({"schemaVersion": 2, "manifests": [descriptor]}));
    let store = Store::open(&place.at("store")).unwrap();
    assert!(matches!(store.import(&place.at("layout"), &reference("a")), Err(ImageError::Metadata { .. })));
}
