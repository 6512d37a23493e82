//! Tests of the comparison of protected paths of named sandboxes.

use super::*;
use agentd_core::Access;
use agentd_isolation::protect::{self, How};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, renameat};
use std::{fs, os::fd::OwnedFd, path::Path, time::Duration};
use tempfile::TempDir;

/// A grant, and the folder for the logs of its sandbox.
struct Place {
    root: TempDir,
    logs: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), logs: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Returns the protected paths as a new daemon begins to track them.
    async fn shared(&self) -> SharedWatch {
        let protect = protect::names(self.root.path()).unwrap();
        let grant = Grant { protect, ..Grant::new(self.root.path(), Access::ReadWrite) };
        Watches::default().get(&name(), vec![grant], self.logs.path().to_path_buf(), &Interrupt::default()).await.unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(log::path(self.logs.path())).unwrap_or_default()
    }
}

fn name() -> Name {
    "dev".parse().unwrap()
}

/// Returns the changes that a client receives.
async fn delivered(watched: &SharedWatch) -> Report {
    let mut delivered = Report::default();
    let receive = |report| {
        delivered = report;
        Ok::<_, ()>(())
    };
    watched.deliver(receive).await.unwrap();
    delivered
}

#[tokio::test]
async fn undelivered_report_is_delivered_again() {
    let place = Place::new();
    let watched = place.shared().await;
    fs::write(place.path("AGENTS.md"), "evil").unwrap();
    watched.compare_after(&Interrupt::default()).await;
    let mut sent = Vec::new();
    for delivered in [false, true, true] {
        let send = |report: Report| {
            sent.push(report.changes.len());
            delivered.then_some(()).ok_or(())
        };
        assert_eq!(watched.deliver(send).await.is_ok(), delivered);
    }
    assert_eq!(sent, [1, 1, 0]);
}

#[tokio::test]
async fn sandbox_stays_outdated_after_a_reported_change_until_the_next_start() {
    let place = Place::new();
    let watched = place.shared().await;
    assert!(!watched.is_outdated());
    fs::write(place.path("AGENTS.md"), "evil").unwrap();
    watched.compare_after(&Interrupt::default()).await;
    delivered(&watched).await;
    watched.compare_before(&Interrupt::default()).await;
    assert!(watched.is_outdated());
    watched.starts(true).await;
    assert!(!watched.is_outdated());
    assert!(delivered(&watched).await.restarted);
}

#[tokio::test]
async fn path_that_must_be_protected_is_found_among_thousands_of_other_changes() {
    let place = Place::new();
    let watched = place.shared().await;
    for number in 0..2000 {
        fs::create_dir_all(place.path(&format!("d/{number}/objects"))).unwrap();
        fs::create_dir(place.path(&format!("d/{number}/refs"))).unwrap();
        fs::write(place.path(&format!("d/{number}/HEAD")), "").unwrap();
    }
    fs::write(place.path("zz.code-workspace"), "evil").unwrap();
    watched.compare_after(&Interrupt::default()).await;
    assert!(watched.is_outdated());
    let report = delivered(&watched).await;
    assert!(report.changes.iter().any(|change| change.path == place.path("zz.code-workspace")));
}

/// Creates directories in `parent` whose paths are too long for the kernel, and returns the innermost one.
fn too_deep(parent: &Path) -> OwnedFd {
    let open = |at: &OwnedFd, name: &str| openat(at, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut at = openat(CWD, parent, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for _ in 0..20 {
        let name = "n".repeat(250);
        mkdirat(&at, &name, Mode::from(0o755)).unwrap();
        at = open(&at, &name);
    }
    at
}

#[tokio::test]
async fn path_hidden_from_the_comparison_before_a_command_is_reported_after_it() {
    let place = Place::new();
    let watched = place.shared().await;
    // A background process hides a file where no comparison looks.
    let deep = too_deep(place.root.path());
    fs::create_dir(place.path("new")).unwrap();
    fs::write(place.path("new/.envrc"), "evil").unwrap();
    renameat(CWD, place.path("new"), &deep, "hidden").unwrap();
    // Lets more than one clock tick pass, so that the time stamps do not show that the file is new.
    std::thread::sleep(Duration::from_millis(30));
    watched.compare_before(&Interrupt::default()).await;
    // The next command reports nothing yet.
    assert!(delivered(&watched).await.is_empty());
    renameat(&deep, "hidden", CWD, place.path("found")).unwrap();
    fs::remove_dir_all(place.path(&"n".repeat(250))).unwrap();
    watched.compare_after(&Interrupt::default()).await;
    let report = delivered(&watched).await;
    let changes: Vec<(PathBuf, How)> = report.changes.iter().map(|change| (change.path.clone(), change.how)).collect();
    assert_eq!(changes, [(place.path("found/.envrc"), How::NotCompared)]);
    assert!(!report.gaps.is_empty());
    // Each change and gap is reported once.
    watched.compare_after(&Interrupt::default()).await;
    assert!(delivered(&watched).await.is_empty());
}

#[tokio::test(flavor = "current_thread")]
async fn clients_of_a_sandbox_are_answered_during_a_comparison() {
    let place = Place::new();
    let watched = place.shared().await;
    // A comparison that takes a long time: its thread has the lock.
    let comparison = watched.0.watch.clone().lock_owned().await;
    let (began, has_begun) = tokio::sync::oneshot::channel();
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let comparison = tokio::task::spawn_blocking(move || {
        began.send(()).unwrap();
        ends.recv().unwrap();
        drop(comparison);
    });
    has_begun.await.unwrap();
    let waiting = [tokio::spawn(next(watched.clone())), tokio::spawn(next(watched.clone()))];
    while Arc::strong_count(&watched.0.watch) < 4 {
        tokio::task::yield_now().await;
    }
    // The only thread of this runtime continues. If one of these calls waited for the comparison, this test would not end.
    assert!(!watched.is_outdated());
    watched.starts(true).await;
    assert!(delivered(&watched).await.restarted);
    watched.keep().await;
    assert!(waiting.iter().all(|task| !task.is_finished()));
    end.send(()).unwrap();
    comparison.await.unwrap();
    for task in waiting {
        task.await.unwrap();
    }
}

async fn next(watched: SharedWatch) {
    watched.compare_before(&Interrupt::default()).await;
}

#[tokio::test]
async fn change_after_the_last_command_is_logged_and_kept_for_a_client_of_the_next_daemon() {
    let place = Place::new();
    let watched = place.shared().await;
    watched.starts(false).await;
    watched.compare_after(&Interrupt::default()).await;
    fs::write(place.path(".envrc"), "evil").unwrap();
    watched.note_ended(name(), true, Interrupt::default()).await;
    assert!(place.log().contains("[agentd: warning: protected path created: ") && place.log().contains(".envrc"));
    // The next daemon finds the current file, and knows that no client has received the change.
    let next = place.shared().await;
    assert_eq!(delivered(&next).await, delivered(&watched).await);
    assert!(delivered(&next).await.is_empty() && delivered(&place.shared().await).await.is_empty());
    // Without a start, nothing is compared.
    fs::write(place.path(".envrc"), "changed by the user").unwrap();
    assert!(watched.compare_ended(true, Interrupt::default()).await.is_empty());
    // If processes may remain, the report states this.
    watched.starts(false).await;
    assert!(!watched.compare_ended(false, Interrupt::default()).await.gaps.is_empty());
}

#[tokio::test]
async fn report_that_a_client_did_not_receive_is_kept_for_the_next_daemon() {
    let place = Place::new();
    let watched = place.shared().await;
    fs::write(place.path(".envrc"), "evil").unwrap();
    watched.compare_after(&Interrupt::default()).await;
    watched.deliver(|_| Err::<(), _>(())).await.unwrap_err();
    let report = delivered(&place.shared().await).await;
    assert_eq!(report.changes.len(), 1);
    // The first daemon still has the report, and its file is written again.
    assert_eq!(watched.take(), report);
}

/// Returns the causes of the gaps of a report.
fn causes(report: &Report) -> Vec<Cause> {
    report.gaps.iter().map(|gap| gap.cause).collect()
}

#[tokio::test]
async fn interrupted_comparison_is_reported_and_next_one_finds_change() {
    let place = Place::new();
    let watched = place.shared().await;
    fs::write(place.path(".envrc"), "evil").unwrap();
    let asked = Interrupt::default();
    asked.ask();
    assert_eq!(causes(&watched.compare_after(&asked).await), [Cause::Interrupted]);
    let report = delivered(&watched).await;
    assert_eq!((causes(&report), report.changes.len()), (vec![Cause::Interrupted], 0));
    watched.compare_before(&Interrupt::default()).await;
    let report = delivered(&watched).await;
    assert_eq!((causes(&report), report.changes.len()), (vec![], 1));
    // What a comparison before a command left out is reported after the command.
    watched.compare_before(&asked).await;
    assert!(delivered(&watched).await.is_empty());
    watched.compare_after(&Interrupt::default()).await;
    assert_eq!(causes(&delivered(&watched).await), [Cause::Interrupted]);
}

#[tokio::test]
async fn interrupt_ends_the_wait_for_another_comparison() {
    let place = Place::new();
    let watched = place.shared().await;
    let comparison = watched.0.watch.clone().lock_owned().await;
    let report = watched.compare_after(&Interrupt::within(Some(Duration::ZERO))).await;
    let gaps: Vec<_> = report.gaps.iter().map(|gap| (gap.path.clone(), gap.cause)).collect();
    assert_eq!(gaps, [(place.root.path().to_path_buf(), Cause::Interrupted)]);
    drop(comparison);
}

#[tokio::test]
async fn client_that_left_during_the_first_comparison_leaves_no_incomplete_one() {
    let place = Place::new();
    let asked = Interrupt::default();
    asked.ask();
    let watches = Watches::default();
    let folder = place.logs.path().to_path_buf();
    assert!(watches.get(&name(), Vec::new(), folder.clone(), &asked).await.is_err() && watches.find(&name()).is_none());
    assert!(watches.get(&name(), Vec::new(), folder, &Interrupt::default()).await.is_ok());
}

#[tokio::test]
async fn damaged_or_unreadable_file_of_unreported_changes_is_reported_once() {
    let place = Place::new();
    let file = place.logs.path().join("unreported");
    for damaged in ["", "{", "[]", "{\"changes\":"] {
        fs::write(&file, damaged).unwrap();
        let report = delivered(&place.shared().await).await;
        let gaps: Vec<_> = report.gaps.iter().map(|gap| (gap.path.clone(), gap.cause)).collect();
        assert_eq!(gaps, [(file.clone(), Cause::UnreadableReport)], "{damaged}");
        assert!(report.warnings()[0].contains("are lost"), "{:?}", report.warnings());
        assert!(delivered(&place.shared().await).await.is_empty(), "{damaged}");
    }
    fs::create_dir(&file).unwrap();
    assert_eq!(causes(&delivered(&place.shared().await).await), [Cause::UnreadableReport]);
}

#[tokio::test]
async fn changes_after_the_last_comparison_of_a_killed_daemon_are_reported_by_the_next_one() {
    let place = Place::new();
    fs::write(place.path("AGENTS.md"), "mine").unwrap();
    // Lets more than one clock tick pass, so that the time stamps show that the file is older than the comparison.
    std::thread::sleep(Duration::from_millis(30));
    let watched = place.shared().await;
    watched.starts(false).await;
    watched.compare_after(&Interrupt::default()).await;
    delivered(&watched).await;
    // A detached command continues. The daemon is killed.
    fs::write(place.path(".envrc"), "evil").unwrap();
    for _ in 0..2 {
        // The report also outlives this daemon, if the daemon is killed before a client receives the report.
        let next = place.shared().await;
        let report = next.take();
        let changes: Vec<_> = report.changes.iter().map(|change| (change.path.clone(), change.how)).collect();
        assert_eq!(changes, [(place.path(".envrc"), How::NotCompared)]);
        assert_eq!(causes(&report), [Cause::DaemonKilled]);
    }
    // Once the client has received the report and the processes have ended, nothing is reported again.
    let next = place.shared().await;
    assert!(!delivered(&next).await.is_empty());
    next.starts(false).await;
    next.note_ended(name(), true, Interrupt::default()).await;
    assert!(delivered(&place.shared().await).await.is_empty());
}

#[tokio::test]
async fn replaced_link_in_the_middle_of_a_chain_makes_the_sandbox_outdated() {
    let place = Place::new();
    for target in ["good", "evil"] {
        fs::write(place.path(target), target).unwrap();
    }
    for (target, link) in [("good", "b"), ("b", "a"), ("a", ".envrc")] {
        std::os::unix::fs::symlink(target, place.path(link)).unwrap();
    }
    // Lets more than one clock tick pass, so that the time stamps show that the targets are older than the comparison.
    std::thread::sleep(Duration::from_millis(30));
    let watched = place.shared().await;
    watched.starts(false).await;
    fs::remove_file(place.path("b")).unwrap();
    std::os::unix::fs::symlink("evil", place.path("b")).unwrap();
    watched.compare_before(&Interrupt::default()).await;
    assert!(watched.is_outdated());
}
