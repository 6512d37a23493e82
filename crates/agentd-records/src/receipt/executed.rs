//! Translates the library's description of an execution into the parts of a receipt.

use super::{RecordedControl, RecordedEvidence, RecordedOutcome, RecordedStatus};
use crate::{
    json::MAX_INTEGER,
    label::{InvalidLabel, Label},
};
use agentd_core::{ControlReport, ControlStatus, EndReason, Evidence, EvidenceResult, IsolationError, Limits, Outcome, Usage};
use std::{collections::BTreeMap, time::Duration};

/// Returns the controls of a sandbox.
///
/// # Errors
/// None: the names of controls are short.
pub fn recorded_controls(reports: &[ControlReport]) -> Result<Vec<RecordedControl>, InvalidLabel> {
    reports.iter().map(control).collect()
}

fn control(report: &ControlReport) -> Result<RecordedControl, InvalidLabel> {
    let (status, detail) = match &report.status {
        ControlStatus::Enforced => (RecordedStatus::Enforced, report.detail.clone()),
        ControlStatus::Partial(missing) => (RecordedStatus::Partial, missing.clone()),
        ControlStatus::Missing(error) => (RecordedStatus::Missing, error.to_string()),
    };
    Ok(RecordedControl { control: report.control.to_string().try_into()?, status, detail })
}

/// Returns the attacks of a probe.
///
/// # Errors
/// The name of an embedder's attack is not a label.
pub fn recorded_evidence<'e>(evidence: impl IntoIterator<Item = &'e Evidence>) -> Result<Vec<RecordedEvidence>, InvalidLabel> {
    let record = |evidence: &Evidence| {
        let (claim, check) = (evidence.claim.to_string().try_into()?, evidence.check.as_str().try_into()?);
        Ok(RecordedEvidence { claim, check, held: evidence.result == EvidenceResult::Held })
    };
    evidence.into_iter().map(record).collect()
}

/// Returns the end of an exec, or of a command that was not executed.
///
/// # Errors
/// None: the reasons are short.
pub fn recorded_outcome(ran: Result<&Outcome, &IsolationError>) -> Result<RecordedOutcome, InvalidLabel> {
    let (reason, exit_code, signal) = match ran {
        Ok(outcome) => (end_reason(outcome.reason), outcome.exit_code, outcome.signal),
        Err(IsolationError::Spawn { .. }) => ("not-executed".to_owned(), None, None),
        Err(_) => ("failed".to_owned(), None, None),
    };
    Ok(RecordedOutcome { reason: reason.try_into()?, exit_code, signal })
}

/// Returns the word for the reason why a command ended, as in JSON.
pub fn end_reason(reason: EndReason) -> String {
    reason.to_string()
}

/// Returns the usage, by name and unit.
///
/// # Errors
/// None: the names are short.
pub fn recorded_usage(usage: Usage) -> Result<BTreeMap<Label, u64>, InvalidLabel> {
    let [wall, user, system, memory] = USAGE_NAMES;
    named([
        (wall, Some(micros(usage.wall))),
        (user, Some(micros(usage.cpu_user))),
        (system, Some(micros(usage.cpu_system))),
        (memory, Some(usage.peak_memory)),
    ])
}

/// The names of [`recorded_usage`].
pub const USAGE_NAMES: [&str; 4] = ["wall_us", "cpu_user_us", "cpu_system_us", "peak_memory_bytes"];

/// Returns the usage of something of which only the wall-clock time is known.
///
/// # Errors
/// As for [`recorded_usage`].
pub fn recorded_wall(wall: Duration) -> Result<BTreeMap<Label, u64>, InvalidLabel> {
    let [name, ..] = USAGE_NAMES;
    named([(name, Some(micros(wall)))])
}

/// Returns the limits, by name and unit. If several of `all` have the same limit, the last one counts.
///
/// # Errors
/// None: the names are short.
pub fn recorded_limits(all: &[&Limits]) -> Result<BTreeMap<Label, u64>, InvalidLabel> {
    let mut merged = BTreeMap::new();
    for limits in all {
        merged.extend(named([
            ("wall_us", limits.wall.map(micros)),
            ("cpu_us", limits.cpu_time.map(micros)),
            ("memory_bytes", limits.memory.map(|bytes| bytes.0)),
            ("processes", limits.processes.map(Into::into)),
            ("open_files", limits.open_files),
            ("file_size_bytes", limits.file_size.map(|bytes| bytes.0)),
            ("output_bytes", limits.output.map(|bytes| bytes.0)),
            ("cpu_quota_thousandths", limits.cpu_quota.map(|quota| quota.0.into())),
            ("cpu_weight", limits.cpu_weight.map(Into::into)),
        ])?);
    }
    Ok(merged)
}

/// Returns the values that exist, by name. A receipt contains no larger number than [`MAX_INTEGER`].
fn named<const N: usize>(values: [(&str, Option<u64>); N]) -> Result<BTreeMap<Label, u64>, InvalidLabel> {
    let some = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
    some.map(|(name, value)| Ok((name.try_into()?, value.min(MAX_INTEGER)))).collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
