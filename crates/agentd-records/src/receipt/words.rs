//! Prints a receipt in words.

use super::{Receipt, RecordedFlow, RecordedStatus, VerifiedReceipt};
use std::fmt;

/// Prints one statement per line. Names of destinations come from the sandbox: the caller escapes control characters.
impl fmt::Display for VerifiedReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let receipt = &self.receipt;
        writeln!(f, "signed by {} (agentd {})", self.signed_by, receipt.version)?;
        writeln!(f, "{} used {} from {} to {}", receipt.principal, receipt.capability, receipt.started, receipt.finished)?;
        writeln!(f, "intent: sha256 {}", receipt.intent)?;
        let policies: Vec<_> = receipt.decision.policies.iter().map(ToString::to_string).collect();
        let by = if policies.is_empty() { "no policy was evaluated".to_owned() } else { format!("by {}", policies.join(", ")) };
        writeln!(f, "decision: {}, {by}", if receipt.decision.allowed { "allowed" } else { "denied" })?;
        match &receipt.backend {
            Some(backend) => writeln!(f, "executed in a sandbox of {backend}")?,
            None => writeln!(f, "nothing was executed")?,
        }
        write_controls(f, receipt)?;
        for (what, values) in [("limit", &receipt.limits), ("usage", &receipt.usage)] {
            for (name, value) in values {
                writeln!(f, "{what} {name}: {value}")?;
            }
        }
        match &receipt.egress {
            None => writeln!(f, "network: not observed by a gateway")?,
            Some(egress) if egress.flows.is_empty() => writeln!(f, "network: no attempt to reach a destination")?,
            Some(egress) => {
                egress.flows.iter().try_for_each(|flow| write_flow(f, flow))?;
            }
        }
        if let Some(omitted) = receipt.egress.as_ref().map(|egress| egress.omitted).filter(|omitted| *omitted > 0) {
            writeln!(f, "network: {omitted} further flows are not listed")?;
        }
        let outcome = &receipt.outcome;
        write!(f, "ended: {}", outcome.reason)?;
        outcome.exit_code.iter().try_for_each(|code| write!(f, ", exit code {code}"))?;
        outcome.signal.iter().try_for_each(|signal| write!(f, ", signal {signal}"))?;
        writeln!(f)?;
        self.subjects.iter().try_for_each(|subject| writeln!(f, "{}: sha256 {}", subject.name, subject.digest.sha256))
    }
}

fn write_controls(f: &mut fmt::Formatter<'_>, receipt: &Receipt) -> fmt::Result {
    for control in &receipt.controls {
        let status = match control.status {
            RecordedStatus::Enforced => "enforced",
            RecordedStatus::Partial => "partly enforced",
            RecordedStatus::Missing => "NOT ENFORCED",
        };
        writeln!(f, "control {}: {status}: {}", control.control, control.detail)?;
    }
    let (held, open): (Vec<_>, Vec<_>) = receipt.evidence.iter().partition(|evidence| evidence.held);
    if receipt.backend.is_some() && !receipt.probed {
        writeln!(f, "attacks before the start: NONE: the backend was selected by name and not probed")?;
    }
    if !receipt.evidence.is_empty() {
        writeln!(f, "attacks before the start: {} failed, as expected; {} succeeded or were not tried", held.len(), open.len())?;
    }
    open.iter().try_for_each(|evidence| writeln!(f, "not proven: {}: {}", evidence.claim, evidence.check))
}

fn write_flow(f: &mut fmt::Formatter<'_>, flow: &RecordedFlow) -> fmt::Result {
    let verdict = if flow.allowed { "allowed" } else { "refused" };
    write!(f, "network: {} {verdict}: {} flows, {} bytes sent, {} received", flow.to, flow.flows, flow.sent, flow.received)?;
    flow.reason.iter().try_for_each(|reason| write!(f, " ({reason})"))?;
    writeln!(f)
}
