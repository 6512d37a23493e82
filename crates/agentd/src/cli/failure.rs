//! Failures of agentd itself, which end a command of the command line.

use agentd_core::IsolationError;

/// Exit code: agentd itself could not do what was requested.
pub(crate) const CANNOT: u8 = 125;

/// An error that ends a command of the command line.
pub(crate) type Failure = Box<dyn std::error::Error>;

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
    fn other_errors_keep_their_remedy() {
        let others = [IsolationError::DaemonLost("x".to_owned()), IsolationError::Busy("x".to_owned())];
        for other in others {
            assert_eq!(message(&other), other.to_string());
        }
        let text: Failure = "what — do".into();
        assert_eq!(message(&*text), "what — do");
    }
}
