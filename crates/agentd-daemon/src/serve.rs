//! Carries out the requests of clients.

use crate::{
    admission::{Admission, Candidate, Refusal},
    boundary::Prove,
    connection::Connection,
    error::DaemonError,
    interpreters::Interpreters,
    log::Writers,
    protection::Watches,
    protocol::{Activity, Daemon, Failure, Reply, Request, Status, VERSION},
    report,
    runtimes::Runtimes,
    ttl,
};
use agentd_core::{GuardRule, SandboxSpec};
use agentd_isolation::{grants, layered::runtime, protect::Report};
use agentd_log::LogFailure as _;
use agentd_sandboxes::{Lifetimes, Name, SandboxStore, StoreError};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex},
};
use tokio::sync::OnceCell;

/// The state of the daemon.
pub(crate) struct Server {
    pub state: Arc<SandboxStore>,
    pub runtimes: Runtimes,
    pub watches: Watches,
    pub interpreters: Interpreters,
    /// The time at which the daemon started, in seconds since 1970.
    started: u64,
    admission: Admission,
    pub writers: Writers,
    pub prove: Prove,
    /// Set once the daemon has proven the boundary.
    pub proven: OnceCell<()>,
    pub lifetimes: Arc<Mutex<Lifetimes>>,
}

impl Server {
    pub(crate) fn new(state: Arc<SandboxStore>, prove: Prove) -> Result<Self, DaemonError> {
        Ok(Self {
            state,
            runtimes: Runtimes::new()?,
            watches: Watches::default(),
            interpreters: Interpreters::default(),
            started: ttl::now(),
            admission: Admission::new(),
            writers: Writers::default(),
            prove,
            proven: OnceCell::new(),
            lifetimes: Arc::default(),
        })
    }

    /// Serves one connection until it ends.
    pub(crate) async fn serve(self: Arc<Self>, mut candidate: Candidate) {
        let request = self.admission.request(&mut candidate).await;
        let client = &mut candidate.connection;
        let version = || Ok(Some((Reply::Failed(Failure::Version(VERSION)), None)));
        // If the client is gone, no reply reaches it, but its request is still carried out.
        let reply = match request {
            Ok((request, fds)) => {
                let (kind, name) = request.summary();
                tracing::debug!(kind, name = name.map(ToString::to_string), "request");
                let kept = request.kept().cloned();
                let answered = match self.prove_for(&request, candidate.peer).await {
                    Ok(()) => self.answer(request, fds, client).await,
                    Err(error) => Err(error),
                };
                answered.map_err(|error| match &kept {
                    Some(name) => error.in_sandbox(name),
                    None => error,
                })
            }
            Err(Refusal::Gone(error)) => {
                tracing::debug!(%error, "client disconnected without sending a request");
                return;
            }
            Err(Refusal::Version(client)) => {
                tracing::warn!(client, own = VERSION, "client refused: protocol version mismatch");
                version()
            }
            Err(Refusal::Unreadable(error)) => {
                tracing::warn!(error, "cannot read request");
                version()
            }
            Err(Refusal::Key(error)) => {
                tracing::warn!(%error, "client refused");
                Ok(Some((Reply::Failed(error.into()), None)))
            }
        };
        let (reply, fd) = match reply {
            Ok(None) => return,
            Ok(Some(reply)) => reply,
            Err(error) => {
                tracing::info!(%error, "request refused");
                (Reply::Failed(error.into()), None)
            }
        };
        let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
        client.send(&reply, &fds).or_debug("reply to client", "socket");
    }

    /// Carries out a request. Returns `None` if all replies were already sent.
    async fn answer(
        self: &Arc<Self>,
        request: Request,
        mut fds: Vec<OwnedFd>,
        client: &mut Connection,
    ) -> Result<Option<(Reply, Option<OwnedFd>)>, DaemonError> {
        match request {
            Request::Create { name, about, proven: _ } => {
                let controls = self.create(name, *about).await?;
                return Ok(Some((Reply::Made(controls, Report::default()), None)));
            }
            Request::Exec { name, command, detach: true, proven: _ } => {
                self.detach(&name, *command, client).await?;
                return Ok(None);
            }
            Request::Exec { name, command, detach: false, proven: _ } => {
                self.exec(&name, *command, client).await?;
                return Ok(None);
            }
            Request::Interpreter { name, start, proven: _ } => {
                self.lend_interpreter(&name, start, client).await?;
                return Ok(None);
            }
            Request::Status => return Ok(Some((Reply::Status(self.status()), None))),
            Request::Daemon => return Ok(Some((Reply::Daemon(self.about()), None))),
            Request::Pause { name } => self.pause(&name).await?,
            Request::Resume { name } => self.resume(&name).await?,
            Request::Snapshot { name, snapshot } => self.snapshot(name, snapshot).await?,
            Request::Fork { name, snapshot: Some(snapshot), new } => self.fork_snapshot(name, snapshot, new).await?,
            Request::Fork { name, snapshot: None, new } => self.fork_now(name, new).await?,
            Request::Restore { name, snapshot } => self.restore(name, snapshot).await?,
            Request::Forget { name, snapshot } => self.forget(name, snapshot).await?,
            Request::Diff { name, since, image } => {
                let changes = self.on_disk(move |state| state.diff(&name, since.as_ref(), &image)).await?;
                return Ok(Some((Reply::Done, Some(report::write_changes(&changes)?))));
            }
            Request::Check => {
                let problems = self.on_disk(SandboxStore::fsck).await?;
                return Ok(Some((Reply::Done, Some(report::write_problems(&problems)?))));
            }
            Request::Regrant { name, grants } => {
                self.regrant(&name, grants, client).await?;
                return Ok(None);
            }
            Request::Remove { name } => {
                self.remove_for(&name, client).await?;
                return Ok(None);
            }
            Request::Read { name, path } => {
                let content = self.read(&name, &path).await?;
                return Ok(Some((Reply::Done, Some(content))));
            }
            Request::Write { name, path } => {
                let from = fds.pop().ok_or_else(|| {
                    DaemonError::Refused("write a file: the request has no file descriptor for the content".to_owned())
                })?;
                self.write(&name, &path, from).await?;
            }
            Request::Network { name, allow, revoke } => self.change_network(&name, &allow, &revoke).await?,
            Request::Connect { name, port } => {
                let socket = self.connect(&name, port).await?;
                return Ok(Some((Reply::Done, Some(socket))));
            }
        }
        Ok(Some((Reply::Done, None)))
    }

    /// Runs work on files, which may take a long time, in a separate thread.
    pub(crate) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SandboxStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, DaemonError> {
        Ok(runtime::on_disk(&self.state, work).await?)
    }

    /// Returns an error unless a sandbox of this name exists.
    pub(crate) async fn exists(&self, name: &Name) -> Result<(), DaemonError> {
        let of = name.clone();
        self.on_disk(move |state| state.record(&of).map(drop)).await
    }

    fn about(&self) -> Daemon {
        Daemon {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: VERSION,
            started: self.started,
            sandboxes: self.status(),
        }
    }

    fn status(&self) -> Vec<Status> {
        let mut all = Vec::new();
        for (name, runtime) in self.runtimes.each() {
            // Copying a sandbox may hold its lock for a long time, and a status request does not wait for that.
            let activity = match runtime.try_lock() {
                Err(_) => Activity::Changing,
                Ok(runtime) => match &runtime.running {
                    Some(running) if runtime.paused => Activity::Paused { commands: running.commands_running() },
                    Some(running) => Activity::Live { commands: running.commands_running() },
                    None => continue,
                },
            };
            all.push(Status { name, activity });
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }
}

/// Compares the objects of grants with those that the client granted. A grant without an object is refused: the client may be in
/// another mount namespace, in which the path leads to another object. The guard checks each grant, whatever the client claims.
pub(crate) fn compare(spec: &mut SandboxSpec) -> Result<(), DaemonError> {
    if let Some(waived) = spec.grants.iter().find(|grant| grant.guard != GuardRule::Apply) {
        return Err(DaemonError::Refused(format!(
            "grant {}: the request waives the guard, which the daemon never does — set `Grant::guard` to `GuardRule::Apply`",
            waived.path.display()
        )));
    }
    if let Some(grant) = spec.grants.iter().find(|grant| grant.object.is_none()) {
        return Err(DaemonError::Refused(format!(
            "grant {}: the client has not resolved the path — use the build of agentd that started the daemon",
            grant.path.display()
        )));
    }
    Ok(grants::pin(spec)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::{Access, Grant};

    #[test]
    fn grant_that_the_client_did_not_resolve_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let mut spec = SandboxSpec { grants: vec![Grant::new(place.path(), Access::ReadOnly)], ..SandboxSpec::default() };
        let refused = compare(&mut spec).unwrap_err().to_string();
        assert!(refused.contains("has not resolved"), "{refused}");
        grants::pin(&mut spec).unwrap();
        compare(&mut spec).unwrap();
    }

    #[tokio::test]
    async fn status_of_locked_sandbox_returns_without_waiting() {
        let place = tempfile::tempdir().unwrap();
        let state = Arc::new(SandboxStore::open(&place.path().join("sandboxes")).unwrap());
        let server = Server::new(state, Box::new(|_| Box::pin(async { Ok(()) }))).unwrap();
        let name: Name = "dev".parse().unwrap();
        let runtime = server.runtimes.get(&name);
        let held = runtime.lock().await;
        assert_eq!(server.status(), [Status { name, activity: Activity::Changing }]);
        drop(held);
        assert_eq!(server.status(), []);
    }
}
