//! Asks the user of this process about hosts that need an approval. Each request of a sandbox becomes an intent in the user's
//! store, about which `agentd approve` and `agentd deny` decide.

use agentd_core::{HostApprovalRequest, HostDecision, NetworkApprovals, Sandbox};
use agentd_log::LogFailure as _;
use agentd_records::{AuditEvent, ContentDigest, InvalidLabel, Label, Leaf, LogError, Records, RecordsError, Timestamp};
use agentd_sandboxes::Name;
use agentd_state::{
    ApprovalState, BeginIntent, Begun, EndIntent, Ending, IntentId, Quota, RequestApproval, Retention, StateError, StateStore,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{
        OnceCell,
        broadcast::{self, error::RecvError},
    },
    task::JoinSet,
};

/// The reason why the user cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApproverError {
    /// No folder for the store is known.
    #[error("request approvals of hosts: no home directory is known — set AGENTD_DATA_DIR")]
    NoFolder,
    /// The user has no valid label.
    #[error("request approvals of hosts: {0}")]
    User(#[from] InvalidLabel),
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The decision cannot be recorded.
    #[error("record the decision: {0}")]
    Records(#[from] RecordsError),
    /// The audit log does not accept the decision.
    #[error("record the decision: {0}")]
    Log(#[from] LogError),
    /// The task that records panicked. This is a bug.
    #[error("record the decision: {0} — report this as a bug of agentd")]
    Panicked(#[from] tokio::task::JoinError),
    /// The store did not begin an intent.
    #[error("request an approval: the store refused the intent — run `agentd state check`")]
    Refused,
}

/// A destination that waits for a decision of the user.
#[derive(Debug, Clone, Copy)]
pub struct WaitingHost<'a> {
    /// The destination, as HOST:PORT.
    pub to: &'a str,
    /// The intent about which the user decides.
    pub intent: IntentId,
    /// The time that is left.
    pub wait: Duration,
}

/// A function that tells the user about a destination that waits.
pub(crate) type Announce = Box<dyn Fn(WaitingHost<'_>) + Send + Sync>;

/// Requests the approvals of one sandbox.
pub struct HostApprover {
    /// The data folder of the user.
    folder: PathBuf,
    principal: Label,
    sandbox: String,
    announce: Announce,
    store: OnceCell<StateStore>,
}

impl HostApprover {
    /// Prepares requests to the user of this process. `sandbox` names the sandbox for the approver.
    ///
    /// # Errors
    /// No folder for the store is known.
    pub fn of_user(sandbox: String, announce: impl Fn(WaitingHost<'_>) + Send + Sync + 'static) -> Result<Self, ApproverError> {
        let folder = agentd_isolation::data_directory().ok_or(ApproverError::NoFolder)?;
        let principal: Label = format!("user:uid:{}", rustix::process::geteuid().as_raw()).try_into()?;
        Ok(Self { folder, principal, sandbox, announce: Box::new(announce), store: OnceCell::new() })
    }

    /// Requests the approvals of a sandbox until it has ended, then withdraws the requests that are left. Needs a runtime of
    /// tokio with timers.
    pub async fn serve(self, approvals: Arc<dyn NetworkApprovals>) {
        let this = Arc::new(self);
        let mut asked = JoinSet::new();
        while let Some(request) = approvals.next().await {
            // The results are empty. Joining frees the tasks that have ended.
            while asked.try_join_next().is_some() {}
            let (this, approvals) = (this.clone(), approvals.clone());
            asked.spawn(async move {
                let decision = match this.decision(&request, &*approvals).await {
                    Ok(decision) => decision,
                    Err(error) => Some(HostDecision::Failed { reason: error.to_string() }),
                };
                // Without a decision, the gateway refuses the connections at the end of their time.
                if let Some(decision) = decision {
                    approvals.decide(request.id, decision);
                }
            });
        }
        while asked.join_next().await.is_some() {}
    }

    /// Returns the decision of the user, which the audit log has then; `None` if there is none in time, or if the request was
    /// withdrawn before.
    async fn decision(
        &self,
        request: &HostApprovalRequest,
        approvals: &dyn NetworkApprovals,
    ) -> Result<Option<HostDecision>, ApproverError> {
        let store = self.store().await?;
        let now = Timestamp::now();
        let text = format!("{} wants to connect to {}\nnetwork grant: {}", self.sandbox, request.to, request.rule);
        let digest = ContentDigest::of(text.as_bytes());
        let (principal, quota) = (self.principal.clone(), Quota::default());
        let begin = BeginIntent { principal, key: None, digest, quota, shared: Vec::new(), cpu: Duration::ZERO, now };
        let Begun::New(id) = store.begin(begin).await? else { return Err(ApproverError::Refused) };
        let expires = now.plus_seconds(request.wait.as_secs());
        let waited = self.wait(store, RequestApproval { intent: id, text, expires, now }, request, approvals).await;
        // From here on, nobody can decide: the decision that the store has now is the one that is recorded.
        let (outcome, cpu) = (b"ended".to_vec(), Some(Duration::ZERO));
        store.end(EndIntent { id, ending: Ending::Finished, outcome, cpu, now: Timestamp::now() }).await?;
        waited?;
        let (approver, at, approved) = match store.approval(id, Timestamp::now()).await?.state {
            ApprovalState::Approved { by, at } => (by, at, true),
            ApprovalState::Denied { by, at } => (by, at, false),
            ApprovalState::Pending | ApprovalState::Expired => return Ok(None),
        };
        let by = format!("{approver} ({id})");
        let grant = Label::try_from(&*request.rule);
        let event = AuditEvent::HostApproval {
            id: id.to_string().try_into()?,
            intent: digest,
            destination: request.to.as_str().try_into()?,
            grant: grant.or_else(|_| format!("sha256:{}", ContentDigest::of(request.rule.as_bytes())).try_into())?,
            approver,
            approved,
        };
        self.record(Leaf::new(at, event)).await?;
        Ok(Some(if approved { HostDecision::Approved { by } } else { HostDecision::Denied { by } }))
    }

    /// Asks the user, and waits until the user has decided, the time is over, or the request is withdrawn.
    async fn wait(
        &self,
        store: &StateStore,
        asked: RequestApproval,
        request: &HostApprovalRequest,
        approvals: &dyn NetworkApprovals,
    ) -> Result<(), ApproverError> {
        let intent = asked.intent;
        store.request_approval(asked).await?;
        (self.announce)(WaitingHost { to: &request.to, intent, wait: request.wait });
        tokio::select! {
            approval = store.wait_for_decision(intent, request.wait) => approval.map(drop).map_err(ApproverError::from),
            () = approvals.withdrawn(request.id) => Ok(()),
        }
    }

    /// Records a decision in the audit log of the user, and waits until it is durable.
    async fn record(&self, leaf: Leaf) -> Result<(), ApproverError> {
        let records = Records::at(&self.folder.join("records"));
        // The log is a file that other processes lock for a while.
        tokio::task::spawn_blocking(move || Ok(records.recorder()?.record(&leaf).map(drop)?)).await?
    }

    /// Returns the store, which is opened for the first request.
    async fn store(&self) -> Result<&StateStore, ApproverError> {
        self.store.get_or_try_init(|| async { Ok(StateStore::open(&self.folder.join("state"), Retention::default())?) }).await
    }
}

/// A connection of a named sandbox that waits for a decision.
#[derive(Debug, Clone)]
pub(crate) struct HostWait {
    pub name: Name,
    pub to: String,
    pub intent: IntentId,
    pub wait: Duration,
}

/// Starts to request the approvals of a named sandbox that was started, in a task. `waits` tells the clients of its commands.
pub(crate) fn start(name: &Name, sandbox: &dyn Sandbox, waits: broadcast::Sender<HostWait>) {
    let of = name.clone();
    let announce = move |WaitingHost { to, intent, wait }: WaitingHost<'_>| {
        tracing::info!(name = %of, to, %intent, "a connection waits for an approval");
        // Without a command of a client, nobody receives it.
        let _ = waits.send(HostWait { name: of.clone(), to: to.to_owned(), intent, wait });
    };
    let Some(approver) = HostApprover::of_user(format!("sandbox {name}"), announce).or_warn("request approvals of hosts", name)
    else {
        return;
    };
    if let Some(approvals) = sandbox.network_approvals() {
        tokio::spawn(approver.serve(approvals));
    }
}

/// Waits for the next connection of this sandbox that waits for a decision.
pub(crate) async fn next(waits: &mut broadcast::Receiver<HostWait>, name: &Name) -> HostWait {
    loop {
        match waits.recv().await {
            Ok(wait) if wait.name == *name => return wait,
            // A client that reads too slowly misses some. `agentd approvals` lists all.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}
