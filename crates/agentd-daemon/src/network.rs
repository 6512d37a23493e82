//! The network of sandboxes: changes of the granted hosts, and connections to the loopback of a running sandbox.

use crate::{error::DaemonError, serve::Server};
use agentd_isolation::egress;
use agentd_log::LogFailure as _;
use agentd_sandboxes::Name;
use std::os::fd::OwnedFd;

impl Server {
    /// Replaces the granted hosts of a sandbox: those of `revoke` end at once, with their connections, and those of `allow` are
    /// added. When this function returns, the change is on disk and holds in the running sandbox. A paused sandbox gets no new
    /// grants.
    pub(crate) async fn change_network(&self, name: &Name, allow: &[String], revoke: &[String]) -> Result<(), DaemonError> {
        // Held to the end, so that changes happen one after the other, and no start of the sandbox in between.
        let runtime = self.runtimes.get(name);
        let runtime = runtime.lock().await;
        if runtime.paused && !allow.is_empty() {
            // A paused supervisor answers no request for a socket, and a new grant may need one.
            return Err(DaemonError::Refused(format!(
                "allow hosts for sandbox {name}: the sandbox is paused — run `agentd sandbox resume {name}`, then try again; grants \
                 can be revoked meanwhile"
            )));
        }
        let of = name.clone();
        let before = self.on_disk(move |state| state.record(&of)).await?.about.spec.network;
        let after = egress::changed(&before, allow, revoke)?;
        // A sandbox whose processes were lost gets the grants when it is started again.
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
            // The client gets the first error. What is on disk holds, also in the running sandbox.
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
        // The lock is not held during the connection, which a program in the sandbox may delay.
        let sandbox = runtime.lock().await.running.as_ref().map(|running| running.sandbox.clone());
        let sandbox = sandbox.ok_or_else(|| {
            DaemonError::Refused(format!(
                "connect to port {port} of sandbox {name}: no process runs in it — start the server with `agentd sandbox exec -d \
                 {name} -- COMMAND`"
            ))
        })?;
        Ok(sandbox.connect(port).await?)
    }
}
