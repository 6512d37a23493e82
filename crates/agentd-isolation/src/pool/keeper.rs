//! The background of a pool: one task that does what the stock wants done, one thing at a time, until the pool is drained or dropped.

use super::{Shared, stock::Step};
use agentd_core::IsolationError;
use std::{future::pending, sync::Arc, time::Instant};

/// Keeps the stock full.
pub(super) async fn keep(shared: Arc<Shared>) {
    loop {
        let hand = shared.hands.read().await;
        let step = shared.stock().next(Instant::now());
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
            shared.stock().fail(error, Instant::now());
        }
        drop(hand);
        shared.changed.notify_waiters();
    }
}

/// Makes one more spare. One that the pool does not want any more when it is made is destroyed.
async fn make(shared: &Shared) -> Result<(), IsolationError> {
    let _turn = shared.turn().await?;
    let made = shared.backend.create_sandbox(shared.spec.clone()).await?;
    let refused = shared.stock().add(made, Instant::now());
    match refused {
        Some(unwanted) => unwanted.destroy().await,
        None => Ok(()),
    }
}
