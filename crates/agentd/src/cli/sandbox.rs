//! `agentd sandbox`: named sandboxes, which the daemon runs.

use super::{
    args::{CreateArgs, ExecArgs, SandboxCommand},
    copy, data, environment,
    failure::{self, CANNOT, Failure},
    forward::forward,
    granted_hosts::granted_hosts,
    host_approvals, image, protection,
    regrant::regrant,
    remove::remove,
    request::{self, BackendDescription},
    run::{not_executed, warn_of_weaknesses},
    selection::{self, Selected},
    stops::Stops,
    stream, writer,
};
use agentd_core::{IsolationError, Root, Writable, escape};
use agentd_daemon::{Activity, Client, DaemonError, Status};
use agentd_log::LogFailure as _;
use agentd_sandboxes::{Change, ChangeKind, Disk, Name, Record, SandboxSettings, SandboxStore};
use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// Interval between two reads of `logs --follow`.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Runs one of the `agentd sandbox` commands.
pub(crate) async fn sandbox(command: SandboxCommand) -> Result<u8, Failure> {
    let state = SandboxStore::open(&data::sandboxes()?)?;
    let client = client()?;
    match command {
        SandboxCommand::Create(args) => create(&client, *args).await?,
        SandboxCommand::Exec(args) => return exec(&client, &state, *args).await,
        SandboxCommand::Ls { json } => return list(&client, &state, json).await,
        SandboxCommand::Inspect { name } => {
            let record = state.record(&name)?;
            let status = client.status().await?;
            let known = describe(&record, disk(&state, &record), &status, true);
            writeln!(io::stdout(), "{}", escape::json(&format!("{known:#}")))?;
        }
        SandboxCommand::Logs { name, follow } => logs(&state, &name, follow).await?,
        SandboxCommand::Cp { from, to } => copy_file(&client, &from, &to).await?,
        SandboxCommand::Pause { name } => client.pause(&name).await?,
        SandboxCommand::Resume { name } => client.resume(&name).await?,
        SandboxCommand::Snapshot { name, snapshot, delete: true } => client.forget(&name, &snapshot).await?,
        SandboxCommand::Snapshot { name, snapshot, delete: false } => client.snapshot(&name, &snapshot).await?,
        SandboxCommand::Fork { name, of, new } => client.fork(&name, of.as_ref(), &new).await?,
        SandboxCommand::Restore { name, snapshot } => client.restore(&name, &snapshot).await?,
        SandboxCommand::Regrant { name, follow_links, json } => regrant(&client, &state, &name, follow_links, json).await?,
        SandboxCommand::Net(args) => granted_hosts(&client, &state, args).await?,
        SandboxCommand::Forward { name, port } => forward(client, &state, name, port).await?,
        SandboxCommand::Diff { name, since } => diff(&client, &state, &name, since.as_ref()).await?,
        SandboxCommand::Rm { names, json } => remove(&client, &names, json).await?,
        SandboxCommand::Fsck => return check(&client).await,
    }
    Ok(0)
}

/// Creates a client of this user's daemon.
pub(crate) fn client() -> Result<Client, Failure> {
    let folder = data::sandboxes()?;
    let daemon = [std::env::current_exe()?.into_os_string(), "daemon".into(), "serve".into(), folder.clone().into_os_string()];
    // The daemon runs in `/`. If the current directory was removed, the daemon does not need it.
    let started_in = std::env::current_dir().ok().map(PathBuf::into_os_string);
    Ok(Client::new(&folder, daemon.into_iter().chain(started_in).collect()))
}

/// Proves the boundary on this host before a command runs. If this process cannot prove the boundary in its namespaces, the
/// request states this, and the daemon proves the boundary in the daemon's namespaces.
pub(crate) async fn proven(client: &Client) -> Result<Selected, Failure> {
    match selection::of_named_sandboxes().await {
        Err(_) if client.is_elsewhere()? => selection::unproven_of_named_sandboxes(),
        selected => selected,
    }
}

async fn create(client: &Client, args: CreateArgs) -> Result<(), Failure> {
    let selected = proven(client).await?;
    // Held until the record of the sandbox references the layers.
    let held = args.boundary.image.as_ref().map(image::hold).transpose()?;
    let image = held.as_ref().map(|(image, _)| image);
    // A named sandbox has its own root, so it gets a workspace only if one was requested.
    let workspace = args.boundary.workspace.as_deref().filter(|path| *path != Path::new("none"));
    let asked = request::sandbox(&args.boundary, workspace, &BackendDescription::new(&*selected.backend), image)?;
    let mut spec = asked.spec;
    spec.writable = args.disk.map_or(Writable::Memory, Writable::Volume);
    let about = SandboxSettings {
        spec,
        image: image.map(|image| image.reference.to_string()),
        env: text_of_environment(asked.env)?,
        cwd: image.map_or(asked.home, |image| image.config.working_dir.clone()),
        idle_ttl: args.idle_ttl.map(|ttl| ttl.as_secs().max(1)),
        total_ttl: args.ttl.map(|ttl| ttl.as_secs().max(1)),
        owner: None,
    };
    warn_of_weaknesses(&client.create(&args.name, about, selected.proven.is_some()).await?);
    Ok(())
}

/// Returns the principal of the user who runs agentd, to whom the sandboxes of the command line belong.
pub(crate) fn own_principal() -> String {
    format!("user:uid:{}", rustix::process::geteuid().as_raw())
}

/// Converts variables to text, as stored in a record.
pub(crate) fn text_of_environment(env: environment::Environment) -> Result<Vec<(String, String)>, Failure> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| match (name.to_str(), value.to_str()) {
        (Some(name), Some(value)) => Ok((name.to_owned(), value.to_owned())),
        _ => {
            let name = name.display();
            let what = format!("store the environment: variable {name}: its name or value is not UTF-8");
            Err(format!("{what} — pass another value, or leave out --env {name}").into())
        }
    };
    env.into_iter().map(text).collect()
}

async fn exec(client: &Client, state: &SandboxStore, args: ExecArgs) -> Result<u8, Failure> {
    let record = state.record(&args.name)?;
    let env = record.about.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    // A relative path is relative to the default directory of the sandbox's commands.
    let cwd = args.command.cwd.as_ref().map_or_else(|| record.about.cwd.clone(), |cwd| record.about.cwd.join(cwd));
    let command = request::command(&args.command, env, cwd)?;
    let proven = proven(client).await?.proven.is_some();
    if args.detach {
        let (controls, report) = client.detach(&args.name, command, proven).await?;
        warn_of_weaknesses(&controls);
        protection::warn(&report);
        return Ok(0);
    }
    let mut stops = Stops::new()?;
    // The daemon may compare protected paths before it starts the command. When the connection is closed, it starts no command.
    let mut started = tokio::select! {
        started = client.exec(&args.name, command, proven) => started?,
        stop = stops.next() => return Ok(u8::try_from(128 + stop).unwrap_or(CANNOT)),
    };
    warn_of_weaknesses(started.controls());
    protection::warn(started.before());
    started.announce_waiting_hosts(host_approvals::print_waiting);
    let after = started.after();
    let ran = stream::stream(Box::new(started), &args.command, &mut stops, writer::start()).await;
    protection::warn(&after.report());
    match ran {
        Err(IsolationError::Spawn { program, errno }) => Ok(not_executed(&program, errno)),
        other => Ok(other?.1),
    }
}

async fn list(client: &Client, state: &SandboxStore, json: bool) -> Result<u8, Failure> {
    let all = state.list()?;
    let status = client.status().await?;
    let good = all.iter().filter_map(|record| record.as_ref().ok());
    let mut out = io::stdout().lock();
    if json {
        writeln!(
            out,
            "{:#}",
            serde_json::Value::from_iter(good.map(|record| describe(record, disk(state, record), &status, false)))
        )?;
    } else {
        for record in good {
            let image = record.about.image.as_deref().unwrap_or("(the host's programs)");
            let (now, usage) = (now(record, &status), disk_usage(disk(state, record)));
            writeln!(out, "{:<32} {now:<28} {:>3} snapshots  {image}{usage}", record.name, record.snapshots.len())?;
        }
    }
    let damaged = all.iter().filter_map(|record| record.as_ref().err());
    if damaged.map(|error| writer::message(format_args!("{error}"))).count() > 0 {
        return Ok(CANNOT);
    }
    Ok(0)
}

/// Returns the state of a sandbox as text.
fn now(record: &Record, status: &[Status]) -> String {
    let status = status.iter().find(|status| status.name == record.name);
    status.map_or_else(|| "stopped".to_owned(), |status| in_words(status.activity))
}

/// Returns the activity of a sandbox with processes as text.
pub(crate) fn in_words(activity: Activity) -> String {
    match activity {
        Activity::Paused { commands } => format!("paused, {}", counted(commands)),
        Activity::Live { commands } => format!("live, {}", counted(commands)),
        Activity::Changing => "changing".to_owned(),
    }
}

/// Returns a number of running commands as text.
fn counted(commands: usize) -> String {
    if commands == 1 { "1 command".to_owned() } else { format!("{commands} commands") }
}

/// Returns the state for JSON, and the number of running commands, if known. `None` means a sandbox without processes.
pub(crate) fn state(activity: Option<Activity>) -> (&'static str, Option<usize>) {
    match activity {
        None => ("stopped", Some(0)),
        Some(Activity::Paused { commands }) => ("paused", Some(commands)),
        Some(Activity::Live { commands }) => ("live", Some(commands)),
        Some(Activity::Changing) => ("changing", None),
    }
}

/// Returns the size and the usage of a sandbox's disk. An error is only logged; fsck reports a damaged disk.
fn disk(state: &SandboxStore, record: &Record) -> Option<Disk> {
    state.disk(record).or_debug("read the usage of the disk of sandbox", &record.name).flatten()
}

/// Returns the disk usage as text.
fn disk_usage(disk: Option<Disk>) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    disk.map_or_else(String::new, |disk| format!("  disk {} of {} MiB", mib(disk.used), mib(disk.size)))
}

fn describe(record: &Record, disk: Option<Disk>, status: &[Status], whole: bool) -> serde_json::Value {
    let (now, commands) = state(status.iter().find(|status| status.name == record.name).map(|status| status.activity));
    let mut value = serde_json::json!({
        "name": record.name,
        "state": now,
        "commands": commands,
        "image": record.about.image,
        "made": record.created,
        "idle_ttl_s": record.about.idle_ttl,
        "ttl_s": record.about.total_ttl,
        "parent": record.parent,
        "owner": record.about.owner.clone().unwrap_or_else(own_principal),
        "disk": disk.map(|disk| serde_json::json!({ "bytes": disk.size, "used_bytes": disk.used })),
        "snapshots": record.snapshots.iter().map(|(name, snapshot)| serde_json::json!({
            "name": name, "made": snapshot.created, "layers": snapshot.layers.len(),
        })).collect::<Vec<_>>(),
    });
    if whole {
        value["layers"] = record.lower.iter().chain([&record.upper]).map(ToString::to_string).collect();
        // Serialization cannot fail: the spec was read from JSON.
        value["spec"] = serde_json::to_value(&record.about.spec).unwrap_or_default();
    }
    value
}

async fn logs(state: &SandboxStore, name: &Name, follow: bool) -> Result<(), Failure> {
    let path = agentd_daemon::log_path(&state.log_directory(name));
    let mut from = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !follow => return Ok(()),
        Err(error) => return Err(failure::of_file(&format!("read the log of sandbox {name}"), &path, &error).into()),
    };
    let mut stops = Stops::new()?;
    loop {
        io::copy(&mut from, &mut io::stdout())?;
        io::stdout().flush()?;
        if !follow {
            return Ok(());
        }
        tokio::select! {
            _ = stops.next() => return Ok(()),
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
    }
}

/// A side of `cp`: a path in a sandbox, or on the host.
enum CopySide<'a> {
    InSandbox(Name, &'a Path),
    OnHost(&'a Path),
}

fn side(text: &str) -> CopySide<'_> {
    let there = text.split_once(':').filter(|(_, path)| path.starts_with('/'));
    match there.and_then(|(name, path)| Some((name.parse().ok()?, path))) {
        Some((name, path)) => CopySide::InSandbox(name, Path::new(path)),
        None => CopySide::OnHost(Path::new(text)),
    }
}

async fn copy_file(client: &Client, from: &str, to: &str) -> Result<(), Failure> {
    match (side(from), side(to)) {
        (CopySide::InSandbox(name, path), CopySide::OnHost(to)) => {
            let mut content = File::from(client.read(&name, path).await?);
            if to == Path::new("-") {
                io::copy(&mut content, &mut io::stdout())?;
                return Ok(());
            }
            copy::to_host(&mut content, path.file_name(), to)?;
        }
        (CopySide::OnHost(from), CopySide::InSandbox(name, path)) => {
            let content: OwnedFd = if from == Path::new("-") {
                copy::from_stdin().map_err(|error| format!("copy from standard input: {error} — copy a file instead"))?
            } else {
                copy::from_host(from)?
            };
            let place = match (path.as_os_str().as_bytes().ends_with(b"/"), from.file_name()) {
                (true, Some(own)) => path.join(own),
                _ => PathBuf::from(path),
            };
            client.write(&name, &place, content.as_fd()).await?;
        }
        (CopySide::OnHost(from), CopySide::OnHost(to)) => return Err(copy::without_sandbox(from, to).into()),
        (CopySide::InSandbox(..), CopySide::InSandbox(..)) => {
            return Err("copy: both FROM and TO are in a sandbox — copy to a file of the host first".into());
        }
    }
    Ok(())
}

async fn diff(client: &Client, state: &SandboxStore, name: &Name, since: Option<&Name>) -> Result<(), Failure> {
    let record = state.record(name)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    for change in changes(client, &record, since).await? {
        let kind = match change.kind {
            ChangeKind::Added => "A /",
            ChangeKind::Changed => "C /",
            ChangeKind::Removed => "D /",
        };
        writeln!(out, "{kind}{}", escape::name(&change.path))?;
    }
    out.flush()?;
    Ok(())
}

/// Returns the changes of a sandbox since a snapshot, or since its creation.
pub(crate) async fn changes(client: &Client, record: &Record, since: Option<&Name>) -> Result<Vec<Change>, DaemonError> {
    let image = match &record.about.spec.root {
        Root::Layers(layers) => layers.as_slice(),
        Root::Host => &[],
    };
    let created = Name::created();
    let created = record.snapshots.contains_key(&created).then_some(&created);
    client.diff(&record.name, since.or(created), image).await
}

async fn check(client: &Client) -> Result<u8, Failure> {
    let findings = client.check().await?;
    let mut damages = 0;
    for finding in &findings {
        writeln!(io::stdout(), "{}", escape::text(&finding.text))?;
        damages += usize::from(finding.is_damage);
    }
    if damages == 0 {
        writeln!(io::stdout(), "clean")?;
        return Ok(0);
    }
    Ok(CANNOT)
}
