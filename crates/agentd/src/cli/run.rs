//! `agentd run`.

use super::{Failure, args::RunArgs, explain, grants, image, probe_cache, request, stream, writer};
use agentd_core::{Command, IsolationBackend, IsolationError, Layer, LayerReport, LayerStatus, Sandbox};
use agentd_isolation::{ContainerBackend, LinuxNativeBackend, create_backend};
use std::{path::PathBuf, sync::Arc};
use tokio::signal::unix::{SignalKind, signal};

/// Plans, creates, runs, destroys; gives the exit code.
pub(crate) async fn run(args: RunArgs) -> Result<u8, Failure> {
    let work_root = std::env::temp_dir();
    // Only one backend gives these.
    let own_root = args.boundary.image.is_some() || args.disk.is_some();
    if args.explain {
        let auto = if own_root { ContainerBackend::NAME } else { LinuxNativeBackend::NAME };
        let named = if args.backend == "auto" { auto } else { &args.backend };
        let name = create_backend(named, &work_root)?.name().to_owned();
        let image = args.boundary.image.as_ref().map(image::find).transpose()?;
        let (spec, _) = request::request(&args, &name, image.as_ref())?;
        use std::io::Write;
        std::io::stdout().write_all(explain::text(&name, &spec)?.as_bytes())?;
        return Ok(0);
    }
    let backend = match args.backend.as_str() {
        "auto" if own_root => probe_cache::backend(&work_root, Some(ContainerBackend::NAME)).await?,
        "auto" if args.boundary.allow_degraded => create_backend(LinuxNativeBackend::NAME, &work_root)?,
        "auto" => probe_cache::backend(&work_root, None).await?,
        name => create_backend(name, &work_root)?,
    };
    // Held until the sandbox is gone, so that nobody collects what it is made of.
    let held = args.boundary.image.as_ref().map(image::hold).transpose()?;
    let (spec, command) = request::request(&args, backend.name(), held.as_ref().map(|(image, _)| image))?;
    // Signals that come from now on end the command, not agentd before it has cleaned up.
    let mut stops = Stops::new()?;
    let unprotected = grants::unprotected(&spec.grants);
    let sandbox = backend.create_sandbox(spec).await?;
    if !args.json {
        warn_of_weaknesses(sandbox.layers());
    }
    let ran = if args.json {
        in_json(&sandbox, command, &*backend, &mut stops, &unprotected).await
    } else {
        match sandbox.exec_streaming(command).await {
            Ok(handle) => stream::stream(handle, &args.command, &mut stops).await,
            Err(error) => Err(error),
        }
    };
    if !args.json {
        tell_what_appeared(&unprotected);
    }
    let destroyed = sandbox.destroy().await;
    drop(held);
    let code = match ran {
        Err(IsolationError::Spawn { program, errno }) => Ok(not_executed(&program, errno)),
        other => other,
    }?;
    destroyed?;
    Ok(code)
}

/// Says why a program could not be executed; gives the exit code that a shell would (`sh(1p)`).
pub(crate) fn not_executed(program: &str, errno: i32) -> u8 {
    writer::say(format_args!("{program}: {}", std::io::Error::from_raw_os_error(errno)));
    if errno == libc::ENOENT { 127 } else { 126 }
}

/// Says what was asked for and holds less than that, or not at all (`--allow-degraded`).
pub(crate) fn warn_of_weaknesses(layers: &[LayerReport]) {
    for report in layers {
        match &report.status {
            LayerStatus::Missing(error) => writer::say(format_args!("not enforced: {error}")),
            // An old kernel's Landlock is the same at every run: `agentd doctor` tells.
            LayerStatus::Partial(why) if report.layer != Layer::Landlock => {
                writer::say(format_args!("{}: {why}", report.layer));
            }
            _ => {}
        }
    }
}

/// Says which of `unprotected` are there now.
pub(crate) fn tell_what_appeared(unprotected: &[PathBuf]) {
    for path in appeared(unprotected) {
        writer::say(format_args!(
            "the command made {}, which programs outside may execute or obey: look at it first",
            path.display()
        ));
    }
}

/// Those of `paths` that are there now.
fn appeared(paths: &[PathBuf]) -> impl Iterator<Item = &PathBuf> {
    paths.iter().filter(|path| path.symlink_metadata().is_ok())
}

/// Signals that ask agentd to stop.
pub(crate) struct Stops(Vec<(i32, tokio::signal::unix::Signal)>);

impl Stops {
    pub(crate) fn new() -> std::io::Result<Self> {
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .into_iter()
            .map(|kind| Ok((kind.as_raw_value(), signal(kind)?)))
            .collect::<std::io::Result<Vec<_>>>()
            .map(Self)
    }

    /// The first that comes.
    pub(crate) async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, stop) in &mut self.0 {
                if stop.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

async fn in_json(
    sandbox: &Arc<dyn Sandbox>,
    command: Command,
    backend: &dyn IsolationBackend,
    stops: &mut Stops,
    unprotected: &[PathBuf],
) -> Result<u8, IsolationError> {
    let outcome = tokio::select! {
        outcome = sandbox.exec(command) => outcome?,
        // The command ends with its sandbox.
        stop = stops.next() => return Ok(128 + u8::try_from(stop).unwrap_or(0)),
    };
    let stream = |captured: &agentd_core::Captured| {
        let bytes = captured.to_bytes();
        serde_json::json!({
            "text": String::from_utf8_lossy(&bytes),
            "utf8": std::str::from_utf8(&bytes).is_ok(),
            "bytes": captured.total(),
            "omitted": captured.omitted,
        })
    };
    let degraded: Vec<_> =
        sandbox.layers().iter().filter(|l| matches!(l.status, LayerStatus::Missing(_))).map(|l| l.layer).collect();
    let object = serde_json::json!({
        "backend": backend.name(),
        "reason": outcome.reason,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "usage": {
            "wall_us": micros(outcome.usage.wall),
            "cpu_user_us": micros(outcome.usage.cpu_user),
            "cpu_system_us": micros(outcome.usage.cpu_system),
            "peak_memory_bytes": outcome.usage.peak_memory,
            "peak_memory_of": if outcome.usage.peak_memory_is_group { "cgroup" } else { "largest process" },
        },
        "enforced": {
            "files": enforced(sandbox, &[Layer::Mounts, Layer::Landlock]),
            "processes": enforced(sandbox, &[Layer::Namespaces, Layer::Privileges]),
            "network": enforced(sandbox, &[Layer::Network]),
            "syscalls": enforced(sandbox, &[Layer::Seccomp]),
        },
        "layers": sandbox.layers(),
        "degraded": degraded,
        "made_unprotected": appeared(unprotected).collect::<Vec<_>>(),
        "stdout": stream(&outcome.stdout),
        "stderr": stream(&outcome.stderr),
    });
    let io = |source| IsolationError::Io { context: "print".to_owned(), source };
    let (sender, mut written, _) = writer::start().map_err(io)?;
    // The channel is empty and the writer lives.
    sender.send(writer::Piece::Out(format!("{object:#}\n").into_bytes())).await.ok();
    drop(sender);
    match stream::drain(&mut written, stops, None).await? {
        Some(stop) => Ok(128 + u8::try_from(stop).unwrap_or(0)),
        None => Ok(outcome.shell_code()),
    }
}

/// Whether all of `layers` were applied, in full or as far as the kernel goes.
fn enforced(sandbox: &Arc<dyn Sandbox>, layers: &[Layer]) -> bool {
    layers.iter().all(|layer| {
        sandbox.layers().iter().any(|report| report.layer == *layer && !matches!(report.status, LayerStatus::Missing(_)))
    })
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
