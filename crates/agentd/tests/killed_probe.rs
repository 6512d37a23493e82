//! Files of a killed probe are removed by the next probe.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

fn doctor(temporary: &Path) -> Command {
    let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
    let mut command = Command::new(program);
    command.args(["doctor", "--backend", "linux-native", "--json"]).env("TMPDIR", temporary).stdin(Stdio::null());
    // `doctor` uses no directory for temporary files that lies in the current directory.
    command.current_dir("/usr").stdout(Stdio::null());
    command
}

fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn probe_killed_at_any_moment_is_cleaned_up_by_next_probe() {
    let place = tempfile::tempdir().unwrap();
    let began = Instant::now();
    assert!(doctor(place.path()).status().unwrap().success());
    let whole = began.elapsed();
    let mut left = BTreeSet::new();
    let kills = 12;
    for kill in 1..kills {
        let mut child = doctor(place.path()).spawn().unwrap();
        // The kills are spread over the duration of a complete probe.
        std::thread::sleep(whole * kill / kills + Duration::from_micros(u64::from(child.id() % 997)));
        child.kill().unwrap();
        child.wait().unwrap();
        left.extend(names(place.path()));
    }
    assert!(!left.is_empty(), "no kill interrupted a probe");
    assert!(doctor(place.path()).status().unwrap().success());
    assert_eq!(names(place.path()), BTreeSet::new());
    let shared = names(Path::new("/dev/shm"));
    assert_eq!(left.intersection(&shared).collect::<Vec<_>>(), Vec::<&String>::new());
}
