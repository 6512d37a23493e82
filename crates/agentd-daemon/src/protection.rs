//! Tracks changes of protected paths of running sandboxes. The paths are compared before and after each command; the next client
//! receives the differences.

use crate::error::DaemonError;
use agentd_core::Grant;
use agentd_isolation::protect::{Gaps, Report, Watch};
use agentd_sandboxes::Name;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The protected paths of one sandbox.
pub(crate) struct Watched {
    watch: Watch,
    /// Changes that were not reported to a client yet.
    pending: Report,
    /// True if the running sandbox does not protect a path that the next start will protect. A reported change stays unprotected
    /// until that start.
    outdated: bool,
}

/// The protected paths of all sandboxes that this daemon has started.
#[derive(Default)]
pub(crate) struct Watches(Mutex<HashMap<Name, SharedWatch>>);

/// The protected paths of a sandbox, shared by all requests that concern the sandbox.
#[derive(Clone)]
pub(crate) struct SharedWatch(Arc<Mutex<Watched>>);

impl Watches {
    /// Returns the protected paths of a sandbox. `grants` are the grants in its record; the first call inspects their protected
    /// paths.
    pub(crate) async fn get(&self, name: &Name, grants: Vec<Grant>) -> Result<SharedWatch, DaemonError> {
        if let Some(watched) = self.all().get(name) {
            return Ok(watched.clone());
        }
        let begun =
            blocking(move || Watched { watch: Watch::begin(&grants), pending: Report::default(), outdated: false }).await?;
        let shared = SharedWatch(Arc::new(Mutex::new(begun)));
        Ok(self.all().entry(name.clone()).or_insert(shared).clone())
    }

    /// Forgets a sandbox that was removed, or whose grants have changed.
    pub(crate) fn forget(&self, name: &Name) {
        self.all().remove(name);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Name, SharedWatch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedWatch {
    /// Compares the paths with the last comparison, before a command. An incomplete comparison is reported only after the
    /// command.
    pub(crate) async fn compare_before(&self) -> Result<(), DaemonError> {
        self.compare(|report| report.gaps = Gaps::default()).await.map(drop)
    }

    /// Compares the paths with the last comparison, after a command. Returns the differences, and keeps them until they are
    /// reported.
    pub(crate) async fn compare_after(&self) -> Result<Report, DaemonError> {
        self.compare(|_| ()).await
    }

    async fn compare(&self, adapt: impl FnOnce(&mut Report) + Send + 'static) -> Result<Report, DaemonError> {
        let shared = self.clone();
        blocking(move || {
            let mut watched = shared.lock();
            let mut report = watched.watch.report();
            adapt(&mut report);
            watched.outdated = watched.outdated || watched.watch.needs_restart(&report.changes);
            watched.pending.add(report.clone());
            report
        })
        .await
    }

    /// Returns true if the running sandbox does not protect all paths that it should.
    pub(crate) fn is_outdated(&self) -> bool {
        self.lock().outdated
    }

    /// Records a start of the sandbox, which protects all current paths. `restarted` is true if the start replaces running
    /// processes.
    pub(crate) fn starts(&self, restarted: bool) {
        let mut watched = self.lock();
        watched.outdated = false;
        watched.pending.restarted |= restarted;
    }

    /// Sends all unreported changes with `send`. Keeps them if `send` fails.
    pub(crate) fn deliver<E>(&self, send: impl FnOnce(Report) -> Result<(), E>) -> Result<(), E> {
        let pending = std::mem::take(&mut self.lock().pending);
        let sent = send(pending.clone());
        if sent.is_err() {
            let mut watched = self.lock();
            let later = std::mem::replace(&mut watched.pending, pending);
            watched.pending.add(later);
        }
        sent
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs work that may wait for a file system in a separate thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DaemonError> {
    let failed = DaemonError::io("compare protected paths");
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::Access;
    use agentd_isolation::protect;
    use std::fs;

    async fn shared(root: &std::path::Path) -> SharedWatch {
        let protect = protect::names(root).unwrap();
        let grant = Grant { protect, ..Grant::new(root, Access::ReadWrite) };
        Watches::default().get(&"dev".parse().unwrap(), vec![grant]).await.unwrap()
    }

    #[tokio::test]
    async fn undelivered_report_is_delivered_again() {
        let root = tempfile::tempdir().unwrap();
        let watched = shared(root.path()).await;
        fs::write(root.path().join("AGENTS.md"), "evil").unwrap();
        watched.compare_after().await.unwrap();
        let mut sent = Vec::new();
        for delivered in [false, true, true] {
            let send = |report: Report| {
                sent.push(report.changes.len());
                delivered.then_some(()).ok_or(())
            };
            assert_eq!(watched.deliver(send).is_ok(), delivered);
        }
        assert_eq!(sent, [1, 1, 0]);
    }

    #[tokio::test]
    async fn sandbox_stays_outdated_after_a_reported_change_until_the_next_start() {
        let root = tempfile::tempdir().unwrap();
        let watched = shared(root.path()).await;
        assert!(!watched.is_outdated());
        fs::write(root.path().join("AGENTS.md"), "evil").unwrap();
        watched.compare_after().await.unwrap();
        watched.deliver(|_| Ok::<_, ()>(())).unwrap();
        watched.compare_before().await.unwrap();
        assert!(watched.is_outdated());
        watched.starts(true);
        assert!(!watched.is_outdated());
        watched.deliver(|report| report.restarted.then_some(()).ok_or(())).unwrap();
    }
}
