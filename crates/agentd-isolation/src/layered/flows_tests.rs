use super::*;
use std::{
    collections::VecDeque,
    fs::OpenOptions,
    sync::{Mutex, PoisonError},
};

/// A queue with these flows. Before each flow, another flow was dropped.
struct Flows(Mutex<VecDeque<NetworkFlow>>);

impl NetworkLog for Flows {
    fn next(&self, _timeout: Duration) -> Option<NetworkFlow> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn take_dropped(&self) -> u64 {
        1
    }
}

fn flow(at: u64, name: &str, allowed: bool) -> NetworkFlow {
    let verdict = if allowed {
        NetworkVerdict::Granted { rule: "a.example:443".to_owned(), cut: None }
    } else {
        NetworkVerdict::Refused { reason: "no grant".to_owned(), missing: Some("a.example:443".to_owned()) }
    };
    NetworkFlow {
        id: None,
        started: UNIX_EPOCH + Duration::from_micros(at),
        lasted: Duration::from_millis(1),
        name: Some(name.to_owned()),
        wanted: Some(([198, 18, 1, 0], 443).into()),
        connected: None,
        address_checked: true,
        from_guest: false,
        sent: 1,
        received: 2,
        datagrams: None,
        delayed: agentd_core::DelayedBy::default(),
        approved_by: None,
        request: None,
        verdict,
    }
}

async fn write(folder: &Path, flows: impl IntoIterator<Item = NetworkFlow>) {
    let flows = Arc::new(Flows(Mutex::new(flows.into_iter().collect())));
    FlowWriter::start(flows, folder.to_path_buf()).unwrap().finish().await.unwrap();
}

fn size(folder: &Path) -> u64 {
    fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn flows_are_read_as_written_in_order_of_start() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("log");
    assert_eq!(read(&folder).unwrap(), FlowHistory::default());
    let flows = [flow(3, "b.example", false), flow(1, "a\n\u{1b}[2J", true), flow(2, "c.example", true)];
    write(&folder, flows.clone()).await;
    let history = read(&folder).unwrap();
    let [b, a, c] = flows.map(RecordedFlow::from);
    assert_eq!(history, FlowHistory { flows: vec![a, c, b], dropped: 3, damaged: 0 });
}

#[tokio::test]
async fn flood_of_refusals_is_bounded_on_disk_and_granted_flows_remain() {
    let place = tempfile::tempdir().unwrap();
    let name = "x".repeat(200);
    let flood = (10..20_000).map(|at| flow(at, &name, false));
    write(place.path(), [flow(1, "granted.example", true)].into_iter().chain(flood)).await;
    assert!(size(place.path()) <= 3 * MAX_FILE, "{}", size(place.path()));
    let history = read(place.path()).unwrap();
    assert_eq!(history.flows.first().and_then(|flow| flow.name.as_deref()), Some("granted.example"));
    // The newest flows are kept: at least as many as fit in one file.
    assert_eq!(history.flows.last().map(|flow| flow.started_us), Some(19_999));
    assert!(history.flows.len() > 2000, "{}", history.flows.len());
}

#[tokio::test]
async fn incomplete_line_is_counted_and_next_flow_is_read() {
    let place = tempfile::tempdir().unwrap();
    write(place.path(), [flow(1, "a.example", true)]).await;
    OpenOptions::new().append(true).open(place.path().join(KINDS[0])).unwrap().write_all(b"{\"flow\":{\"star").unwrap();
    write(place.path(), [flow(2, "b.example", true)]).await;
    let history = read(place.path()).unwrap();
    assert_eq!((history.flows.len(), history.damaged), (2, 1));
}

#[tokio::test]
async fn open_flow_is_listed_until_its_end_or_until_the_sandbox_starts_again() {
    let place = tempfile::tempdir().unwrap();
    let record = |at, id, sent, open: bool| {
        let verdict = NetworkVerdict::Open { rule: "a.example:443".to_owned() };
        let flow = NetworkFlow { id: Some(id), sent, ..flow(at, "a.example", true) };
        if open { NetworkFlow { verdict, ..flow } } else { flow }
    };
    let read = || {
        let flows = read(place.path()).unwrap().flows.into_iter();
        flows.map(|flow| (flow.started_us, flow.sent, flow.open, flow.reason)).collect::<Vec<_>>()
    };
    // The flow 1 ends, the flow 2 does not.
    let flows = [record(1, 1, 0, true), record(2, 2, 0, true), record(2, 2, 5, true), record(1, 1, 7, false)];
    write(place.path(), flows).await;
    assert_eq!(read(), [(1, 7, false, None), (2, 5, true, None)]);
    // A gateway that starts later numbers its connections from the beginning.
    let now = since_epoch(SystemTime::now()) + 60_000_000;
    write(place.path(), [record(now, 2, 9, true)]).await;
    assert_eq!(read(), [(1, 7, false, None), (2, 5, false, Some(LOST.to_owned())), (now, 9, true, None)]);
}
