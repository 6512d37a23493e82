//! Asks the user about hosts that need an approval, while a sandbox of this process runs.

use super::{failure::Failure, writer};
use agentd_core::{Network, Sandbox, SandboxSpec, escape};
use agentd_daemon::host_approver::{HostApprover, WaitingHost};
use agentd_egress::NetGrant;
use std::thread::{self, JoinHandle};

/// The number of digits of an intent in a message. `agentd approve` needs at least four.
const DIGITS: usize = 12;

/// Requests the approvals of one sandbox in a thread.
pub(crate) struct HostApprovals(JoinHandle<()>);

impl HostApprovals {
    /// Starts to request the approvals of a sandbox; returns `None` if no network grant needs one.
    ///
    /// # Errors
    /// The user has no store, or the thread could not be started.
    pub(crate) fn start(sandbox: &dyn Sandbox, spec: &SandboxSpec) -> Result<Option<Self>, Failure> {
        let needs_approval = |grant: &String| grant.parse::<NetGrant>().is_ok_and(|grant| grant.approval);
        let Network::Egress(grants) = &spec.network else { return Ok(None) };
        if !grants.iter().any(needs_approval) {
            return Ok(None);
        }
        let approver = HostApprover::of_user(format!("a command of agentd process {}", std::process::id()), announce)?;
        let Some(approvals) = sandbox.network_approvals() else { return Ok(None) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = move || runtime.block_on(approver.serve(approvals));
        Ok(Some(Self(thread::Builder::new().name("host-approvals".to_owned()).spawn(serve)?)))
    }

    /// Waits until the requests that are left are withdrawn, if the sandbox has been `destroyed`.
    pub(crate) fn finish(self, destroyed: bool) {
        if destroyed {
            // A panic of the thread has already been reported by the panic hook.
            let _ = self.0.join();
        }
    }
}

/// Prints the commands that decide about a destination.
fn announce(WaitingHost { to, intent, wait }: WaitingHost<'_>) {
    let id: String = intent.to_string().chars().take(DIGITS).collect();
    writer::message(format_args!(
        "network: a connection to {} waits for an approval — run `agentd approve {id}` or `agentd deny {id}` within {} s",
        escape::text(to),
        wait.as_secs()
    ));
}
