//! Reports changes of protected paths.

use super::writer;
use agentd_core::{Access, Grant};
use agentd_isolation::protect::{self, Change, Gaps, Omitted, Report};
use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The file in a worktree that lists its submodules.
const MODULES: &str = ".gitmodules";
/// The maximum number of settings in a note.
const MAX_NAMED: usize = 4;
/// The maximum number of directories in which git directories of submodules are searched.
const SEARCHED: usize = 256;

/// Prints the warnings of a report, with a limited number of changes.
pub(crate) fn warn(report: &Report) {
    lines(report).for_each(|line| writer::message(format_args!("{line}")));
}

/// Returns the warnings of a report, each as one line.
pub(crate) fn lines(report: &Report) -> impl Iterator<Item = String> {
    report.warnings().into_iter().map(|warning| format!("warning: {warning}"))
}

/// Notes about git operations that cannot work in a sandbox, with the options that allow them.
pub(crate) struct Advice {
    grants: Vec<Grant>,
    /// The git settings that are protected in the workspace and its submodules, each with the mtime of its directory. git changes
    /// that mtime when it creates a lock file next to the settings, before it changes them.
    settings: Vec<(PathBuf, Option<SystemTime>)>,
}

impl Advice {
    /// Creates the advice for a sandbox with these grants. Call this function before the command runs.
    pub(crate) fn for_grants(grants: &[Grant]) -> Self {
        let settings = grants.first().map(settings).unwrap_or_default();
        let settings = settings.into_iter().map(|path| (directory_changed(grants, &path), path));
        Self { grants: grants.to_vec(), settings: settings.map(|(changed, path)| (path, changed)).collect() }
    }

    /// Prints the notes that apply after a command has failed.
    pub(crate) fn print(&self) {
        let Some(workspace) = self.grants.first().filter(|grant| grant.access == Access::ReadWrite) else { return };
        if let Some((worktree, git)) = protect::repository_outside(&workspace.path, &self.grants) {
            let option = if worktree == workspace.path { "--rw" } else { "--workspace" };
            let show = if worktree == workspace.path { git.display() } else { worktree.display() };
            writer::message(format_args!(
                "note: git needs {}, which is not visible in the sandbox — use {option} {show}",
                git.display()
            ));
            return;
        }
        let changed = self.settings.iter().filter(|(path, before)| *before != directory_changed(&self.grants, path));
        let paths: Vec<String> = changed.take(MAX_NAMED).map(|(path, _)| path.display().to_string()).collect();
        // The directory of `.gitmodules` is the workspace, which changes for many reasons.
        if paths.iter().any(|path| path != MODULES) {
            writer::message(format_args!(
                "note: {} cannot be changed in the sandbox — for git commands that write it (remote add, push -u, submodule add, \
                 submodule update, sparse-checkout) use --unprotect {}, and review it afterwards",
                paths.join(", "),
                paths.join(" --unprotect ")
            ));
        }
    }
}

/// Returns the protected settings of the workspace's repository and of its submodules, relative to the workspace.
fn settings(workspace: &Grant) -> Vec<PathBuf> {
    let (own, modules) = (Path::new(".git/config"), Path::new(".git/modules"));
    if !workspace.protect.iter().any(|name| name == own) {
        return Vec::new();
    }
    let mut settings = vec![own.to_path_buf()];
    settings.extend(workspace.path.join(MODULES).exists().then(|| PathBuf::from(MODULES)));
    let mut left = vec![modules.to_path_buf()];
    let mut seen = 0;
    while let Some(directory) = left.pop().filter(|_| seen < SEARCHED) {
        seen += 1;
        let below = workspace.path.join(&directory);
        let is_repository = below.join("HEAD").is_file();
        if is_repository && !workspace.unprotected.iter().any(|released| directory.join("config").starts_with(released)) {
            settings.push(directory.join("config"));
        }
        let entries =
            below.read_dir().into_iter().flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        // In a git directory, only `modules` has further git directories.
        let nested = entries.map(|entry| entry.file_name()).filter(|name| !is_repository || name == "modules");
        left.extend(nested.take(SEARCHED).map(|name| directory.join(name)));
    }
    settings
}

/// Returns the mtime of the directory of a path in the workspace.
fn directory_changed(grants: &[Grant], path: &Path) -> Option<SystemTime> {
    grants.first()?.path.join(path).parent()?.symlink_metadata().ok()?.modified().ok()
}

/// Adds a report to a JSON object.
pub(crate) fn add_to(object: &mut serde_json::Value, report: &Report) {
    object["protected_changes"] = json_of_changes(&report.changes);
    object["protected_incomplete"] = (!report.gaps.is_empty()).into();
    object["protected_not_compared"] = json_of_gaps(&report.gaps);
}

/// Adds a report of the daemon, which names a limited number of changes and counts the others, to a JSON object.
pub(crate) fn add_limited_to(object: &mut serde_json::Value, report: &Report) {
    add_to(object, report);
    object["protected_omitted"] = json_of_omitted(&report.omitted);
}

fn json_of_changes(changes: &[Change]) -> serde_json::Value {
    let one = |change: &Change| {
        serde_json::json!({
            "path": change.path.to_string_lossy(),
            "change": change.how,
            "git_directory": change.is_git_directory,
            "sha256": change.digest.map(|digest| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        })
    };
    changes.iter().map(one).collect()
}

fn json_of_gaps(gaps: &Gaps) -> serde_json::Value {
    gaps.iter().map(|gap| serde_json::json!({ "path": gap.path.to_string_lossy(), "cause": gap.cause })).collect()
}

fn json_of_omitted(omitted: &Omitted) -> serde_json::Value {
    let one = |(group, count): (&protect::Group, u64)| {
        serde_json::json!({
            "grant": group.grant.as_ref().map(|grant| grant.to_string_lossy()),
            "in_subdirectory": group.in_subdirectory,
            "name": group.name,
            "change": group.how,
            "count": count,
        })
    };
    omitted.iter().map(one).collect()
}
