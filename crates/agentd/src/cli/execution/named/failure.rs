//! The failures of operations.

use agentd_engine::SandboxFailure;

/// Returns the failure of an operation for which programs have no code of their own.
pub(super) fn failed(error: impl ToString) -> SandboxFailure {
    SandboxFailure { code: "failed", message: error.to_string() }
}
