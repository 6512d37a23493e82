//! A process that appends to the log is killed at many moments. No acknowledged leaf may be missing.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use agentd_records::{AuditEvent, Label, Leaf, LogReader, Records, Timestamp, verify};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

/// Environment variable that makes this program the appending process, with the folder of the records.
const FOLDER: &str = "AGENTD_TEST_RECORDS";

/// The number of times that the appending process is killed.
const KILLS: usize = 60;

fn leaf(text: &str) -> Leaf {
    let label = |text: &str| Label::try_from(text).unwrap();
    let event = AuditEvent::Administrative { principal: label("uid:0"), act: label(text), details: BTreeMap::new() };
    Leaf::new(Timestamp::now(), event)
}

/// Appends without end, from several tasks. Prints the index and the text of each acknowledged leaf.
fn append(folder: &Path) {
    let records = Records::at(folder);
    let log = Arc::new(records.open_log().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let tasks = (0..8).map(|task| {
        let log = log.clone();
        async move {
            for number in 0.. {
                let text = format!("{}-{task}-{number}", std::process::id());
                let index = log.append(&leaf(&text)).await.unwrap();
                // One write: a line is complete or missing.
                std::io::stdout().write_all(format!("\n{index} {text}\n").as_bytes()).unwrap();
            }
        }
    });
    let local = tokio::task::LocalSet::new();
    tasks.for_each(|task| drop(local.spawn_local(task)));
    runtime.block_on(local);
}

/// Starts the appending process, kills it after at least `lines` acknowledged leaves, and returns all acknowledged leaves.
fn killed_after(folder: &Path, lines: usize) -> Vec<(u64, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "acknowledged_leaf_survives_every_kill", "--nocapture", "--quiet"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let parse = |line: String| {
        let (index, text) = line.split_once(' ')?;
        Some((index.parse().ok()?, text.to_owned()))
    };
    let mut acknowledged: Vec<_> = output.by_ref().filter_map(parse).take(lines).collect();
    assert_eq!(acknowledged.len(), lines, "the process appends until it is killed");
    child.kill().unwrap();
    acknowledged.extend(output.filter_map(parse));
    child.wait().unwrap();
    acknowledged
}

#[test]
fn acknowledged_leaf_survives_every_kill() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        append(Path::new(&folder));
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("records");
    let (records, reader) = (Records::at(&folder), LogReader::new(&folder.join("audit")));
    let (mut acknowledged, mut kept) = (BTreeMap::new(), None::<String>);
    for kill in 0..KILLS {
        acknowledged.extend(killed_after(&folder, 1 + kill * 7 % 50));
        // The state that the kill left is valid, and continues the one before.
        let verified = verify(&reader, &records.ring().unwrap(), kept.as_ref().map(String::as_bytes)).unwrap();
        kept = Some(reader.note().unwrap().to_string());
        let size = verified.checkpoint.size;
        let leaves: Vec<_> = (0..size.div_ceil(256)).flat_map(|index| reader.bundle(size, index).unwrap()).collect();
        for (index, text) in &acknowledged {
            let leaf = leaves.get(usize::try_from(*index).unwrap());
            let found = leaf.map(|leaf| String::from_utf8_lossy(leaf).contains(&format!("\"act\":\"{text}\"")));
            assert_eq!(found, Some(true), "leaf {index} of {size} is {text}");
        }
    }
    assert!(acknowledged.len() > 256, "more than one file was written");
}
