//! The calls about named sandboxes.

use crate::{client::Client, error::ClientError};
use agentd_proto::v1;

impl Client {
    /// Creates a named sandbox, which stays until it is terminated.
    ///
    /// # Errors
    /// [`ClientError::Call`], with the reason `sandbox-exists` if the caller has a sandbox of this name.
    pub async fn create_sandbox(&self, request: v1::CreateSandboxRequest) -> Result<v1::NamedSandbox, ClientError> {
        let reply = self.calls().create_sandbox(self.call(request)).await?;
        reply.into_inner().sandbox.ok_or(ClientError::Incomplete)
    }

    /// Returns all sandboxes of this principal, in the order of their names. The user who runs the daemon gets those of all
    /// principals.
    ///
    /// # Errors
    /// [`ClientError::Call`].
    pub async fn sandboxes(&self) -> Result<Vec<v1::NamedSandbox>, ClientError> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListSandboxesRequest { page_size: 0, page_token };
            let page = self.calls().list_sandboxes(self.call(request)).await?.into_inner();
            all.extend(page.sandboxes);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Returns a sandbox.
    ///
    /// # Errors
    /// [`ClientError::Call`], with the reason `unknown-sandbox` if this principal has no such sandbox. This applies to all calls
    /// that name a sandbox.
    pub async fn sandbox(&self, name: &str) -> Result<v1::NamedSandbox, ClientError> {
        let request = v1::GetSandboxRequest { sandbox: name.to_owned() };
        let reply = self.calls().get_sandbox(self.call(request)).await?;
        reply.into_inner().sandbox.ok_or(ClientError::Incomplete)
    }

    /// Returns what was proven about the boundary of a sandbox.
    ///
    /// # Errors
    /// As for [`Client::sandbox`].
    pub async fn sandbox_capabilities(&self, name: &str) -> Result<v1::GetSandboxCapabilitiesResponse, ClientError> {
        let request = v1::GetSandboxCapabilitiesRequest { sandbox: name.to_owned() };
        Ok(self.calls().get_sandbox_capabilities(self.call(request)).await?.into_inner())
    }

    /// Pauses all processes of a sandbox.
    ///
    /// # Errors
    /// As for [`Client::sandbox`].
    pub async fn suspend_sandbox(&self, name: &str) -> Result<v1::NamedSandbox, ClientError> {
        let request = v1::SuspendSandboxRequest { sandbox: name.to_owned() };
        let reply = self.calls().suspend_sandbox(self.call(request)).await?;
        reply.into_inner().sandbox.ok_or(ClientError::Incomplete)
    }

    /// Continues all processes of a sandbox.
    ///
    /// # Errors
    /// As for [`Client::sandbox`].
    pub async fn resume_sandbox(&self, name: &str) -> Result<v1::NamedSandbox, ClientError> {
        let request = v1::ResumeSandboxRequest { sandbox: name.to_owned() };
        let reply = self.calls().resume_sandbox(self.call(request)).await?;
        reply.into_inner().sandbox.ok_or(ClientError::Incomplete)
    }

    /// Saves the files in the root of a sandbox under a name.
    ///
    /// # Errors
    /// As for [`Client::sandbox`], and with the reason `snapshot-exists`.
    pub async fn snapshot_sandbox(&self, name: &str, snapshot: &str) -> Result<v1::NamedSandbox, ClientError> {
        let request = v1::SnapshotSandboxRequest {
            sandbox: name.to_owned(),
            snapshot: snapshot.to_owned(),
            ..v1::SnapshotSandboxRequest::default()
        };
        let reply = self.calls().snapshot_sandbox(self.call(request)).await?;
        reply.into_inner().sandbox.ok_or(ClientError::Incomplete)
    }

    /// Ends all processes of a sandbox, and restores the files of a snapshot.
    ///
    /// # Errors
    /// As for [`Client::sandbox`], and with the reason `unknown-snapshot`.
    pub async fn restore_sandbox(&self, name: &str, snapshot: &str) -> Result<v1::NamedSandbox, ClientError> {
        let request = v1::RestoreSandboxRequest { sandbox: name.to_owned(), snapshot: snapshot.to_owned() };
        let reply = self.calls().restore_sandbox(self.call(request)).await?;
        reply.into_inner().sandbox.ok_or(ClientError::Incomplete)
    }

    /// Creates a sandbox from another one, and returns the new one.
    ///
    /// # Errors
    /// As for [`Client::create_sandbox`] and [`Client::restore_sandbox`].
    pub async fn fork_sandbox(&self, request: v1::ForkSandboxRequest) -> Result<v1::NamedSandbox, ClientError> {
        let reply = self.calls().fork_sandbox(self.call(request)).await?;
        reply.into_inner().sandbox.ok_or(ClientError::Incomplete)
    }

    /// Returns the changed files of a sandbox.
    ///
    /// # Errors
    /// As for [`Client::restore_sandbox`].
    pub async fn diff_sandbox(&self, request: v1::DiffSandboxRequest) -> Result<v1::DiffSandboxResponse, ClientError> {
        Ok(self.calls().diff_sandbox(self.call(request)).await?.into_inner())
    }

    /// Ends all processes of a sandbox, and removes it with its files and snapshots.
    ///
    /// # Errors
    /// As for [`Client::sandbox`].
    pub async fn terminate_sandbox(&self, name: &str) -> Result<(), ClientError> {
        let request = v1::TerminateSandboxRequest { sandbox: name.to_owned(), ..v1::TerminateSandboxRequest::default() };
        self.calls().terminate_sandbox(self.call(request)).await?;
        Ok(())
    }

    /// Reads a part of a file in a sandbox.
    ///
    /// # Errors
    /// As for [`Client::sandbox`].
    pub async fn read_file(&self, request: v1::ReadFileRequest) -> Result<v1::ReadFileResponse, ClientError> {
        Ok(self.calls().read_file(self.call(request)).await?.into_inner())
    }

    /// Writes a file in a sandbox.
    ///
    /// # Errors
    /// As for [`Client::sandbox`].
    pub async fn write_file(&self, request: v1::WriteFileRequest) -> Result<(), ClientError> {
        self.calls().write_file(self.call(request)).await?;
        Ok(())
    }
}
