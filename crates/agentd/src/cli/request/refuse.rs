//! Arguments that are refused, because the backend cannot enforce them or because they name the wrong kind of file.

use super::super::{
    args::{NetworkArg, RunArgs},
    grants,
};
use agentd_core::{Access, BackendTraits, Grant, IsolationError, Network, NetworkLimits, NetworkMode};
use agentd_isolation::grants::shows;
use std::path::{Path, PathBuf};

/// Rejects a grant at another path, if the backend shows grants only at their own paths.
pub(super) fn moved_grants(granted: &[Grant], traits: &BackendTraits, backend: &str) -> Result<(), IsolationError> {
    let is_moved = |grant: &&Grant| grant.target.as_ref().is_some_and(|target| *target != grant.path);
    match granted.iter().find(is_moved).filter(|_| !traits.moves_grants) {
        None => Ok(()),
        Some(grant) => Err(IsolationError::Invalid {
            what: format!("grant of {} at another path", grant.path.display()),
            reason: format!("{backend} cannot mount a grant at another path — drop :TARGET, or use --backend container"),
        }),
    }
}

/// Rejects granted hosts, if the backend cannot limit the network to them.
pub(super) fn granted_hosts(network: &Network, traits: &BackendTraits, backend: &str) -> Result<(), IsolationError> {
    if network.mode() != NetworkMode::Egress || traits.egress {
        return Ok(());
    }
    Err(IsolationError::Invalid {
        what: "--net allow= or log".to_owned(),
        reason: format!(
            "{backend} cannot limit the network to granted hosts — use --backend linux-native, container, firecracker or gondolin"
        ),
    })
}

/// Rejects limits of a network that has no granted hosts.
pub(super) fn useless_limits(network: &Network, limits: &NetworkLimits) -> Result<(), IsolationError> {
    if limits.is_empty() || network.mode() == NetworkMode::Egress {
        return Ok(());
    }
    let reason = "only granted hosts can have limits — add --net allow=, or drop --net-limit".to_owned();
    Err(IsolationError::Invalid { what: "--net-limit".to_owned(), reason })
}

/// Refuses a file of network grants that a command may change, because the next run would use the changed file.
pub(super) fn writable_grant_files(net: &[NetworkArg], granted: &[Grant]) -> Result<(), IsolationError> {
    let places = net.iter().flat_map(|arg| match arg {
        NetworkArg::File(read) => &read.places[..],
        _ => &[],
    });
    let writable = |place: &&PathBuf| granted.iter().any(|grant| grant.access == Access::ReadWrite && shows(grant, place));
    match places.into_iter().find(writable) {
        Some(place) => Err(IsolationError::Invalid {
            what: format!("--net file={}", place.display()),
            reason: "the command could change this file, and thus the hosts that a later command may reach — move it out of the \
                     workspace and of writable grants"
                .to_owned(),
        }),
        None => Ok(()),
    }
}

/// Rejects the options that restrict a command, for a backend without a boundary, which can enforce none of these options.
pub(super) fn restrictions(args: &RunArgs, backend: &str) -> Result<(), IsolationError> {
    let no_host_caches = !args.no_host_caches.is_empty();
    let args = &args.boundary;
    let moved = args.rw.iter().any(|requested| grants::split(requested).1.is_some());
    let asked = [
        ("--net allow= or log", NetworkArg::network(&args.net)?.mode() == NetworkMode::Egress),
        ("--net-limit", !args.net_limit.is_empty()),
        ("--image", args.image.is_some()),
        ("--workspace-ro", args.workspace_ro),
        ("--ro", !args.ro.is_empty()),
        ("--rw PATH:TARGET", moved),
        ("--profile", args.profile.is_some()),
        ("--no-host-tools", !args.no_host_tools.is_empty()),
        ("--no-host-caches", no_host_caches),
        ("--net off", args.net.contains(&NetworkArg::Off)),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((option, _)) => Err(IsolationError::Invalid {
            what: option.to_owned(),
            reason: format!("{backend} has no boundary and cannot enforce {option} — choose another backend or drop the option"),
        }),
    }
}

/// Rejects a file as the workspace.
pub(super) fn file_as_workspace(path: &Path) -> Result<(), IsolationError> {
    // A path that does not exist is rejected later, like that of any grant.
    if path.metadata().is_ok_and(|found| !found.is_dir()) {
        let (what, path) = (format!("--workspace {}", path.display()), path.display());
        let reason = format!(
            "not a directory — use the directory that contains this file, or grant only the file with --ro {path} or --rw {path}"
        );
        return Err(IsolationError::Invalid { what, reason });
    }
    Ok(())
}
