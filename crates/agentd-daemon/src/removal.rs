//! Removes sandboxes, and replaces their grants. In both cases all processes of the sandbox end, and the daemon forgets its
//! protected paths. Before that, the paths are compared once more, and the client receives the differences.

use crate::{
    connection::Connection,
    error::DaemonError,
    protection::{self, SharedWatch},
    protocol::Reply,
    running,
    serve::{Server, compare},
    unreported,
};
use agentd_core::{Grant, SandboxSpec};
use agentd_isolation::{
    layered::runtime::SandboxRuntime,
    protect::{Interrupt, Report},
};
use agentd_log::LogFailure as _;
use agentd_sandboxes::{Name, SandboxStore};
use tokio::sync::OwnedMutexGuard;

impl Server {
    /// Replaces the grants of a sandbox in which no command runs, and sends the client the unreported changes of protected paths.
    pub(crate) async fn regrant(&self, name: &Name, grants: Vec<Grant>, client: &Connection) -> Result<(), DaemonError> {
        let mut spec = SandboxSpec { grants, ..SandboxSpec::default() };
        compare(&mut spec)?;
        let runtime = self.runtimes.get(name);
        let mut runtime = runtime.lock().await;
        if runtime.running.as_ref().is_some_and(|running| running.commands_running() > 0) {
            return Err(DaemonError::Refused(format!(
                "replace the grants of sandbox {name}: commands are running in it — end them, then try again"
            )));
        }
        runtime.end().await?;
        let watched = self.watched_so_far(name).await;
        if let Some(watched) = &watched {
            watched.compare_ended(true, Interrupt::default()).await;
        }
        let of = name.clone();
        self.on_disk(move |state| state.regrant(&of, spec.grants)).await?;
        // The protected paths of the new grants are inspected when the sandbox is used next.
        self.watches.forget(name);
        let send = |report| client.send(&Reply::Compared(report), &[]);
        // If the client has ended, the changes are kept in a file, and the next client receives them.
        let sent = match watched {
            Some(watched) => watched.deliver(send).await,
            None => send(Report::default()),
        };
        sent.or_debug("reply to client", "socket");
        Ok(())
    }

    /// Removes a sandbox, and sends the client the unreported changes of its protected paths.
    pub(crate) async fn remove_for(&self, name: &Name, client: &Connection) -> Result<(), DaemonError> {
        let report = self.remove(name, self.runtimes.get(name).lock_owned().await).await?;
        if client.send(&Reply::Compared(report.clone()), &[]).or_debug("reply to client", "socket").is_none() {
            protection::warn(name, &report);
        }
        Ok(())
    }

    /// Ends the processes of a sandbox and removes the sandbox. Returns the changes of its protected paths that no client has
    /// received.
    pub(crate) async fn remove(&self, name: &Name, mut runtime: OwnedMutexGuard<SandboxRuntime>) -> Result<Report, DaemonError> {
        runtime.end().await?;
        self.interpreters.forget(name);
        let watched = self.watched_so_far(name).await;
        if let Some(watched) = &watched {
            watched.compare_ended(true, Interrupt::default()).await;
        }
        let (of, folder, is_known) = (name.clone(), self.state.log_directory(name), watched.is_some());
        let remove = move |state: &SandboxStore| {
            // This daemon has not started the sandbox, but an earlier one may have left changes that it could not report.
            let earlier = if is_known { Report::default() } else { unreported::read(&folder) };
            state.remove(&of)?;
            Ok(earlier)
        };
        let mut report = self.on_disk(remove).await?;
        report.add(watched.map(|watched| watched.take()).unwrap_or_default());
        self.watches.forget(name);
        drop(runtime);
        match self.collect().await {
            Ok(()) => Ok(report),
            Err(error) => {
                protection::warn(name, &report);
                Err(error)
            }
        }
    }

    /// Returns the protected paths of a sandbox if this daemon has started it, or if the daemon that had started it was killed.
    async fn watched_so_far(&self, name: &Name) -> Option<SharedWatch> {
        let watched = self.watches.find(name);
        if watched.is_some() || running::read(&self.state.log_directory(name)).is_none() {
            return watched;
        }
        // A sandbox with a damaged record is removed without a comparison.
        self.watched(name, &Interrupt::default()).await.or_warn("compare protected paths", name)
    }

    /// Removes layers and disks that were created for a request that then failed.
    pub(crate) async fn collected_unless(&self, done: Result<(), DaemonError>) -> Result<(), DaemonError> {
        if done.is_err() {
            // Only the first error is reported.
            self.collect().await.or_warn("remove unused layers", "store");
        }
        done
    }

    /// Removes layers that no sandbox needs.
    pub(crate) async fn collect(&self) -> Result<(), DaemonError> {
        self.on_disk(SandboxStore::collect).await.map(drop)
    }
}
