//! Asks the user of this process about hosts that need an approval. Each request of a sandbox becomes an intent in the user's
//! store, about which `agentd approve` and `agentd deny` decide.

use agentd_core::{HostApprovalRequest, HostDecision, NetworkApprovals, Sandbox};
use agentd_log::LogFailure as _;
use agentd_records::{ContentDigest, InvalidLabel, Label, Timestamp};
use agentd_sandboxes::Name;
use agentd_state::{
    ApprovalState, BeginIntent, Begun, EndIntent, Ending, IntentId, Quota, RequestApproval, Retention, StateError, StateStore,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{OnceCell, watch},
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
type Announce = Box<dyn Fn(WaitingHost<'_>) + Send + Sync>;

/// Requests the approvals of one sandbox.
pub struct HostApprover {
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
        let folder = agentd_isolation::data_directory().ok_or(ApproverError::NoFolder)?.join("state");
        let principal: Label = format!("uid:{}", rustix::process::geteuid().as_raw()).try_into()?;
        Ok(Self { folder, principal, sandbox, announce: Box::new(announce), store: OnceCell::new() })
    }

    /// Requests the approvals of a sandbox until it has ended, then withdraws the requests that are left. Needs a runtime of
    /// tokio with timers.
    pub async fn serve(self, approvals: Arc<dyn NetworkApprovals>) {
        let (end, ended) = watch::channel(false);
        let this = Arc::new(self);
        let mut asked = JoinSet::new();
        while let Some(request) = approvals.next().await {
            // The results are empty. Joining frees the tasks that have ended.
            while asked.try_join_next().is_some() {}
            let (this, approvals, ended) = (this.clone(), approvals.clone(), ended.clone());
            asked.spawn(async move {
                let decision = match this.decision(&request, ended).await {
                    Ok(decision) => decision,
                    Err(error) => Some(HostDecision::Failed { reason: error.to_string() }),
                };
                // Without a decision, the gateway refuses the connections at the end of their time.
                if let Some(decision) = decision {
                    approvals.decide(request.id, decision);
                }
            });
        }
        end.send_replace(true);
        while asked.join_next().await.is_some() {}
    }

    /// Returns the decision of the user; `None` if there is none in time, or if the sandbox has ended.
    async fn decision(
        &self,
        request: &HostApprovalRequest,
        ended: watch::Receiver<bool>,
    ) -> Result<Option<HostDecision>, ApproverError> {
        let store = self.store().await?;
        let now = Timestamp::now();
        let text = format!("{} wants to connect to {}\nnetwork grant: {}", self.sandbox, request.to, request.rule);
        let digest = ContentDigest::of(text.as_bytes());
        let (principal, quota) = (self.principal.clone(), Quota::default());
        let begin = BeginIntent { principal, key: None, digest, quota, cpu: Duration::ZERO, now };
        let Begun::New(intent) = store.begin(begin).await? else { return Err(ApproverError::Refused) };
        let expires = now.plus_seconds(request.wait.as_secs());
        let asked = RequestApproval { intent, text, expires, now };
        let decision = self.decided(store, asked, request, ended).await;
        let outcome = match &decision {
            Ok(Some(HostDecision::Approved { .. })) => "approved",
            Ok(Some(_)) => "denied",
            Ok(None) => "undecided",
            Err(_) => "failed",
        };
        let (id, outcome, cpu) = (intent, outcome.as_bytes().to_vec(), Some(Duration::ZERO));
        store.end(EndIntent { id, ending: Ending::Finished, outcome, cpu, now: Timestamp::now() }).await?;
        decision
    }

    async fn decided(
        &self,
        store: &StateStore,
        asked: RequestApproval,
        request: &HostApprovalRequest,
        mut ended: watch::Receiver<bool>,
    ) -> Result<Option<HostDecision>, ApproverError> {
        let intent = asked.intent;
        store.request_approval(asked).await?;
        (self.announce)(WaitingHost { to: &request.to, intent, wait: request.wait });
        let approval = tokio::select! {
            approval = store.wait_for_decision(intent, request.wait) => approval?,
            // The sender also closes the channel when the sandbox has ended.
            () = async { drop(ended.wait_for(|ended| *ended).await) } => return Ok(None),
        };
        Ok(match approval.state {
            ApprovalState::Approved { by, .. } => Some(HostDecision::Approved { by: format!("{by} ({intent})") }),
            ApprovalState::Denied { by, .. } => Some(HostDecision::Denied { by: format!("{by} ({intent})") }),
            ApprovalState::Pending | ApprovalState::Expired => None,
        })
    }

    /// Returns the store, which is opened for the first request.
    async fn store(&self) -> Result<&StateStore, ApproverError> {
        self.store.get_or_try_init(|| async { Ok(StateStore::open(&self.folder, Retention::default())?) }).await
    }
}

/// Starts to request the approvals of a named sandbox that was started, in a task.
pub(crate) fn start(name: &Name, sandbox: &dyn Sandbox) {
    let of = name.clone();
    let announce = move |WaitingHost { to, intent, .. }: WaitingHost<'_>| {
        tracing::info!(name = %of, to, %intent, "a connection waits for an approval");
    };
    let Some(approver) = HostApprover::of_user(format!("sandbox {name}"), announce).or_warn("request approvals of hosts", name)
    else {
        return;
    };
    if let Some(approvals) = sandbox.network_approvals() {
        tokio::spawn(approver.serve(approvals));
    }
}
