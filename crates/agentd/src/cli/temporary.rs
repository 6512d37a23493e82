//! The directory in which probes create their targets.
//!
//! A command that may change a probe's targets could make the probe prove a claim that does not hold. If `TMPDIR` lies in the
//! workspace, as in some continuous integration systems, another directory is used.

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
            if chosen != named && named.canonicalize().ok().as_ref() != Some(&chosen) {
                writer::message(format_args!(
                    "warning: temporary directory {} lies in a directory that a command may change; using {} — set TMPDIR to a \
                     directory outside all grants",
                    escape::name(&named),
                    chosen.display()
                ));
            }
            Ok(chosen)
        }
        None => Err(format!(
            "temporary directory: {}: the command may change this directory, and every directory that agentd could use instead — \
             set TMPDIR to a directory outside all grants",
            escape::name(&named)
        )
        .into()),
    }
}

/// Returns the runtime directory of this user (`file-hierarchy(7)`).
fn runtime() -> PathBuf {
    PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw()))
}

/// Returns `named` if it does not lie in a grant, otherwise the first usable one of `others`. The result contains no symbolic
/// link, because a command could change a link after this check. If `named` does not exist, it is returned only if no command
/// could create it. The caller's first use of the directory then reports the error.
fn choose(named: &Path, mut others: impl Iterator<Item = PathBuf>, granted: &[PathBuf]) -> Option<PathBuf> {
    // A command may have replaced a granted path, so both the path and its target count as granted. A grant of `/` is refused.
    let led_to = granted.iter().filter_map(|path| path.canonicalize().ok());
    let granted: Vec<PathBuf> = led_to.chain(granted.iter().cloned()).filter(|path| path != Path::new("/")).collect();
    let lies_in = |path: &Path| granted.iter().any(|grant| path.starts_with(grant));
    let usable = |path: PathBuf| {
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        let path = path.canonicalize().ok().filter(|path| !lies_in(path))?;
        rustix::fs::access(path.join("."), access).is_ok().then_some(path)
    };
    match named.canonicalize() {
        Ok(path) if !lies_in(&path) => Some(path),
        // A link that leads nowhere may lead into a grant later.
        Err(_) if !lies_in(named) && !lies_in(&existing(named)) && !named.ancestors().any(leads_nowhere) => {
            Some(named.to_path_buf())
        }
        _ => others.find_map(usable),
    }
}

/// Returns the innermost directory of a path that exists, without links.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find_map(|above| above.canonicalize().ok()).unwrap_or_default()
}

/// Returns true if a symbolic link that leads nowhere is at a path.
fn leads_nowhere(path: &Path) -> bool {
    path.is_symlink() && path.canonicalize().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_that_a_command_exchanges_for_a_link_out_of_its_grant_is_never_chosen_by_its_path() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().canonicalize().unwrap().join(name);
        for name in ["work/tmp", "beside", "other"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        std::os::unix::fs::symlink(path("beside"), path("work/link")).unwrap();
        let (done, ends) = std::sync::mpsc::channel::<()>();
        let [tmp, link] = [path("work/tmp"), path("work/link")];
        let exchanges = std::thread::spawn(move || {
            let (at, how) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
            while ends.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                rustix::fs::renameat_with(at, &tmp, at, &link, how).unwrap();
            }
        });
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 2 {
            let chosen = choose(&path("work/tmp"), [path("other")].into_iter(), &[path("work")]).unwrap();
            assert!(!chosen.starts_with(path("work")), "{}", chosen.display());
            seen.insert(chosen);
        }
        assert_eq!(seen, [path("beside"), path("other")].into());
        drop(done);
        exchanges.join().unwrap();
    }

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
            assert_eq!(chosen(named, &[], &["beside"]).as_deref(), Some("work/tmp"));
        }
        assert_eq!(chosen("missing", &[], &["work"]).as_deref(), Some("missing"));
        // A command could create these later, or let the link lead back into the grant.
        for (target, link) in [("work/later", "dangling"), ("beside", "work/out"), ("work", "to-work")] {
            std::os::unix::fs::symlink(path(target), path(link)).unwrap();
        }
        for named in ["work/missing", "dangling", "to-work/missing", "work/out"] {
            assert_eq!(chosen(named, &["beside"], &["work"]).as_deref(), Some("beside"), "{named}");
        }
        // A granted path that leads elsewhere, or nowhere, now.
        for (named, granted) in [("to-work/tmp", "to-work"), ("work/tmp", "to-work"), ("dangling/tmp", "dangling")] {
            assert_eq!(chosen(named, &["beside"], &[granted]).as_deref(), Some("beside"), "{named}");
        }
        assert_eq!(choose(&path("beside"), std::iter::empty(), &["/".into()]), Some(path("beside")));
    }
}
