//! Connections to hosts that need an approval.

use crate::{
    origin::{Scene, inspected},
    sandbox::{Inside, LONG, Names, config, echo, rest, sandbox, server},
};
use agentd_core::{HostApprovalRequest, HostDecision};
use agentd_egress::{
    GatewayConfig,
    approval::ApprovalRefusal,
    record::{FlowEnd, FlowRecord, FlowRefusal, FlowVerdict},
};
use std::{
    io::{self, Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

pub const TESTS: &[(&str, fn())] = &[
    ("connection_waits_for_its_approval_and_later_ones_follow_it", approved),
    ("connection_that_was_closed_before_its_approval_is_not_carried", closed),
    ("denied_connection_reaches_nothing", denied),
    ("connection_without_a_decision_in_time_is_refused", expired),
    ("connection_is_refused_if_no_program_asks_a_user", not_served),
    ("inspected_connection_that_waits_for_an_approval_delays_no_other", inspected_waits),
    ("revoked_grant_ends_the_wait_and_forgets_the_approval", revoked),
    ("hostile_sandbox_with_many_names_makes_few_requests", flood),
];

/// Waits for the next request, as the program of the sandbox does.
fn next(inside: &Inside<'_>) -> HostApprovalRequest {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let next = runtime.block_on(async { tokio::time::timeout(LONG, inside.gateway.approvals().next()).await });
    next.unwrap().unwrap()
}

fn approve(inside: &Inside<'_>, request: &HostApprovalRequest) {
    inside.gateway.approvals().decide(request.id, HostDecision::Approved { by: "uid:7".to_owned() });
}

/// An echo server that counts its connections, and a sandbox that needs an approval for it.
fn place() -> (u16, Arc<AtomicUsize>, GatewayConfig) {
    let reached = Arc::new(AtomicUsize::new(0));
    let count = reached.clone();
    let port = server("127.0.0.1", move |client| {
        count.fetch_add(1, Ordering::SeqCst);
        echo(client);
    });
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    (port, reached, config(&format!("*.example:{port}/approve,127.0.0.1:{port}"), names))
}

fn refusal(record: &FlowRecord) -> &ApprovalRefusal {
    match &record.verdict {
        FlowVerdict::Refused(FlowRefusal::Approval(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn approved() {
    let (port, reached, config) = place();
    let (_, records) = sandbox(config, &[port], |inside| {
        inside.gateway.approvals().serve();
        let mut first = inside.connect("A.example.", port);
        let second = inside.connect("a.example.", port);
        first.write_all(b"early").unwrap();
        let request = next(inside);
        assert_eq!((request.to, request.rule), (format!("a.example:{port}"), format!("*.example:{port}/approve")));
        assert_eq!(reached.load(Ordering::SeqCst), 0);
        inside.gateway.approvals().decide(request.id, HostDecision::Approved { by: "uid:7".to_owned() });
        first.read_exact(&mut [0; 5]).unwrap();
        // No further request is made.
        let third = inside.connect("a.example.", port);
        for mut stream in [first, second, third] {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(rest(&stream).unwrap(), b"");
        }
    });
    let carried = FlowVerdict::Granted { rule: format!("*.example:{port}/approve"), end: FlowEnd::Closed };
    let ends: Vec<_> = records.iter().filter(|record| !record.is_open()).collect();
    assert_eq!(ends.len(), 3, "{records:?}");
    assert!(ends.iter().all(|record| record.verdict == carried && record.approved_by.as_deref() == Some("uid:7")), "{ends:?}");
}

/// Waits until this number of connections waits for a decision.
fn waits_for(inside: &Inside<'_>, number: usize) {
    let deadline = std::time::Instant::now() + LONG;
    while inside.gateway.approvals().waiting() != number {
        assert!(std::time::Instant::now() < deadline, "{}", inside.gateway.approvals().waiting());
        std::thread::yield_now();
    }
}

fn closed() {
    let (port, reached, config) = place();
    let (_, records) = sandbox(config, &[port], |inside| {
        inside.gateway.approvals().serve();
        let mut given_up = inside.connect("a.example.", port);
        given_up.write_all(b"order").unwrap();
        let request = next(inside);
        waits_for(inside, 1);
        drop(given_up);
        waits_for(inside, 0);
        approve(inside, &request);
        // The approval holds for the next connection.
        let mut next = inside.connect("a.example.", port);
        next.write_all(b"x").unwrap();
        next.read_exact(&mut [0]).unwrap();
    });
    assert_eq!(reached.load(Ordering::SeqCst), 1);
    let left = records.iter().filter(|record| matches!(record.verdict, FlowVerdict::Refused(_)));
    assert_eq!(left.map(refusal).collect::<Vec<_>>(), [&ApprovalRefusal::Left], "{records:?}");
}

fn denied() {
    let (port, reached, config) = place();
    let (_, records) = sandbox(config, &[port], |inside| {
        inside.gateway.approvals().serve();
        let first = inside.connect("a.example.", port);
        inside.gateway.approvals().decide(next(inside).id, HostDecision::Denied { by: "uid:7".to_owned() });
        assert_eq!(rest(&first), Err(io::ErrorKind::ConnectionReset));
        // The decision is final.
        assert_eq!(inside.attempt(inside.address("a.example.", port)), Err(io::ErrorKind::ConnectionReset));
    });
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    assert_eq!(records.len(), 2, "{records:?}");
    for record in &records {
        assert_eq!(refusal(record), &ApprovalRefusal::Denied { by: "uid:7".to_owned() });
    }
}

fn expired() {
    let (port, reached, mut config) = place();
    config.limits.approval = Duration::from_millis(50);
    let (_, records) = sandbox(config, &[port], |inside| {
        inside.gateway.approvals().serve();
        let first = inside.connect("a.example.", port);
        assert_eq!(rest(&first), Err(io::ErrorKind::ConnectionReset));
        assert_eq!(reached.load(Ordering::SeqCst), 0);
        // A late approval holds for the next connection.
        approve(inside, &next(inside));
        let mut second = inside.connect("a.example.", port);
        second.write_all(b"x").unwrap();
        second.read_exact(&mut [0]).unwrap();
    });
    assert_eq!(refusal(&records[0]), &ApprovalRefusal::Expired);
}

fn not_served() {
    let (port, reached, config) = place();
    let (_, records) = sandbox(config, &[port], |inside| {
        assert_eq!(inside.attempt(inside.address("a.example.", port)), Err(io::ErrorKind::ConnectionReset));
    });
    assert_eq!((refusal(&records[0]), reached.load(Ordering::SeqCst)), (&ApprovalRefusal::NotServed, 0));
}

/// The gateway inspects one connection at a time. The first one waits for an approval.
fn inspected_waits() {
    let scene = Scene {
        rules: &["/approve/*:/v1/*"],
        change: |config| {
            config.limits.inspected = 1;
        },
        ..Scene::default()
    };
    let (_, records, seen) = inspected(scene, |client| {
        client.inside.gateway.approvals().serve();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| client.curl(&["-d", "late"], "/v1/echo"));
            let request = next(client.inside);
            waits_for(client.inside, 1);
            let other = client.curl_at("b.example", &["-d", "early"], "/v1/echo");
            assert_eq!(String::from_utf8_lossy(&other.stdout), "early", "{other:?}");
            approve(client.inside, &request);
            assert_eq!(String::from_utf8_lossy(&waiting.join().unwrap().stdout), "late");
        });
    });
    assert_eq!((seen.len(), records.len()), (2, 2), "{records:?}");
}

fn revoked() {
    let (port, reached, config) = place();
    let both = config.grants.clone();
    let (_, records) = sandbox(config, &[port], |inside| {
        inside.gateway.approvals().serve();
        let waiting = inside.connect("a.example.", port);
        let request = next(inside);
        inside.gateway.set_grants(format!("127.0.0.1:{port}").parse().unwrap()).unwrap();
        approve(inside, &request);
        assert_eq!(rest(&waiting), Err(io::ErrorKind::ConnectionReset));
        inside.gateway.set_grants(both).unwrap();
        let again = inside.connect("a.example.", port);
        let second = next(inside);
        assert_ne!(second.id, request.id);
        inside.gateway.approvals().decide(second.id, HostDecision::Denied { by: "uid:7".to_owned() });
        assert_eq!(rest(&again), Err(io::ErrorKind::ConnectionReset));
    });
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    assert!(records.iter().all(|record| record.approved_by.is_none()), "{records:?}");
}

fn flood() {
    let (port, _, config) = place();
    let (_, records) = sandbox(config, &[port], |inside| {
        inside.gateway.approvals().serve();
        let streams: Vec<_> = (0..30).map(|number| inside.connect(&format!("n{number}.example."), port)).collect();
        // Every connection above the bound is refused at once. The others wait until the gateway closes its approvals.
        let refused: Vec<_> = (0..22).map(|_| inside.gateway.log().next(LONG).unwrap()).collect();
        assert!(refused.iter().all(|record| *refusal(record) == ApprovalRefusal::TooManyPending), "{refused:?}");
        (0..8).for_each(|_| drop(next(inside)));
        inside.gateway.approvals().close();
        drop(streams);
    });
    assert_eq!(records.len(), 8, "{records:?}");
    assert!(records.iter().all(|record| *refusal(record) == ApprovalRefusal::Withdrawn), "{records:?}");
}
