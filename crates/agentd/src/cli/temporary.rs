//! The directory in which probes create their targets.
//!
//! A command that may change a probe's targets could make the probe prove what does not hold. `TMPDIR` may lie in the workspace,
//! as some continuous integration systems set it. Another directory is used then.

use super::{args::BoundaryArgs, failure::Failure, grants, writer};
use agentd_core::escape;
use std::path::{Path, PathBuf};

/// The directories that are used instead, in order.
const OTHERS: [&str; 2] = ["/tmp", "/var/tmp"];

/// Returns the temporary directory of a run with these arguments.
///
/// # Errors
/// The message for the user, if every temporary directory lies in a directory that the command may change.
pub(crate) fn of_run(args: &BoundaryArgs) -> Result<PathBuf, Failure> {
    let workspace = match &args.workspace {
        Some(path) if path == Path::new("none") => None,
        Some(path) => Some(path.clone()),
        None => std::env::current_dir().ok(),
    };
    let workspace = workspace.filter(|_| !args.workspace_ro);
    let rw = args.rw.iter().map(|requested| grants::split(requested).0.to_path_buf());
    outside(&workspace.into_iter().chain(rw).collect::<Vec<_>>())
}

/// Returns the temporary directory of a command without grants, outside the current directory. Runs in the current directory use
/// it as their workspace, so their commands could change a temporary directory in it.
///
/// # Errors
/// As for [`of_run`].
pub(crate) fn of_here() -> Result<PathBuf, Failure> {
    outside(&std::env::current_dir().into_iter().collect::<Vec<_>>())
}

/// Returns the temporary directory of a process that runs probes, outside the directories that commands may change.
///
/// # Errors
/// As for [`of_run`].
pub(crate) fn outside(granted: &[PathBuf]) -> Result<PathBuf, Failure> {
    let named = std::env::temp_dir();
    let others = OTHERS.map(PathBuf::from).into_iter().chain([runtime()]);
    match choose(&named, others, granted) {
        Some(chosen) => {
            if chosen != named {
                writer::message(format_args!(
                    "warning: temporary directory {} lies in a directory that a command may change; using {} — set TMPDIR to a \
                     directory outside of what is granted",
                    escape::name(&named),
                    chosen.display()
                ));
            }
            Ok(chosen)
        }
        None => Err(format!(
            "temporary directory: {}: the command may change it and every directory that could replace it — \
             set TMPDIR to a directory outside of what is granted",
            escape::name(&named)
        )
        .into()),
    }
}

/// The runtime directory of this user (`file-hierarchy(7)`).
fn runtime() -> PathBuf {
    PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw()))
}

/// Returns `named` if it lies in nothing that is granted, or else the first of `others` that can be used. A directory that does
/// not exist is returned: its use reports that.
fn choose(named: &Path, others: impl Iterator<Item = PathBuf>, granted: &[PathBuf]) -> Option<PathBuf> {
    // A grant of `/` is refused.
    let granted: Vec<PathBuf> =
        granted.iter().filter_map(|path| path.canonicalize().ok()).filter(|path| path != Path::new("/")).collect();
    let lies_in = |path: &Path| granted.iter().any(|grant| path.starts_with(grant));
    let usable = |path: &PathBuf| {
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        path.canonicalize().is_ok_and(|path| !lies_in(&path) && rustix::fs::access(path.join("."), access).is_ok())
    };
    match named.canonicalize() {
        Ok(path) if lies_in(&path) => others.into_iter().find(usable),
        _ => Some(named.to_path_buf()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_in_a_grant_is_replaced_by_one_outside() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for name in ["work/tmp", "work/other", "beside"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        std::os::unix::fs::symlink(path("work/tmp"), path("link")).unwrap();
        let chosen = |named: &str, others: &[&str], granted: &[&str]| {
            let granted: Vec<PathBuf> = granted.iter().map(|name| path(name)).collect();
            let chosen = choose(&path(named), others.iter().map(|name| path(name)), &granted);
            chosen.map(|chosen| chosen.strip_prefix(root.path()).unwrap().display().to_string())
        };
        for named in ["work/tmp", "link"] {
            assert_eq!(chosen(named, &["missing", "work/other", "beside"], &["work"]).as_deref(), Some("beside"));
            assert_eq!(chosen(named, &["work/other"], &["work"]), None);
            assert_eq!(chosen(named, &[], &["beside"]).as_deref(), Some(named));
        }
        assert_eq!(chosen("missing", &[], &["work"]).as_deref(), Some("missing"));
        assert_eq!(choose(&path("beside"), std::iter::empty(), &["/".into()]), Some(path("beside")));
    }
}
