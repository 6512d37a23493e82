//! The request to execute a capability, as all transports translate it.

use crate::caller::Caller;
use agentd_core::{Bytes, CpuQuota, Limits, Network, Profile};
use agentd_engine::{Intent, RequestedWorkspace, WorkspaceAccess};
use agentd_policy::RequestedConfinement;
use agentd_records::Timestamp;
use agentd_state::IdempotencyKey;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{
    path::{Component, Path, PathBuf},
    time::Duration,
};

/// One request to use a capability. The options ask for a stricter sandbox than capability and policies permit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecuteRequest {
    /// The name of the capability with its version, such as `shell.exec.v1`.
    pub capability: String,
    /// The parameters, as the schema of the capability describes them.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub parameters: Map<String, Value>,
    /// The directory of the host that the sandbox shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceRequest>,
    /// The name of a sandbox that the caller has created. The command runs in it, with its workspace, profile, network and
    /// limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// The system calls that are allowed: `strict`, `default` or `permissive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub profile: Option<Profile>,
    /// The limits.
    #[serde(default, skip_serializing_if = "RequestedLimits::is_empty")]
    pub limits: RequestedLimits,
    /// The hosts that the sandbox may reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkRequest>,
    /// The backend, which must have a boundary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// A directory of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceRequest {
    /// The absolute path.
    pub path: String,
    /// True if the capability must not change the directory.
    #[serde(default)]
    pub read_only: bool,
}

/// The hosts that a sandbox may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkRequest {
    /// Network grants, such as `pypi.org` or `api.example.com:443/GET:/v1/*`. None are no network.
    pub allow: Vec<String>,
}

/// Limits of one intent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RequestedLimits {
    /// The wall-clock time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// The processor time of all processes in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_time_ms: Option<u64>,
    /// The memory of all processes in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The number of processes and threads at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// The number of open files of each process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// The size in bytes of each file that is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_size_bytes: Option<u64>,
    /// The size of the output in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
    /// The number of processors in thousandths: 1500 is one and a half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_milli: Option<u32>,
}

impl RequestedLimits {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn limits(&self) -> Limits {
        Limits {
            wall: self.wall_ms.map(Duration::from_millis),
            cpu_time: self.cpu_time_ms.map(Duration::from_millis),
            memory: self.memory_bytes.map(Bytes),
            processes: self.processes,
            open_files: self.open_files,
            file_size: self.file_size_bytes.map(Bytes),
            output: self.output_bytes.map(Bytes),
            cpu_quota: self.cpu_milli.map(CpuQuota),
            ..Limits::default()
        }
    }
}

/// The reason why a request is not submitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// The workspace is not an absolute path without `..`.
    #[error("workspace: {0:?} is not an absolute path without '..' — name a directory of the daemon's host")]
    Workspace(String),
    /// The directory cannot be resolved.
    #[error("workspace: {path}: {source} — name an existing directory of the daemon's host")]
    Unresolved {
        /// The requested path.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The daemon was not started with the directory. The text does not tell whether it exists.
    #[error("workspace: {0}: not in a directory that callers may name — start `agentd serve` with --workspace DIR")]
    Unlisted(String),
}

impl ExecuteRequest {
    /// Returns the intent of this request. `workspaces` are the directories at or below which every caller may name a workspace.
    ///
    /// # Errors
    /// [`InvalidRequest`] if the workspace is refused.
    pub fn intent(self, caller: &Caller, key: Option<IdempotencyKey>, workspaces: &[PathBuf]) -> Result<Intent, InvalidRequest> {
        let workspace = self.workspace.map(|workspace| workspace.resolved(caller, workspaces)).transpose()?;
        Ok(Intent {
            principal: caller.principal.clone(),
            source: caller.source(),
            capability: self.capability,
            scope: caller.scope.capabilities.clone(),
            parameters: self.parameters,
            confinement: RequestedConfinement {
                profile: self.profile,
                limits: self.limits.limits(),
                network: self.network.map(|network| match network.allow.as_slice() {
                    [] => Network::Off,
                    _ => Network::Egress(network.allow),
                }),
                backend: self.backend,
            },
            secrets: Vec::new(),
            workspace,
            sandbox: self.sandbox,
            key,
            received: Timestamp::now(),
        })
    }
}

impl WorkspaceRequest {
    fn resolved(self, caller: &Caller, workspaces: &[PathBuf]) -> Result<RequestedWorkspace, InvalidRequest> {
        let path = Path::new(&self.path);
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            return Err(InvalidRequest::Workspace(self.path));
        }
        let has = |list: &[PathBuf], path: &Path| list.iter().any(|listed| path.starts_with(listed));
        let in_scope = |path: &Path| caller.scope.workspaces.iter().all(|list| has(list, path));
        let is_listed = |path: &Path| (caller.is_operator || has(workspaces, path)) && in_scope(path);
        // Before the path is resolved, so that a caller learns nothing about directories that are not listed.
        if !is_listed(path) {
            return Err(InvalidRequest::Unlisted(self.path));
        }
        let resolved = path.canonicalize().map_err(|source| InvalidRequest::Unresolved { path: self.path.clone(), source })?;
        // A link in a listed directory may lead out of it.
        if !is_listed(&resolved) {
            return Err(InvalidRequest::Unlisted(self.path));
        }
        let access = if self.read_only { WorkspaceAccess::ReadOnly } else { WorkspaceAccess::ReadWrite };
        let path = resolved.into_os_string().into_string().map_err(|_| InvalidRequest::Workspace(self.path))?;
        Ok(RequestedWorkspace { path, access })
    }
}
