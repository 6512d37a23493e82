//! Failures of agentd itself, which end a command of the command line.

use agentd_core::{IsolationError, escape};
#[cfg(feature = "policy")]
use agentd_engine::QuotaError;
#[cfg(feature = "policy")]
use agentd_policy::PolicyError;
use std::{
    io::{self, ErrorKind},
    path::Path,
};

/// Exit code: agentd itself could not do what was requested.
pub(crate) const CANNOT: u8 = 125;

/// An error that ends a command of the command line.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The remedy for a lost sandbox that the command line has created for one command.
const RUN_AGAIN: &str = " — run the command again; if it fails again, `agentd doctor` shows whether the backend works";

/// Returns the message of an error for a user of the command line. The library advises to create another sandbox. A user of the
/// command line has created no sandbox, so this advice is replaced.
pub(crate) fn message(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    let remedy = match error.downcast_ref() {
        Some(
            error @ (IsolationError::SandboxGone(_)
            | IsolationError::SupervisorDied(_)
            | IsolationError::LauncherDied(_)
            | IsolationError::MachineLost(_)
            | IsolationError::Protocol(_)),
        ) => Some(error.remedy().to_string()),
        _ => None,
    };
    match remedy.and_then(|remedy| text.strip_suffix(&remedy)) {
        Some(cause) => format!("{cause}{RUN_AGAIN}"),
        None => text,
    }
}

/// Returns the message of an error, as one line for each problem of a file. A text that may come from a sandbox stays on one
/// line.
pub(crate) fn lines(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    #[cfg(feature = "policy")]
    if let Some(problems) = problems(error) {
        return problems;
    }
    vec![message(error)]
}

/// Returns the problems in policies or quotas, if the error is about several.
#[cfg(feature = "policy")]
fn problems(error: &(dyn std::error::Error + 'static)) -> Option<Vec<String>> {
    let all = |what: &str, problems: Vec<String>| problems.iter().map(|problem| format!("{what}: {problem}")).collect();
    if let Some(PolicyError::Refused(problems)) = error.downcast_ref() {
        return Some(all("policies are refused", problems.iter().map(ToString::to_string).collect()));
    }
    match error.downcast_ref()? {
        QuotaError::Refused(problems) => Some(all("quotas are refused", problems.iter().map(ToString::to_string).collect())),
        error @ QuotaError::Syntax(_) => Some(error.to_string().lines().map(str::to_owned).collect()),
        _ => None,
    }
}

/// Returns what to do about a file of the host that could not be used, as the end of a message.
pub(crate) fn file_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => " — check the path, or create the directory",
        ErrorKind::NotADirectory => " — use a path whose directories exist",
        ErrorKind::IsADirectory => " — remove the directory, or use another name",
        ErrorKind::AlreadyExists => " — remove the existing object, which is not a regular file, or use another name",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            " — check the permissions of the path and its directory, or use another path"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => " — free some space on that file system",
        _ => " — use another path",
    }
}

/// Returns the message for a file of the host that could not be used.
pub(crate) fn of_file(what: &str, path: &Path, error: &io::Error) -> String {
    format!("{what}: {}: {error}{}", escape::name(path), file_remedy(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_sandbox_of_a_run_is_not_to_be_created_again() {
        type Lost = fn(String) -> IsolationError;
        let all: [Lost; 5] = [
            IsolationError::SandboxGone,
            IsolationError::SupervisorDied,
            IsolationError::LauncherDied,
            IsolationError::MachineLost,
            IsolationError::Protocol,
        ];
        for lost in all.map(|lost| lost("the cause".to_owned())) {
            assert!(lost.to_string().ends_with("the cause — create another sandbox"), "{lost}");
            assert!(message(&lost).ends_with(&format!("the cause{RUN_AGAIN}")), "{}", message(&lost));
        }
    }

    #[test]
    fn every_error_of_a_file_has_a_remedy() {
        for errno in [libc::ENOENT, libc::ENOTDIR, libc::EISDIR, libc::EEXIST, libc::EACCES, libc::EROFS, libc::ENOSPC, libc::EIO]
        {
            let text = of_file("read x", Path::new("/a\nb"), &io::Error::from_raw_os_error(errno));
            assert!(text.starts_with("read x: /a\\nb: ") && text.matches(" — ").count() == 1, "{text}");
        }
    }

    #[test]
    fn other_errors_keep_their_remedy() {
        let others = [IsolationError::DaemonLost("x".to_owned()), IsolationError::Busy("x".to_owned())];
        for other in others {
            assert_eq!(message(&other), other.to_string());
        }
        let text: Failure = "what — do".into();
        assert_eq!(message(&*text), "what — do");
    }
}
