//! Translates the arguments of `agentd call` into an intent.

use super::super::{
    args::{CallArgs, NetworkArg},
    failure::{self, Failure},
    local_user,
    records::read,
    secrets,
};
use crate::isolation::canonical_backend_name;
use agentd_core::Limits;
use agentd_engine::{Intent, MAX_PARAMETERS, RequestedWorkspace, WorkspaceAccess, parse_parameters};
use agentd_policy::{RequestSource, RequestedConfinement};
use agentd_records::Timestamp;
use std::{io::Read as _, path::Path};

/// The transport in records and policies.
const COMMAND_LINE: &str = "command-line";

/// Returns the intent of these arguments. Its principal is the local user.
///
/// # Errors
/// The parameters or the workspace cannot be read.
pub(super) fn of(args: &CallArgs) -> Result<Intent, Failure> {
    let received = Timestamp::now();
    Ok(Intent {
        principal: local_user::principal()?,
        source: RequestSource { transport: COMMAND_LINE.to_owned(), address: None },
        capability: args.capability.clone(),
        scope: None,
        parameters: parse_parameters(&parameters(&args.params)?)?,
        confinement: confinement(args)?,
        secrets: args.less.secret.iter().map(|option| secrets::target(option)).collect::<Result<_, _>>()?,
        workspace: workspace(args)?,
        sandbox: None,
        key: args.key.clone(),
        received,
    })
}

/// Reads the parameters, at most one byte more than is allowed.
fn parameters(text: &str) -> Result<Vec<u8>, Failure> {
    if text == "-" {
        let mut bytes = Vec::new();
        let limit = u64::try_from(MAX_PARAMETERS).unwrap_or(u64::MAX).saturating_add(1);
        std::io::stdin()
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|error| format!("read parameters: standard input: {error} — name a file with @FILE"))?;
        return Ok(bytes);
    }
    match text.strip_prefix('@') {
        Some(path) => read("parameters", Path::new(path), MAX_PARAMETERS),
        None => Ok(text.as_bytes().to_vec()),
    }
}

fn confinement(args: &CallArgs) -> Result<RequestedConfinement, Failure> {
    let less = &args.less;
    let backend = match args.backend.as_deref() {
        None | Some("auto" | "") => None,
        Some(name) => Some(canonical_backend_name(name).unwrap_or_else(|| name.to_owned())),
    };
    Ok(RequestedConfinement {
        profile: less.profile.map(Into::into),
        limits: Limits {
            wall: less.timeout,
            cpu_time: less.limits.cpu_time,
            memory: less.limits.memory,
            processes: less.limits.pids,
            open_files: less.limits.open_files,
            file_size: less.limits.file_size,
            output: less.max_output,
            cpu_quota: less.limits.cpus,
            ..Limits::default()
        },
        network: if less.net.is_empty() { None } else { Some(NetworkArg::network(&less.net)?) },
        backend,
    })
}

fn workspace(args: &CallArgs) -> Result<Option<RequestedWorkspace>, Failure> {
    let path = match args.less.workspace.as_deref() {
        Some(path) if path == Path::new("none") => return Ok(None),
        Some(path) => path,
        None => Path::new("."),
    };
    let resolved = path.canonicalize().map_err(|error| failure::of_file("workspace", path, &error))?;
    let not_utf8 = || format!("workspace: {}: the path is not UTF-8 — name another directory", path.display());
    let resolved = resolved.to_str().ok_or_else(not_utf8)?.to_owned();
    let access = if args.less.workspace_ro { WorkspaceAccess::ReadOnly } else { WorkspaceAccess::ReadWrite };
    Ok(Some(RequestedWorkspace { path: resolved, access }))
}
