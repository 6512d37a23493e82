//! The effective limits of a command: the tighter of its own and its sandbox's.

use agentd_core::{IsolationError, Limits};

/// Returns the tighter of two limits.
fn tighter<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

/// Returns true if a command requests a tighter limit than its sandbox enforces.
fn is_tighter<T: Ord>(command: Option<T>, sandbox: Option<T>) -> bool {
    command.is_some_and(|command| sandbox.is_none_or(|sandbox| command < sandbox))
}

/// Returns the effective limits of a command: for each limit the tighter of its own and its sandbox's.
///
/// # Errors
/// [`IsolationError::Invalid`] for a limit that applies only to a whole sandbox, unless the sandbox's limit is at least as tight.
pub fn effective(command: &Limits, sandbox: &Limits) -> Result<Limits, IsolationError> {
    let whole = [
        ("memory", is_tighter(command.memory, sandbox.memory)),
        ("processes", is_tighter(command.processes, sandbox.processes)),
        ("cpu_quota", is_tighter(command.cpu_quota, sandbox.cpu_quota)),
        ("cpu_weight", command.cpu_weight.is_some() && command.cpu_weight != sandbox.cpu_weight),
    ];
    if let Some((limit, _)) = whole.into_iter().find(|(_, beyond)| *beyond) {
        let reason = "this limit applies only to a whole sandbox — set it in the sandbox's spec".to_owned();
        return Err(IsolationError::Invalid { what: format!("command limit {limit}"), reason });
    }
    Ok(Limits {
        wall: tighter(command.wall, sandbox.wall),
        grace: tighter(command.grace, sandbox.grace),
        cpu_time: tighter(command.cpu_time, sandbox.cpu_time),
        open_files: tighter(command.open_files, sandbox.open_files),
        file_size: tighter(command.file_size, sandbox.file_size),
        output: tighter(command.output, sandbox.output),
        ..sandbox.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn effective_grace_of_a_command_is_at_most_the_sandboxs() {
        let grace = |seconds: u64| Limits { grace: Some(Duration::from_secs(seconds)), ..Limits::default() };
        for (command, sandbox, holds) in [(60, 2, 2), (1, 2, 1)] {
            let limits = effective(&grace(command), &grace(sandbox)).unwrap();
            assert_eq!(limits.grace, Some(Duration::from_secs(holds)));
        }
        assert_eq!(effective(&grace(3), &Limits::default()).unwrap().grace, Some(Duration::from_secs(3)));
    }
}
