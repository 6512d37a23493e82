use super::*;
use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    task::Poll,
};

const LIMIT: Duration = Duration::from_secs(10);

fn served() -> HostApprovals {
    let approvals = HostApprovals::default();
    approvals.serve();
    approvals
}

fn approved() -> HostDecision {
    HostDecision::Approved { by: "uid:1".to_owned() }
}

async fn waits(approvals: &HostApprovals, to: &str) -> Result<String, ApprovalRefusal> {
    approvals.wait(to, "*.example:443/approve", LIMIT).await
}

#[tokio::test(start_paused = true)]
async fn connections_to_one_destination_share_a_request_and_its_decision() {
    let approvals = served();
    let decide = async {
        let request = approvals.next().await.unwrap();
        assert_eq!((request.to.as_str(), request.rule.as_str(), request.wait), ("a.example:443", "*.example:443/approve", LIMIT));
        approvals.decide(request.id, approved());
        // A second decision changes nothing.
        approvals.decide(request.id, HostDecision::Denied { by: "uid:2".to_owned() });
    };
    let (one, two, ()) = tokio::join!(waits(&approvals, "a.example:443"), waits(&approvals, "a.example:443"), decide);
    assert_eq!((one.as_deref(), two.as_deref()), (Ok("uid:1"), Ok("uid:1")));
    assert_eq!(waits(&approvals, "a.example:443").await.as_deref(), Ok("uid:1"), "the decision holds for later connections");
    assert!(approvals.lock().untaken.is_empty());
    assert_eq!(approvals.lock().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_reader_or_a_decision_connections_are_refused() {
    assert_eq!(waits(&HostApprovals::default(), "a.example:443").await, Err(ApprovalRefusal::NotServed));
    let approvals = served();
    assert_eq!(waits(&approvals, "a.example:443").await, Err(ApprovalRefusal::Expired));
    let first = approvals.next().await.unwrap();
    // The time of the first connection is over, so a later one is a new request.
    let again = async {
        let second = approvals.next().await.unwrap();
        assert_ne!(second.id, first.id);
        approvals.decide(first.id, approved());
        approvals.decide(second.id, HostDecision::Denied { by: "uid:1".to_owned() });
    };
    let (refused, ()) = tokio::join!(waits(&approvals, "a.example:443"), again);
    assert_eq!(refused, Err(ApprovalRefusal::Denied { by: "uid:1".to_owned() }));
    assert_eq!(waits(&approvals, "a.example:443").await, refused, "a denial holds for later connections");
}

#[tokio::test(start_paused = true)]
async fn decision_after_the_time_holds_for_later_connections() {
    let approvals = served();
    assert_eq!(waits(&approvals, "a.example:443").await, Err(ApprovalRefusal::Expired));
    approvals.decide(approvals.next().await.unwrap().id, approved());
    assert_eq!(waits(&approvals, "a.example:443").await.as_deref(), Ok("uid:1"));
}

#[tokio::test(start_paused = true)]
async fn requests_and_waiting_connections_of_a_hostile_sandbox_are_bounded() {
    let approvals = served();
    let mut table = ApprovalTable { served: true, ..ApprovalTable::default() };
    let now = Instant::now();
    for pending in 0..PENDING_APPROVALS {
        table.request(&format!("{pending}.example:443"), "", now, LIMIT).unwrap();
    }
    assert_eq!(table.request("more.example:443", "", now, LIMIT), Err(ApprovalRefusal::TooManyPending));
    let mut later = now;
    while table.requests < APPROVAL_REQUESTS {
        later += LIMIT;
        table.request("0.example:443", "", later, LIMIT).unwrap();
    }
    later += LIMIT;
    assert_eq!(table.request("0.example:443", "", later, LIMIT), Err(ApprovalRefusal::TooManyRequests));

    let mut connections = tokio::task::JoinSet::new();
    for _ in 0..=WAITING_FOR_APPROVAL {
        let approvals = approvals.clone();
        connections.spawn(async move { waits(&approvals, "a.example:443").await });
    }
    assert_eq!(connections.join_next().await.unwrap().unwrap(), Err(ApprovalRefusal::TooManyWaiting));
    approvals.decide(approvals.next().await.unwrap().id, approved());
    while let Some(ended) = connections.join_next().await {
        assert_eq!(ended.unwrap().as_deref(), Ok("uid:1"));
    }
    assert_eq!(approvals.lock().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn failed_request_is_asked_again_by_the_next_connection() {
    let approvals = served();
    let fail = async {
        let reason = "no store".to_owned();
        approvals.decide(approvals.next().await.unwrap().id, HostDecision::Failed { reason });
    };
    let (refused, ()) = tokio::join!(waits(&approvals, "a.example:443"), fail);
    assert_eq!(refused, Err(ApprovalRefusal::Failed { reason: "no store".to_owned() }));
    let approve = async { approvals.decide(approvals.next().await.unwrap().id, approved()) };
    assert!(tokio::join!(waits(&approvals, "a.example:443"), approve).0.is_ok());
}

#[tokio::test(start_paused = true)]
async fn revoked_destination_and_ended_sandbox_refuse_waiting_connections() {
    let approvals = served();
    let revoke = async {
        let request = approvals.next().await.unwrap();
        let mut withdrawn = pin!(approvals.withdrawn(request.id));
        approvals.retain(|to| to == "a.example:443");
        assert!(poll_fn(|context| Poll::Ready(withdrawn.as_mut().poll(context).is_pending())).await, "the grant is still there");
        approvals.retain(|to| to != "a.example:443");
        withdrawn.await;
        approvals.decide(request.id, approved());
    };
    let (refused, ()) = tokio::join!(waits(&approvals, "a.example:443"), revoke);
    assert_eq!(refused, Err(ApprovalRefusal::Withdrawn));
    let end = async {
        let request = approvals.next().await.unwrap();
        approvals.close();
        approvals.withdrawn(request.id).await;
    };
    let (refused, ()) = tokio::join!(waits(&approvals, "a.example:443"), end);
    assert_eq!(refused, Err(ApprovalRefusal::Withdrawn));
    assert_eq!(approvals.next().await, None);
    assert_eq!(waits(&approvals, "a.example:443").await, Err(ApprovalRefusal::Withdrawn));
}
