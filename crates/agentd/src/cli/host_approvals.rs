//! Asks the user about hosts that need an approval, while a sandbox of this process runs.

use super::{failure::Failure, writer};
use agentd_core::{Network, Sandbox, SandboxSpec, escape};
use agentd_daemon::host_approver::{HostApprover, WaitingHost};
use agentd_egress::NetGrant;
use std::thread::{self, JoinHandle};

/// The number of digits of an intent in a message. `agentd approve` needs at least four.
const DIGITS: usize = 12;

/// The most characters of the description of a sandbox.
const MAX_WHAT: usize = 200;

/// Requests the approvals of one sandbox in a thread.
pub(crate) struct HostApprovals(JoinHandle<()>);

impl HostApprovals {
    /// Starts to request the approvals of a sandbox; returns `None` if no network grant needs one. `what` tells the approver what
    /// runs in the sandbox. `announce` receives a line about each connection that waits.
    ///
    /// # Errors
    /// The user has no store, or the thread could not be started.
    pub(crate) fn start(
        sandbox: &dyn Sandbox,
        spec: &SandboxSpec,
        what: &str,
        announce: Box<dyn Fn(String) + Send + Sync>,
    ) -> Result<Option<Self>, Failure> {
        let needs_approval = |grant: &String| grant.parse::<NetGrant>().is_ok_and(|grant| grant.approval);
        let Network::Egress(grants) = &spec.network else { return Ok(None) };
        if !grants.iter().any(needs_approval) {
            return Ok(None);
        }
        let approver = HostApprover::of_user(of_what(what), move |waiting| announce(line(waiting)))?;
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

/// Returns the description of a sandbox for the approver, without the control characters of the caller's text.
fn of_what(what: &str) -> String {
    let escaped = escape::text(what).to_string();
    let shown: String = escaped.chars().take(MAX_WHAT).collect();
    let omitted = if shown.len() < escaped.len() { " …" } else { "" };
    format!("{shown}{omitted} (agentd process {})", std::process::id())
}

/// Prints a line about a connection that waits.
pub(crate) fn print(line: String) {
    writer::message(format_args!("{line}"));
}

/// Prints a line about a connection of a named sandbox that waits.
pub(crate) fn print_waiting(waiting: WaitingHost<'_>) {
    print(line(waiting));
}

/// Returns the line with the commands that decide about a destination.
pub(crate) fn line(WaitingHost { to, intent, wait }: WaitingHost<'_>) -> String {
    let id: String = intent.to_string().chars().take(DIGITS).collect();
    format!(
        "network: a connection to {} waits for an approval — run `agentd approve {id}` or `agentd deny {id}` within {} s",
        escape::text(to),
        wait.as_secs()
    )
}
