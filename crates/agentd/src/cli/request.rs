//! Translates command-line arguments into a sandbox spec and a command.

use super::{
    args::{BoundaryArgs, CommandArgs, NetworkArg, RunArgs},
    environment::{self, Environment},
    failure::Failure,
    grants, host,
    image::Image,
    links, terminal, writer,
};
use crate::isolation::grants::Links;
use agentd_core::{
    BackendTraits, Command, Grant, IsolationBackend, IsolationError, Limits, Network, Root, SandboxSpec, StdinSource, Writable,
};
use std::path::{Path, PathBuf};

/// Size in bytes of the output that `--json` keeps when no limit is given.
const JSON_CAPTURE: u64 = 1 << 20;

/// A requested sandbox, and the defaults for commands in it.
pub(crate) struct Asked {
    /// The spec of the sandbox.
    pub spec: SandboxSpec,
    /// The environment of a command without options of its own.
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
    backend: &dyn IsolationBackend,
    image: Option<&Image>,
) -> Result<(SandboxSpec, Command), Failure> {
    if !backend.traits().boundary {
        refuse_what_cannot_hold(args, backend.name())?;
    }
    let workspace = match &args.boundary.workspace {
        Some(path) if path == Path::new("none") => None,
        Some(path) => Some(path.clone()),
        None => Some(here()?),
    };
    let Asked { mut spec, env, home, workspace, guard } = sandbox(&args.boundary, workspace.as_deref(), backend, image)?;
    let named = args.boundary.ro.len() + args.boundary.rw.len() + usize::from(workspace.is_some());
    if image.is_none() && backend.traits().copy_on_write {
        let caches = host::caches(&guard, &home, &spec.grants, &args.no_host_caches);
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
    backend: &dyn IsolationBackend,
    image: Option<&Image>,
) -> Result<Asked, Failure> {
    workspace.map_or(Ok(()), check_workspace)?;
    let traits = backend.traits();
    let guard = grants::Guard::for_home(std::env::var_os("HOME").as_deref());
    let requests = grants::GrantRequests {
        workspace,
        workspace_ro: args.workspace_ro,
        ro: &args.ro,
        rw: &args.rw,
        unprotect: &args.unprotect,
        guard: &guard,
        links: followed(args.follow_links),
    };
    let grants::Granted { grants: mut granted, notes } = grants::plan(&requests)?;
    for note in notes {
        writer::message(format_args!("{note}"));
    }
    refuse_moved(&granted, &traits, backend.name())?;
    let links = links::shown(
        workspace.into_iter().chain(args.ro.iter().chain(&args.rw).map(|requested| grants::split(requested).0)),
        &granted,
    );
    // The grant's path is resolved. The supervisor needs an absolute path, because it does not know the caller's directory.
    let workspace = workspace.and(granted.first()).map(|grant| grant.path.clone());
    let mut tools = Vec::new();
    // An image has its own tools.
    if image.is_none() && traits.host_tools {
        let toolchains = host::toolchains(&guard, &args.no_host_tools);
        granted.extend(toolchains.grants);
        tools = toolchains.variables;
    }
    let home = home(&traits, &guard);
    let network = args.net.map(Into::into).unwrap_or_default();
    // Without a boundary, a command uses the caller's network.
    let seen = if traits.boundary { network } else { Network::Host };
    let place = environment::CommandPlace { home: &home, grants: &granted, tools: &tools, root: traits.uid_zero, network: seen };
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
        links,
        home: Some(home.clone()),
        network,
        profile: args.profile.map(Into::into).unwrap_or_default(),
        limits,
        allow_degraded: args.allow_degraded,
    };
    Ok(Asked { spec, env, home, workspace, guard })
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

/// Rejects a grant at another path, if the backend shows grants only at their own paths.
fn refuse_moved(granted: &[Grant], traits: &BackendTraits, backend: &str) -> Result<(), IsolationError> {
    let is_moved = |grant: &&Grant| grant.target.as_ref().is_some_and(|target| *target != grant.path);
    match granted.iter().find(is_moved).filter(|_| !traits.moves_grants) {
        None => Ok(()),
        Some(grant) => Err(IsolationError::Invalid {
            what: format!("grant of {} at another path", grant.path.display()),
            reason: format!("{backend} cannot mount a grant at another path — drop :TARGET, or use --backend container"),
        }),
    }
}

/// Rejects the options that restrict a command, for a backend without a boundary: such a backend can enforce none of them.
fn refuse_what_cannot_hold(args: &RunArgs, backend: &str) -> Result<(), IsolationError> {
    let no_host_caches = !args.no_host_caches.is_empty();
    let args = &args.boundary;
    let moved = args.rw.iter().any(|requested| grants::split(requested).1.is_some());
    let asked = [
        ("--image", args.image.is_some()),
        ("--workspace-ro", args.workspace_ro),
        ("--ro", !args.ro.is_empty()),
        ("--rw PATH:TARGET", moved),
        ("--profile", args.profile.is_some()),
        ("--no-host-tools", !args.no_host_tools.is_empty()),
        ("--no-host-caches", no_host_caches),
        ("--net off", args.net == Some(NetworkArg::Off)),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((option, _)) => Err(IsolationError::Invalid {
            what: option.to_owned(),
            reason: format!("{backend} has no boundary and cannot enforce {option} — choose another backend or drop the option"),
        }),
    }
}

/// Returns the current directory, with links resolved.
fn here() -> Result<PathBuf, IsolationError> {
    std::env::current_dir().map_err(|error| IsolationError::Invalid {
        what: "current directory".to_owned(),
        reason: format!("{error} — change to an existing directory, or use --workspace DIR"),
    })
}

/// Returns the home directory of the command.
fn home(traits: &BackendTraits, guard: &grants::Guard) -> PathBuf {
    let own = guard.home();
    let home = match traits {
        BackendTraits { uid_zero: true, .. } => Path::new("/root"),
        BackendTraits { boundary: false, .. } => own.unwrap_or(Path::new("/")),
        // Tools remember absolute paths, so keep the caller's home path, if the sandbox can cover it and it belongs to an
        // ordinary user. A caller who is root is not root in this sandbox.
        _ => own
            .filter(|home| ["/home", "/var/home"].iter().any(|above| home.starts_with(above)))
            .unwrap_or(Path::new("/home/agent")),
    };
    home.to_path_buf()
}

/// Returns the path at which a path of the host is shown; `None` if no grant shows it.
fn inside(path: &Path, granted: &[Grant]) -> Option<PathBuf> {
    let shows = granted.iter().filter_map(|grant| Some((grant, path.strip_prefix(&grant.path).ok()?)));
    // The innermost grant is mounted over the others.
    let (grant, rest) = shows.min_by_key(|(_, rest)| rest.components().count())?;
    let place = grant.target.as_ref().unwrap_or(&grant.path);
    // Joining an empty path would append a slash.
    Some(if rest.as_os_str().is_empty() { place.clone() } else { place.join(rest) })
}

/// Returns true if part of a directory is shown at its own path, so that relative names of granted files stay valid inside.
fn above(path: &Path, named: &[Grant]) -> bool {
    named.iter().any(|grant| grant.path.starts_with(path) && grant.target.as_ref().is_none_or(|target| *target == grant.path))
}

/// Rejects a file as the workspace.
fn check_workspace(path: &Path) -> Result<(), IsolationError> {
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

/// Resolves `--cwd`: a directory of the host, translated to its path inside, or a directory that exists only inside.
fn named_directory(cwd: &Path, granted: &[Grant]) -> Result<PathBuf, IsolationError> {
    if granted.iter().any(|grant| grant.target.as_ref().is_some_and(|target| cwd.starts_with(target))) {
        return Ok(cwd.to_path_buf());
    }
    match cwd.canonicalize() {
        Ok(real) => Ok(inside(&real, granted).unwrap_or(real)),
        Err(_) if cwd.is_absolute() => Ok(cwd.to_path_buf()),
        Err(error) => Err(IsolationError::Invalid {
            what: format!("--cwd {}", cwd.display()),
            reason: format!("{error} — create it, or use an absolute path in the sandbox"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Sub};
    use super::*;
    use crate::isolation::create_backend;
    use agentd_core::{Access, BackendCapabilities, Sandbox, SandboxId};
    use clap::Parser;
    use std::sync::Arc;

    fn grant(path: &str, target: Option<&str>) -> Grant {
        Grant { target: target.map(PathBuf::from), ..Grant::new(path, Access::ReadWrite) }
    }

    #[test]
    fn inside_path_is_that_of_innermost_grant() {
        let granted = [grant("/w", None), grant("/w/data", Some("/data")), grant("/other", None)];
        for (path, shown) in
            [("/w", Some("/w")), ("/w/a", Some("/w/a")), ("/w/data", Some("/data")), ("/w/data/a", Some("/data/a")), ("/x", None)]
        {
            assert_eq!(inside(Path::new(path), &granted), shown.map(PathBuf::from), "{path}");
        }
    }

    /// A custom backend with these traits.
    struct Mine(BackendTraits);

    #[async_trait::async_trait]
    impl IsolationBackend for Mine {
        fn name(&self) -> &str {
            "mine"
        }
        fn traits(&self) -> BackendTraits {
            self.0
        }
        async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
            Ok(BackendCapabilities::from_evidence("mine", Vec::new()))
        }
        async fn create_sandbox(&self, _: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError> {
            Err(IsolationError::Internal("none".to_owned()))
        }
        async fn list_sandboxes(&self) -> Result<Vec<SandboxId>, IsolationError> {
            Ok(Vec::new())
        }
        async fn get_sandbox(&self, _: &SandboxId) -> Result<Option<Arc<dyn Sandbox>>, IsolationError> {
            Ok(None)
        }
        async fn destroy_all(&self) -> Result<(), IsolationError> {
            Ok(())
        }
        async fn health_check(&self) -> Result<(), IsolationError> {
            Ok(())
        }
    }

    fn asked(backend: &dyn IsolationBackend, options: &[&str]) -> Result<(SandboxSpec, Command), Failure> {
        let argv = [&["agentd", "run", "--workspace", "none"], options, &["--", "true"]].concat();
        let Sub::Run(args) = Cli::try_parse_from(argv)?.command else { panic!("not a run") };
        request(&args, backend, None)
    }

    fn is_root(backend: &dyn IsolationBackend) -> bool {
        let (spec, command) = asked(backend, &[]).unwrap();
        let variable = |name: &str| command.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap();
        let root = variable("USER") == "root";
        assert_eq!((variable("HOME") == "/root", spec.home.as_deref() == Some(Path::new("/root"))), (root, root));
        root
    }

    #[test]
    fn command_with_uid_zero_has_user_name_and_home_of_root() {
        let made = |name| create_backend(name, &std::env::temp_dir()).unwrap();
        assert!(!is_root(&*made("linux-native")));
        assert!(is_root(&*made("container")));
        #[cfg(feature = "gondolin")]
        assert!(is_root(&*made("gondolin")));
        #[cfg(feature = "firecracker")]
        assert!(is_root(&*made("firecracker")));
        assert!(!is_root(&Mine(BackendTraits::default())));
        assert!(is_root(&Mine(BackendTraits { uid_zero: true, ..BackendTraits::default() })));
    }

    #[test]
    fn grant_at_another_path_is_refused_without_the_trait() {
        let moved = ["--ro", "/usr/share:/share"];
        let refused = |traits| asked(&Mine(traits), &moved).err().map(|error| error.to_string());
        let fixed = refused(BackendTraits::default()).unwrap();
        assert!(fixed.contains("mine cannot mount a grant at another path"), "{fixed}");
        assert_eq!(refused(BackendTraits { moves_grants: true, ..BackendTraits::default() }), None);
        let open = refused(BackendTraits { boundary: false, moves_grants: true, ..BackendTraits::default() }).unwrap();
        assert!(open.contains("mine has no boundary and cannot enforce --ro"), "{open}");
    }

    #[test]
    fn cwd_may_exist_only_inside() {
        let granted = [grant("/w", Some("/data"))];
        for path in ["/data/a", "/no/such/place"] {
            assert_eq!(named_directory(Path::new(path), &granted).unwrap(), Path::new(path));
        }
        assert!(named_directory(Path::new("no/such/place"), &granted).unwrap_err().to_string().contains("create it, or"));
    }
}
