//! Quotas of principals and groups, the queue, and the settlement of processor time.

use crate::place::{ALL, Place, finished, intent, of_agent};
use agentd_engine::{EndedIntent, Engine, Executed, Intent, Submitted};
use std::{cell::RefCell, time::Duration};

const HOUR: u64 = 3_600_000;

/// Submits an intent, and ends it as soon as it may be executed. Returns the end.
async fn run(engine: &Engine, intent: Intent) -> EndedIntent {
    match engine.submit(intent).await.unwrap() {
        Submitted::Execute(execution) => {
            let ran = finished(b"", Duration::ZERO);
            execution.finish(Executed { backend: "container", controls: &[], evidence: &[], egress: None, ran }).await.unwrap()
        }
        Submitted::Ended(ended) => ended,
        Submitted::Hold(_) => panic!("the intent waits for an approval"),
    }
}

/// Waits until this number of intents wait for a place.
async fn until_waiting(place: &Place, number: u64) {
    let state = place.state();
    while state.check().await.unwrap().waiting != number {
        tokio::task::yield_now().await;
    }
}

fn refusal(ended: &EndedIntent) -> (&str, u64) {
    let error = &ended.object["error"];
    (error["code"].as_str().unwrap(), error["retry_after_ms"].as_u64().unwrap())
}

#[test]
fn intent_waits_for_a_place_that_another_engine_holds() {
    let place = Place::new();
    place.write("quotas.toml", "[default]\nconcurrency = 1");
    let (first, second) = (place.engine(ALL), place.start());
    let held = place.execution(&first, None);
    let ended = place.runtime.block_on(async {
        let release = async {
            until_waiting(&place, 1).await;
            let ran = finished(b"", Duration::ZERO);
            held.finish(Executed { backend: "container", controls: &[], evidence: &[], egress: None, ran }).await.unwrap()
        };
        tokio::join!(run(&second, intent("make", None)), release)
    });
    assert_eq!((&ended.0.object["status"], &ended.1.object["status"]), (&"finished".into(), &"finished".into()));
}

#[test]
fn place_of_an_execution_that_was_dropped_is_free_and_its_intent_is_interrupted_once() {
    let place = Place::new();
    place.write("quotas.toml", "[default]\nconcurrency = 1\nwaiting = 0");
    let engine = place.engine(ALL);
    drop(place.execution(&engine, Some("k")));
    place.finish(place.execution(&engine, None));
    // A duplicate finds the orphan, and ends it.
    assert_eq!(place.ended(&engine, intent("make", Some("k"))).object["status"], "interrupted");
    assert_eq!(place.ended(&engine, intent("make", Some("k"))).object["status"], "interrupted");
    assert_eq!(place.leaves().iter().filter(|kind| **kind == "outcome").count(), 2);
}

#[test]
fn place_of_an_engine_that_died_is_free() {
    let place = Place::new();
    place.write("quotas.toml", "[default]\nconcurrency = 1\nwaiting = 0");
    let (first, second) = (place.engine(ALL), place.start());
    let held = place.execution(&first, None);
    assert_eq!(refusal(&place.ended(&second, intent("make", None))).0, "quota-exceeded");
    drop(held);
    drop(first);
    place.finish(place.execution(&second, None));
}

#[test]
fn principals_take_turns_however_many_intents_they_have() {
    let place = Place::new();
    place.write("quotas.toml", "[total]\nconcurrency = 1");
    let engine = place.engine(ALL);
    let order = RefCell::new(Vec::new());
    let Submitted::Execute(held) = place.submit(&engine, of_agent("many", &[])) else { panic!("the place is free") };
    let turn = |name: &'static str, earlier: u64| {
        let (engine, order, place) = (&engine, &order, &place);
        async move {
            until_waiting(place, earlier).await;
            let Submitted::Execute(execution) = engine.submit(of_agent(name, &[])).await.unwrap() else { panic!("{name}") };
            order.borrow_mut().push(name);
            let ran = finished(b"", Duration::ZERO);
            execution.finish(Executed { backend: "container", controls: &[], evidence: &[], egress: None, ran }).await.unwrap();
        }
    };
    place.runtime.block_on(async {
        let release = async {
            until_waiting(&place, 5).await;
            let ran = finished(b"", Duration::ZERO);
            held.finish(Executed { backend: "container", controls: &[], evidence: &[], egress: None, ran }).await.unwrap();
        };
        tokio::join!(turn("many", 0), turn("many", 1), turn("many", 2), turn("few", 3), turn("few", 4), release)
    });
    assert_eq!(*order.borrow(), ["few", "many", "few", "many", "many"]);
}

#[test]
fn higher_priority_goes_first() {
    let place = Place::new();
    place.write("quotas.toml", "[total]\nconcurrency = 1\n[principal.\"agent:urgent\"]\npriority = \"high\"");
    let engine = place.engine(ALL);
    let order = RefCell::new(Vec::new());
    let Submitted::Execute(held) = place.submit(&engine, of_agent("urgent", &[])) else { panic!("the place is free") };
    let turn = |name: &'static str, earlier: u64| {
        let (engine, order, place) = (&engine, &order, &place);
        async move {
            until_waiting(place, earlier).await;
            let Submitted::Execute(execution) = engine.submit(of_agent(name, &[])).await.unwrap() else { panic!("{name}") };
            order.borrow_mut().push(name);
            let ran = finished(b"", Duration::ZERO);
            execution.finish(Executed { backend: "container", controls: &[], evidence: &[], egress: None, ran }).await.unwrap();
        }
    };
    place.runtime.block_on(async {
        let release = async {
            until_waiting(&place, 3).await;
            let ran = finished(b"", Duration::ZERO);
            held.finish(Executed { backend: "container", controls: &[], evidence: &[], egress: None, ran }).await.unwrap();
        };
        tokio::join!(turn("usual", 0), turn("urgent", 1), turn("urgent", 2), release)
    });
    assert_eq!(*order.borrow(), ["urgent", "urgent", "usual"]);
}

#[test]
fn queue_is_bounded_and_the_wait_ends_with_a_time_to_retry() {
    let place = Place::new();
    place.write("quotas.toml", "[default]\nconcurrency = 1\nwaiting = 1\nwait = \"300ms\"");
    let engine = place.engine(ALL);
    let _held = place.execution(&engine, None);
    let (waited, refused) = place.runtime.block_on(async {
        let third = async {
            until_waiting(&place, 1).await;
            run(&engine, intent("third", None)).await
        };
        tokio::join!(run(&engine, intent("second", None)), third)
    });
    for (ended, cause) in [(&waited, "executed at the same time"), (&refused, "as many requests wait as the limit permits, 1")] {
        let (code, retry) = refusal(ended);
        assert!(code == "quota-exceeded" && retry > 0, "{ended:?}");
        assert!(ended.object["error"]["message"].as_str().unwrap().contains(cause), "{ended:?}");
    }
    place.runtime.block_on(until_waiting(&place, 0));
}

#[test]
fn request_that_nobody_waits_for_any_longer_leaves_the_queue() {
    let place = Place::new();
    place.write("quotas.toml", "[default]\nconcurrency = 1");
    let engine = place.engine(ALL);
    let held = place.execution(&engine, None);
    place.runtime.block_on(async {
        tokio::select! {
            ended = run(&engine, intent("second", Some("k"))) => panic!("{ended:?}"),
            () = until_waiting(&place, 1) => {}
        }
        until_waiting(&place, 0).await;
    });
    place.finish(held);
    // Its key is free: nothing was executed.
    assert_eq!(place.runtime.block_on(run(&engine, intent("second", Some("k")))).object["duplicate"], false);
}

#[test]
fn duplicates_that_wait_for_a_place_are_executed_once() {
    let place = Place::new();
    place.write("quotas.toml", "[default]\nconcurrency = 1");
    let (engine, other) = (place.engine(ALL), place.start());
    let held = place.execution(&engine, None);
    let ended = place.runtime.block_on(async {
        let release = async {
            until_waiting(&place, 2).await;
            let ran = finished(b"", Duration::ZERO);
            held.finish(Executed { backend: "container", controls: &[], evidence: &[], egress: None, ran }).await.unwrap();
        };
        tokio::join!(run(&engine, intent("same", Some("k"))), run(&other, intent("same", Some("k"))), release)
    });
    let duplicates = [&ended.0, &ended.1].map(|ended| ended.object["duplicate"] == true);
    assert_eq!(duplicates.iter().filter(|duplicate| **duplicate).count(), 1);
    assert_eq!(ended.0.object["intent"], ended.1.object["intent"]);
    assert_eq!(place.leaves().iter().filter(|kind| **kind == "outcome").count(), 2);
}

#[test]
fn members_of_a_group_share_its_places() {
    let place = Place::new();
    place.write("quotas.toml", "[default]\nwaiting = 0\n[group.builders]\nconcurrency = 2");
    let engine = place.engine(ALL);
    let submit = |name: &str, groups: &[&str]| place.submit(&engine, of_agent(name, groups));
    let held = [submit("a", &["builders"]), submit("b", &["builders"])];
    assert!(held.iter().all(|held| matches!(held, Submitted::Execute(_))));
    assert!(matches!(submit("c", &["builders"]), Submitted::Ended(ended) if refusal(&ended).0 == "quota-exceeded"));
    assert!(matches!(submit("c", &["others"]), Submitted::Execute(_)));
    let [Submitted::Execute(first), _] = held else { panic!("executed") };
    place.finish(*first);
    assert!(matches!(submit("c", &["builders"]), Submitted::Execute(_)));
}

#[test]
fn processor_time_is_reserved_as_a_limit_and_settled_by_the_end_or_the_recovery() {
    let place = Place::new();
    place.write("quotas.toml", "[default]\ncpu-per-day = \"15m\"\ncpu-per-intent = \"10m\"");
    let engine = place.engine(ALL);
    let execution = place.execution(&engine, None);
    assert_eq!(execution.terms().effective.limits.cpu_time, Some(Duration::from_secs(600)));
    // Another intent does not fit into what is not reserved.
    assert_eq!(refusal(&place.ended(&engine, intent("make", None))), ("quota-exceeded", 1000));
    place.finish_as(execution, finished(b"", Duration::from_secs(60)));
    let crashed = place.execution(&engine, None);
    drop(crashed);
    drop(engine);
    let engine = place.start();
    // One minute was used, and ten are charged because of the crash.
    let ended = place.ended(&engine, intent("make", None));
    let (code, retry) = refusal(&ended);
    assert!(code == "quota-exceeded" && (1001..=24 * HOUR).contains(&retry), "{ended:?}");
    let mut less = intent("make", None);
    less.confinement.limits.cpu_time = Some(Duration::from_secs(180));
    assert!(matches!(place.submit(&engine, less), Submitted::Execute(_)), "four minutes are left");
    let mut more = intent("make", None);
    more.confinement.limits.cpu_time = Some(Duration::from_secs(601));
    assert_eq!(place.ended(&engine, more).object["reason"], "exceeds-policy");
}

#[test]
fn quotas_that_were_reloaded_hold_for_the_next_intent() {
    let place = Place::new();
    let engine = place.engine(ALL);
    let held = [place.execution(&engine, None), place.execution(&engine, None)];
    place.write("quotas.toml", "[default]\nconcurrency = 2\nwaiting = 0");
    place.runtime.block_on(engine.reload()).unwrap().quotas.unwrap();
    assert_eq!(refusal(&place.ended(&engine, intent("make", None))).0, "quota-exceeded");
    held.into_iter().for_each(|held| drop(place.finish(held)));
    place.finish(place.execution(&engine, None));
}
