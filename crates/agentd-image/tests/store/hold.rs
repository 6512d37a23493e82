//! A hold keeps layers as long as it lives, or its process does. The process that is killed is this program again.

use crate::{
    import::{layers, reference},
    made::docker_save,
    place::{Place, nobody},
};
use agentd_image::{Image, ImageError, Store};
use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// Tells this program to be the holder, and where.
const HOLDER: &str = "AGENTD_TEST_HOLDER";
/// What the holder says when it holds.
const HELD: &str = "held";

/// A store with an image in it, called `a`.
fn imported(place: &Place) -> (Store, Image) {
    let store = Store::open(&place.at("store")).unwrap();
    fs::write(place.at("saved"), docker_save(&layers(), "a")).unwrap();
    let image = store.import(&place.at("saved"), &reference("a")).unwrap();
    (store, image)
}

/// Collects as another process would, after opening the store anew; how many layers went.
fn collected(place: &Place) -> usize {
    Store::open(&place.at("store")).unwrap().gc(nobody).unwrap().layers
}

#[test]
fn held_layers_stay_though_their_image_is_removed_until_the_hold_ends() {
    let place = Place::new();
    let (store, image) = imported(&place);
    let (hold, another) = (store.hold(&image).unwrap(), store.hold(&image).unwrap());
    assert_eq!(collected(&place), 0);
    store.remove(&reference("a")).unwrap();
    for hold in [hold, another] {
        assert_eq!(collected(&place), 0);
        assert!(image.layers.iter().all(|layer| layer.join("etc").exists()));
        drop(hold);
    }
    assert_eq!(collected(&place), 2);
    assert_eq!(fs::read_dir(place.at("store/staging")).unwrap().count(), 0);
}

#[test]
fn layers_that_others_use_stay_and_an_error_of_theirs_removes_nothing() {
    let place = Place::new();
    let (store, image) = imported(&place);
    store.remove(&reference("a")).unwrap();
    let upper = vec![image.layers[1].clone()];
    assert!(store.gc(|| Err(ImageError::Gone { reference: reference("a") })).is_err());
    assert!(image.layers.iter().all(|layer| layer.exists()));
    assert_eq!(store.gc(|| Ok::<_, ImageError>(upper)).unwrap().layers, 1);
    assert!(!image.layers[0].exists() && image.layers[1].exists());
}

#[test]
fn what_was_collected_cannot_be_held() {
    let place = Place::new();
    let (store, image) = imported(&place);
    store.remove(&reference("a")).unwrap();
    assert_eq!(collected(&place), 2);
    assert!(matches!(store.hold(&image), Err(ImageError::Gone { .. })));
    assert_eq!(fs::read_dir(place.at("store/staging")).unwrap().count(), 0);
}

#[test]
fn holder() {
    let Some(place) = env::var_os(HOLDER).map(PathBuf::from) else { return };
    let store = Store::open(&place.join("store")).unwrap();
    let _hold = store.hold(&store.image(&reference("a")).unwrap()).unwrap();
    writeln!(io::stdout(), "{HELD}").unwrap();
    // Until it is killed.
    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn a_hold_ends_with_its_process_however_that_ends() {
    let place = Place::new();
    let (store, image) = imported(&place);
    let mut holder = Command::new(env::current_exe().unwrap())
        .args(["--exact", "hold::holder", "--nocapture"])
        .env(HOLDER, place.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains(HELD)));
    store.remove(&reference("a")).unwrap();
    assert_eq!(collected(&place), 0);
    assert!(image.layers.iter().all(|layer| layer.join("etc").exists()));

    holder.kill().unwrap();
    assert_eq!(holder.wait().unwrap().signal(), Some(9));
    assert_eq!(collected(&place), 2);
}
