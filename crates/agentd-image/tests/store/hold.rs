//! Tests of holds, which keep layers until they are dropped or their process ends. The killed process is another run of this
//! test program.

use crate::{
    fixtures::docker_save,
    import::{layers, reference},
    place::{StoreDir, no_users},
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

/// The variable that makes this program the holder; its value is the directory of the store.
const HOLDER: &str = "AGENTD_TEST_HOLDER";
/// The line that the holder prints once it has its hold.
const HELD: &str = "held";

/// Creates a store that contains an image named `a`.
fn imported(place: &StoreDir) -> (Store, Image) {
    let store = Store::open(&place.at("store")).unwrap();
    fs::write(place.at("saved"), docker_save(&layers(), "a")).unwrap();
    let image = store.import(&place.at("saved"), &reference("a")).unwrap();
    (store, image)
}

/// Opens the store again, as another process would, and collects. Returns the number of removed layers.
fn collected(place: &StoreDir) -> usize {
    Store::open(&place.at("store")).unwrap().gc(no_users).unwrap().layers
}

#[test]
fn held_layers_of_removed_image_stay_until_last_hold_ends() {
    let place = StoreDir::new();
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
fn collection_keeps_layers_in_use_and_removes_nothing_on_error() {
    let place = StoreDir::new();
    let (store, image) = imported(&place);
    store.remove(&reference("a")).unwrap();
    let upper = vec![image.layers[1].clone()];
    assert!(store.gc(|| Err(ImageError::Gone { reference: reference("a") })).is_err());
    assert!(image.layers.iter().all(|layer| layer.exists()));
    assert_eq!(store.gc(|| Ok::<_, ImageError>(upper)).unwrap().layers, 1);
    assert!(!image.layers[0].exists() && image.layers[1].exists());
}

#[test]
fn hold_of_collected_image_fails() {
    let place = StoreDir::new();
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
    // Runs until the test kills this process.
    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn hold_of_killed_process_ends() {
    let place = StoreDir::new();
    let (store, image) = imported(&place);
    let mut holder = Command::new(env::current_exe().unwrap())
        .args(["--exact", "hold::holder", "--nocapture"])
        .env(HOLDER, place.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(output.any(|line| line.unwrap().contains(HELD)));
    store.remove(&reference("a")).unwrap();
    assert_eq!(collected(&place), 0);
    assert!(image.layers.iter().all(|layer| layer.join("etc").exists()));

    holder.kill().unwrap();
    assert_eq!(holder.wait().unwrap().signal(), Some(9));
    assert_eq!(collected(&place), 2);
}
