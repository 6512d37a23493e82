//! The proof of the boundary: before a request creates a sandbox or starts a command, either the client or the daemon attacks a
//! sandbox.
//!
//! The proof applies to the namespaces in which the sandbox was attacked. The daemon relies on the client only if the client
//! states that it has proven the boundary, and is in the daemon's namespaces.

use crate::{error::DaemonError, protocol::Request, serve::Server};
use agentd_core::{Access, Grant};
use agentd_kernel::peer::Peer;
use agentd_log::LogFailure as _;
use agentd_sandboxes::SandboxStore;
use std::{path::PathBuf, pin::Pin};

/// The future that proves the boundary, by a stored result or by a probe. An error is the reason why the boundary is not proven.
pub type Proof = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Proves the boundary in the namespaces of the daemon. A probe creates no files in the given directories, which commands of
/// sandboxes can change.
pub type Prove = Box<dyn Fn(Vec<PathBuf>) -> Proof + Send + Sync>;

impl Server {
    /// Proves the boundary before a request that needs the proof, unless the client has proven the boundary. The daemon proves
    /// the boundary only once.
    pub(crate) async fn prove_for(&self, request: &Request, peer: Peer) -> Result<(), DaemonError> {
        let Some(proven) = request.is_proven() else { return Ok(()) };
        if proven && peer == Peer::SameNamespaces {
            return Ok(());
        }
        let proof = async || (self.prove)(self.changeable(request).await?).await.map_err(DaemonError::Refused);
        self.proven.get_or_try_init(proof).await.map(drop)
    }

    /// Returns the directories that a command of any sandbox may change, including the sandbox that `request` creates.
    async fn changeable(&self, request: &Request) -> Result<Vec<PathBuf>, DaemonError> {
        let mut grants: Vec<Grant> =
            self.on_disk(SandboxStore::list).await?.into_iter().fold(Vec::new(), |mut grants, record| {
                // The commands of a damaged sandbox cannot be started.
                grants.extend(record.or_debug("read a sandbox", "store").into_iter().flat_map(|record| record.about.spec.grants));
                grants
            });
        if let Request::Create { about, .. } = request {
            grants.extend(about.spec.grants.iter().cloned());
        }
        let writable = grants.into_iter().filter(|grant| grant.access == Access::ReadWrite);
        Ok(writable.map(|grant| grant.path).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::{Command, SandboxSpec};
    use agentd_isolation::grants;
    use agentd_kernel::peer::OtherNamespaces;
    use agentd_sandboxes::{Name, SandboxSettings};
    use std::sync::{Arc, Mutex};

    fn exec(proven: bool) -> Request {
        Request::Exec { name: "dev".parse().unwrap(), command: Box::new(Command::default()), detach: false, proven }
    }

    fn create(about: SandboxSettings, proven: bool) -> Request {
        Request::Create { name: "new".parse().unwrap(), about: Box::new(about), proven }
    }

    /// Returns a server of the sandboxes below `place`, and the directories of each proof that it makes.
    fn server(place: &std::path::Path, result: Result<(), String>) -> (Server, Arc<Mutex<Vec<Vec<PathBuf>>>>) {
        let proofs = Arc::new(Mutex::new(Vec::new()));
        let made = proofs.clone();
        let prove = move |changeable| -> Proof {
            made.lock().unwrap().push(changeable);
            let result = result.clone();
            Box::pin(async { result })
        };
        let state = Arc::new(SandboxStore::open(&place.join("sandboxes")).unwrap());
        (Server::new(state, Box::new(prove)).unwrap(), proofs)
    }

    #[tokio::test]
    async fn daemon_relies_on_no_proof_but_that_of_a_client_in_its_namespaces() {
        let elsewhere = Peer::OtherNamespaces(OtherNamespaces { namespace: "user", origin: None });
        for (request, peer, proves) in [
            (exec(true), Peer::SameNamespaces, false),
            (exec(false), Peer::SameNamespaces, true),
            (exec(true), Peer::DiffersIn("mnt"), true),
            (exec(true), elsewhere, true),
            (exec(false), elsewhere, true),
            (create(SandboxSettings::default(), true), Peer::SameNamespaces, false),
            (create(SandboxSettings::default(), false), Peer::SameNamespaces, true),
            (create(SandboxSettings::default(), true), elsewhere, true),
            (Request::Status, elsewhere, false),
        ] {
            let place = tempfile::tempdir().unwrap();
            let (server, proofs) = server(place.path(), Err("the boundary does not hold".to_owned()));
            let result = server.prove_for(&request, peer).await;
            assert_eq!(result.is_err(), proves, "{request:?} {peer:?}");
            assert_eq!(proofs.lock().unwrap().len(), usize::from(proves), "{request:?} {peer:?}");
        }
    }

    #[tokio::test]
    async fn daemon_proves_once_outside_of_what_commands_may_change() {
        let place = tempfile::tempdir().unwrap();
        let granted = |name: &str, access| {
            let path = place.path().canonicalize().unwrap().join(name);
            std::fs::create_dir(&path).unwrap();
            let mut spec = SandboxSpec { grants: vec![Grant::new(&path, access)], ..SandboxSpec::default() };
            grants::pin(&mut spec).unwrap();
            (path, SandboxSettings { spec, ..SandboxSettings::default() })
        };
        let (_, read_only) = granted("read-only", Access::ReadOnly);
        let (existing, of_existing) = granted("existing", Access::ReadWrite);
        let (new, of_new) = granted("new", Access::ReadWrite);
        let (server, proofs) = server(place.path(), Ok(()));
        for (name, about) in [("one", read_only), ("two", of_existing)] {
            server.state.create(&name.parse::<Name>().unwrap(), about).unwrap();
        }
        server.prove_for(&create(of_new, false), Peer::SameNamespaces).await.unwrap();
        server.prove_for(&exec(false), Peer::SameNamespaces).await.unwrap();
        assert_eq!(*proofs.lock().unwrap(), [[existing, new]]);
    }
}
