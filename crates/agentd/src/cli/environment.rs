//! The environment of a command, which inherits only listed variables.

use agentd_core::{Grant, IsolationError, NetworkMode};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Directories at the end of `PATH`, so that the system's programs are always found.
const SYSTEM_PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Variables that are inherited: they hold only the language, the time zone, the colours of the terminal, or the choice of a
/// granted tool.
const INHERITED: [&str; 6] = ["LANG", "LANGUAGE", "TZ", "COLORTERM", "RUSTUP_TOOLCHAIN", "PYENV_VERSION"];

/// Variables that disable retries if there is no network. Otherwise, package managers retry: npm for a minute, pip for ten
/// seconds, cargo for six seconds.
const NO_RETRIES: [(&str, &str); 3] = [("PIP_RETRIES", "0"), ("npm_config_fetch_retries", "0"), ("CARGO_NET_RETRY", "0")];

/// Properties of a sandbox that appear in the environment of a command.
pub(crate) struct CommandPlace<'a> {
    /// The home directory.
    pub home: &'a Path,
    /// The grants of the sandbox.
    pub grants: &'a [Grant],
    /// Variables that locate granted tools.
    pub tools: &'a [(&'static str, PathBuf)],
    /// True if the command is root in the sandbox.
    pub root: bool,
    /// The network access of the command.
    pub network: NetworkMode,
}

/// The environment of a command.
pub(crate) type Environment = BTreeMap<OsString, OsString>;

/// Returns the environment of this process.
pub(crate) fn callers() -> Environment {
    std::env::vars_os().collect()
}

/// Builds the environment of a command: the caller's language, a `PATH` of visible directories, and a home directory.
pub(crate) fn build(caller: &Environment, place: &CommandPlace<'_>) -> Environment {
    let mut env = Environment::new();
    for (name, value) in caller {
        if INHERITED.iter().any(|p| name == p) || name.as_bytes().starts_with(b"LC_") {
            env.insert(name.clone(), value.clone());
        }
    }
    // A command of a caller who is root is root only in a sandbox with uid 0, where every caller's command is.
    let ordinary = || caller.get(OsStr::new("USER")).filter(|user| *user != "root").cloned().unwrap_or_else(|| "agent".into());
    let user = if place.root { "root".into() } else { ordinary() };
    env.insert("USER".into(), user.clone());
    env.insert("LOGNAME".into(), user);
    env.insert("HOME".into(), place.home.into());
    env.insert("SHELL".into(), "/bin/sh".into());
    env.insert("TMPDIR".into(), "/tmp".into());
    env.insert("PATH".into(), path(caller.get(OsStr::new("PATH")), place.grants));
    if place.network == NetworkMode::Off {
        env.extend(NO_RETRIES.map(|(name, value)| (name.into(), value.into())));
    }
    env.extend(place.tools.iter().map(|(name, path)| ((*name).into(), path.into())));
    env
}

/// Adds the variables that a command with a terminal needs.
pub(crate) fn for_terminal(env: &mut Environment, caller: &Environment) {
    env.insert("TERM".into(), caller.get(OsStr::new("TERM")).cloned().unwrap_or_else(|| "xterm".into()));
}

/// Sets the variables of `--env`: `NAME` copies the caller's value, `NAME=value` sets a new one.
///
/// # Errors
/// [`IsolationError::Invalid`] for an invalid name, or a variable that the caller does not have.
pub(crate) fn set(env: &mut Environment, caller: &Environment, asked: &[String]) -> Result<(), IsolationError> {
    for requested in asked {
        let (name, value) = match requested.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (requested.as_str(), caller.get(OsStr::new(requested)).cloned()),
        };
        let invalid = |reason: &str| IsolationError::Invalid { what: format!("--env {requested}"), reason: reason.to_owned() };
        let valid =
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.starts_with(|c: char| c.is_ascii_digit());
        if name.is_empty() || !valid {
            return Err(invalid("the name is invalid — use letters, digits and _, and no digit at the start"));
        }
        let value = value.ok_or_else(|| invalid("the variable is not set in the environment of agentd — use NAME=VALUE"))?;
        env.insert(name.into(), value);
    }
    Ok(())
}

/// Sets the variables that an image defines.
pub(crate) fn of_image(env: &mut Environment, image: &[(String, String)]) {
    env.extend(image.iter().filter(|(name, _)| !name.is_empty()).map(|(name, value)| (name.into(), value.into())));
}

/// Returns the caller's `PATH` entries that are visible inside, followed by those of the system.
fn path(caller: Option<&OsString>, grants: &[Grant]) -> OsString {
    let visible = |entry: &Path| {
        entry.is_absolute()
            && (agentd_isolation::SYSTEM_DIRECTORIES.iter().any(|d| entry.starts_with(d))
                || grants.iter().any(|g| g.target.is_none() && entry.starts_with(&g.path)))
    };
    let mut entries: Vec<OsString> = Vec::new();
    // If an entry is visible only after its symbolic links are resolved, use the resolved path.
    let name =
        |entry: PathBuf| if visible(&entry) { Some(entry) } else { entry.canonicalize().ok().filter(|real| visible(real)) };
    let callers = caller.map(|p| std::env::split_paths(p).filter_map(name).collect::<Vec<_>>()).unwrap_or_default();
    for entry in callers.into_iter().map(OsString::from).chain(SYSTEM_PATH.map(OsString::from)) {
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    entries.join(OsStr::new(":"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn caller() -> Environment {
        [
            ("PATH", "/usr/bin:/home/u/bin:relative"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("LANG", "C.UTF-8"),
            ("LD_PRELOAD", "/evil.so"),
        ]
        .map(|(k, v)| (k.into(), v.into()))
        .into()
    }

    fn at(home: &str) -> CommandPlace<'_> {
        CommandPlace { home: Path::new(home), grants: &[], tools: &[], root: false, network: NetworkMode::Off }
    }

    fn get(env: &Environment, name: &str) -> Option<String> {
        env.get(OsStr::new(name)).map(|value| value.to_string_lossy().into_owned())
    }

    #[test]
    fn environment_inherits_only_language_and_visible_path() {
        let env = build(&caller(), &at("/home/u"));
        assert_eq!(get(&env, "AWS_SECRET_ACCESS_KEY"), None);
        assert_eq!(get(&env, "LD_PRELOAD"), None);
        assert_eq!(get(&env, "LANG").as_deref(), Some("C.UTF-8"));
        assert_eq!(get(&env, "PATH").as_deref(), Some("/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin"));
    }

    #[test]
    fn requested_variables_are_set_and_invalid_ones_fail() {
        let requests = ["A=b=c".to_owned(), "AWS_SECRET_ACCESS_KEY".to_owned()];
        let mut env = build(&caller(), &at("/h"));
        set(&mut env, &caller(), &requests).unwrap();
        assert_eq!(get(&env, "A").as_deref(), Some("b=c"));
        assert_eq!(get(&env, "AWS_SECRET_ACCESS_KEY").as_deref(), Some("x"));
        for bad in ["", "=x", "1A=b", "A-B=c", "UNSET_HERE"] {
            assert!(set(&mut env, &caller(), &[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn path_entry_behind_a_link_is_resolved() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("real/bin")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let caller = [("PATH".into(), root.join("link/bin").into())].into();
        let granted = [Grant::new(root.join("real"), agentd_core::Access::ReadOnly)];
        let env = build(&caller, &CommandPlace { grants: &granted, ..at("/home/u") });
        assert!(get(&env, "PATH").unwrap().starts_with(&format!("{}:", root.join("real/bin").display())));
    }

    proptest! {
        #[test]
        fn no_variable_of_caller_is_passed_without_request(
            vars in prop::collection::btree_map("[A-Z_]{1,12}", "[ -~]{0,20}", 0..20),
            asked in "[A-Z_]{1,12}",
        ) {
            let mut caller: Environment = vars.iter().map(|(k, v)| (k.into(), v.into())).collect();
            caller.insert(asked.clone().into(), "asked for".into());
            let mut env = build(&caller, &at("/home/u"));
            set(&mut env, &caller, std::slice::from_ref(&asked)).unwrap();
            let made = ["USER", "LOGNAME", "HOME", "SHELL", "TMPDIR", "PATH"];
            for (name, value) in &env {
                let name = name.to_str().unwrap();
                let known = made.contains(&name)
                    || NO_RETRIES.iter().any(|(made, _)| name == *made)
                    || INHERITED.contains(&name)
                    || name.starts_with("LC_")
                    || name == asked;
                prop_assert!(known, "{} = {:?}", name, value);
            }
            prop_assert_eq!(get(&env, &asked), Some("asked for".to_owned()));
        }
    }
}
