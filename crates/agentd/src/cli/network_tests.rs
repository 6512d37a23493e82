use super::*;
use std::time::SystemTime;

fn flow(name: Option<&str>, wanted: Option<&str>, verdict: NetworkVerdict) -> NetworkFlow {
    NetworkFlow {
        id: None,
        started: SystemTime::UNIX_EPOCH,
        lasted: Duration::ZERO,
        name: name.map(str::to_owned),
        wanted: wanted.map(|address| address.parse().unwrap()),
        connected: None,
        address_checked: true,
        from_guest: false,
        sent: 1,
        received: 2,
        datagrams: None,
        delayed: DelayedBy::default(),
        approved_by: None,
        request: None,
        verdict,
    }
}

/// A queue without flows.
struct Empty;

impl NetworkLog for Empty {
    fn next(&self, _timeout: Duration) -> Option<NetworkFlow> {
        None
    }

    fn take_dropped(&self) -> u64 {
        0
    }
}

fn refused(reason: &str, missing: Option<&str>) -> NetworkVerdict {
    NetworkVerdict::Refused { reason: reason.to_owned(), missing: missing.map(str::to_owned) }
}

#[cfg(feature = "policy")]
#[test]
fn advice_for_an_intent_repeats_the_grants_that_it_has() {
    let mut summary = NetworkSummary::default();
    summary.add_grants_of_intent(&agentd_core::Network::Egress(vec!["a.example:80/http".to_owned()]));
    let reason = "the name leads to 127.0.0.1, which is loopback — also grant it";
    summary.add(flow(Some("a.example"), Some("198.18.1.0:80"), refused(reason, Some("127.0.0.1:80"))));
    let option = "--net allow=a.example:80/http,127.0.0.1:80";
    let expected = format!("a.example:80 was refused: the name leads to 127.0.0.1, which is loopback — allow it with {option}");
    assert_eq!(summary.lines(), [expected]);
}

#[test]
fn each_refused_destination_is_one_line_with_its_option() {
    let mut summary = NetworkSummary::default();
    for name in ["a.example", "e.example", "a.example", "a.example"] {
        summary.add(flow(Some(name), None, refused("no grant — add one", Some(name))));
    }
    summary.add(flow(None, Some("10.0.0.1:22"), refused("no grant — add one", Some("10.0.0.1:22"))));
    summary.add(flow(None, Some("10.0.0.1:514"), refused("no grant — add one", Some("10.0.0.1:514/udp"))));
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
            "10.0.0.1:514 was refused: no grant — allow it with --net allow=10.0.0.1:514/udp",
            "b.example:443 was refused: not TLS — say so",
            "d.example:443: not reached: no route",
            "allow all of these names with --net allow=a.example,e.example",
        ]
    );
    assert_eq!(summary.json()["flows"][0]["flows"], 3);
    assert_eq!(summary.json()["flows"][0]["received_bytes"], 6);
}

#[test]
fn request_that_is_refused_later_on_a_granted_connection_is_one_line_with_its_option() {
    let mut summary = NetworkSummary::default();
    let later = |missing: Option<&str>| NetworkVerdict::RefusedLater {
        rule: "a.example:80".to_owned(),
        reason: "no grant — add one".to_owned(),
        missing: missing.map(str::to_owned),
    };
    let ask = |request: Option<&str>, missing| {
        let flow = flow(Some("a.example"), Some("198.18.1.0:80"), later(missing));
        NetworkFlow { connected: flow.wanted, request: request.map(str::to_owned), ..flow }
    };
    let option = Some("a.example:80/POST:/x");
    for flow in [ask(Some("POST /x"), option), ask(Some("POST /x"), option), ask(None, None)] {
        summary.add(flow);
    }
    assert_eq!(
        summary.lines(),
        [
            "POST /x of a.example:80 was refused: no grant — allow it with --net allow=a.example:80/POST:/x",
            "a.example:80 was refused: no grant — add one",
        ]
    );
    let object = summary.json();
    assert_eq!((&object["flows"][0]["allowed"], &object["flows"][0]["flows"]), (&true.into(), &2.into()), "{object}");
    assert_eq!(object["missing"], serde_json::json!(["a.example:80/POST:/x"]));
}

#[test]
fn approval_is_in_the_receipt_and_in_json() {
    let mut summary = NetworkSummary::default();
    let verdict = NetworkVerdict::Granted { rule: "a:443/approve".to_owned(), cut: None };
    let approved_by = Some("uid:1000 (0123)".to_owned());
    summary.add(NetworkFlow { approved_by, ..flow(Some("a"), Some("198.18.1.0:443"), verdict) });
    assert_eq!(summary.recorded().flows[0].reason.as_deref(), Some("a:443/approve; approved by uid:1000 (0123)"));
    assert_eq!(summary.json()["flows"][0]["approved_by"], "uid:1000 (0123)");
}

#[test]
fn open_connection_is_counted_once_with_its_last_bytes() {
    let mut summary = NetworkSummary::default();
    let record = |id, sent, open: bool| {
        let rule = "a:443".to_owned();
        let verdict = if open { NetworkVerdict::Open { rule } } else { NetworkVerdict::Granted { rule, cut: None } };
        NetworkFlow { id: Some(id), sent, ..flow(Some("a"), Some("198.18.1.0:443"), verdict) }
    };
    for flow in [record(1, 0, true), record(2, 0, true), record(2, 5, true), record(1, 7, false)] {
        summary.add(flow);
    }
    let log = Arc::new(Empty);
    let thread = thread::spawn(|| ());
    let reader = FlowReader { deny_reasons: Vec::new(), log, summary: Arc::new(Mutex::new(summary)), thread };
    let recorded: Vec<_> =
        reader.finish(false).recorded().flows.into_iter().map(|flow| (flow.reason.unwrap(), flow.flows, flow.sent)).collect();
    assert_eq!(recorded, [("a:443".to_owned(), 1, 7), ("a:443; still open".to_owned(), 1, 5)]);
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
fn datagrams_of_flows_to_one_destination_add_up() {
    let mut summary = NetworkSummary::default();
    for _ in 0..2 {
        let verdict = NetworkVerdict::Granted { rule: "a:123/udp".to_owned(), cut: None };
        let datagrams = Some(DatagramCount { sent: 3, received: 1 });
        summary.add(NetworkFlow { datagrams, ..flow(Some("a"), Some("198.18.1.0:123"), verdict) });
    }
    let flow = &summary.json()["flows"][0];
    assert_eq!((&flow["sent_datagrams"], &flow["received_datagrams"]), (&6.into(), &2.into()));
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
