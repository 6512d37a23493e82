//! The handle that a caller holds on an exec.

use super::*;

#[tokio::test(start_paused = true)]
async fn second_wait_on_exec_returns_already_waited() {
    let (mut handle, _) = handle(test(0, None, obedient));
    assert_eq!(handle.wait().await.unwrap().reason, EndReason::WallDeadline);
    let error = handle.wait().await.unwrap_err();
    assert!(matches!(error, IsolationError::AlreadyWaited));
    assert!(error.to_string().contains("wait() was already called on this exec"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn cancelled_wait_leaves_outcome_to_next_wait() {
    let (mut handle, _) = handle(test(0, None, obedient));
    assert!(tokio::time::timeout(Duration::from_secs(3), handle.wait()).await.is_err());
    assert_eq!(handle.wait().await.unwrap().reason, EndReason::WallDeadline);
}

#[tokio::test(start_paused = true)]
async fn deadline_without_waiting_caller_ends_command() {
    let (mut handle, calls) = handle(test(0, None, obedient));
    sleep(Duration::from_secs(100)).await;
    assert_eq!(calls.lock().unwrap().clone(), [(10, Call::End(EndReason::WallDeadline))]);
    assert_eq!(handle.wait().await.unwrap().usage.wall, Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn end_request_during_run_or_grace_period_ends_command() {
    for (second, reason) in [(4, EndReason::OutputLimit), (12, EndReason::WallDeadline)] {
        let (mut handle, calls) = handle(test(5, None, obedient));
        sleep(Duration::from_secs(second)).await;
        handle.end(EndReason::OutputLimit).await.unwrap();
        assert_eq!(handle.wait().await.unwrap().reason, reason);
        assert_eq!(calls.lock().unwrap().last(), Some(&(second, Call::End(reason))));
    }
}

#[tokio::test(start_paused = true)]
async fn handle_that_is_dropped_ends_the_command() {
    let (handle, calls) = handle(test(5, None, obedient));
    drop(handle);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(calls.lock().unwrap().clone(), [(0, Call::End(EndReason::Cancelled))]);
}

#[tokio::test(start_paused = true)]
async fn terminal_size_of_an_exec_without_a_terminal_is_refused() {
    let (handle, _) = handle(test(0, None, obedient));
    assert!(matches!(handle.resize(PtySize { rows: 1, cols: 1 }).await, Err(IsolationError::Invalid { .. })));
}
