use super::*;

fn record(refused: bool) -> FlowRecord {
    let verdict = if refused {
        FlowVerdict::Refused(FlowRefusal::NotGranted)
    } else {
        FlowVerdict::Granted { rule: "a.example:443".to_owned(), end: FlowEnd::Closed }
    };
    FlowRecord::new(SystemTime::UNIX_EPOCH, Duration::ZERO, FlowKind::Tcp, ([198, 18, 1, 0], 443).into(), verdict)
}

#[test]
fn flood_of_refusals_leaves_room_for_granted_flows_and_is_counted() {
    let log = FlowLog::new(8);
    (0..100).for_each(|_| log.add(record(true)));
    (0..5).for_each(|_| log.add(record(false)));
    assert_eq!(log.take_dropped(), 96 + 1);
    assert_eq!(log.take_dropped(), 0);
    log.close();
    let read: Vec<_> = std::iter::from_fn(|| log.next(Duration::from_secs(60))).map(|record| record.is_refused()).collect();
    assert_eq!(read, [true, true, true, true, false, false, false, false]);
    // A record that was read makes room for another one.
    log.add(record(true));
    assert_eq!(log.take_dropped(), 0);
}

#[test]
fn record_of_an_open_connection_is_replaced_by_a_later_one_and_displaces_none() {
    let log = FlowLog::new(8);
    let open = |id, sent| FlowRecord {
        id: Some(id),
        sent,
        verdict: FlowVerdict::Open { rule: "a.example:443".to_owned() },
        ..record(false)
    };
    [open(1, 0), open(2, 0), open(1, 1), open(3, 0)].into_iter().for_each(|record| log.add(record));
    log.add(FlowRecord { id: Some(2), ..record(false) });
    assert_eq!(log.take_dropped(), 0, "a record of an open connection is not missing");
    (0..4).for_each(|_| log.add(record(true)));
    (0..2).for_each(|_| log.add(record(false)));
    assert_eq!(log.take_dropped(), 0, "there is room for the ends of connections");
    log.close();
    let read: Vec<_> = std::iter::from_fn(|| log.next(Duration::ZERO)).map(|record| (record.id, record.sent)).collect();
    assert_eq!(read[..2], [(Some(1), 1), (Some(2), 0)]);
}

#[test]
fn reader_is_woken_by_a_record() {
    let log = FlowLog::new(8);
    let reader = std::thread::spawn({
        let log = log.clone();
        move || log.next(Duration::from_secs(60))
    });
    log.add(record(false));
    assert_eq!(reader.join().unwrap(), Some(record(false)));
}
