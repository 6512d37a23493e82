//! The background task of a pool. It carries out the steps that the state selects, one at a time, until the pool is drained or
//! dropped.

use super::{SharedPool, state::Step};
use agentd_core::IsolationError;
use std::{future::pending, sync::Arc, time::Instant};

/// Runs the background task of a pool.
pub(super) async fn run(shared: Arc<SharedPool>) {
    loop {
        let hand = shared.in_flight.read().await;
        let step = shared.state().next(Instant::now());
        let done = match step {
            Step::Stop => return,
            Step::Wait(until) => {
                drop(hand);
                let time = async {
                    match until {
                        Some(until) => tokio::time::sleep_until(until.into()).await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    () = time => {}
                    () = shared.work.notified() => {}
                }
                continue;
            }
            Step::Destroy(old) => old.destroy().await,
            Step::Make => make(&shared).await,
        };
        if let Err(error) = done {
            tracing::warn!(%error, backend = shared.backend.name(), "failed: create or destroy an idle sandbox of the pool");
            shared.state().fail(error, Instant::now());
        }
        drop(hand);
        shared.changed.notify_waiters();
    }
}

/// Creates one idle sandbox. If the pool no longer accepts it, destroys it.
async fn make(shared: &SharedPool) -> Result<(), IsolationError> {
    let _turn = shared.turn().await?;
    let made = shared.backend.create_sandbox(shared.spec.clone()).await?;
    let refused = shared.state().add(made, Instant::now());
    match refused {
        Some(unwanted) => unwanted.destroy().await,
        None => Ok(()),
    }
}
