//! The conversion of the record of a gateway into the form that callers of a sandbox receive.

use agentd_core::{NetworkFlow, NetworkLog, NetworkVerdict};
use agentd_egress::{
    NetGrant,
    http::HeadError,
    name::HostName,
    record::{FlowEnd, FlowKind, FlowLog, FlowRecord, FlowRefusal, FlowVerdict, RequestLine},
};
use std::time::Duration;

/// The maximum length of a path that is offered as a grant, in bytes. A longer path may have been cut off in the record.
const MAX_OFFERED: usize = 200;

/// The port of HTTP over QUIC (RFC 9114).
const QUIC: u16 = 443;

/// A queue of records, as [`NetworkLog`].
#[derive(Debug, Clone)]
pub(super) struct GatewayLog {
    pub(super) log: FlowLog,
    /// True if the gateway has the flows from the agent of a virtual machine.
    pub(super) from_guest: bool,
}

impl NetworkLog for GatewayLog {
    fn next(&self, timeout: Duration) -> Option<NetworkFlow> {
        self.log.next(timeout).map(|record| NetworkFlow { from_guest: self.from_guest, ..flow(record) })
    }

    fn take_dropped(&self) -> u64 {
        self.log.take_dropped()
    }
}

fn flow(record: FlowRecord) -> NetworkFlow {
    let missing = missing(&record);
    NetworkFlow {
        id: record.id,
        started: record.started,
        lasted: record.lasted,
        name: record.name.map(|name| name.strip_suffix('.').map(str::to_owned).unwrap_or(name)),
        wanted: (record.kind != FlowKind::Dns).then_some(record.wanted),
        connected: record.connected,
        address_checked: record.address_checked,
        from_guest: false,
        sent: record.sent,
        received: record.received,
        datagrams: record.datagrams,
        delayed: record.delayed,
        approved_by: record.approved_by,
        request: record.request.map(|line| format!("{} {}", line.method, line.path)),
        verdict: match record.verdict {
            FlowVerdict::Open { rule } => NetworkVerdict::Open { rule },
            FlowVerdict::Granted { rule, end: FlowEnd::Refused(refusal) } => {
                NetworkVerdict::RefusedLater { rule, reason: refusal.to_string(), missing }
            }
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
        FlowEnd::Idle => "no byte was transferred within the time limit".to_owned(),
        FlowEnd::Displaced => "the sandbox started more flows of UDP than its limit permits".to_owned(),
        FlowEnd::Revoked => "the network grant was revoked".to_owned(),
        FlowEnd::Stopped => "the sandbox has ended".to_owned(),
        other => format!("{other:?}"),
    })
}

/// Returns the network grant that would allow a refused flow or request. Returns `None` if the flow was refused because it did
/// not match its grant, such as another name in TLS.
fn missing(record: &FlowRecord) -> Option<String> {
    // A name such as `_http._tcp.a.example` names a service, not a host.
    let name =
        || record.name.as_ref().and_then(|name| name.parse::<HostName>().ok()).filter(|name| !name.as_str().starts_with('_'));
    let (wanted, port) = (record.wanted.ip(), record.wanted.port());
    let address = |address| match address {
        std::net::IpAddr::V4(address) => format!("{address}:{port}"),
        std::net::IpAddr::V6(address) => format!("[{address}]:{port}"),
    };
    let (FlowVerdict::Refused(refusal) | FlowVerdict::Granted { end: FlowEnd::Refused(refusal), .. }) = &record.verdict else {
        return None;
    };
    match refusal {
        FlowRefusal::Request(HeadError::NotAllowed) => {
            let protocol = if record.kind == FlowKind::Request { "tls" } else { "http" };
            request_grant(&format!("{}:{port}/{protocol}", name()?), record.request.as_ref()?)
        }
        FlowRefusal::NameNotGranted => name().map(|name| name.to_string()),
        FlowRefusal::NotGranted => Some(name().map_or_else(|| address(wanted), |name| format!("{name}:{port}"))),
        // Programs that are refused QUIC use TCP.
        FlowRefusal::Udp if port == QUIC => None,
        FlowRefusal::Udp => Some(format!("{}/udp", name().map_or_else(|| address(wanted), |name| format!("{name}:{port}")))),
        FlowRefusal::Special { address: refused, .. } if record.kind == FlowKind::Udp => {
            Some(format!("{}/udp", address(*refused)))
        }
        FlowRefusal::Special { address: refused, .. } => Some(address(*refused)),
        _ => None,
    }
}

/// Returns the network grant that would allow exactly a refused request to `host`. Returns `None` for a path that is long or has
/// characters of patterns.
fn request_grant(host: &str, request: &RequestLine) -> Option<String> {
    if request.path.len() > MAX_OFFERED || request.path.contains('*') {
        return None;
    }
    let grant = format!("{host}/{}:{}", request.method, request.path.replace(',', "%2C"));
    let grant: NetGrant = grant.parse().ok()?;
    let allows = grant.request.as_ref()?.allows(&request.method, request.path.as_bytes()) == Ok(true);
    allows.then(|| grant.to_string())
}
