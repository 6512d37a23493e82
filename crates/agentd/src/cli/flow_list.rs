//! `agentd net log`: prints the flows of named sandboxes. This process reads the files of the record, so no daemon is needed.

use super::{data, failure::Failure, writer};
use agentd_core::escape;
use agentd_isolation::layered::flows::{self, FlowHistory, RecordedFlow};
use agentd_sandboxes::{Name, Record, SandboxStore};
use std::io::{self, Write};

/// Prints the flows of a sandbox, or of all sandboxes. Returns the exit code.
pub(crate) fn print(name: Option<&Name>, json: bool) -> Result<u8, Failure> {
    let store = SandboxStore::open(&data::sandboxes()?)?;
    let records: Vec<Record> = match name {
        Some(name) => vec![store.record(name)?],
        // `agentd sandbox ls` reports damaged records.
        None => store.list()?.into_iter().flatten().collect(),
    };
    let mut objects = Vec::new();
    for record in &records {
        let of = &record.name;
        let history = flows::read(&store.log_directory(of))
            .map_err(|error| format!("read the flows of sandbox {of}: {error} — check the permissions of the data directory"))?;
        if json {
            objects.push(object(record, &history));
        } else {
            print_lines(record, &history, name.is_none())?;
        }
    }
    if json {
        let document = match (name, objects.pop()) {
            (Some(_), Some(object)) => format!("{object:#}"),
            (_, last) => format!("{:#}", serde_json::Value::from_iter(objects.into_iter().chain(last))),
        };
        writeln!(io::stdout(), "{}", escape::json(&document))?;
    }
    Ok(0)
}

fn print_lines(record: &Record, history: &FlowHistory, with_name: bool) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let sandbox = if with_name { format!("{} ", record.name) } else { String::new() };
    for flow in &history.flows {
        writeln!(out, "{} {sandbox}{}", utc(flow.started_us), escape::text(&line(flow)))?;
    }
    out.flush()?;
    if history.dropped > 0 || history.damaged > 0 {
        let FlowHistory { dropped, damaged, .. } = history;
        writer::message(format_args!(
            "network: sandbox {}: {dropped} flows were not recorded, because too many came at once; {damaged} lines are damaged",
            record.name
        ));
    }
    if history.flows.iter().any(|flow| !flow.allowed) {
        for reason in &record.about.spec.deny_reasons {
            writer::message(format_args!("network: {}", escape::text(reason)));
        }
    }
    Ok(())
}

/// Describes a flow in one line. The texts come from the sandbox and are not escaped yet.
fn line(flow: &RecordedFlow) -> String {
    let to = match (&flow.name, flow.wanted) {
        (Some(name), Some(wanted)) => format!("{name}:{}", wanted.port()),
        (Some(name), None) => name.clone(),
        (None, Some(wanted)) => wanted.to_string(),
        (None, None) => "a name".to_owned(),
    };
    let at = match flow.connected {
        Some(connected) => format!(" at {connected}"),
        None if flow.address_checked => String::new(),
        None => " at an address that a proxy chose".to_owned(),
    };
    let delayed = match flow.delayed.names().join(" and ") {
        none if none.is_empty() => none,
        names => format!(", delayed by {names}"),
    };
    let reason = flow.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let datagrams = flow.datagrams.map(|count| format!(" ({} and {} datagrams)", count.sent, count.received)).unwrap_or_default();
    match (&flow.rule, &flow.request) {
        (Some(rule), request) => {
            let request = request.as_ref().map(|request| format!("; refused {request}")).unwrap_or_default();
            let (state, so_far) = if flow.open { ("open", " so far") } else { ("allowed", "") };
            let bytes = format!("sent {} bytes, received {}{datagrams}{so_far}{delayed}", flow.sent, flow.received);
            let approved = flow.approved_by.as_ref().map(|by| format!(", approved by {by}")).unwrap_or_default();
            format!("{state} {to}{at} by {rule}{approved}, {bytes}{request}{reason}")
        }
        (None, Some(request)) => format!("refused {request} of {to}{reason}"),
        (None, None) => format!("refused {to}{reason}"),
    }
}

fn object(record: &Record, history: &FlowHistory) -> serde_json::Value {
    let flows = history.flows.iter().map(|flow| {
        serde_json::json!({
            "started": utc(flow.started_us),
            "lasted_us": flow.lasted_us,
            "name": flow.name,
            "port": flow.wanted.map(|wanted| wanted.port()),
            "address": flow.wanted.map(|wanted| wanted.ip()),
            "connected": flow.connected,
            "address_checked": flow.address_checked,
            "request": flow.request,
            "allowed": flow.allowed,
            "open": flow.open,
            "rule": flow.rule,
            "reason": flow.reason,
            "missing": flow.missing,
            "sent_bytes": flow.sent,
            "received_bytes": flow.received,
            "sent_datagrams": flow.datagrams.map(|count| count.sent),
            "received_datagrams": flow.datagrams.map(|count| count.received),
            "delayed_by": flow.delayed.names(),
            "approved_by": flow.approved_by,
        })
    });
    serde_json::json!({
        "name": record.name,
        "flows": flows.collect::<Vec<_>>(),
        "dropped": history.dropped,
        "damaged": history.damaged,
        "deny_reasons": record.about.spec.deny_reasons,
    })
}

/// Returns a time as in RFC 3339, in UTC. The civil date is computed from the days since 0000-03-01. In years that begin in
/// March, the leap day is the last day.
fn utc(micros: u64) -> String {
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_that_of_the_civil_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000001Z"),
            (951_782_399, "2000-02-28T23:59:59.000001Z"),
            (951_782_400, "2000-02-29T00:00:00.000001Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000001Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000001Z"),
        ] {
            assert_eq!(utc(seconds * 1_000_000 + 1), expected);
        }
    }

    #[test]
    fn line_names_destination_decision_and_bytes() {
        let flow = RecordedFlow {
            id: None,
            open: false,
            started_us: 0,
            lasted_us: 0,
            name: Some("a.example".to_owned()),
            wanted: Some(([198, 18, 1, 0], 443).into()),
            connected: Some(([93, 184, 216, 34], 443).into()),
            address_checked: true,
            sent: 1,
            received: 2,
            datagrams: None,
            delayed: agentd_core::DelayedBy::default(),
            approved_by: None,
            request: None,
            allowed: true,
            rule: Some("*.example:443".to_owned()),
            reason: None,
            missing: None,
        };
        assert_eq!(line(&flow), "allowed a.example:443 at 93.184.216.34:443 by *.example:443, sent 1 bytes, received 2");
        let open = RecordedFlow { open: true, ..flow.clone() };
        assert_eq!(line(&open), "open a.example:443 at 93.184.216.34:443 by *.example:443, sent 1 bytes, received 2 so far");
        let approved = RecordedFlow { approved_by: Some("uid:1 (0123)".to_owned()), ..flow.clone() };
        assert!(line(&approved).contains(" by *.example:443, approved by uid:1 (0123), sent 1 bytes"), "{}", line(&approved));
        let (request, reason) = (Some("POST /x".to_owned()), Some("no grant".to_owned()));
        let later = RecordedFlow { request, reason, ..flow.clone() };
        assert_eq!(
            line(&later),
            "allowed a.example:443 at 93.184.216.34:443 by *.example:443, sent 1 bytes, received 2; refused POST /x: no grant"
        );
        let datagrams = Some(agentd_core::DatagramCount { sent: 1, received: 3 });
        let udp = RecordedFlow { datagrams, rule: Some("*.example:443/udp".to_owned()), ..flow.clone() };
        let end = "by *.example:443/udp, sent 1 bytes, received 2 (1 and 3 datagrams)";
        assert!(line(&udp).ends_with(end), "{}", line(&udp));
        let delayed = agentd_core::DelayedBy { rate: true, new_connections: true, queries: false };
        let late = RecordedFlow { delayed, ..flow.clone() };
        assert!(line(&late).ends_with("sent 1 bytes, received 2, delayed by new-connections and rate"), "{}", line(&late));
        let refused = RecordedFlow { wanted: None, rule: None, allowed: false, reason: Some("no grant".to_owned()), ..flow };
        assert_eq!(line(&refused), "refused a.example: no grant");
        let request = RecordedFlow { request: Some("POST /v1".to_owned()), ..refused };
        assert_eq!(line(&request), "refused POST /v1 of a.example: no grant");
    }
}
