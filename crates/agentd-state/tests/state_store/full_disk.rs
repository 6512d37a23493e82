//! The disk is full while intents are recorded. Nothing that was acknowledged may be missing.

use crate::{
    child::{self, OtherProcess},
    place::{Place, finished, new_id, open, request, runtime},
};
use agentd_state::{EndIntent, StateError, StateStore};
use std::{fs, path::Path};
use tokio::runtime::Runtime;

/// Executes intents until one is refused. Returns the error, and the number of intents that have ended.
fn fill(store: &StateStore, runtime: &Runtime) -> (StateError, usize) {
    let mut ended = 0;
    loop {
        let execute = async {
            let id = new_id(store.begin(request("alice", None, "a")).await?);
            store.end(EndIntent { outcome: vec![7; 5000], ..finished(id, "") }).await
        };
        match runtime.block_on(execute) {
            Ok(()) => ended += 1,
            Err(error) => return (error, ended),
        }
    }
}

const LIMITED: &str = "full_disk::store_with_limited_file_size_keeps_every_acknowledged_outcome";

fn execute_within_limit(folder: &Path) {
    let (store, runtime) = (open(folder), runtime());
    let (error, ended) = fill(&store, &runtime);
    assert!(matches!(error, StateError::Unwritten(_)), "{error}");
    // The state on disk is unknown, so nothing is accepted any more.
    let again = runtime.block_on(store.begin(request("alice", None, "a"))).unwrap_err();
    assert!(matches!(again, StateError::Unwritten(_)), "{again}");
    child::send(&ended.to_string());
}

/// The kernel writes a part of a page and refuses the rest (`man 2 setrlimit`, `RLIMIT_FSIZE`).
#[test]
fn store_with_limited_file_size_keeps_every_acknowledged_outcome() {
    if let Some(folder) = child::folder() {
        return execute_within_limit(&folder);
    }
    let place = Place::new();
    drop(place.open());
    let mut expected = 0;
    for limit in [203, 406, 611] {
        let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\"");
        let lines = OtherProcess::start_with(&["bash", "-c", &script], LIMITED, &place.folder()).join();
        let ended: u64 = lines[0].parse().unwrap();
        assert!(ended > 0, "{limit}");
        expected += ended;
        let store = place.open();
        place.assert_sound(&store);
        assert_eq!(place.runtime.block_on(store.check()).unwrap().ended, expected);
        for orphan in place.runtime.block_on(store.recover()).unwrap() {
            place.end(&store, finished(orphan.id, ""));
            expected += 1;
        }
    }
}

mod as_root {
    use super::*;

    const FULL: &str = "full_disk::as_root::store_on_a_full_disk_continues_when_there_is_space";

    fn fill_disk(place: &Path) {
        let ballast = place.join("ballast");
        fs::write(&ballast, vec![0; 100 << 10]).unwrap();
        let (store, runtime) = (open(&place.join("state")), runtime());
        let (error, before) = fill(&store, &runtime);
        assert!(matches!(error, StateError::Full), "{error}");
        fs::remove_file(ballast).unwrap();
        let id = new_id(runtime.block_on(store.begin(request("bob", None, "a"))).unwrap());
        runtime.block_on(store.end(finished(id, ""))).unwrap();
        let report = runtime.block_on(store.check()).unwrap();
        assert_eq!(report.problems, [""; 0]);
        assert_eq!(report.ended, u64::try_from(before).unwrap() + 1);
        child::send("done");
    }

    #[test]
    fn store_on_a_full_disk_continues_when_there_is_space() {
        if let Some(folder) = child::folder() {
            return fill_disk(&folder);
        }
        let place = tempfile::tempdir().unwrap();
        let script = "mount -t tmpfs -o size=700k none \"$AGENTD_TEST_STATE\" && exec \"$0\" \"$@\"";
        let program = ["unshare", "--mount", "bash", "-c", script];
        assert_eq!(OtherProcess::start_with(&program, FULL, place.path()).join(), ["done"]);
    }
}
