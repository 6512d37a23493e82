//! Kills under the load of several clients, and the history that the clients then must have seen: at most one execution of each
//! intent, exactly one outcome, and nothing that was acknowledged is lost.

use crate::{
    client::{Answered, Client},
    daemon::{Daemon, Place},
    inventory::Inventory,
};
use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

const CLIENTS: usize = 8;

/// The longest time between two kills, in milliseconds. Some kills therefore meet a daemon that has just started.
const LONGEST: u64 = 400;

/// The inventory of a test contains the processes of the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Kills daemons, and starts another one after each.
pub fn of_daemons(kills: usize) {
    let history = under_load(|place, completed| {
        let mut daemon = place.start();
        for moment in moments(kills) {
            std::thread::sleep(moment);
            drop(daemon);
            daemon = place.start();
        }
        wait_for_another(completed);
        daemon
    });
    let interrupted = history.iter().filter(|answered| answered.status == "interrupted").count();
    assert!(interrupted > 0, "no kill met an execution");
}

/// Kills the launcher of a daemon, which goes on.
pub fn of_launchers(kills: usize) {
    under_load(|place, completed| {
        let daemon = place.start();
        for moment in moments(kills) {
            wait_for_another(completed);
            std::thread::sleep(moment);
            let launcher = daemon.launcher().expect("the launcher of the last execution");
            assert!(std::process::Command::new("kill").args(["-9", &launcher.to_string()]).status().unwrap().success());
        }
        wait_for_another(completed);
        daemon
    });
}

/// Runs `kill` while clients submit intents, and checks what they have seen.
fn under_load(kill: impl FnOnce(&Place, &AtomicUsize) -> Daemon) -> Vec<Answered> {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = Inventory::take();
    let (place, stop, completed) = (Place::new(), AtomicBool::new(false), AtomicUsize::new(0));
    let (socket, workspace) = (place.path("data/serve/agentd.sock"), place.path("work"));
    let client = |number| Client { number, socket: socket.clone(), workspace: workspace.clone(), completed: &completed };
    let (daemon, history) = std::thread::scope(|scope| {
        let submit = |number| {
            let (client, stop) = (client(number), &stop);
            scope.spawn(move || client.submit_until(stop))
        };
        let clients: Vec<_> = (0..CLIENTS).map(submit).collect();
        // The clients end if the closure fails.
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| kill(&place, &completed)));
        stop.store(true, Ordering::SeqCst);
        let daemon = killed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let history: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (daemon, history)
    });
    for answered in &history {
        let again = client(0).outcome(&answered.key);
        assert_eq!((&again["intent"], &again["status"]), (&answered.intent.clone().into(), &answered.status.clone().into()));
        assert_eq!(again["duplicate"], true, "{}", answered.key);
    }
    daemon.stop();
    check(&place, &history);
    let mut after = Inventory::take();
    // Orphans of killed daemons become children of process 1, which may not wait for them.
    after.processes.retain(|process| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    });
    assert!(after.adds_nothing_to(&before), "left behind: {after:?}; before: {before:?}");
    history
}

fn check(place: &Place, history: &[Answered]) {
    let (executions, outcomes) = (place.executions(), place.audited_outcomes());
    for Answered { key, intent, status, completed } in history {
        let count = executions.get(key).copied().unwrap_or(0);
        assert!(count <= 1, "{key} was executed {count} times");
        assert!(count == 1 || !completed, "{key} has completed without an execution");
        match outcomes.get(intent) {
            Some(1) => {}
            // The kill met the intent before it was in the log, and so before its execution (decision 0098).
            None => assert!(status == "interrupted" && count == 0, "{key} ({status}) is not in the audit log"),
            Some(more) => panic!("{key} has {more} outcomes in the audit log"),
        }
    }
    let known = history.iter().map(|answered| &answered.intent).collect::<BTreeSet<_>>();
    assert_eq!(known.len(), history.len(), "two keys have one intent");
    assert!(outcomes.keys().all(|intent| known.contains(intent)), "an intent that no client has submitted");
}

/// Waits until one more intent has completed than now.
fn wait_for_another(completed: &AtomicUsize) {
    let before = completed.load(Ordering::SeqCst);
    while completed.load(Ordering::SeqCst) == before {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns times, which are the same in every run, spread from 0 to [`LONGEST`].
fn moments(count: usize) -> impl Iterator<Item = Duration> {
    // The fractional parts of multiples of the golden ratio are spread evenly.
    (1..=count as u64).map(|number| Duration::from_millis(number * 61_803 / 100 % (LONGEST + 1)))
}
