//! The connections and attempts of a sandbox with granted hosts: the lines and the JSON for the user.

use super::writer;
use agentd_core::{DatagramCount, DelayedBy, NetworkFlow, NetworkLog, NetworkVerdict, Sandbox, escape};
use agentd_records::{
    MAX_INTEGER,
    receipt::{RecordedEgress, RecordedFlow},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

/// The maximum number of different destinations that are kept. The limit applies to granted and to refused flows separately.
/// Flows to further destinations are counted. Refused attempts therefore displace no granted flow.
const MAX_KEPT: usize = 256;
/// The maximum number of open connections that are kept. It exceeds the number of connections that a gateway permits.
const MAX_OPEN: usize = 4096;
/// The maximum number of lines about destinations.
const MAX_LINES: usize = 20;

/// The end of a flow that has not ended.
const OPEN: &str = "still open";

/// Reads the flows of a sandbox while it runs, because their queue is bounded.
pub(crate) struct FlowReader {
    deny_reasons: Vec<String>,
    log: Arc<dyn NetworkLog>,
    summary: Arc<Mutex<NetworkSummary>>,
    thread: JoinHandle<()>,
}

/// The flows of a sandbox, by destination and verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NetworkSummary {
    entries: Vec<FlowSummary>,
    /// The connections that have not ended, by their ids.
    open: BTreeMap<u64, NetworkFlow>,
    /// The operators' texts for refused destinations.
    deny_reasons: Vec<String>,
    /// The grants that an intent has.
    granted: Vec<String>,
    /// The number of flows to destinations that are not kept.
    omitted: u64,
    /// The number of flows that the gateway did not record.
    dropped: u64,
}

/// The flows to one destination with the same verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FlowSummary {
    to: String,
    request: Option<String>,
    verdict: NetworkVerdict,
    /// False if the program only looked up the name.
    connects: bool,
    reached: bool,
    address_checked: bool,
    /// True if the attempt and its destination are unverified statements of a guest.
    from_guest: bool,
    flows: u64,
    sent: u64,
    received: u64,
    /// `None` unless the flows are those of UDP.
    datagrams: Option<DatagramCount>,
    /// The limits that delayed one of the flows.
    delayed: DelayedBy,
    /// The user who approved the destination.
    approved_by: Option<String>,
}

impl FlowReader {
    /// Starts to read; returns `None` if the sandbox has no granted hosts. The summary of refused destinations ends with
    /// `deny_reasons`.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(crate) fn start(sandbox: &dyn Sandbox, deny_reasons: Vec<String>) -> io::Result<Option<Self>> {
        let Some(log) = sandbox.network_log() else { return Ok(None) };
        let summary = Arc::<Mutex<NetworkSummary>>::default();
        let (from, into) = (log.clone(), summary.clone());
        let thread = thread::Builder::new().name("network-log".to_owned()).spawn(move || {
            while let Some(flow) = from.next(Duration::MAX) {
                into.lock().unwrap_or_else(PoisonError::into_inner).add(flow);
            }
        })?;
        Ok(Some(Self { deny_reasons, log, summary, thread }))
    }

    /// Returns the summary of the flows so far. If the sandbox has been `destroyed`, reads to the end first.
    pub(crate) fn finish(self, destroyed: bool) -> NetworkSummary {
        if destroyed {
            // A panic of the thread has already been reported by the panic hook.
            let _ = self.thread.join();
        }
        let dropped = self.log.take_dropped();
        let mut summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner).clone();
        std::mem::take(&mut summary.open).into_values().for_each(|flow| summary.keep(flow));
        NetworkSummary { dropped, deny_reasons: self.deny_reasons, ..summary }
    }
}

/// Returns true if the network grant names an address.
fn is_address(grant: &str) -> bool {
    grant.strip_suffix("/udp").unwrap_or(grant).parse::<SocketAddr>().is_ok()
}

fn is_granted(verdict: &NetworkVerdict) -> bool {
    !matches!(verdict, NetworkVerdict::Refused { .. })
}

/// Returns the reason of a refusal, at the start or later, and the network grant that would have prevented it.
fn refusal(verdict: &NetworkVerdict) -> Option<(&str, Option<&str>)> {
    match verdict {
        NetworkVerdict::Refused { reason, missing } | NetworkVerdict::RefusedLater { reason, missing, .. } => {
            Some((reason, missing.as_deref()))
        }
        _ => None,
    }
}

impl NetworkSummary {
    fn add(&mut self, flow: NetworkFlow) {
        match (flow.id, &flow.verdict) {
            (Some(id), NetworkVerdict::Open { .. }) => {
                if self.open.len() < MAX_OPEN {
                    self.open.insert(id, flow);
                }
                return;
            }
            (Some(id), _) => drop(self.open.remove(&id)),
            (None, _) => {}
        }
        self.keep(flow);
    }

    fn keep(&mut self, flow: NetworkFlow) {
        let to = match (flow.name, flow.wanted) {
            (Some(name), Some(wanted)) => format!("{name}:{}", wanted.port()),
            (Some(name), None) => name,
            (None, Some(wanted)) => wanted.to_string(),
            (None, None) => "a name".to_owned(),
        };
        let (connects, reached) = (flow.wanted.is_some(), flow.connected.is_some() || !flow.address_checked);
        let same = |entry: &&mut FlowSummary| {
            (&entry.to, &entry.request, &entry.verdict) == (&to, &flow.request, &flow.verdict)
                && (entry.reached, &entry.approved_by) == (reached, &flow.approved_by)
        };
        if let Some(entry) = self.entries.iter_mut().find(same) {
            entry.flows += 1;
            entry.sent = entry.sent.saturating_add(flow.sent);
            entry.received = entry.received.saturating_add(flow.received);
            entry.delayed = entry.delayed.or(flow.delayed);
            if let (Some(all), Some(more)) = (&mut entry.datagrams, flow.datagrams) {
                all.sent = all.sent.saturating_add(more.sent);
                all.received = all.received.saturating_add(more.received);
            }
        } else if self.entries.iter().filter(|entry| is_granted(&entry.verdict) == is_granted(&flow.verdict)).count() < MAX_KEPT {
            let NetworkFlow { request, verdict, address_checked, from_guest, sent, received, .. } = flow;
            let NetworkFlow { datagrams, delayed, approved_by, .. } = flow;
            self.entries.push(FlowSummary {
                to,
                request,
                verdict,
                connects,
                reached,
                address_checked,
                from_guest,
                flows: 1,
                sent,
                received,
                datagrams,
                delayed,
                approved_by,
            });
        } else {
            self.omitted += 1;
        }
    }

    /// States the grants of an intent. Without a request, they follow from its parameters and the policies, and a request names
    /// all grants, so a line that advises to add one repeats the others.
    #[cfg(feature = "policy")]
    pub(crate) fn add_grants_of_intent(&mut self, network: &agentd_core::Network) {
        if let agentd_core::Network::Egress(grants) = network {
            self.granted.clone_from(grants);
        }
    }

    /// Prints a line about each destination that was refused or not reached.
    pub(crate) fn warn(&self) {
        self.notices().for_each(|line| writer::message(format_args!("{line}")));
    }

    /// Returns a line about each destination that was refused or not reached.
    pub(crate) fn notices(&self) -> impl Iterator<Item = String> {
        self.lines().into_iter().map(|line| format!("network: {}", escape::text(&line)))
    }

    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for line in self.entries.iter().filter_map(|entry| entry.line(&self.granted)) {
            // A program looks up the IPv4 and the IPv6 address of a name, and often repeats that.
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let more = lines.len().saturating_sub(MAX_LINES);
        lines.truncate(MAX_LINES);
        let unseen = self.omitted + self.dropped;
        if more > 0 || unseen > 0 {
            lines.push(format!("{more} more destinations and {unseen} more attempts are not listed"));
        }
        // Addresses are left out, because the user should review each one: it may belong to the host's network.
        let names: Vec<_> = self.missing().into_iter().filter(|grant| !is_address(grant)).collect();
        if names.len() > 1 {
            let all = self.granted.iter().map(String::as_str).chain(names).collect::<Vec<_>>();
            lines.push(format!("allow all of these names with --net allow={}", all.join(",")));
        }
        if self.entries.iter().any(|entry| refusal(&entry.verdict).is_some()) {
            lines.extend(self.deny_reasons.iter().cloned());
        }
        lines
    }

    /// Returns the network grants that would have allowed the refused flows.
    fn missing(&self) -> BTreeSet<&str> {
        self.entries.iter().filter_map(|entry| refusal(&entry.verdict)?.1).collect()
    }

    /// Returns the summary for a receipt.
    pub(crate) fn recorded(&self) -> RecordedEgress {
        let flows = self.entries.iter().map(FlowSummary::recorded).collect();
        RecordedEgress { flows, omitted: self.omitted.saturating_add(self.dropped) }
    }

    /// Returns the summary for `--json`.
    pub(crate) fn json(&self) -> serde_json::Value {
        let flows: Vec<_> = self.entries.iter().map(FlowSummary::json).collect();
        serde_json::json!({
            "flows": flows,
            "omitted": self.omitted,
            "dropped": self.dropped,
            "missing": self.missing(),
            "deny_reasons": self.deny_reasons,
        })
    }
}

impl FlowSummary {
    /// Returns the line about a destination that was refused or not reached. `granted` are the grants that a caller must repeat.
    fn line(&self, granted: &[String]) -> Option<String> {
        let to = match &self.request {
            Some(request) => &format!("{request} of {}", self.to),
            None => &self.to,
        };
        if let Some((reason, missing)) = refusal(&self.verdict) {
            let Some(missing) = missing else {
                // Many programs look up DNS records of other types before they connect. Such a refused query is not worth a line.
                return self.connects.then(|| format!("{to} was refused: {reason}"));
            };
            let cause = reason.split_once(" — ").map_or(reason, |(cause, _)| cause);
            let all = granted.iter().map(String::as_str).chain([missing]).collect::<Vec<_>>().join(",");
            return Some(format!("{to} was refused: {cause} — allow it with --net allow={all}"));
        }
        match &self.verdict {
            // A server without a valid certificate was connected to.
            NetworkVerdict::Granted { cut: Some(cut), .. } if !self.reached || cut.starts_with("not reached: ") => {
                Some(format!("{to}: {cut}"))
            }
            _ => None,
        }
    }

    fn recorded(&self) -> RecordedFlow {
        let (allowed, reason) = match &self.verdict {
            NetworkVerdict::Granted { rule, cut: None } => (true, Some(rule.clone())),
            NetworkVerdict::Granted { rule, cut: Some(cut) } => (true, Some(format!("{rule}; ended: {cut}"))),
            NetworkVerdict::Open { rule } => (true, Some(format!("{rule}; {OPEN}"))),
            NetworkVerdict::RefusedLater { rule, reason, .. } => (true, Some(format!("{rule}; ended: {reason}"))),
            NetworkVerdict::Refused { reason, .. } => (false, Some(reason.clone())),
            _ => (false, None),
        };
        let approved = self.approved_by.as_ref().map(|by| format!("; approved by {by}")).unwrap_or_default();
        let reason = reason.map(|reason| reason + &approved);
        let [flows, sent, received] = [self.flows, self.sent, self.received].map(|number| number.min(MAX_INTEGER));
        RecordedFlow { to: self.to.clone(), allowed, reason, flows, sent, received }
    }

    fn json(&self) -> serde_json::Value {
        let open = OPEN.to_owned();
        let (allowed, rule, reason, missing) = match &self.verdict {
            NetworkVerdict::Open { rule } => (true, Some(rule), Some(&open), None),
            NetworkVerdict::Granted { rule, cut } => (true, Some(rule), cut.as_ref(), None),
            NetworkVerdict::RefusedLater { rule, reason, missing } => (true, Some(rule), Some(reason), missing.as_ref()),
            NetworkVerdict::Refused { reason, missing } => (false, None, Some(reason), missing.as_ref()),
            _ => (false, None, None, None),
        };
        serde_json::json!({
            "to": self.to,
            "request": self.request,
            "allowed": allowed,
            "rule": rule,
            "reason": reason,
            "missing": missing,
            "address_checked": self.address_checked,
            "origin": if self.from_guest { "guest" } else { "kernel" },
            "flows": self.flows,
            "sent_bytes": self.sent,
            "received_bytes": self.received,
            "sent_datagrams": self.datagrams.map(|count| count.sent),
            "received_datagrams": self.datagrams.map(|count| count.received),
            "delayed_by": self.delayed.names(),
            "approved_by": self.approved_by,
        })
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
