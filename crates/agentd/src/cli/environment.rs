//! The environment of a command, built from nothing.

use agentd_core::{Grant, IsolationError};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// What the path ends with, so that the system's programs are always found.
const SYSTEM_PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Variables that say nothing but language and time zone, or which of the granted tools to use.
const PASSED: [&str; 6] = ["LANG", "LANGUAGE", "TZ", "COLORTERM", "RUSTUP_TOOLCHAIN", "PYENV_VERSION"];

/// What a command is told of the place it is in.
pub(crate) struct Place<'a> {
    /// Its home directory.
    pub home: &'a Path,
    /// What it may use.
    pub grants: &'a [Grant],
    /// Where its tools are.
    pub tools: &'a [(&'static str, PathBuf)],
    /// Whether it is root there.
    pub root: bool,
}

/// The environment of a command.
pub(crate) type Environment = BTreeMap<OsString, OsString>;

/// The caller's own.
pub(crate) fn callers() -> Environment {
    std::env::vars_os().collect()
}

/// What every command is told: the caller's language, a path of what is visible, a home.
pub(crate) fn build(caller: &Environment, place: &Place<'_>) -> Environment {
    let mut env = Environment::new();
    for (name, value) in caller {
        if PASSED.iter().any(|p| name == p) || name.as_bytes().starts_with(b"LC_") {
            env.insert(name.clone(), value.clone());
        }
    }
    // Root's command is root only where it has a root of its own, and there everybody's is.
    let ordinary = || caller.get(OsStr::new("USER")).filter(|user| *user != "root").cloned().unwrap_or_else(|| "agent".into());
    let user = if place.root { "root".into() } else { ordinary() };
    env.insert("USER".into(), user.clone());
    env.insert("LOGNAME".into(), user);
    env.insert("HOME".into(), place.home.into());
    env.insert("SHELL".into(), "/bin/sh".into());
    env.insert("TMPDIR".into(), "/tmp".into());
    env.insert("PATH".into(), path(caller.get(OsStr::new("PATH")), place.grants));
    env.extend(place.tools.iter().map(|(name, path)| ((*name).into(), path.into())));
    env
}

/// Adds what a command with a terminal needs to know.
pub(crate) fn for_terminal(env: &mut Environment, caller: &Environment) {
    env.insert("TERM".into(), caller.get(OsStr::new("TERM")).cloned().unwrap_or_else(|| "xterm".into()));
}

/// Sets what is asked for: `NAME` for the caller's value, or `NAME=value`.
pub(crate) fn set(env: &mut Environment, caller: &Environment, asked: &[String]) -> Result<(), IsolationError> {
    for wish in asked {
        let (name, value) = match wish.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (wish.as_str(), caller.get(OsStr::new(wish)).cloned()),
        };
        let invalid = |reason: &str| IsolationError::Invalid { what: format!("--env {wish}"), reason: reason.to_owned() };
        let valid =
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.starts_with(|c: char| c.is_ascii_digit());
        if name.is_empty() || !valid {
            return Err(invalid("a name has letters, digits and _, and starts with no digit"));
        }
        let value = value.ok_or_else(|| invalid("the caller has no such variable; write NAME=VALUE"))?;
        env.insert(name.into(), value);
    }
    Ok(())
}

/// Sets what an image asks for.
pub(crate) fn of_image(env: &mut Environment, image: &[(String, String)]) {
    env.extend(image.iter().filter(|(name, _)| !name.is_empty()).map(|(name, value)| (name.into(), value.into())));
}

/// The caller's entries that can be seen inside, then the system's.
fn path(caller: Option<&OsString>, grants: &[Grant]) -> OsString {
    let visible = |entry: &Path| {
        entry.is_absolute()
            && (agentd_isolation::SYSTEM_DIRECTORIES.iter().any(|d| entry.starts_with(d))
                || grants.iter().any(|g| g.target.is_none() && entry.starts_with(&g.path)))
    };
    let mut entries: Vec<OsString> = Vec::new();
    let callers = caller.map(|p| std::env::split_paths(p).filter(|e| visible(e)).collect::<Vec<_>>()).unwrap_or_default();
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

    fn at(home: &str) -> Place<'_> {
        Place { home: Path::new(home), grants: &[], tools: &[], root: false }
    }

    fn get(env: &Environment, name: &str) -> Option<String> {
        env.get(OsStr::new(name)).map(|value| value.to_string_lossy().into_owned())
    }

    #[test]
    fn nothing_is_inherited_but_language() {
        let env = build(&caller(), &at("/home/u"));
        assert_eq!(get(&env, "AWS_SECRET_ACCESS_KEY"), None);
        assert_eq!(get(&env, "LD_PRELOAD"), None);
        assert_eq!(get(&env, "LANG").as_deref(), Some("C.UTF-8"));
        assert_eq!(get(&env, "PATH").as_deref(), Some("/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin"));
    }

    #[test]
    fn what_is_asked_for_is_passed() {
        let wishes = ["A=b=c".to_owned(), "AWS_SECRET_ACCESS_KEY".to_owned()];
        let mut env = build(&caller(), &at("/h"));
        set(&mut env, &caller(), &wishes).unwrap();
        assert_eq!(get(&env, "A").as_deref(), Some("b=c"));
        assert_eq!(get(&env, "AWS_SECRET_ACCESS_KEY").as_deref(), Some("x"));
        for bad in ["", "=x", "1A=b", "A-B=c", "UNSET_HERE"] {
            assert!(set(&mut env, &caller(), &[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_variable_of_the_callers_is_passed_unasked(
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
                let known = made.contains(&name) || PASSED.contains(&name) || name.starts_with("LC_") || name == asked;
                prop_assert!(known, "{} = {:?}", name, value);
            }
            prop_assert_eq!(get(&env, &asked), Some("asked for".to_owned()));
        }
    }
}
