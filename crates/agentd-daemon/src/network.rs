//! The network of sandboxes: changes of network grants, and connections to the loopback of a running sandbox.

use crate::{error::DaemonError, serve::Server};
use agentd_isolation::egress;
use agentd_log::LogFailure as _;
use agentd_sandboxes::Name;
use std::os::fd::OwnedFd;

impl Server {
    /// Changes the network grants of a sandbox: removes the network grants in `revoke`, ends their connections, and adds the
    /// network grants in `allow`. When this function returns, the change is on disk and in effect in the running sandbox. If the
    /// sandbox is paused, network grants cannot be added.
    pub(crate) async fn change_network(&self, name: &Name, allow: &[String], revoke: &[String]) -> Result<(), DaemonError> {
        // This function keeps the lock until it returns, so that changes are made one after the other, and the sandbox does not
        // start during a change.
        let runtime = self.runtimes.get(name);
        let runtime = runtime.lock().await;
        if runtime.paused && !allow.is_empty() {
            // A new network grant may need a socket, and a paused supervisor does not answer requests.
            return Err(DaemonError::Refused(format!(
                "allow hosts for sandbox {name}: the sandbox is paused — run `agentd sandbox resume {name}`, then try again; \
                 network grants can be revoked while the sandbox is paused"
            )));
        }
        let of = name.clone();
        let before = self.on_disk(move |state| state.record(&of)).await?.about.spec.network;
        let after = egress::changed(&before, allow, revoke)?;
        // A sandbox whose processes were lost receives the network grants at its next start.
        let sandbox = match runtime.running.as_ref().map(|running| &running.sandbox) {
            Some(sandbox) => sandbox.is_alive().await.then_some(sandbox),
            None => None,
        };
        if let Some(sandbox) = sandbox {
            sandbox.set_network(&after).await?;
        }
        let of = name.clone();
        let written = self.on_disk(move |state| state.set_network(&of, after)).await;
        if let (Err(_), Some(sandbox)) = (&written, sandbox) {
            // The client receives the first error. The running sandbox gets the network grants of the record again.
            let of = name.clone();
            let stored = self.on_disk(move |state| state.record(&of)).await;
            let stored = stored.map_or(before, |record| record.about.spec.network);
            sandbox.set_network(&stored).await.or_warn("undo a change of granted hosts", name);
        }
        written
    }

    /// Connects to a TCP port of the loopback of a running sandbox.
    pub(crate) async fn connect(&self, name: &Name, port: u16) -> Result<OwnedFd, DaemonError> {
        self.exists(name).await?;
        let runtime = self.runtimes.get(name);
        // The lock is released before the connection, because a program in the sandbox may delay the connection.
        let sandbox = runtime.lock().await.running.as_ref().map(|running| running.sandbox.clone());
        let sandbox = sandbox.ok_or_else(|| {
            DaemonError::Refused(format!(
                "connect to port {port} of sandbox {name}: no process runs in the sandbox — start the server with `agentd \
                 sandbox exec -d {name} -- COMMAND`"
            ))
        })?;
        Ok(sandbox.connect(port).await?)
    }
}
