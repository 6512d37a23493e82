//! The connections and attempts of a sandbox with granted hosts: the lines and the JSON for the user.

use super::writer;
use agentd_core::{NetworkFlow, NetworkLog, NetworkVerdict, Sandbox, escape};
use agentd_records::{
    MAX_INTEGER,
    receipt::{RecordedEgress, RecordedFlow},
};
use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

/// The maximum number of different destinations that are kept: as many granted ones, and as many refused ones. Flows to further
/// destinations are counted. Refused attempts therefore displace no granted flow.
const MAX_KEPT: usize = 256;
/// The maximum number of lines about destinations.
const MAX_LINES: usize = 20;

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
    /// The operators' texts for refused destinations.
    deny_reasons: Vec<String>,
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
    flows: u64,
    sent: u64,
    received: u64,
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
        let summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner).clone();
        NetworkSummary { dropped, deny_reasons: self.deny_reasons, ..summary }
    }
}

fn is_granted(verdict: &NetworkVerdict) -> bool {
    matches!(verdict, NetworkVerdict::Granted { .. })
}

impl NetworkSummary {
    fn add(&mut self, flow: NetworkFlow) {
        let to = match (flow.name, flow.wanted) {
            (Some(name), Some(wanted)) => format!("{name}:{}", wanted.port()),
            (Some(name), None) => name,
            (None, Some(wanted)) => wanted.to_string(),
            (None, None) => "a name".to_owned(),
        };
        let (connects, reached) = (flow.wanted.is_some(), flow.connected.is_some() || !flow.address_checked);
        let same = |entry: &&mut FlowSummary| {
            entry.to == to && entry.request == flow.request && entry.verdict == flow.verdict && entry.reached == reached
        };
        if let Some(entry) = self.entries.iter_mut().find(same) {
            entry.flows += 1;
            entry.sent = entry.sent.saturating_add(flow.sent);
            entry.received = entry.received.saturating_add(flow.received);
        } else if self.entries.iter().filter(|entry| is_granted(&entry.verdict) == is_granted(&flow.verdict)).count() < MAX_KEPT {
            let NetworkFlow { request, verdict, address_checked, sent, received, .. } = flow;
            self.entries.push(FlowSummary { to, request, verdict, connects, reached, address_checked, flows: 1, sent, received });
        } else {
            self.omitted += 1;
        }
    }

    /// Prints a line about each destination that was refused or not reached.
    pub(crate) fn warn(&self) {
        for line in self.lines() {
            writer::message(format_args!("network: {}", escape::text(&line)));
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for line in self.entries.iter().filter_map(FlowSummary::line) {
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
        let names: Vec<_> = self.missing().into_iter().filter(|grant| grant.parse::<SocketAddr>().is_err()).collect();
        if names.len() > 1 {
            lines.push(format!("allow all of these names with --net allow={}", names.join(",")));
        }
        if self.entries.iter().any(|entry| matches!(entry.verdict, NetworkVerdict::Refused { .. })) {
            lines.extend(self.deny_reasons.iter().cloned());
        }
        lines
    }

    /// Returns the network grants that would have allowed the refused flows.
    fn missing(&self) -> BTreeSet<&str> {
        let missing = self.entries.iter().map(|entry| match &entry.verdict {
            NetworkVerdict::Refused { missing, .. } => missing.as_deref(),
            _ => None,
        });
        missing.flatten().collect()
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
    fn line(&self) -> Option<String> {
        let to = match &self.request {
            Some(request) => &format!("{request} of {}", self.to),
            None => &self.to,
        };
        match &self.verdict {
            NetworkVerdict::Refused { reason, missing: Some(missing) } => {
                let cause = reason.split_once(" — ").map_or(reason.as_str(), |(cause, _)| cause);
                Some(format!("{to} was refused: {cause} — allow it with --net allow={missing}"))
            }
            // Many programs look up DNS records of other types before they connect, so a refused question is not worth a line.
            NetworkVerdict::Refused { reason, .. } if self.connects => Some(format!("{to} was refused: {reason}")),
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
            NetworkVerdict::Refused { reason, .. } => (false, Some(reason.clone())),
            _ => (false, None),
        };
        let [flows, sent, received] = [self.flows, self.sent, self.received].map(|number| number.min(MAX_INTEGER));
        RecordedFlow { to: self.to.clone(), allowed, reason, flows, sent, received }
    }

    fn json(&self) -> serde_json::Value {
        let (allowed, rule, reason, missing) = match &self.verdict {
            NetworkVerdict::Granted { rule, cut } => (true, Some(rule), cut.as_ref(), None),
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
            "flows": self.flows,
            "sent_bytes": self.sent,
            "received_bytes": self.received,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn flow(name: Option<&str>, wanted: Option<&str>, verdict: NetworkVerdict) -> NetworkFlow {
        NetworkFlow {
            started: SystemTime::UNIX_EPOCH,
            lasted: Duration::ZERO,
            name: name.map(str::to_owned),
            wanted: wanted.map(|address| address.parse().unwrap()),
            connected: None,
            address_checked: true,
            sent: 1,
            received: 2,
            request: None,
            verdict,
        }
    }

    fn refused(reason: &str, missing: Option<&str>) -> NetworkVerdict {
        NetworkVerdict::Refused { reason: reason.to_owned(), missing: missing.map(str::to_owned) }
    }

    #[test]
    fn each_refused_destination_is_one_line_with_its_option() {
        let mut summary = NetworkSummary::default();
        for name in ["a.example", "e.example", "a.example", "a.example"] {
            summary.add(flow(Some(name), None, refused("no grant — add one", Some(name))));
        }
        summary.add(flow(None, Some("10.0.0.1:22"), refused("no grant — add one", Some("10.0.0.1:22"))));
        summary.add(flow(Some("b.example"), Some("198.18.1.0:443"), refused("not TLS — say so", None)));
        summary.add(flow(Some("c.example"), None, refused("no such record", None)));
        let cut = Some("not reached: no route".to_owned());
        summary.add(flow(Some("d.example"), Some("198.18.1.1:443"), NetworkVerdict::Granted { rule: "d".to_owned(), cut }));
        assert_eq!(
            summary.lines(),
            [
                "a.example was refused: no grant — allow it with --net allow=a.example",
                "e.example was refused: no grant — allow it with --net allow=e.example",
                "10.0.0.1:22 was refused: no grant — allow it with --net allow=10.0.0.1:22",
                "b.example:443 was refused: not TLS — say so",
                "d.example:443: not reached: no route",
                "allow all of these names with --net allow=a.example,e.example",
            ]
        );
        assert_eq!(summary.json()["flows"][0]["flows"], 3);
        assert_eq!(summary.json()["flows"][0]["received_bytes"], 6);
    }

    #[test]
    fn flood_of_destinations_is_bounded_and_counted() {
        let mut summary = NetworkSummary::default();
        for number in 0..1000 {
            let name = format!("n{number}.example");
            summary.add(flow(Some(&name), None, refused("no grant", Some(&name))));
        }
        assert_eq!((summary.entries.len(), summary.omitted), (MAX_KEPT, 1000 - MAX_KEPT as u64));
        assert!(summary.lines().len() <= MAX_LINES + 2);
        // It displaces no connection to a granted host.
        for number in 0..2 * MAX_KEPT {
            let rule = NetworkVerdict::Granted { rule: "a".to_owned(), cut: None };
            summary.add(flow(Some(&format!("g{number}.example")), Some("198.18.1.0:443"), rule));
        }
        let granted = summary.entries.iter().filter(|entry| is_granted(&entry.verdict));
        assert_eq!((granted.count(), summary.entries.len()), (MAX_KEPT, 2 * MAX_KEPT));
    }

    #[test]
    fn receipt_has_the_cause_of_a_granted_flow_that_was_ended() {
        let granted = |cut: Option<&str>| NetworkVerdict::Granted { rule: "a:80".to_owned(), cut: cut.map(str::to_owned) };
        let mut summary = NetworkSummary::default();
        for cut in [None, Some("the request is for b")] {
            summary.add(flow(Some("a"), Some("198.18.1.0:80"), granted(cut)));
        }
        let reasons: Vec<_> = summary.recorded().flows.into_iter().map(|flow| flow.reason.unwrap()).collect();
        assert_eq!(reasons, ["a:80", "a:80; ended: the request is for b"]);
    }
}
