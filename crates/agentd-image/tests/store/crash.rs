//! Kills an importer at many moments; the store must then open without leftovers. The importer is another run of this test
//! program.

use crate::{
    fixtures::{Layout, archive, dir, file, gzip, zstd},
    import::{good, layers, reference},
    place::{StoreDir, no_users},
};
use agentd_image::Store;
use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The variable that makes this program the importer; its value is the directory of the store and of the layout.
const IMPORTER: &str = "AGENTD_TEST_IMPORTER";
/// The line that the importer prints before its first import.
const BEGUN: &str = "importing";
const MIN_KILLS: u32 = 50;
const FILES: usize = 400;

#[test]
fn importer() {
    let Some(place) = env::var_os(IMPORTER).map(PathBuf::from) else { return };
    let store = Store::open(&place.join("store")).unwrap();
    // Parsed before the loop: the first reference of a process takes longer to parse than a small image to import.
    let reference = reference("a:1");
    writeln!(io::stdout(), "{BEGUN}").unwrap();
    // Runs until the test kills this process.
    loop {
        store.import(&place.join("layout"), &reference).unwrap();
        store.remove(&reference).unwrap();
        store.gc(no_users).unwrap();
    }
}

/// Starts an importer and waits for its first line.
fn start(place: &Path) -> Child {
    let mut importer = Command::new(env::current_exe().unwrap())
        .args(["--exact", "crash::importer", "--nocapture"])
        .env(IMPORTER, place)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(importer.stdout.take().unwrap()).lines();
    assert!(output.any(|line| line.unwrap().contains(BEGUN)));
    importer
}

#[test]
fn store_is_consistent_after_importer_is_killed() {
    let place = StoreDir::new();
    fs::create_dir(place.at("layout")).unwrap();
    let many: Vec<_> = (0..FILES).map(|at| file(&format!("d/f{at}"), [1; 2000])).collect();
    let many = [&[dir("d").mode(0o500)], &many[..]].concat();
    Layout(&place.at("layout")).with_image(&[archive(&many), layers().remove(1)], &[gzip, zstd], "1");

    assert_clean(&place);
    Store::open(&place.at("store")).unwrap().remove(&reference("a:1")).unwrap();
    let began = Instant::now();
    assert_clean(&place);
    let whole = began.elapsed();
    let mut left_behind = 0;
    for moment in 0.. {
        let mut importer = start(place.path());
        // This spreads the kills over the duration of an import; the test waits for no event.
        thread::sleep(whole * (moment % MIN_KILLS) / MIN_KILLS + Duration::from_micros(u64::from(moment * 7919 % 1000)));
        importer.kill().unwrap();
        assert_eq!(importer.wait().unwrap().signal(), Some(9));
        left_behind += u32::from(fs::read_dir(place.at("store/staging")).unwrap().count() > 0);
        assert_clean(&place);
        // At least one kill must have interrupted an import.
        if moment + 1 >= MIN_KILLS && left_behind > 0 {
            break;
        }
        assert!(moment < 20 * MIN_KILLS, "no import was interrupted");
    }
}

fn assert_clean(place: &StoreDir) {
    let store = Store::open(&place.at("store")).unwrap();
    assert_eq!(fs::read_dir(place.at("store/staging")).unwrap().count(), 0);
    // Every stored layer is complete, whether an image uses the layer or not.
    for layer in fs::read_dir(place.at("store/layers")).unwrap() {
        let tree = layer.unwrap().path().join("tree");
        let files = fs::read_dir(tree.join("d")).map_or(FILES, Iterator::count);
        assert!(files == FILES && (tree.join("d").exists() || tree.join("etc/other").exists()), "{tree:?}: {files}");
    }
    let known = good(&store);
    store.gc(no_users).unwrap();
    assert_eq!(good(&store), known);
    let image = store.import(&place.at("layout"), &reference("a:1")).unwrap();
    assert_eq!(image.layers.len(), 2);
}
