//! Translates command-line arguments into a sandbox spec and a command.

mod directories;
mod refuse;

use super::{
    args::{BoundaryArgs, CommandArgs, NetworkArg, RunArgs},
    environment::{self, Environment},
    failure::Failure,
    grants,
    image::Image,
    links, terminal, toolchains, writer,
};
use crate::isolation::grants::Links;
use agentd_core::{
    BackendTraits, Command, Grant, IsolationBackend, IsolationError, Limits, NetworkMode, Profile, Root, SandboxSpec,
    StdinSource, Writable,
};
use directories::{above, here, home, inside, named_directory};
use std::path::{Path, PathBuf};

/// Size in bytes of the output that `--json` keeps when no limit is given.
const JSON_CAPTURE: u64 = 1 << 20;

/// The description of a backend that a request needs.
pub(crate) struct BackendDescription<'a> {
    /// The canonical name.
    pub name: &'a str,
    /// The traits of its sandboxes.
    pub traits: BackendTraits,
}

impl<'a> BackendDescription<'a> {
    pub(crate) fn new(backend: &'a dyn IsolationBackend) -> Self {
        Self { name: backend.name(), traits: backend.traits() }
    }
}

/// A requested sandbox, and the defaults for commands in it.
pub(crate) struct RequestedSandbox {
    /// The spec of the sandbox.
    pub spec: SandboxSpec,
    /// The environment of a command that has no options.
    pub env: Environment,
    /// The home directory of commands.
    pub home: PathBuf,
    /// The directory that commands may change.
    workspace: Option<PathBuf>,
    /// The guard that decided about the grants.
    guard: grants::Guard,
}

/// Returns the sandbox and the command that `args` request from a backend.
///
/// # Errors
/// The message for the user, about the first argument that cannot be carried out.
pub(crate) fn request(
    args: &RunArgs,
    backend: &BackendDescription<'_>,
    image: Option<&Image>,
) -> Result<(SandboxSpec, Command), Failure> {
    if !backend.traits.boundary {
        refuse::restrictions(args, backend.name)?;
    }
    let workspace = match &args.boundary.workspace {
        Some(path) if path == Path::new("none") => None,
        Some(path) => Some(path.clone()),
        None => Some(here()?),
    };
    let RequestedSandbox { mut spec, env, home, workspace, guard } =
        sandbox(&args.boundary, workspace.as_deref(), backend, image)?;
    let named = args.boundary.ro.len() + args.boundary.rw.len() + usize::from(workspace.is_some());
    if image.is_none() && backend.traits.copy_on_write {
        let caches = toolchains::caches(&guard, &home, &spec.grants, &args.no_host_caches);
        spec.grants.extend(caches);
    }
    let named = spec.grants.get(..named).unwrap_or(&spec.grants);
    let cwd = match &args.command.cwd {
        Some(cwd) => named_directory(cwd, &spec.grants)?,
        None => here()
            .ok()
            .and_then(|here| inside(&here, &spec.grants))
            .or(workspace)
            .or_else(|| here().ok().filter(|here| above(here, named)))
            .unwrap_or_else(|| image.map_or(home, |image| image.config.working_dir.clone())),
    };
    let mut command = command(&args.command, env, cwd)?;
    spec.writable = args.disk.map_or(Writable::Memory, Writable::Volume);
    // With a single command, its limits are limits of the sandbox.
    spec.limits = Limits { wall: command.limits.wall, grace: command.limits.grace, output: command.limits.output, ..spec.limits };
    command.limits = Limits::default();
    Ok((spec, command))
}

/// Returns the sandbox that `args` request from a backend.
///
/// # Errors
/// As for [`request`].
pub(crate) fn sandbox(
    args: &BoundaryArgs,
    workspace: Option<&Path>,
    backend: &BackendDescription<'_>,
    image: Option<&Image>,
) -> Result<RequestedSandbox, Failure> {
    workspace.map_or(Ok(()), refuse::file_as_workspace)?;
    let BackendDescription { name, traits } = backend;
    let guard = grants::Guard::for_home(std::env::var_os("HOME").as_deref());
    let mut granted = granted(args, workspace, &guard)?;
    refuse::moved_grants(&granted, traits, name)?;
    refuse::writable_grant_files(&args.net, &granted)?;
    let links = links::links_to_show(
        workspace.into_iter().chain(args.ro.iter().chain(&args.rw).map(|requested| grants::split(requested).0)),
        &granted,
    );
    // The grant's path is resolved. The supervisor needs an absolute path, because it does not know the caller's directory.
    let workspace = workspace.and(granted.first()).map(|grant| grant.path.clone());
    let mut tools = Vec::new();
    // An image has its own tools.
    if image.is_none() && traits.host_tools {
        let toolchains = toolchains::toolchains(&guard, &args.no_host_tools);
        granted.extend(toolchains.grants);
        tools = toolchains.variables;
    }
    let home = home(traits, &guard);
    let network = NetworkArg::network(&args.net)?;
    refuse::granted_hosts(&network, traits, name)?;
    let network_limits = NetworkArg::limits(&args.net, &args.net_limit);
    refuse::useless_limits(&network, &network_limits)?;
    // Without a boundary, a command uses the caller's network.
    let seen = if traits.boundary { network.mode() } else { NetworkMode::Host };
    let place = environment::CommandPlace { home: &home, grants: &granted, tools: &tools, root: traits.uid_zero, network: seen };
    let mut env = environment::build(&environment::callers(), &place);
    if let Some(image) = image {
        environment::of_image(&mut env, &image.config.env);
    }
    let spec = SandboxSpec {
        root: image.map_or(Root::Host, |image| Root::Layers(image.layers.clone())),
        writable: Writable::Memory,
        grants: granted,
        links,
        home: Some(home.clone()),
        network,
        network_limits,
        secrets: Vec::new(),
        deny_reasons: NetworkArg::deny_reasons(&args.net),
        profile: profile(args),
        limits: limits(args),
        allow_degraded: args.allow_degraded,
    };
    Ok(RequestedSandbox { spec, env, home, workspace, guard })
}

/// Returns the grants that `args` request, the workspace first, and prints the notes about them.
fn granted(args: &BoundaryArgs, workspace: Option<&Path>, guard: &grants::Guard) -> Result<Vec<Grant>, Failure> {
    let requests = grants::GrantRequests {
        workspace,
        workspace_ro: args.workspace_ro,
        ro: &args.ro,
        rw: &args.rw,
        unprotect: &args.unprotect,
        guard,
        links: followed(args.follow_links),
    };
    let grants::Granted { grants, notes } = grants::plan(&requests)?;
    for note in notes {
        writer::message(format_args!("{note}"));
    }
    Ok(grants)
}

/// Returns the profile of a sandbox.
pub(crate) fn profile(args: &BoundaryArgs) -> Profile {
    args.profile.map(Into::into).unwrap_or_default()
}

/// Returns the limits of a sandbox.
pub(crate) fn limits(args: &BoundaryArgs) -> Limits {
    Limits {
        cpu_time: args.limits.cpu_time,
        memory: args.limits.memory,
        processes: args.limits.pids,
        open_files: args.limits.open_files,
        file_size: args.limits.file_size,
        cpu_quota: args.limits.cpus,
        cpu_weight: args.cpu_weight,
        ..Limits::default()
    }
}

/// Translates `--follow-links`.
pub(crate) fn followed(follow: bool) -> Links {
    if follow { Links::Follow } else { Links::Refuse }
}

/// Returns the command that `args` request, in the directory `cwd` and with `env` as its initial environment.
///
/// # Errors
/// [`IsolationError::Invalid`] for `-it` without a terminal, and for an invalid `--env`.
pub(crate) fn command(args: &CommandArgs, mut env: Environment, cwd: PathBuf) -> Result<Command, IsolationError> {
    let caller = environment::callers();
    if args.tty && args.interactive && !rustix::termios::isatty(rustix::stdio::stdin()) {
        // The end of a pipe cannot be passed on: the command would read a terminal, which has no permanent end of file.
        return Err(IsolationError::Invalid {
            what: "-it".to_owned(),
            reason: "standard input is not a terminal — drop -t to forward standard input, or -i to forward nothing".to_owned(),
        });
    }
    if args.tty {
        environment::for_terminal(&mut env, &caller);
    }
    environment::set(&mut env, &caller, &args.env)?;
    Ok(Command {
        argv: args.argv.clone(),
        env: env.into_iter().collect(),
        cwd: Some(cwd),
        stdin: if args.interactive { StdinSource::Stream } else { StdinSource::Null },
        pty: args.tty.then(terminal::size),
        limits: Limits { wall: args.timeout, grace: Some(args.grace), output: args.max_output, ..Limits::default() },
        capture: args.max_output.map_or(JSON_CAPTURE, |b| b.0.min(64 << 20)),
    })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
