//! `--secret`, and the secrets of `--preset`: values that stay outside the sandbox.
//!
//! This process reads the values itself, and passes them to the gateway in its own memory only. No message repeats a source or a
//! value, because a shell may have put the value in the place of its name.

use super::{
    args::{NetworkArg, RunArgs, open_named},
    writer,
};
use agentd_core::{Command, IsolationError, NetworkSecret, Root, SandboxSpec};
use agentd_egress::{
    inspect::target::SecretTarget,
    preset::{Preset, PresetSecret},
};
use agentd_isolation::{SYSTEM_DIRECTORIES, egress, grants};
use std::{
    ffi::{OsStr, OsString},
    fs::Metadata,
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The maximum size of a file with a secret, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// The secrets of a run.
#[derive(Default)]
pub(crate) struct ReadSecrets {
    secrets: Vec<NetworkSecret>,
    /// For each file with a value: the variable, and the paths of the file.
    places: Vec<(String, Vec<PathBuf>)>,
}

impl ReadSecrets {
    /// Reads the secrets of a run, and those of its presets, whose hosts are then granted. Starts the launcher first, because a
    /// launcher that is forked later has a copy of the values. `--explain` also needs the launcher, for the record of the
    /// network.
    ///
    /// # Errors
    /// As for [`ReadSecrets::read`], and if the launcher could not be started.
    pub(crate) fn of(args: &mut RunArgs) -> Result<Self, IsolationError> {
        let of_presets = args.preset.iter().any(|preset| !preset.secrets.is_empty());
        if of_presets || !args.secret.is_empty() {
            egress::raise_descriptor_limit()?;
        }
        let mut read = Self::read(&args.secret)?;
        for preset in &args.preset {
            let hosts = read.preset(preset)?;
            args.boundary.net.push(NetworkArg::Allow(hosts));
        }
        Ok(read)
    }

    /// Reads the secrets of a preset, except those that an option has given. Returns the grants for their hosts.
    fn preset(&mut self, preset: &Preset) -> Result<Vec<String>, IsolationError> {
        let mut hosts = Vec::new();
        for PresetSecret { target, text, prefix, from } in &preset.secrets {
            let same = |secret: &&mut NetworkSecret| secret.target.parse().is_ok_and(|given: SecretTarget| given == *target);
            if let Some(given) = self.secrets.iter_mut().find(same) {
                given.prefix.clone_from(prefix);
            } else if self.secrets.iter().any(|secret| variable_of(secret) == target.variable) {
                // The tool uses another host, which the caller has granted.
                continue;
            } else if let Some(name) = from.iter().find(|name| std::env::var_os(name).is_some()) {
                let value = self.value(&target.variable, OsStr::new(&format!("env:{name}")))?;
                let mut secret = NetworkSecret::new(text, value);
                secret.prefix.clone_from(prefix);
                self.secrets.push(secret);
            } else {
                continue;
            }
            hosts.push(format!("{}:{}/tls", target.host.name, target.host.port));
        }
        let wanted = |secret: &PresetSecret| self.secrets.iter().any(|read| variable_of(read) == secret.target.variable);
        if preset.secrets.is_empty() || preset.secrets.iter().any(wanted) {
            return Ok(hosts);
        }
        let names: Vec<&str> = preset.secrets.iter().flat_map(|secret| &secret.from).map(String::as_str).collect();
        let reason = format!("no variable has the API key — set {}, or use --secret", names.join(" or "));
        Err(invalid(&format!("--preset {}", preset.name), reason))
    }

    /// Reads the values.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for an option that is malformed, and for a value that cannot be read.
    fn read(options: &[OsString]) -> Result<Self, IsolationError> {
        let mut read = Self::default();
        for option in options {
            let (target, source) = split(option).ok_or_else(malformed)?;
            let parsed = target.parse::<SecretTarget>().map_err(|error| invalid("--secret", error))?;
            let value = read.value(&parsed.variable, source)?;
            read.secrets.push(NetworkSecret::new(target, value));
        }
        Ok(read)
    }

    fn value(&mut self, variable: &str, source: &OsStr) -> Result<Zeroizing<String>, IsolationError> {
        let failed = |reason: &str| invalid(&format!("--secret {variable}"), reason);
        let unreadable = |error: io::Error| failed(&format!("read the value: {error} — check what =file: or =fd: names"));
        let bytes = source.as_bytes();
        let value = if let Some(name) = bytes.strip_prefix(b"env:") {
            let value = std::env::var_os(OsStr::from_bytes(name));
            value.map(OsString::into_encoded_bytes).map(Zeroizing::new).ok_or_else(|| {
                failed("=env: names a variable that is not set in the environment of agentd — set it, or use =file:PATH")
            })?
        } else if let Some(path) = bytes.strip_prefix(b"file:") {
            let (file, places) = open_named(Path::new(OsStr::from_bytes(path))).map_err(unreadable)?;
            let metadata = file.metadata().map_err(unreadable)?;
            if !metadata.is_file() {
                return Err(failed("=file: does not name a regular file — use =fd:NUMBER for a pipe"));
            }
            if is_for_everybody(&metadata, &places) {
                writer::message(format_args!(
                    "warning: --secret {variable}: every user of this host may read the file with the value — run chmod 600 on it"
                ));
            }
            self.places.push((variable.to_owned(), places));
            read_value(file).map_err(unreadable)?
        } else if let Some(number) = bytes.strip_prefix(b"fd:") {
            let number = std::str::from_utf8(number).ok().and_then(|number| number.parse::<u16>().ok());
            let number = number
                .ok_or_else(|| failed("=fd: is not followed by a number — give the number of an open descriptor, as in =fd:3"))?;
            read_value(std::fs::File::open(format!("/proc/self/fd/{number}")).map_err(unreadable)?).map_err(unreadable)?
        } else if bytes == b"aws:env" {
            key_of_environment().ok_or_else(|| {
                failed("=aws:env needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of agentd — set them")
            })?
        } else {
            return Err(failed("the value must not be an argument — use =env:VAR, =file:PATH or =fd:NUMBER"));
        };
        match std::str::from_utf8(&value) {
            Ok(text) => Ok(Zeroizing::new(text.to_owned())),
            Err(_) => Err(failed("the value is not text — use visible ASCII characters only")),
        }
    }

    /// Adds the secrets to a spec.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] if the command would get a value in another way, or sets the variable of a placeholder.
    pub(crate) fn add_to(&self, spec: &mut SandboxSpec, command: &Command, set: &[String]) -> Result<(), IsolationError> {
        for (variable, places) in &self.places {
            let in_system = |place: &PathBuf| SYSTEM_DIRECTORIES.iter().any(|system| place.starts_with(system));
            let reason = if places.iter().any(|place| spec.grants.iter().any(|grant| grants::shows(grant, place))) {
                "the command could read the file with the value — move it out of the workspace and of other grants"
            } else if spec.root == Root::Host && places.iter().any(in_system) {
                "the file with the value is in a system directory, which the sandbox shows — move it to another directory, such as \
                 one in your home directory"
            } else {
                continue;
            };
            return Err(invalid(&format!("--secret {variable}"), reason));
        }
        for secret in &self.secrets {
            let target = secret.target.parse::<SecretTarget>().map_err(|error| invalid("--secret", error))?;
            let (what, variables) = (format!("--secret {}", target.variable), target.variables());
            if set.iter().any(|option| variables.iter().any(|variable| option.split('=').next() == Some(variable.as_str()))) {
                return Err(invalid(&what, "--env sets the same variable — drop one of the two options"));
            }
            let parts = target.confidential(secret.value());
            let has = |text: &OsStr| parts.iter().any(|part| has(text.as_bytes(), part.as_bytes()));
            if let Some((name, _)) = command.env.iter().find(|(_, value)| has(value)) {
                let reason =
                    format!("the variable {} of the command also contains the value — drop that variable", name.display());
                return Err(invalid(&what, reason));
            }
            if command.argv.iter().any(|argument| has(argument)) {
                return Err(invalid(
                    &what,
                    "the arguments of the command also contain the value — let the command read the variable",
                ));
            }
        }
        spec.secrets.clone_from(&self.secrets);
        Ok(())
    }
}

/// Returns the destination of the secret of an option, which has no part of the value.
///
/// # Errors
/// [`IsolationError::Invalid`] for an option that is malformed.
#[cfg(feature = "policy")]
pub(crate) fn target(option: &OsStr) -> Result<String, IsolationError> {
    let (target, _) = split(option).ok_or_else(malformed)?;
    target.parse::<SecretTarget>().map_err(|error| invalid("--secret", error))?;
    Ok(target.to_owned())
}

fn malformed() -> IsolationError {
    invalid("--secret", "expected NAME@HOST[:PORT][/HEADER]=env:VAR, =file:PATH or =fd:NUMBER")
}

/// Returns the variable that holds the placeholder.
fn variable_of(secret: &NetworkSecret) -> &str {
    secret.target.split('@').next().unwrap_or_default()
}

/// Returns the variables of presets.
pub(crate) fn of_presets(presets: &[Preset]) -> Vec<(OsString, OsString)> {
    presets.iter().flat_map(|preset| &preset.env).map(|(name, value)| (name.into(), value.into())).collect()
}

fn invalid(what: &str, reason: impl ToString) -> IsolationError {
    IsolationError::Invalid { what: what.to_owned(), reason: reason.to_string() }
}

/// Returns true if every user may read the file at the last of the places.
fn is_for_everybody(file: &Metadata, places: &[PathBuf]) -> bool {
    let above = places.last().into_iter().flat_map(|place| place.ancestors().skip(1));
    // A directory that cannot be examined is not open to everybody.
    let mut open = above.map(|directory| directory.metadata().is_ok_and(|found| found.mode() & 0o001 != 0));
    file.mode() & 0o004 != 0 && open.all(|open| open)
}

/// Splits an option into the target and the source.
fn split(option: &OsStr) -> Option<(&str, &OsStr)> {
    let bytes = option.as_bytes();
    let end = bytes.iter().position(|byte| *byte == b'=')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, OsStr::from_bytes(&bytes[end + 1..])))
}

/// Reads a value to the end of the file. One line end after the value is left out, because editors and `echo` add one.
fn read_value(from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    // A buffer that grows leaves copies behind.
    let mut value = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_FILE).unwrap_or_default() + 1));
    from.take(MAX_FILE + 1).read_to_end(&mut value)?;
    if value.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a secret has at most 4096 bytes"));
    }
    for end in [b'\n', b'\r'] {
        if value.last() == Some(&end) {
            value.pop();
        }
    }
    Ok(value)
}

/// Returns the key of AWS that the usual variables of agentd contain, in the form of a secret.
fn key_of_environment() -> Option<Zeroizing<Vec<u8>>> {
    let of = |name: &str| std::env::var_os(name).map(OsString::into_encoded_bytes).map(Zeroizing::new);
    let mut key = of("AWS_ACCESS_KEY_ID")?;
    for part in [Some(of("AWS_SECRET_ACCESS_KEY")?), of("AWS_SESSION_TOKEN")].into_iter().flatten() {
        // A buffer that grows would leave a copy behind.
        key = Zeroizing::new([&key[..], b":", &part].concat());
    }
    Some(key)
}

/// Returns true if `text` contains `value`.
fn has(text: &[u8], value: &[u8]) -> bool {
    !value.is_empty() && text.windows(value.len()).any(|part| part == value)
}

/// Adds the variables of presets or of the network of a sandbox to the environment of a command. Variables that the caller has
/// `set` stay.
pub(crate) fn add_environment(command: &mut Command, network: Vec<(OsString, OsString)>, set: &[String]) {
    for (name, value) in network {
        let is_set = set.iter().any(|option| Some(option.split('=').next().unwrap_or_default()) == name.to_str());
        if !is_set {
            command.env.retain(|(other, _)| *other != name);
            command.env.push((name, value));
        }
    }
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
