//! Tracks changes of protected paths of running sandboxes. The paths are compared before and after each command, and when the
//! processes of the sandbox have ended; the next client receives the differences.

use crate::{error::DaemonError, log, running, unreported};
use agentd_core::Grant;
use agentd_isolation::protect::{Cause, Gaps, Interrupt, Report, Watch};
use agentd_log::LogFailure as _;
use agentd_sandboxes::Name;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// The protected paths of all sandboxes that this daemon has started.
#[derive(Default)]
pub(crate) struct Watches(Mutex<HashMap<Name, SharedWatch>>);

/// The protected paths of a sandbox, shared by all requests that concern the sandbox.
#[derive(Clone)]
pub(crate) struct SharedWatch(Arc<Watched>);

struct Watched {
    /// Locked during a comparison, which may take seconds in a large tree. No thread waits for this lock, only tasks.
    watch: Arc<tokio::sync::Mutex<Watch>>,
    /// Locked only for a moment, never during a comparison or while a file is written.
    found: Mutex<Differences>,
    /// The sandbox's folder for logs.
    folder: PathBuf,
    /// The grant that a report names if a comparison did not take place.
    first: Option<PathBuf>,
    /// Whether the folder has a file of unreported changes. Locked while the file is written.
    has_file: tokio::sync::Mutex<bool>,
}

/// The results of the comparisons so far.
#[derive(Default)]
struct Differences {
    /// Changes that were not reported to a client yet.
    pending: Report,
    /// The gaps of comparisons before commands. They are reported after the command, because otherwise each exec in a large tree
    /// would report them twice.
    gaps_before: Gaps,
    /// True if the running sandbox does not protect a path that the next start will protect. A reported change stays unprotected
    /// until that start.
    outdated: bool,
    /// The number of starts of the sandbox.
    starts: u64,
    /// The number of starts whose processes had ended when the paths were compared.
    compared_starts: u64,
    /// The time at which the last complete comparison began.
    compared: Option<SystemTime>,
}

/// The content that [`SharedWatch::keep`] writes.
struct Kept {
    pending: Report,
    /// The time of the last comparison, if processes may run that can change files after it.
    compared: Option<SystemTime>,
}

/// The time of a comparison.
#[derive(Debug, Clone, Copy)]
enum Moment {
    BeforeCommand,
    AfterCommand,
    /// All processes of this number of starts have ended.
    AfterEnd(u64),
}

impl Watches {
    /// Returns the protected paths of a sandbox. `grants` are the grants in its record, and `folder` is its folder for logs. The
    /// first call inspects the protected paths, and reads the changes that an earlier daemon could not report.
    ///
    /// # Errors
    /// If `interrupt` is requested in the meantime, or a file system does not answer.
    pub(crate) async fn get(
        &self,
        name: &Name,
        grants: Vec<Grant>,
        folder: PathBuf,
        interrupt: &Interrupt,
    ) -> Result<SharedWatch, DaemonError> {
        if let Some(watched) = self.find(name) {
            return Ok(watched);
        }
        let begin = move |interrupt: &Interrupt| Watched::begin(&grants, folder, interrupt);
        // The next client begins again, because later comparisons would not find the differences that this one left out.
        let begun = interrupt.run(begin).await.filter(|_| !interrupt.is_asked());
        let shared = SharedWatch(Arc::new(begun.ok_or_else(|| {
            DaemonError::Refused(format!(
                "inspect the protected paths of sandbox {name}: a file system does not answer, or the client has \
                 disconnected — try again"
            ))
        })?));
        // Changes that the previous daemon left must also survive the end of this daemon.
        shared.keep().await;
        Ok(self.all().entry(name.clone()).or_insert(shared).clone())
    }

    /// Returns the protected paths of a sandbox if this daemon has started that sandbox.
    pub(crate) fn find(&self, name: &Name) -> Option<SharedWatch> {
        self.all().get(name).cloned()
    }

    /// Returns the protected paths of all sandboxes that this daemon has started.
    pub(crate) fn each(&self) -> Vec<(Name, SharedWatch)> {
        self.all().iter().map(|(name, watched)| (name.clone(), watched.clone())).collect()
    }

    /// Forgets a sandbox that was removed, or whose grants have changed.
    pub(crate) fn forget(&self, name: &Name) {
        self.all().remove(name);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Name, SharedWatch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn begin(grants: &[Grant], folder: PathBuf, interrupt: &Interrupt) -> Self {
        let compared = Some(SystemTime::now());
        let mut pending = unreported::read(&folder);
        let watch = match running::read(&folder) {
            None => Watch::begin(grants, interrupt),
            Some(since) => {
                let (watch, changed) = Watch::begin_after(grants, since, interrupt);
                pending.add(changed);
                watch
            }
        };
        let first = grants.first().map(|grant| grant.path.clone());
        let has_file = tokio::sync::Mutex::new(!pending.is_empty());
        let found = Mutex::new(Differences { pending, compared, ..Differences::default() });
        Self { watch: Arc::new(tokio::sync::Mutex::new(watch)), found, folder, first, has_file }
    }

    fn found(&self) -> MutexGuard<'_, Differences> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Differences {
    fn kept(&self) -> Kept {
        let may_run = self.starts > self.compared_starts;
        Kept { pending: self.pending.clone(), compared: self.compared.filter(|_| may_run) }
    }

    /// Records the result of a comparison. Returns the differences, limited to the size of a message.
    fn record(&mut self, full: Report, outdated: bool, moment: Moment) -> Report {
        let mut report = Report::default();
        report.add(full);
        match moment {
            Moment::BeforeCommand => self.gaps_before.merge(std::mem::take(&mut report.gaps)),
            Moment::AfterCommand => report.gaps.merge(std::mem::take(&mut self.gaps_before)),
            Moment::AfterEnd(starts) => {
                report.gaps.merge(std::mem::take(&mut self.gaps_before));
                self.compared_starts = self.compared_starts.max(starts);
            }
        }
        self.outdated |= outdated;
        self.pending.add(report.clone());
        report
    }
}

impl SharedWatch {
    /// Compares the paths with the last comparison, before a command. Gaps of the comparison are reported after the command.
    pub(crate) async fn compare_before(&self, interrupt: &Interrupt) {
        self.compare(Moment::BeforeCommand, true, interrupt).await;
    }

    /// Compares the paths with the last comparison, after a command. Returns the differences, and keeps them until they are
    /// reported.
    pub(crate) async fn compare_after(&self, interrupt: &Interrupt) -> Report {
        self.compare(Moment::AfterCommand, true, interrupt).await
    }

    /// Compares the paths like [`SharedWatch::compare_after`], once all processes of the sandbox have ended: background processes
    /// may have changed a path after the last command. Does nothing if the paths were compared since the last start ended.
    /// `ended` is false if processes may remain. The caller holds the lock on the sandbox when it calls this function, and may
    /// release the lock before it awaits the result.
    pub(crate) fn compare_ended(&self, ended: bool, interrupt: Interrupt) -> impl Future<Output = Report> + Send + use<> {
        let (watched, starts) = (self.clone(), self.0.found().starts);
        async move {
            if watched.0.found().compared_starts >= starts {
                return Report::default();
            }
            watched.compare(Moment::AfterEnd(starts), ended, &interrupt).await
        }
    }

    async fn compare(&self, moment: Moment, ended: bool, interrupt: &Interrupt) -> Report {
        let watch = tokio::select! {
            biased;
            watch = self.0.watch.clone().lock_owned() => Some(watch),
            () = interrupt.due() => None,
        };
        if let Some(mut watch) = watch {
            let shared = self.0.clone();
            // Recorded in the same thread, so that no difference is lost if the caller no longer awaits the result.
            let compare = move |interrupt: &Interrupt| {
                if !ended {
                    watch.processes_may_remain();
                }
                let began = SystemTime::now();
                let full = watch.full_report(interrupt);
                let outdated = watch.needs_restart(&full.changes, interrupt);
                let mut found = shared.found();
                if !full.gaps.is_interrupted() {
                    found.compared = Some(began);
                }
                found.record(full, outdated, moment)
            };
            if let Some(report) = interrupt.run(compare).await {
                return report;
            }
        }
        // Another comparison takes place, or a file system does not answer.
        let gaps = self.0.first.as_deref().map(|first| Gaps::of(first, Cause::Interrupted)).unwrap_or_default();
        self.0.found().record(Report { gaps, ..Report::default() }, false, moment)
    }

    /// Lets all comparisons wait until the result is dropped.
    #[cfg(test)]
    pub(crate) async fn lock_comparison(&self) -> tokio::sync::OwnedMutexGuard<Watch> {
        self.0.watch.clone().lock_owned().await
    }

    /// Returns true if the running sandbox does not protect all paths that it should.
    pub(crate) fn is_outdated(&self) -> bool {
        self.0.found().outdated
    }

    /// Records a start of the sandbox, which protects all current paths. `restarted` is true if the start replaces running
    /// processes.
    pub(crate) async fn starts(&self, restarted: bool) {
        {
            let mut found = self.0.found();
            found.outdated = false;
            found.starts += 1;
            found.pending.restarted |= restarted;
        }
        // If the daemon is killed from here on, the next one reports the changes since the last comparison.
        self.keep().await;
    }

    /// Sends all unreported changes with `send`. Keeps them if `send` fails.
    pub(crate) async fn deliver<E>(&self, send: impl FnOnce(Report) -> Result<(), E>) -> Result<(), E> {
        let pending = self.take();
        let sent = send(pending.clone());
        if sent.is_err() {
            let mut found = self.0.found();
            let later = std::mem::replace(&mut found.pending, pending);
            found.pending.add(later);
        }
        self.keep().await;
        sent
    }

    /// Removes and returns all unreported changes.
    pub(crate) fn take(&self) -> Report {
        std::mem::take(&mut self.0.found().pending)
    }

    /// Writes the unreported changes to the file that the next daemon reads, and marks the sandbox if its processes may run.
    pub(crate) async fn keep(&self) {
        let mut has_file = self.0.has_file.lock().await;
        let Kept { pending, compared } = self.0.found().kept();
        let (is_empty, had_file, shared) = (pending.is_empty(), *has_file, self.0.clone());
        let write = move || {
            if !is_empty || had_file {
                unreported::write(&shared.folder, &pending)?;
            }
            // Marked last: if the daemon is killed before, the next one reports more than necessary.
            compared.map_or_else(|| running::remove(&shared.folder), |compared| running::write(&shared.folder, compared))
        };
        let written = tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(error.into()));
        // Without the file, the changes are still reported by this daemon.
        if written.or_warn("keep changes of protected paths", &self.0.folder).is_some() {
            *has_file = !is_empty;
        }
    }

    /// Compares the paths after the processes of a sandbox have ended without a client. Writes the differences to the log of the
    /// sandbox and to that of the daemon, and keeps them for the next client.
    pub(crate) fn note_ended(&self, name: Name, ended: bool, interrupt: Interrupt) -> impl Future<Output = ()> + Send + use<> {
        let (watched, compared) = (self.clone(), self.compare_ended(ended, interrupt));
        async move {
            let report = compared.await;
            if !report.is_empty() {
                warn(&name, &report);
                watched.note(&name, report).await;
            }
            watched.keep().await;
        }
    }

    /// Writes changes to the log of the sandbox.
    pub(crate) async fn note(&self, name: &Name, report: Report) {
        let noted = async { log::note(log::open(self.0.folder.clone()).await.map(|[notes]| notes)?, report).await };
        // If the disk is full, the note is lost, but the next client still receives the report.
        noted.await.or_warn("write changes of protected paths to the sandbox's log", name);
    }
}

/// Writes changes that no client receives to the daemon's log.
pub(crate) fn warn(name: &Name, report: &Report) {
    for warning in report.warnings() {
        tracing::warn!(%name, warning, "protected paths changed");
    }
}

#[cfg(test)]
#[path = "protection_tests.rs"]
mod tests;
