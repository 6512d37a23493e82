//! Ends unused resources: sandboxes whose time to live has expired, processes of idle sandboxes, and mounted disks.

use crate::{error::DaemonError, protection, serve::Server, ttl};
use agentd_isolation::{
    layered::runtime::{Running, SandboxRuntime},
    protect::Interrupt,
};
use agentd_log::LogFailure as _;
use agentd_sandboxes::{Lifetime, Name, SandboxStore};
use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::sync::OwnedMutexGuard;

/// The time after which the processes of an unused sandbox are ended. Its data stays on disk.
const WARM: Duration = Duration::from_secs(300);

/// The time for which the disk of a sandbox without processes stays mounted, in case the sandbox is started again.
const MOUNTED: Duration = Duration::from_secs(10);

/// The time for which the daemon compares protected paths when it ends.
const COMPARE: Duration = Duration::from_secs(20);

impl Server {
    /// Removes the sandboxes whose time to live has expired, and ends the processes of idle sandboxes. Returns true if the daemon
    /// must keep running.
    pub(crate) async fn expire_idle(self: &Arc<Self>) -> bool {
        let now = ttl::now();
        let mut busy = false;
        let lifetimes = self.lifetimes().await.or_warn("list sandboxes", "store").unwrap_or_default();
        for (name, lifetime) in lifetimes {
            let runtime = self.runtimes.get(&name);
            // A locked sandbox is in use, so it is not idle; it is checked next time.
            let Ok(mut runtime) = runtime.try_lock_owned() else {
                busy = true;
                continue;
            };
            let commands = runtime.running.as_ref().map_or(0, Running::commands_running);
            // An interpreter counts as a command. Between two uses, it does not prevent the removal of its sandbox.
            let running = commands > self.interpreters.kept(&name);
            if ttl::is_expired(&lifetime, running, now) && self.is_still_expired(&name, running, now).await {
                self.remove_expired(name, runtime);
                busy = true;
                continue;
            }
            self.end_if_idle(&name, &mut runtime, commands > 0).await;
            busy |= runtime.running.is_some() || lifetime.idle_ttl.is_some() || lifetime.total_ttl.is_some();
        }
        self.runtimes.remove_unused();
        self.unmount_unused_disks(MOUNTED).await;
        busy
    }

    /// Removes a sandbox in a separate task: the comparison of its protected paths may take a long time, and the caller has to
    /// accept clients. A sandbox that cannot be removed now is tried again next time.
    fn remove_expired(self: &Arc<Self>, name: Name, runtime: OwnedMutexGuard<SandboxRuntime>) {
        let server = self.clone();
        self.writers.start(async move {
            if let Some(report) = server.remove(&name, runtime).await.or_warn("remove expired sandbox", &name) {
                tracing::info!(%name, "sandbox removed: its time to live has expired");
                protection::warn(&name, &report);
            }
        });
    }

    /// Returns the lifetimes of all sandboxes. Reads only records that have changed.
    async fn lifetimes(&self) -> Result<Vec<(Name, Lifetime)>, DaemonError> {
        let lifetimes = self.lifetimes.clone();
        let refresh = move |state: &SandboxStore| {
            let mut lifetimes = lifetimes.lock().unwrap_or_else(PoisonError::into_inner);
            lifetimes.refresh(state)?;
            Ok(lifetimes.all())
        };
        self.on_disk(refresh).await
    }

    /// Returns true if the time to live of a sandbox has expired. The caller holds its lock. The record is read again, because
    /// the sandbox may have been used after the lifetimes were read.
    async fn is_still_expired(&self, name: &Name, running: bool, now: u64) -> bool {
        let name = name.clone();
        let record = self.on_disk(move |state| state.record(&name)).await;
        record.is_ok_and(|record| ttl::is_expired(&Lifetime::from(&record), running, now))
    }

    async fn end_if_idle(&self, name: &Name, runtime: &mut SandboxRuntime, running: bool) {
        let unused = runtime.used.is_none_or(|used| used.elapsed() >= WARM);
        if runtime.running.is_some() && unused && !running && !runtime.paused {
            if runtime.end().await.or_warn("end idle sandbox", name).is_none() {
                return;
            }
            tracing::info!(%name, "idle sandbox ended");
            if let Some(watched) = self.watches.find(name) {
                self.writers.start(watched.note_ended(name.clone(), true, Interrupt::default()));
            }
        }
    }

    /// Unmounts the disks that have been unused for this long.
    async fn unmount_unused_disks(&self, unused: Duration) {
        let rest = move |state: &SandboxStore| {
            state.unmount_unused(unused);
            Ok(())
        };
        self.on_disk(rest).await.or_warn("unmount unused disks", unused);
    }

    /// Ends all processes of all sandboxes, writes the rest of their output, compares their protected paths until `interrupt`,
    /// and unmounts their disks.
    pub(crate) async fn end(&self, interrupt: &Interrupt) {
        let mut remaining = HashSet::new();
        for (name, runtime) in self.runtimes.each() {
            // The launcher ends processes that cannot be ended here.
            if runtime.lock().await.end().await.or_warn("end sandbox", &name).is_none() {
                remaining.insert(name);
            }
        }
        self.writers.finish().await;
        let interrupt = interrupt.and_within(COMPARE);
        // After the interrupt, each report names the first path that was not compared, and the next client receives the report.
        for (name, watched) in self.watches.each() {
            let ended = !remaining.contains(&name);
            watched.note_ended(name, ended, interrupt.clone()).await;
        }
        self.unmount_unused_disks(Duration::ZERO).await;
    }
}
