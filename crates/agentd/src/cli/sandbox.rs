//! `agentd sandbox`: named sandboxes, which the keeper has.

use super::{
    CANNOT, Failure,
    args::{CreateArgs, ExecArgs, SandboxCommand},
    data, environment, grants, image, probe_cache, request,
    run::{Stops, not_executed, tell_what_appeared, warn_of_weaknesses},
    stream, writer,
};
use agentd_core::{IsolationError, Root, Writable};
use agentd_isolation::ContainerBackend;
use agentd_keeper::{Client, Doing, Status};
use agentd_sandboxes::{About, Disk, Kind, Name, Record, State};
use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// How often `logs --follow` looks for more.
const LOOK: Duration = Duration::from_millis(200);

/// Carries out one of the commands.
pub(crate) async fn sandbox(command: SandboxCommand) -> Result<u8, Failure> {
    let folder = data::folder()?.join("sandboxes");
    let state = State::open(&folder)?;
    let keeper = [std::env::current_exe()?.into_os_string(), "keeper".into(), folder.clone().into_os_string()];
    let client = Client::new(&folder, keeper.into());
    match command {
        SandboxCommand::Create(args) => create(&client, *args).await?,
        SandboxCommand::Exec(args) => return exec(&client, &state, *args).await,
        SandboxCommand::Ls { json } => return list(&client, &state, json).await,
        SandboxCommand::Inspect { name } => {
            let record = state.record(&name)?;
            let status = client.status().await?;
            writeln!(io::stdout(), "{:#}", describe(&record, disk(&state, &record), &status, true))?;
        }
        SandboxCommand::Logs { name, follow } => logs(&state, &name, follow).await?,
        SandboxCommand::Cp { from, to } => copy(&client, &from, &to).await?,
        SandboxCommand::Pause { name } => client.pause(&name).await?,
        SandboxCommand::Resume { name } => client.resume(&name).await?,
        SandboxCommand::Snapshot { name, snapshot, forget: true } => client.forget(&name, &snapshot).await?,
        SandboxCommand::Snapshot { name, snapshot, forget: false } => client.snapshot(&name, &snapshot).await?,
        SandboxCommand::Fork { name, of, new } => client.fork(&name, of.as_ref(), &new).await?,
        SandboxCommand::Restore { name, snapshot } => client.restore(&name, &snapshot).await?,
        SandboxCommand::Diff { name, since } => diff(&client, &state, &name, since.as_ref()).await?,
        SandboxCommand::Rm { names } => {
            for name in &names {
                client.remove(name).await?;
            }
        }
        SandboxCommand::Fsck => return check(&client).await,
    }
    Ok(0)
}

/// The layers of images that named sandboxes need.
pub(crate) fn layers() -> Result<Vec<PathBuf>, Failure> {
    let folder = data::folder()?.join("sandboxes");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    Ok(State::open(&folder)?.needed_image_layers()?)
}

/// The boundary is proven on this machine, as it is now, before anything runs behind it.
async fn proven() -> Result<(), Failure> {
    probe_cache::backend(&std::env::temp_dir(), Some(ContainerBackend::NAME)).await?;
    Ok(())
}

async fn create(client: &Client, args: CreateArgs) -> Result<(), Failure> {
    proven().await?;
    // Held until its record says that it needs these layers.
    let held = args.boundary.image.as_ref().map(image::hold).transpose()?;
    let image = held.as_ref().map(|(image, _)| image);
    // Nothing of the host's unasked: it is a machine of its own.
    let workspace = args.boundary.workspace.as_deref().filter(|path| *path != Path::new("none"));
    let asked = request::sandbox(&args.boundary, workspace, ContainerBackend::NAME, image)?;
    let mut spec = asked.spec;
    spec.writable = args.disk.map_or(Writable::Memory, Writable::Volume);
    let about = About {
        spec,
        image: image.map(|image| image.reference.to_string()),
        env: in_text(asked.env)?,
        cwd: image.map_or(asked.home, |image| image.config.working_dir.clone()),
        idle_ttl: args.idle_ttl.map(|ttl| ttl.as_secs().max(1)),
        total_ttl: args.ttl.map(|ttl| ttl.as_secs().max(1)),
    };
    warn_of_weaknesses(&client.create(&args.name, about).await?);
    Ok(())
}

/// Variables as a record keeps them.
fn in_text(env: environment::Environment) -> Result<Vec<(String, String)>, Failure> {
    let text =
        |value: std::ffi::OsString| value.into_string().map_err(|value| format!("{value:?} in the environment is not text"));
    env.into_iter().map(|(name, value)| Ok((text(name)?, text(value)?))).collect()
}

async fn exec(client: &Client, state: &State, args: ExecArgs) -> Result<u8, Failure> {
    let record = state.record(&args.name)?;
    let env = record.about.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let cwd = args.command.cwd.clone().unwrap_or_else(|| record.about.cwd.clone());
    if !cwd.is_absolute() {
        return Err(format!("--cwd {}: give an absolute path in the sandbox", cwd.display()).into());
    }
    let command = request::command(&args.command, env, cwd)?;
    proven().await?;
    if args.detach {
        warn_of_weaknesses(&client.detach(&args.name, command).await?);
        return Ok(0);
    }
    let unprotected = grants::unprotected(&record.about.spec.grants);
    let mut stops = Stops::new()?;
    let started = client.exec(&args.name, command).await?;
    warn_of_weaknesses(started.layers());
    let ran = stream::stream(Box::new(started), &args.command, &mut stops).await;
    tell_what_appeared(&unprotected);
    match ran {
        Err(IsolationError::Spawn { program, errno }) => Ok(not_executed(&program, errno)),
        other => Ok(other?),
    }
}

async fn list(client: &Client, state: &State, json: bool) -> Result<u8, Failure> {
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
            let (now, room) = (now(record, &status), room(disk(state, record)));
            writeln!(out, "{:<32} {now:<28} {:>3} snapshots  {image}{room}", record.name, record.snapshots.len())?;
        }
    }
    let damaged = all.iter().filter_map(|record| record.as_ref().err());
    if damaged.map(|error| writer::say(format_args!("{error}"))).count() > 0 {
        return Ok(CANNOT);
    }
    Ok(0)
}

/// How it is now, in words.
fn now(record: &Record, status: &[Status]) -> String {
    match status.iter().find(|status| status.name == record.name) {
        None => "at rest".to_owned(),
        Some(Status { doing: Doing::Stands { commands }, .. }) => format!("paused, {commands} running"),
        Some(Status { doing: Doing::Lives { commands }, .. }) => format!("live, {commands} running"),
        Some(Status { doing: Doing::Changes, .. }) => "changing".to_owned(),
    }
}

/// How much room it has and takes. Of one that is damaged it is not known; fsck says how.
fn disk(state: &State, record: &Record) -> Option<Disk> {
    state.disk(record).ok().flatten()
}

/// The same in words.
fn room(disk: Option<Disk>) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    disk.map_or_else(String::new, |disk| format!("  disk {} of {} MiB", mib(disk.used), mib(disk.size)))
}

fn describe(record: &Record, disk: Option<Disk>, status: &[Status], whole: bool) -> serde_json::Value {
    let (now, commands) = match status.iter().find(|status| status.name == record.name).map(|status| status.doing) {
        None => ("at-rest", Some(0)),
        Some(Doing::Stands { commands }) => ("paused", Some(commands)),
        Some(Doing::Lives { commands }) => ("live", Some(commands)),
        Some(Doing::Changes) => ("changing", None),
    };
    let mut value = serde_json::json!({
        "name": record.name,
        "state": now,
        "commands": commands,
        "image": record.about.image,
        "made": record.made,
        "idle_ttl_s": record.about.idle_ttl,
        "ttl_s": record.about.total_ttl,
        "parent": record.parent,
        "disk": disk.map(|disk| serde_json::json!({ "bytes": disk.size, "used_bytes": disk.used })),
        "snapshots": record.snapshots.iter().map(|(name, snapshot)| serde_json::json!({
            "name": name, "made": snapshot.made, "layers": snapshot.layers.len(),
        })).collect::<Vec<_>>(),
    });
    if whole {
        value["layers"] = record.sealed.iter().chain([&record.top]).map(ToString::to_string).collect();
        // A spec that was kept as JSON is JSON.
        value["spec"] = serde_json::to_value(&record.about.spec).unwrap_or_default();
    }
    value
}

async fn logs(state: &State, name: &Name, follow: bool) -> Result<(), Failure> {
    let path = agentd_keeper::log_path(&state.log_directory(name));
    let mut from = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !follow => return Ok(()),
        Err(error) => return Err(format!("{name} has no log yet: {error}").into()),
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
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Where a side of `cp` is: in a sandbox, or here.
enum Side<'a> {
    There(Name, &'a Path),
    Here(&'a Path),
}

fn side(text: &str) -> Side<'_> {
    let there = text.split_once(':').filter(|(_, path)| path.starts_with('/'));
    match there.and_then(|(name, path)| Some((name.parse().ok()?, path))) {
        Some((name, path)) => Side::There(name, Path::new(path)),
        None => Side::Here(Path::new(text)),
    }
}

async fn copy(client: &Client, from: &str, to: &str) -> Result<(), Failure> {
    match (side(from), side(to)) {
        (Side::There(name, path), Side::Here(to)) => {
            let mut content = File::from(client.read(&name, path).await?);
            if to == Path::new("-") {
                io::copy(&mut content, &mut io::stdout())?;
                return Ok(());
            }
            // As `cp` does: into a directory, under its own name.
            let place = match path.file_name() {
                Some(own) if to.is_dir() => to.join(own),
                _ => to.to_path_buf(),
            };
            let mut made = File::create(&place).map_err(|error| format!("{}: {error}", place.display()))?;
            io::copy(&mut content, &mut made)?;
        }
        (Side::Here(from), Side::There(name, path)) => {
            let content: OwnedFd = if from == Path::new("-") {
                let mut memory = File::from(rustix::fs::memfd_create("stdin", rustix::fs::MemfdFlags::CLOEXEC)?);
                io::copy(&mut io::stdin().lock().take(1 << 30), &mut memory)?;
                memory.rewind()?;
                memory.into()
            } else {
                File::open(from).map_err(|error| format!("{}: {error}", from.display()))?.into()
            };
            let place = match (path.as_os_str().as_bytes().ends_with(b"/"), from.file_name()) {
                (true, Some(own)) => path.join(own),
                _ => PathBuf::from(path),
            };
            client.write(&name, &place, content.as_fd()).await?;
        }
        _ => return Err("one of the two is NAME:PATH, the other a file here".into()),
    }
    Ok(())
}

async fn diff(client: &Client, state: &State, name: &Name, since: Option<&Name>) -> Result<(), Failure> {
    let record = state.record(name)?;
    let image = match &record.about.spec.root {
        Root::Layers(layers) => layers.as_slice(),
        Root::Host => &[],
    };
    let created = Name::created();
    let created = record.snapshots.contains_key(&created).then_some(&created);
    let mut out = io::BufWriter::new(io::stdout().lock());
    for change in client.diff(name, since.or(created), image).await? {
        let kind = match change.kind {
            Kind::Added => b"A /",
            Kind::Changed => b"C /",
            Kind::Removed => b"D /",
        };
        out.write_all(kind)?;
        out.write_all(change.path.as_os_str().as_bytes())?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

async fn check(client: &Client) -> Result<u8, Failure> {
    let findings = client.check().await?;
    let mut damages = 0;
    for finding in &findings {
        writeln!(io::stdout(), "{}", finding.text)?;
        damages += usize::from(finding.is_damage);
    }
    if damages == 0 {
        writeln!(io::stdout(), "clean")?;
        return Ok(0);
    }
    Ok(CANNOT)
}
