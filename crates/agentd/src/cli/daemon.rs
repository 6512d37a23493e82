//! `agentd daemon`: the background process that runs named sandboxes.

use super::{
    args::DaemonCommand,
    failure::{self, Failure},
    logging,
    sandbox::{self, in_words},
    selection,
    stops::Stops,
};
use agentd_core::{ControlError, escape};
use agentd_daemon::{Client, Daemon, OwnMounts, Proof};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Interval between two reads of `log --follow`.
const LOOK: Duration = Duration::from_millis(200);

/// Runs one of the `agentd daemon` commands. `own` is the mount namespace for a daemon, or the reason why it has none.
pub(crate) async fn daemon(command: DaemonCommand, own: Result<Option<OwnMounts>, ControlError>) -> Result<u8, Failure> {
    match command {
        DaemonCommand::Serve { folder, started_in } => {
            let prove = move |changeable: Vec<PathBuf>| -> Proof {
                Box::pin(selection::prove_for_others(changeable.into_iter().chain(started_in.clone()).collect()))
            };
            let (own, missing) = own.map_or_else(|error| (None, Some(error)), |own| (own, None));
            let start_log = |file| {
                logging::to_file(file);
                if let Some(error) = missing {
                    tracing::info!(%error, "sandboxes cannot have disks of their own");
                }
            };
            agentd_daemon::run(&folder, own, Box::new(prove), start_log).await?;
        }
        DaemonCommand::Status { json } => status(&sandbox::client()?, json).await?,
        DaemonCommand::Stop => stop(&sandbox::client()?).await?,
        DaemonCommand::Log { follow } => log(&sandbox::client()?.log_files(), follow).await?,
    }
    Ok(0)
}

async fn status(client: &Client, json: bool) -> Result<(), Failure> {
    let daemon = client.daemon().await?;
    let [log, _] = client.log_files();
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", escape::json(&format!("{:#}", describe(daemon.as_ref(), &log))))?;
        return Ok(());
    }
    let Some(daemon) = daemon else {
        writeln!(out, "no daemon is running; the next command that needs processes in a sandbox starts it")?;
        return Ok(());
    };
    writeln!(out, "process    {}", daemon.pid)?;
    writeln!(out, "version    {} (protocol {})", escape::text(&daemon.version), daemon.protocol)?;
    let age = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()).saturating_sub(daemon.started);
    writeln!(out, "started    {} ago", age_in_words(age))?;
    writeln!(out, "log        {}", escape::name(&log))?;
    writeln!(out, "sandboxes  {}", daemon.sandboxes.len())?;
    for sandbox in &daemon.sandboxes {
        writeln!(out, "  {:<32} {}", sandbox.name, in_words(sandbox.activity))?;
    }
    Ok(())
}

fn describe(daemon: Option<&Daemon>, log: &Path) -> serde_json::Value {
    let log = log.to_string_lossy();
    let Some(daemon) = daemon else { return serde_json::json!({ "running": false, "log": log }) };
    serde_json::json!({
        "running": true,
        "pid": daemon.pid,
        "version": daemon.version,
        "protocol": daemon.protocol,
        "started": daemon.started,
        "log": log,
        "sandboxes": daemon.sandboxes.iter().map(|sandbox| {
            let (state, commands) = sandbox::state(Some(sandbox.activity));
            serde_json::json!({ "name": sandbox.name, "state": state, "commands": commands })
        }).collect::<Vec<_>>(),
    })
}

async fn stop(client: &Client) -> Result<(), Failure> {
    let before = client.daemon().await;
    let Some(stopped) = client.stop().await? else {
        writeln!(io::stdout(), "no daemon is running")?;
        return Ok(());
    };
    let ended = match before {
        Ok(Some(daemon)) if daemon.sandboxes.is_empty() => "no sandbox had processes".to_owned(),
        Ok(Some(daemon)) => {
            let names: Vec<String> = daemon.sandboxes.iter().map(|sandbox| sandbox.name.to_string()).collect();
            format!("the processes of {} have ended", names.join(", "))
        }
        // The daemon has another version, or was already ending.
        Ok(None) | Err(_) => "the processes of its sandboxes have ended".to_owned(),
    };
    writeln!(io::stdout(), "daemon {} stopped: {ended}; the files of all sandboxes are kept", stopped.pid)?;
    Ok(())
}

/// Prints the older file, then the newer one. Their content is already escaped.
async fn log([newer, older]: &[PathBuf; 2], follow: bool) -> Result<(), Failure> {
    let mut stops = Stops::new()?;
    let mut out = io::stdout();
    let mut file = open(newer)?;
    if file.is_none() && !follow {
        return Err(format!(
            "read the log: {}: no daemon has written a log yet — `agentd sandbox create` starts a daemon",
            escape::name(newer)
        )
        .into());
    }
    if let Some(mut older) = open(older)? {
        io::copy(&mut older, &mut out)?;
    }
    loop {
        // Look up the name first. If the file was renamed before this step, the file is complete, and the next read returns the
        // rest.
        let now = if follow { open(newer)? } else { None };
        if let Some(file) = &mut file {
            io::copy(file, &mut out)?;
        }
        out.flush()?;
        if !follow {
            return Ok(());
        }
        if now.is_some() && identity(file.as_ref())? != identity(now.as_ref())? {
            file = now;
            continue;
        }
        tokio::select! {
            _ = stops.next() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn open(path: &Path) -> Result<Option<File>, Failure> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failure::of_file("read the log", path, &error).into()),
    }
}

fn identity(file: Option<&File>) -> io::Result<Option<(u64, u64)>> {
    let of = |meta: fs::Metadata| (meta.dev(), meta.ino());
    file.map(|file| file.metadata().map(of)).transpose()
}

fn age_in_words(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_shown_in_its_two_largest_units() {
        let shown = [0, 59, 61, 3600 + 120, 86400 * 3 + 3600 * 2 + 60].map(age_in_words);
        assert_eq!(shown, ["0 s", "59 s", "1 min 1 s", "1 h 2 min", "3 d 2 h"]);
    }
}
