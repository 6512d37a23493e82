//! The verification of a log needs the same memory, whatever the number of leaves is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs, reason = "tests")]

use agentd_records::{AuditEvent, Label, Leaf, Records, Timestamp, verify};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// Environment variable that makes this program the verifying process, with the folder of the records.
const FOLDER: &str = "AGENTD_TEST_FLAT_MEMORY";

const TEST: &str = "verification_of_a_hundred_times_as_many_leaves_needs_no_more_memory";

/// The leaves of the short log and of the long one, and the most of one commit.
const SHORT: u64 = 1_000;
const LONG: u64 = 100_000;
const COMMIT: u64 = 10_000;

/// How much more memory the long log may need, in KiB. One hash for each leaf would need 3,100 KiB.
const MARGIN: u64 = 1_024;

fn leaf(act: &str) -> Leaf {
    let label = |text: &str| Label::try_from(text).unwrap();
    let event = AuditEvent::Administrative { principal: label("uid:0"), act: label(act), details: BTreeMap::new() };
    Leaf::new(Timestamp::now(), event)
}

/// Verifies the log, and prints the peak of this process's resident memory in KiB (`proc_pid_status(5)`, `VmHWM`).
fn verify_here(folder: &Path, leaves: u64) {
    let records = Records::at(folder);
    assert_eq!(verify(&records.reader(), &records.ring().unwrap(), None).unwrap().checkpoint.size, leaves);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("\npeak {}", peak.trim().trim_end_matches(" kB"));
}

/// Returns the peak memory of a process that verifies a log of this length.
fn peak(leaves: u64) -> u64 {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("records");
    let records = Records::at(&folder);
    let commit = COMMIT.min(leaves);
    for first in (0..leaves).step_by(usize::try_from(commit).unwrap()) {
        let more: Vec<_> = (first..first + commit).map(|number| leaf(&format!("act {number}"))).collect();
        records.recorder().unwrap().record_all(&more).unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--quiet"])
        .env(FOLDER, format!("{leaves}:{}", folder.display()))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    text.lines().find_map(|line| line.strip_prefix("peak ")).unwrap().parse().unwrap()
}

#[test]
fn verification_of_a_hundred_times_as_many_leaves_needs_no_more_memory() {
    if let Ok(named) = std::env::var(FOLDER) {
        let (leaves, folder) = named.split_once(':').unwrap();
        return verify_here(Path::new(folder), leaves.parse().unwrap());
    }
    let (short, long) = (peak(SHORT), peak(LONG));
    assert!(long < short + MARGIN, "{SHORT} leaves need {short} KiB, and {LONG} leaves {long} KiB");
}
