//! Finds the session of a cell, or begins it, and takes its interpreter for the time of the cell.
//!
//! A session is a named sandbox whose name contains its owner and handle, with an interpreter that the daemon keeps.

use super::{
    super::{
        super::{data, failure::Failure, sandbox as named_sandbox, selection::Selected},
        named::settings::{BACKEND, settings},
        sandbox::workspace_of,
    },
    name::{Owner, random_handle},
};
use agentd_core::{Access, Command, ControlStatus, Network};
use agentd_daemon::{Client, DaemonError, Started};
use agentd_disk::Lock;
use agentd_engine::{Execution, NEW_SESSION, SessionCall, Terms};
use agentd_interpreter::Language;
use agentd_log::LogFailure as _;
use agentd_sandboxes::{Name, Record, SandboxSettings, SandboxStore, StoreError};
use rustix::fs::{MemfdFlags, memfd_create};
use std::{
    fs::File,
    io::{Seek as _, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

/// The most sessions of a principal.
const MAX_SESSIONS: usize = 8;

/// The time in seconds after which an unused session ends.
const IDLE: u64 = 30 * 60;

/// The time in seconds after which a session ends.
const TOTAL: u64 = 8 * 60 * 60;

/// A session whose interpreter this process uses.
pub(super) struct OpenedSession {
    pub client: Client,
    pub name: Name,
    pub handle: String,
    pub language: Language,
    /// True if this cell is the first one.
    pub is_new: bool,
    pub selected: Selected,
    pub started: Started,
}

/// The reason why a cell is not executed.
pub(super) enum NotOpened {
    /// The state of the session is lost. The session was removed.
    Lost(String),
    /// The session has more than this cell may have.
    Exceeds(String),
    /// A request to stop came first.
    Stopped,
    /// Anything else.
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for NotOpened {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The session that a cell names.
struct NamedSession<'x> {
    execution: &'x Execution<'x>,
    store: SandboxStore,
    client: Client,
    owner: Owner,
    name: Name,
    language: Language,
    selected: Selected,
}

/// Opens the session of a cell.
pub(super) async fn open(execution: &Execution<'_>, cell: &SessionCall) -> Result<OpenedSession, NotOpened> {
    let language: Language = cell.language.parse()?;
    if !execution.terms().effective.backends.contains(BACKEND) {
        let text = "session: only the backend container keeps sandboxes, and the request or the policies exclude it — leave out \
                    `session`, or permit the backend container";
        return Err(text.into());
    }
    let handle = if cell.handle == NEW_SESSION { random_handle()? } else { cell.handle.clone() };
    let owner = Owner::of(&execution.valid().intent.principal.id());
    let name = owner.session(language, &handle)?;
    let store = SandboxStore::open(&data::sandboxes()?)?;
    let client = named_sandbox::client()?;
    let selected = named_sandbox::proven(&client).await?;
    let session = NamedSession { execution, store, client, owner, name, language, selected };
    let (started, is_new) = match session.store.record(&session.name) {
        Ok(record) => (session.resume(record).await?, false),
        Err(StoreError::NotFound { .. }) => session.begin_or_resume().await?,
        Err(error) => return Err(error.into()),
    };
    let NamedSession { client, name, selected, .. } = session;
    Ok(OpenedSession { client, name, handle, language, is_new, selected, started })
}

impl NamedSession<'_> {
    /// Waits for the lock under which sessions are begun and removed.
    async fn lock(&self) -> Result<Lock, NotOpened> {
        let path = data::folder()?.join("sessions.lock");
        let taken = tokio::task::spawn_blocking(move || Lock::take(&path)).await;
        Ok(taken.map_err(|error| format!("lock the sessions: {error}"))??)
    }

    fn proven(&self) -> bool {
        self.selected.proven.is_some()
    }

    /// Takes the interpreter of an existing session. A session without an interpreter is removed. The lock is never held while
    /// this process waits for an interpreter, which another cell may use for hours.
    async fn resume(&self, mut record: Record) -> Result<Started, NotOpened> {
        loop {
            self.check(&record)?;
            match self.client.use_interpreter(&self.name, self.proven()).await {
                Err(DaemonError::NoInterpreter(_)) => {}
                used => return Ok(used?),
            }
            // A process that has just begun the session holds the lock until it has started the interpreter.
            drop(self.lock().await?);
            let error = match self.client.use_interpreter(&self.name, self.proven()).await {
                Err(error @ DaemonError::NoInterpreter(_)) => error,
                used => return Ok(used?),
            };
            let _lock = self.lock().await?;
            match self.store.record(&self.name) {
                // Another process has removed the session in the meantime, and begun it again.
                Ok(other) if other.upper != record.upper => record = other,
                Ok(_) => {
                    self.client.remove(&self.name).await?;
                    return Err(NotOpened::Lost(error.to_string()));
                }
                Err(StoreError::NotFound { .. }) => return Err(NotOpened::Lost(error.to_string())),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Compares an existing session with what this cell may have.
    fn check(&self, record: &Record) -> Result<(), NotOpened> {
        let about = &record.about;
        if let Some(excess) = self.execution.terms().exceeded_by(&about.spec, BACKEND) {
            return Err(NotOpened::Exceeds(excess));
        }
        if let Some(requested) = &self.execution.valid().intent.confinement.network
            && !Terms::is_served_by(&about.spec, requested)
        {
            let text = match &about.spec.network {
                Network::Egress(grants) => format!("it reaches only {}, and the request names other hosts", grants.join(", ")),
                _ => "it has no network, and the request names hosts".to_owned(),
            };
            return Err(NotOpened::Exceeds(text));
        }
        let own = about.spec.grants.iter().find(|grant| grant.path == about.cwd).map(|grant| (&*grant.path, grant.access));
        let requested = workspace_of(self.execution.valid());
        if own == requested {
            return Ok(());
        }
        let text = |workspace: Option<(&Path, Access)>| match workspace {
            Some((path, Access::ReadWrite)) => format!("the workspace {}", path.display()),
            Some((path, _)) => format!("the read-only workspace {}", path.display()),
            None => "no workspace".to_owned(),
        };
        Err(NotOpened::Exceeds(format!("it has {}, and the request has {}", text(own), text(requested))))
    }

    /// Begins the session, unless another process has begun it since this one looked. Returns true if this process has begun it.
    async fn begin_or_resume(&self) -> Result<(Started, bool), NotOpened> {
        let lock = self.lock().await?;
        match self.store.record(&self.name) {
            Ok(record) => {
                drop(lock);
                return Ok((self.resume(record).await?, false));
            }
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let records = self.store.list()?;
        let own = records.iter().filter(|record| record.as_ref().is_ok_and(|record| self.owner.owns(&record.name)));
        if own.count() >= MAX_SESSIONS {
            let text = format!(
                "session: {MAX_SESSIONS} sessions of this principal exist already — end one with `agentd sandbox rm NAME` \
                 (`agentd sandbox ls` lists them)"
            );
            return Err(text.into());
        }
        let (settings, command) = self.requested()?;
        let controls = self.client.create(&self.name, settings, self.proven()).await?;
        let missing = controls.iter().find(|report| matches!(report.status, ControlStatus::Missing(_)));
        let started = match missing {
            Some(report) => Err(format!("session: control {}: missing", report.control).into()),
            None => self.start(command).await,
        };
        if started.is_err() {
            // Only the first error is reported.
            self.client.remove(&self.name).await.or_warn("remove session that did not start", &self.name);
        }
        Ok((started?, true))
    }

    /// Returns the settings of a new session, and the command of its interpreter.
    fn requested(&self) -> Result<(SandboxSettings, Command), NotOpened> {
        let mut settings = settings(self.execution, &self.selected)?;
        settings.idle_ttl = Some(IDLE);
        settings.total_ttl = Some(TOTAL);
        let env = std::mem::take(&mut settings.env);
        let command = Command {
            argv: self.language.command().into_iter().map(Into::into).collect(),
            env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            cwd: Some(settings.cwd.clone()),
            ..Command::default()
        };
        Ok((settings, command))
    }

    /// Writes the kernel into the new sandbox, and starts it.
    async fn start(&self, command: Command) -> Result<Started, Failure> {
        let mut kernel = File::from(memfd_create("kernel", MemfdFlags::CLOEXEC)?);
        kernel.write_all(self.language.kernel().as_bytes())?;
        kernel.rewind()?;
        let path = PathBuf::from(self.language.path());
        self.client.write(&self.name, &path, kernel.as_fd()).await?;
        Ok(self.client.start_interpreter(&self.name, command, self.proven()).await?)
    }
}
