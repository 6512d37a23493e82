//! `agentd mcp install` and `agentd mcp uninstall`.

use super::{
    super::{
        args::{InstallArgs, UninstallArgs},
        failure::Failure,
        writer,
    },
    client::{ENTRY, Target, UserDirectories, target},
    config_file::ConfigFile,
    entry::{self, EntryError},
};
use std::io::Write as _;

/// Adds agentd to the configuration of an agent, or prints the configuration. Returns the exit code.
pub(super) fn install(args: &InstallArgs) -> Result<u8, Failure> {
    let target = wanted(args.client, args.scope)?;
    let Target { base, file, syntax, table, entry } = &target;
    let path = base.join(file);
    if args.print {
        let text = entry::with("", *syntax, table, ENTRY, entry, false)?.unwrap_or_default();
        writer::message(format_args!("add this to {}:", path.display()));
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(0);
    }
    let Some(config) = ConfigFile::open(base, file, true)? else { return Err(vanished(&target)) };
    let changed = entry::with(&config.text, *syntax, table, ENTRY, entry, args.force);
    match changed.map_err(|error| refused(&config, &error, "to replace it"))? {
        Some(text) => {
            config.replace(&text)?;
            writer::message(format_args!("added to {} — start the agent again", path.display()));
        }
        None => writer::message(format_args!("{} has the entry already", path.display())),
    }
    Ok(0)
}

/// Removes agentd from the configuration of an agent. Returns the exit code.
pub(super) fn uninstall(args: &UninstallArgs) -> Result<u8, Failure> {
    let target = wanted(args.client, args.scope)?;
    let Target { base, file, syntax, table, entry } = &target;
    let path = base.join(file);
    let changed = match ConfigFile::open(base, file, false)? {
        Some(config) => {
            let changed = entry::without(&config.text, *syntax, table, ENTRY, entry, args.force);
            let changed = changed.map_err(|error| refused(&config, &error, "to remove it"))?;
            changed.map(|text| config.replace(&text)).transpose()?
        }
        None => None,
    };
    match changed {
        Some(()) => writer::message(format_args!("removed from {}", path.display())),
        None => writer::message(format_args!("{} has no entry of agentd", path.display())),
    }
    Ok(0)
}

fn wanted(client: super::super::args::ClientName, scope: super::super::args::McpScope) -> Result<Target, Failure> {
    let here = std::env::current_dir()
        .map_err(|error| format!("find the current directory: {error} — change to a directory that exists"))?;
    let program = std::env::current_exe().map_err(|error| format!("find the program of agentd: {error} — mount /proc"))?;
    let program =
        program.into_os_string().into_string().map_err(|_| "find the program of agentd: its path is not UTF-8 — move it")?;
    Ok(target(client, scope, &here, &UserDirectories::of_environment(), &program)?)
}

fn refused(config: &ConfigFile, error: &EntryError, purpose: &str) -> Failure {
    let remedy = if matches!(error, EntryError::Differs(_)) {
        format!(" — look at it, and use --force {purpose}")
    } else {
        String::new()
    };
    format!("{}: {error}{remedy}", config.path().display()).into()
}

fn vanished(target: &Target) -> Failure {
    format!("{}: a directory was removed meanwhile — try again", target.base.join(&target.file).display()).into()
}
