//! Limits the bytes of one sandbox, in both directions of all its flows together.
//!
//! A flow waits ([`Meter::wait`]), learns how many bytes it may carry ([`Meter::allowance`]), carries at most that many bytes
//! without waiting, and reports them ([`Meter::spend`]). All tasks of a gateway run in one thread, so no other flow carries bytes
//! in between, and a limit is never exceeded.

use agentd_core::NetworkLimits;
use std::{
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

const SECOND: Duration = Duration::from_secs(1);

/// The bytes that a sandbox may still carry, now and in total.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Bytes per second.
    rate: Option<u64>,
    /// True if there is any limit.
    limited: bool,
    state: Mutex<State>,
    /// True once a flow needed more bytes although none were left.
    exhausted: watch::Sender<bool>,
    /// Held by the flow that waits for the rate, so that flows take turns.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// The number of bytes that may still be carried in total.
    left: u64,
    /// The time at which bytes may be carried again.
    next: Instant,
}

impl Budget {
    pub(crate) fn new(limits: &NetworkLimits) -> Self {
        let now = Instant::now();
        // Permits the bytes of one second at once.
        let next = now.checked_sub(SECOND).unwrap_or(now);
        Self {
            rate: limits.rate.map(|rate| rate.0.max(1)),
            limited: limits.rate.is_some() || limits.bytes.is_some(),
            state: Mutex::new(State { left: limits.bytes.map_or(u64::MAX, |bytes| bytes.0), next }),
            exhausted: watch::Sender::new(false),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// Returns true if no bytes are left. In that case, also ends all flows ([`Budget::exhausted`]).
    pub(crate) fn is_exhausted(&self) -> bool {
        let none = self.limited && self.state().left == 0;
        if none {
            self.exhausted.send_replace(true);
        }
        none
    }

    /// Waits until a flow needs more bytes although none are left.
    pub(crate) async fn exhausted(&self) {
        if self.limited && self.exhausted.subscribe().wait_for(|used| *used).await.is_ok() {
            return;
        }
        pending().await
    }

    /// Waits until at least one byte may be carried. Returns true if the rate delayed the caller. If no bytes are left, never
    /// returns, because the flow of the caller ends.
    async fn wait(&self) -> bool {
        if !self.limited || self.allowance(1) > 0 {
            return false;
        }
        let _turn = self.turn.lock().await;
        self.wait_out_of_turn().await
    }

    /// Waits as [`Budget::wait`] does, but takes no turn, so that a future that is no longer polled delays no other flow.
    async fn wait_out_of_turn(&self) -> bool {
        let mut delayed = false;
        while self.allowance(1) == 0 {
            if self.is_exhausted() {
                pending::<()>().await;
            }
            delayed = true;
            let next = self.state().next;
            tokio::time::sleep_until(next).await;
        }
        delayed
    }

    /// Returns how many of `max` bytes may be carried now.
    fn allowance(&self, max: usize) -> usize {
        if !self.limited {
            return max;
        }
        let state = self.state();
        let now = self.rate.map_or(u64::MAX, |rate| if state.next <= Instant::now() { rate } else { 0 });
        usize::try_from(now.min(state.left)).unwrap_or(usize::MAX).min(max)
    }

    fn spend(&self, bytes: usize) {
        if self.limited {
            self.spend_at(bytes as u64, Instant::now());
        }
    }

    fn spend_at(&self, bytes: u64, now: Instant) {
        let mut state = self.state();
        state.left = state.left.saturating_sub(bytes);
        if let Some(rate) = self.rate {
            let earliest = now.checked_sub(SECOND).unwrap_or(now);
            let nanoseconds = u128::from(bytes) * SECOND.as_nanos() / u128::from(rate);
            state.next = state.next.max(earliest) + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the bytes of one direction of a flow, within the budget of the sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    carried: Arc<AtomicU64>,
    /// True if the rate delayed the flow.
    delayed: Arc<AtomicBool>,
    budget: Arc<Budget>,
}

impl Meter {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { carried: Arc::default(), delayed: Arc::default(), budget }
    }

    /// Returns a meter without limits.
    pub(crate) fn unlimited() -> Self {
        Self::new(Arc::new(Budget::new(&NetworkLimits::default())))
    }

    /// Returns the number of bytes that have reached the other side.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Counts bytes that have reached the other side.
    pub(crate) fn count(&self, bytes: usize) {
        self.carried.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn is_delayed(&self) -> bool {
        self.delayed.load(Ordering::Relaxed)
    }

    /// Waits until at least one byte may be carried. Never returns if no bytes are left.
    pub(crate) async fn wait(&self) {
        if self.budget.wait().await {
            self.delayed.store(true, Ordering::Relaxed);
        }
    }

    /// Waits as [`Meter::wait`] does, for a caller that may stop to poll the wait before its end.
    pub(crate) async fn wait_out_of_turn(&self) {
        if self.budget.wait_out_of_turn().await {
            self.delayed.store(true, Ordering::Relaxed);
        }
    }

    /// Returns how many of `max` bytes may be carried before the next wait.
    pub(crate) fn allowance(&self, max: usize) -> usize {
        self.budget.allowance(max)
    }

    /// Waits until at least one byte may be carried, and returns how many of `max` bytes may be.
    pub(crate) async fn turn(&self, max: usize) -> usize {
        loop {
            match self.allowance(max) {
                0 => self.wait().await,
                some => return some,
            }
        }
    }

    /// Takes bytes out of the budget.
    pub(crate) fn spend(&self, bytes: usize) {
        self.budget.spend(bytes);
    }

    /// Takes the bytes of a whole datagram out of the budget. Returns false if fewer are left.
    pub(crate) fn spend_whole(&self, bytes: usize) -> bool {
        let fits = !self.budget.limited || self.budget.state().left >= bytes as u64;
        if fits {
            self.spend(bytes);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limits: &str) -> Arc<Budget> {
        Arc::new(Budget::new(&limits.parse().unwrap()))
    }

    #[tokio::test]
    async fn bytes_are_carried_up_to_the_limit_and_then_all_flows_end() {
        let budget = budget("bytes=100");
        let (up, down) = (Meter::new(budget.clone()), Meter::new(budget.clone()));
        assert_eq!(up.turn(60).await, 60);
        up.spend(60);
        assert_eq!((down.allowance(60), down.spend_whole(41)), (40, false));
        assert!(!budget.is_exhausted() && down.spend_whole(40));
        assert!(!*budget.exhausted.borrow(), "nobody wants more");
        let mut waiting = std::pin::pin!(up.wait());
        tokio::select! {
            biased;
            () = &mut waiting => panic!("no bytes are left"),
            () = budget.exhausted() => {}
        }
        assert!(budget.is_exhausted());
    }

    #[test]
    fn bytes_above_the_rate_wait_for_their_time() {
        let budget = budget("rate=1000/s");
        let start = Instant::now() + Duration::from_secs(60);
        budget.spend_at(1000, start);
        assert_eq!(budget.state().next, start, "a second's worth at once");
        budget.spend_at(500, start);
        assert_eq!(budget.state().next, start + Duration::from_millis(500));
        assert_eq!(budget.allowance(5000), 0);
        // A pause does not save up more than a second's worth.
        budget.spend_at(1000, start + Duration::from_secs(600));
        assert_eq!(budget.state().next, start + Duration::from_secs(600));
    }

    #[tokio::test]
    async fn flow_that_waits_for_the_rate_is_marked_as_delayed() {
        let meter = Meter::new(budget("rate=1000/s"));
        assert_eq!(meter.turn(5000).await, 1000, "at most the bytes of one second");
        meter.spend(2010);
        assert!(!meter.is_delayed());
        meter.wait().await;
        assert!(meter.is_delayed() && meter.allowance(1) == 1);
    }

    #[tokio::test]
    async fn budget_without_limits_never_waits() {
        let meter = Meter::unlimited();
        for _ in 0..3 {
            assert_eq!(meter.turn(usize::MAX).await, usize::MAX);
            meter.spend(usize::MAX);
        }
        assert!(!meter.is_delayed() && meter.spend_whole(usize::MAX));
    }
}
