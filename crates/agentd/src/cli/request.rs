//! From the arguments to what a backend is asked for.

use super::{
    Failure,
    args::{BoundaryArgs, CommandArgs, NetworkArg, RunArgs},
    environment::{self, Environment},
    grants, terminal,
};
use agentd_core::{Command, Grant, IsolationError, Limits, Root, SandboxSpec, StdinSource, Writable};
use agentd_image::Image;
use agentd_isolation::{ContainerBackend, FirecrackerBackend, HostDirectBackend};
use std::path::{Path, PathBuf};

/// How much of the output `--json` holds when no limit says otherwise.
const JSON_CAPTURE: u64 = 1 << 20;

/// A sandbox that is asked for, and what a command in it starts with.
pub(crate) struct Asked {
    /// The sandbox.
    pub spec: SandboxSpec,
    /// The environment of a command that asks for nothing of its own.
    pub env: Environment,
    /// Its home directory.
    pub home: PathBuf,
    /// The directory that it may change.
    workspace: Option<PathBuf>,
}

/// The sandbox and the command that `args` ask of the backend with this canonical name.
pub(crate) fn request(args: &RunArgs, backend: &str, image: Option<&Image>) -> Result<(SandboxSpec, Command), Failure> {
    if backend == HostDirectBackend::NAME {
        refuse_what_cannot_hold(&args.boundary)?;
    }
    let workspace = match &args.boundary.workspace {
        Some(path) if path == Path::new("none") => None,
        Some(path) => Some(path.clone()),
        None => Some(here()?),
    };
    let Asked { mut spec, env, home, workspace } = sandbox(&args.boundary, workspace.as_deref(), backend, image)?;
    let cwd = match &args.command.cwd {
        Some(cwd) => named_directory(cwd, &spec.grants)?,
        None => here()
            .ok()
            .and_then(|here| inside(&here, &spec.grants))
            .or(workspace)
            .unwrap_or_else(|| image.map_or(home, |image| image.config.working_dir.clone())),
    };
    let mut command = command(&args.command, env, cwd)?;
    spec.writable = args.disk.map_or(Writable::Memory, Writable::Volume);
    // With one command in it, they are the sandbox's.
    spec.limits = Limits { wall: command.limits.wall, output: command.limits.output, ..spec.limits };
    command.limits = Limits::default();
    Ok((spec, command))
}

/// The sandbox that `args` ask of a backend.
pub(crate) fn sandbox(
    args: &BoundaryArgs,
    workspace: Option<&Path>,
    backend: &str,
    image: Option<&Image>,
) -> Result<Asked, Failure> {
    let guard = grants::Guard::of(std::env::var_os("HOME").as_deref());
    let wishes = grants::Wishes { workspace, workspace_ro: args.workspace_ro, ro: &args.ro, rw: &args.rw, guard: &guard };
    let mut granted = grants::plan(&wishes)?;
    // Links in its name are resolved: the supervisor knows nothing of the directory that a relative one starts from.
    let workspace = workspace.and(granted.first()).map(|grant| grant.path.clone());
    let mut tools = Vec::new();
    // An image has its own, and so has a machine.
    if image.is_none() && backend != FirecrackerBackend::NAME {
        let (own, variables) = grants::tools(&guard, &std::env::var_os("PATH").unwrap_or_default());
        granted.extend(own);
        tools = variables;
    }
    let home = home(backend, &guard);
    let place = environment::Place { home: &home, grants: &granted, tools: &tools, root: own_root(backend) };
    let mut env = environment::build(&environment::callers(), &place);
    if let Some(image) = image {
        environment::of_image(&mut env, &image.config.env);
    }
    let limits = Limits {
        cpu_time: args.cpu_time,
        memory: args.memory,
        processes: args.pids,
        open_files: args.open_files,
        file_size: args.file_size,
        cpu_quota: args.cpus,
        cpu_weight: args.cpu_weight,
        ..Limits::default()
    };
    let spec = SandboxSpec {
        root: image.map_or(Root::Host, |image| Root::Layers(image.layers.clone())),
        writable: Writable::Memory,
        grants: granted,
        home: Some(home.clone()),
        network: args.net.map(Into::into).unwrap_or_default(),
        profile: args.profile.map(Into::into).unwrap_or_default(),
        limits,
        allow_degraded: args.allow_degraded,
    };
    Ok(Asked { spec, env, home, workspace })
}

/// The command that `args` ask for, in `cwd`, which starts with `env`.
pub(crate) fn command(args: &CommandArgs, mut env: Environment, cwd: PathBuf) -> Result<Command, IsolationError> {
    let caller = environment::callers();
    if args.tty {
        environment::for_terminal(&mut env, &caller);
    }
    environment::set(&mut env, &caller, &args.env)?;
    Ok(Command {
        argv: args.argv.clone(),
        env: env.into_iter().collect(),
        cwd: Some(cwd),
        stdin: if args.interactive && !args.tty { StdinSource::Stream } else { StdinSource::Null },
        pty: args.tty.then(terminal::size),
        limits: Limits { wall: args.timeout, output: args.max_output, ..Limits::default() },
        capture: args.max_output.map_or(JSON_CAPTURE, |b| b.0.min(64 << 20)),
    })
}

/// Without a boundary nothing is kept from the command; who asks for that is told, not disappointed.
fn refuse_what_cannot_hold(args: &BoundaryArgs) -> Result<(), IsolationError> {
    let moved = args.rw.iter().any(|wish| grants::split(wish).1.is_some());
    let asked = [
        ("--image", args.image.is_some()),
        ("--workspace-ro", args.workspace_ro),
        ("--ro", !args.ro.is_empty()),
        ("--rw PATH:TARGET", moved),
        ("--profile", args.profile.is_some()),
        ("--net off", args.net == Some(NetworkArg::Off)),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((option, _)) => Err(IsolationError::Invalid {
            what: option.to_owned(),
            reason: format!("host-direct has no boundary that could hold {option}: choose another backend or drop the option"),
        }),
    }
}

/// The current directory, without links.
fn here() -> Result<PathBuf, IsolationError> {
    std::env::current_dir().map_err(|error| IsolationError::Invalid {
        what: "current directory".to_owned(),
        reason: format!("{error}: go into a directory that exists, or name one with --workspace DIR"),
    })
}

/// Whether sandboxes of this backend have a root of their own, in which the command is root.
fn own_root(backend: &str) -> bool {
    [ContainerBackend::NAME, FirecrackerBackend::NAME].contains(&backend)
}

/// What the command is told is its home.
fn home(backend: &str, guard: &grants::Guard) -> PathBuf {
    let own = guard.home();
    let home = match backend {
        // Root's, in a root of its own.
        _ if own_root(backend) => Path::new("/root"),
        HostDirectBackend::NAME => own.unwrap_or(Path::new("/")),
        // The same place where it can be covered and is an ordinary user's, because tools remember paths. Root's command is not root.
        _ => own.filter(|home| home.starts_with("/home")).unwrap_or(Path::new("/home/agent")),
    };
    home.to_path_buf()
}

/// Where a path of the host is shown; `None` where no grant shows it.
fn inside(path: &Path, granted: &[Grant]) -> Option<PathBuf> {
    let shows = granted.iter().filter_map(|grant| Some((grant, path.strip_prefix(&grant.path).ok()?)));
    // The innermost: it lies over the others.
    let (grant, rest) = shows.min_by_key(|(_, rest)| rest.components().count())?;
    let place = grant.target.as_ref().unwrap_or(&grant.path);
    // Joining nothing would add a slash.
    Some(if rest.as_os_str().is_empty() { place.clone() } else { place.join(rest) })
}

/// The directory of `--cwd`: one of the host's as it is shown inside, or one that is only there inside.
fn named_directory(cwd: &Path, granted: &[Grant]) -> Result<PathBuf, IsolationError> {
    if granted.iter().any(|grant| grant.target.as_ref().is_some_and(|target| cwd.starts_with(target))) {
        return Ok(cwd.to_path_buf());
    }
    match cwd.canonicalize() {
        Ok(real) => Ok(inside(&real, granted).unwrap_or(real)),
        Err(_) if cwd.is_absolute() => Ok(cwd.to_path_buf()),
        Err(error) => Err(IsolationError::Invalid {
            what: format!("--cwd {}", cwd.display()),
            reason: format!("{error}: create it, or give an absolute path inside the sandbox"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::Access;

    fn grant(path: &str, target: Option<&str>) -> Grant {
        Grant { path: path.into(), target: target.map(PathBuf::from), access: Access::ReadWrite, protect: Vec::new() }
    }

    #[test]
    fn a_path_is_shown_where_the_innermost_grant_shows_it() {
        let granted = [grant("/w", None), grant("/w/data", Some("/data")), grant("/other", None)];
        for (path, shown) in
            [("/w", Some("/w")), ("/w/a", Some("/w/a")), ("/w/data", Some("/data")), ("/w/data/a", Some("/data/a")), ("/x", None)]
        {
            assert_eq!(inside(Path::new(path), &granted), shown.map(PathBuf::from), "{path}");
        }
    }

    #[test]
    fn a_named_directory_may_be_only_inside() {
        let granted = [grant("/w", Some("/data"))];
        for path in ["/data/a", "/no/such/place"] {
            assert_eq!(named_directory(Path::new(path), &granted).unwrap(), Path::new(path));
        }
        assert!(named_directory(Path::new("no/such/place"), &granted).unwrap_err().to_string().contains("create it, or"));
    }
}
