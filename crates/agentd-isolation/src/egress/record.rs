//! The conversion of the record of a gateway into the form that callers of a sandbox receive.

use agentd_core::{NetworkFlow, NetworkLog, NetworkVerdict};
use agentd_egress::{
    name::HostName,
    record::{FlowEnd, FlowKind, FlowLog, FlowRecord, FlowRefusal, FlowVerdict},
};
use std::time::Duration;

/// A queue of records, as [`NetworkLog`].
pub(super) struct GatewayLog(pub(super) FlowLog);

impl NetworkLog for GatewayLog {
    fn next(&self, timeout: Duration) -> Option<NetworkFlow> {
        self.0.next(timeout).map(flow)
    }

    fn take_dropped(&self) -> u64 {
        self.0.take_dropped()
    }
}

fn flow(record: FlowRecord) -> NetworkFlow {
    let missing = missing(&record);
    NetworkFlow {
        started: record.started,
        lasted: record.lasted,
        name: record.name.map(|name| name.strip_suffix('.').map(str::to_owned).unwrap_or(name)),
        wanted: (record.kind != FlowKind::Dns).then_some(record.wanted),
        connected: record.connected,
        address_checked: record.address_checked,
        sent: record.sent,
        received: record.received,
        verdict: match record.verdict {
            FlowVerdict::Granted { rule, end } => NetworkVerdict::Granted { rule, cut: cut(end) },
            FlowVerdict::Refused(refusal) => NetworkVerdict::Refused { reason: refusal.to_string(), missing },
            other => NetworkVerdict::Refused { reason: format!("{other:?}"), missing },
        },
    }
}

fn cut(end: FlowEnd) -> Option<String> {
    Some(match end {
        FlowEnd::Closed => return None,
        FlowEnd::Broken(error) => error,
        FlowEnd::Unreachable(error) => format!("not reached: {error}"),
        FlowEnd::Idle => "no byte was carried for the time of the limit".to_owned(),
        FlowEnd::Revoked => "the grant was withdrawn".to_owned(),
        FlowEnd::Stopped => "the sandbox has ended".to_owned(),
        FlowEnd::Refused(refusal) => refusal.to_string(),
        other => format!("{other:?}"),
    })
}

/// Returns the network grant that would allow a refused flow. Returns `None` if the flow was refused because it did not match its
/// grant, such as another name in TLS.
fn missing(record: &FlowRecord) -> Option<String> {
    // A name such as `_http._tcp.a.example` names a service, not a host.
    let name =
        || record.name.as_ref().and_then(|name| name.parse::<HostName>().ok()).filter(|name| !name.as_str().starts_with('_'));
    let port = record.wanted.port();
    let address = |address| match address {
        std::net::IpAddr::V4(address) => format!("{address}:{port}"),
        std::net::IpAddr::V6(address) => format!("[{address}]:{port}"),
    };
    let FlowVerdict::Refused(refusal) = &record.verdict else { return None };
    match refusal {
        FlowRefusal::NameNotGranted => name().map(|name| name.to_string()),
        FlowRefusal::NotGranted => Some(name().map_or_else(|| address(record.wanted.ip()), |name| format!("{name}:{port}"))),
        FlowRefusal::Special { address: refused, .. } => Some(address(*refused)),
        _ => None,
    }
}
