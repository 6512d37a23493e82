//! Orders in progress, by the id of their sandbox.

use agentd_core::ControlError;
use agentd_supervisor::protocol::Report;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// The subject of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The end of the sandbox with this id.
    Destroyed(u32),
    /// The freezing or thawing of the sandbox with this id.
    Frozen(u32),
}

/// Receives the result of an order: `None` for success, or the error. Closed if the launcher is lost.
pub(super) type OrderAnswer = oneshot::Receiver<Option<ControlError>>;

/// The orders that wait for reports. The launcher answers each order once, and orders about the same subject in sequence. An
/// order whose caller stopped waiting therefore stays queued, so that the next one does not receive its answer.
#[derive(Default)]
pub(super) struct PendingOrders(Mutex<HashMap<Key, VecDeque<oneshot::Sender<Option<ControlError>>>>>);

impl PendingOrders {
    /// Registers an order. Called before the order is sent.
    pub(super) fn expect(&self, key: Key) -> OrderAnswer {
        let (sender, answer) = oneshot::channel();
        self.orders().entry(key).or_default().push_back(sender);
        answer
    }

    /// Answers the order that a report belongs to.
    pub(super) fn answer(&self, report: Report) {
        let (key, error) = match report {
            Report::Destroyed { id, error } => (Key::Destroyed(id), error),
            Report::Frozen { id, error } => (Key::Frozen(id), error),
        };
        let mut orders = self.orders();
        let sender = orders.get_mut(&key).and_then(VecDeque::pop_front);
        if orders.get(&key).is_some_and(VecDeque::is_empty) {
            orders.remove(&key);
        }
        drop(orders);
        let unreceived = sender.map_or(Err(error.clone()), |sender| sender.send(error));
        // The caller stopped waiting for the report, so the error is logged.
        if let Err(Some(error)) = unreceived {
            tracing::warn!(?key, %error, "failed: destroy, freeze or thaw sandbox");
        }
    }

    /// Fails all orders, because no launcher will answer them.
    pub(super) fn clear(&self) {
        self.orders().clear();
    }

    fn orders(&self) -> MutexGuard<'_, HashMap<Key, VecDeque<oneshot::Sender<Option<ControlError>>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destroyed(id: u32) -> Report {
        Report::Destroyed { id, error: None }
    }

    #[test]
    fn reports_out_of_sequence_answer_orders_by_id() {
        let pending = PendingOrders::default();
        let [mut one, mut other] = [1, 2].map(|id| pending.expect(Key::Destroyed(id)));
        let mut frozen = pending.expect(Key::Frozen(1));
        pending.answer(destroyed(2));
        assert_eq!((one.try_recv().is_ok(), other.try_recv(), frozen.try_recv().is_ok()), (false, Ok(None), false));
        pending.answer(destroyed(1));
        assert_eq!((one.try_recv(), frozen.try_recv().is_ok()), (Ok(None), false));
        // A report without a waiting order changes nothing.
        pending.answer(destroyed(3));
        assert!(pending.orders().keys().eq([&Key::Frozen(1)]));
    }

    #[test]
    fn abandoned_order_is_answered_before_next_order_of_same_sandbox() {
        let pending = PendingOrders::default();
        drop(pending.expect(Key::Frozen(1)));
        let mut next = pending.expect(Key::Frozen(1));
        pending.answer(Report::Frozen { id: 1, error: None });
        assert!(next.try_recv().is_err());
        pending.answer(Report::Frozen { id: 1, error: None });
        assert_eq!(next.try_recv(), Ok(None));
    }

    #[test]
    fn orders_fail_when_the_launcher_is_lost() {
        let pending = PendingOrders::default();
        let mut answer = pending.expect(Key::Destroyed(1));
        pending.clear();
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
