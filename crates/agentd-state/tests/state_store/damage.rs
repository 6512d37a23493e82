//! Damaged files. Every damage is an error, or changes nothing that the store contains.

use crate::{
    child::{self, OtherProcess},
    place::{Place, finished, interrupted, open, request, runtime},
};
use agentd_records::Timestamp;
use agentd_state::{
    Approval, DecideApproval, IntentId, IntentState, RequestApproval, Retention, StateError, StateReport, StateStore,
};
use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};
use tokio::runtime::Runtime;

/// Damages of each file.
const DAMAGES: u64 = 250;

/// The contents of a store.
type Content = (Vec<IntentState>, Vec<Approval>, StateReport);

/// Fills a store with intents, approvals and quotas. Returns the intents.
fn fill(store: &StateStore, runtime: &Runtime) -> Vec<IntentId> {
    let now = Timestamp::now();
    (0..30)
        .map(|number: u64| {
            let key = number.to_string();
            let principal = if number.is_multiple_of(3) { "alice" } else { "bob" };
            let id = crate::place::new_id(runtime.block_on(store.begin(request(principal, Some(&key), "a"))).unwrap());
            if number.is_multiple_of(5) {
                let ask = RequestApproval { intent: id, text: "text ".repeat(20), expires: now.plus_seconds(600), now };
                runtime.block_on(store.request_approval(ask)).unwrap();
            }
            if number.is_multiple_of(10) {
                let decide = DecideApproval { intent: id, approve: true, by: "uid:0".try_into().unwrap(), now };
                runtime.block_on(store.decide(decide)).unwrap();
            }
            let end = if number.is_multiple_of(7) { interrupted(id) } else { finished(id, &"outcome ".repeat(20)) };
            runtime.block_on(store.end(end)).unwrap();
            id
        })
        .collect()
}

/// Reads all of a store.
fn content(folder: &Path, runtime: &Runtime, ids: &[IntentId]) -> Result<Content, StateError> {
    let store = StateStore::open(folder, Retention::default())?;
    runtime.block_on(async {
        let mut report = store.check().await?;
        if let Some(problem) = report.problems.first() {
            return Err(StateError::Damaged(problem.clone()));
        }
        report.transactions = 0;
        let (mut states, mut approvals) = (Vec::new(), Vec::new());
        for id in ids {
            states.push(store.intent(*id).await?);
            match store.approval(*id, Timestamp::from_micros(0)).await {
                Err(StateError::NoApproval(_)) => {}
                found => approvals.push(found?),
            }
        }
        Ok((states, approvals, report))
    })
}

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    let output = std::process::Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Damages copies of a closed store in many places of one file. Returns how many damages were errors.
fn damage(place: &Place, ids: &[IntentId], file: &str, change: impl Fn(&Path, u64)) -> u64 {
    let (sound, copied) = (place.path("sound"), place.path("copy"));
    copy(&place.folder(), &sound);
    copy(&sound, &copied);
    let expected = content(&copied, &place.runtime, ids).unwrap();
    let mut errors = 0;
    for number in 0..DAMAGES {
        copy(&sound, &copied);
        change(&copied.join(file), number);
        match content(&copied, &place.runtime, ids) {
            Ok(found) => assert_eq!(found, expected, "{file}, damage {number}"),
            Err(error) => {
                assert!(!error.to_string().contains("thread of the store has ended"), "{file}, damage {number}: {error}");
                errors += 1;
            }
        }
    }
    errors
}

/// Spreads `number` over `length`, differently for each number.
fn spread(number: u64, length: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) % length
}

fn flip(path: &Path, number: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let at = spread(number, file.metadata().unwrap().len());
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << (number % 8)], at).unwrap();
}

fn cut(path: &Path, number: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(spread(number, file.metadata().unwrap().len())).unwrap();
}

#[test]
fn damaged_database_is_an_error_or_has_the_same_content() {
    let place = Place::new();
    let store = place.open();
    let ids = fill(&store, &place.runtime);
    drop(store);
    // The other damages hit the space that no row uses: each table and index has a page of its own.
    assert!(damage(&place, &ids, "state.db", flip) > DAMAGES / 8);
    assert_eq!(damage(&place, &ids, "state.db", cut), DAMAGES);
}

#[test]
fn damaged_counter_is_an_error_or_changes_nothing() {
    let place = Place::new();
    let store = place.open();
    let ids = fill(&store, &place.runtime);
    drop(store);
    assert_eq!(damage(&place, &ids, "commits", flip), DAMAGES);
    damage(&place, &ids, "commits", cut);
}

const KILLED: &str = "damage::damaged_journal_of_a_killed_process_is_an_error_or_has_the_same_content";

fn fill_and_wait(folder: &Path) {
    let (store, runtime) = (open(folder), runtime());
    let ids = fill(&store, &runtime);
    ids.iter().for_each(|id| child::send(&id.to_string()));
    child::send("done");
    // The test kills this process.
    loop {
        std::thread::park();
    }
}

#[test]
fn damaged_journal_of_a_killed_process_is_an_error_or_has_the_same_content() {
    if let Some(folder) = child::folder() {
        return fill_and_wait(&folder);
    }
    let place = Place::new();
    let mut child = OtherProcess::start(KILLED, &place.folder());
    let ids: Vec<IntentId> =
        std::iter::from_fn(|| child.recv().filter(|line| line != "done")).map(|line| line.parse().unwrap()).collect();
    child.kill();
    assert_eq!(ids.len(), 30);
    let journal: PathBuf = place.folder().join("state.db-wal");
    assert!(journal.metadata().unwrap().len() > 4096, "the killed process has left its journal");
    assert!(damage(&place, &ids, "state.db-wal", flip) > DAMAGES / 2);
    assert_eq!(damage(&place, &ids, "state.db-wal", cut), DAMAGES);
    // Without the journal at all.
    fs::remove_file(journal).unwrap();
    let error = StateStore::open(&place.folder(), Retention::default()).unwrap_err();
    assert!(matches!(error, StateError::Lost { .. } | StateError::Damaged(_)), "{error}");
}

#[test]
fn deleted_database_is_an_error_until_the_counter_is_deleted_too() {
    let place = Place::new();
    let store = place.open();
    fill(&store, &place.runtime);
    drop(store);
    fs::remove_file(place.folder().join("state.db")).unwrap();
    for _ in 0..2 {
        let error = StateStore::open(&place.folder(), Retention::default()).unwrap_err();
        assert!(matches!(error, StateError::Lost { missing: 1.., .. }), "{error}");
    }
    fs::remove_file(place.folder().join("commits")).unwrap();
    place.assert_sound(&place.open());
}
