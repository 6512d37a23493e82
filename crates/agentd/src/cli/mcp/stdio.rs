//! Serves an agent on standard input and output.

use super::super::{
    failure::{self, Failure},
    local_user, run,
    service::service,
    stops::Stops,
};
use agentd_server::{
    Caller,
    mcp::{McpWorkspace, serve_stdio},
};
use std::{
    path::{Path, PathBuf},
    pin::pin,
};
use tokio_util::sync::CancellationToken;

/// Serves the program that started agentd, until it closes standard input or a signal stops agentd. Returns the exit code.
pub(super) async fn serve(workspace: Option<&Path>) -> Result<u8, Failure> {
    let workspace = directory(workspace)?;
    // The parent process is one of this user, who owns the engine.
    let caller = Caller {
        principal: local_user::principal()?,
        transport: "mcp-stdio",
        address: None,
        is_operator: true,
        scope: Default::default(),
    };
    let service = service(workspace.iter().map(PathBuf::from).collect()).await?;
    let mut stops = Stops::new()?;
    let stop = CancellationToken::new();
    let mut served = pin!(serve_stdio(service, caller, McpWorkspace::Fixed(workspace), stop.clone()));
    tokio::select! {
        served = &mut served => served?,
        signal = stops.next() => {
            stop.cancel();
            served.await?;
            return Ok(run::stopped_by(signal));
        }
    }
    Ok(0)
}

/// Returns the directory that the sandboxes show: the current one, unless the arguments name another one or none.
fn directory(named: Option<&Path>) -> Result<Option<String>, Failure> {
    let path = match named {
        Some(path) if path.as_os_str() == "none" => return Ok(None),
        Some(path) => path,
        None => Path::new("."),
    };
    let resolved = path.canonicalize().map_err(|error| failure::of_file("workspace", path, &error))?;
    let not_utf8 = || format!("workspace: {}: the path is not UTF-8 — name another directory", path.display());
    Ok(Some(resolved.into_os_string().into_string().map_err(|_| not_utf8())?))
}
