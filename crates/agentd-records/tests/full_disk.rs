//! The disk is full while leaves are written. No acknowledged leaf may be missing, and none may be acknowledged afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use agentd_records::{AuditEvent, Label, Leaf, LogError, Records, Timestamp, verify};
use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

/// Environment variable that makes this program the appending process, with the folder of the records.
const FOLDER: &str = "AGENTD_TEST_FULL_DISK";

const TEST: &str = "log_on_a_full_disk_keeps_every_acknowledged_leaf";

fn leaf(act: &str) -> Leaf {
    let label = |text: &str| Label::try_from(text).unwrap();
    let event = AuditEvent::Administrative { principal: label("uid:0"), act: label(act), details: BTreeMap::new() };
    Leaf::new(Timestamp::now(), event)
}

fn append_until_refused(folder: &Path) {
    let log = Records::at(folder).open_log().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let append = || runtime.block_on(log.append(&leaf("within the limit")));
    let acknowledged = std::iter::repeat_with(append).take_while(Result::is_ok).count();
    assert!(matches!(append(), Err(LogError::Unwritten(cause)) if cause.contains("File too large")));
    // Its own line, whatever the test runner prints.
    std::io::stdout().write_all(format!("\nacknowledged {acknowledged}\n").as_bytes()).unwrap();
}

/// Has another process append until a file would exceed `limit` KiB. The kernel then writes a part of a leaf, and refuses the
/// rest, as on a full disk (`man 2 setrlimit`, `RLIMIT_FSIZE`). Returns the number of acknowledged leaves.
fn appended_within(limit: u32, folder: &Path) -> u64 {
    let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\"");
    let output = Command::new("bash")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--quiet"])
        .env(FOLDER, folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let count = text.lines().find_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
    count.unwrap_or_else(|| panic!("{output:?}"))
}

#[test]
fn log_on_a_full_disk_keeps_every_acknowledged_leaf() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        append_until_refused(Path::new(&folder));
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("records");
    let (records, mut size) = (Records::at(&folder), 0);
    for limit in [3, 5, 8] {
        let acknowledged = appended_within(limit, &folder);
        assert!(acknowledged > 0);
        size += acknowledged;
        let verified = verify(&records.reader(), &records.ring().unwrap(), None).unwrap();
        assert_eq!(verified.checkpoint.size, size);
        assert_eq!(records.recorder().unwrap().record(&leaf("after the limit")).unwrap(), size);
        size += 1;
    }
    assert_eq!(verify(&records.reader(), &records.ring().unwrap(), None).unwrap().checkpoint.size, size);
}
