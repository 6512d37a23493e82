//! The state of a pool, and the decision about its next step. These are pure functions of values; the caller passes the time.

use super::PoolLimits;
use agentd_core::IsolationError;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The pause before the pool is refilled after a first failure. The pause doubles with each further failure, up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// An idle sandbox and its time of creation.
struct IdleSandbox<S> {
    created: Instant,
    sandbox: S,
}

/// The state of a pool.
pub(super) struct PoolState<S> {
    limits: PoolLimits,
    /// Idle sandboxes, the oldest first.
    idle: VecDeque<IdleSandbox<S>>,
    /// Dead or expired sandboxes, to be destroyed.
    discarded: VecDeque<S>,
    /// The time before which the background task creates no sandbox.
    refill_from: Instant,
    /// The number of consecutive failures.
    failures: u32,
    /// The last failure, until it is returned to a caller.
    failure: Option<IsolationError>,
    drained: bool,
}

/// The next step of the background task.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<S> {
    /// Destroy this sandbox, which is no longer handed out.
    Destroy(S),
    /// Create one sandbox.
    Make,
    /// Wait until this time, if any, or until the state changes.
    Wait(Option<Instant>),
    /// End the background task.
    Stop,
}

impl<S> PoolState<S> {
    pub(super) fn new(limits: PoolLimits, now: Instant) -> Self {
        Self {
            limits,
            idle: VecDeque::new(),
            discarded: VecDeque::new(),
            refill_from: now,
            failures: 0,
            failure: None,
            drained: false,
        }
    }

    fn is_full(&self) -> bool {
        self.idle.len() >= self.limits.idle
    }

    /// Returns the time at which an idle sandbox expires; `None` for never.
    fn expiry(&self, idle: &IdleSandbox<S>) -> Option<Instant> {
        idle.created.checked_add(self.limits.max_age)
    }

    /// Removes and returns the oldest idle sandbox that has not expired.
    pub(super) fn take(&mut self, now: Instant) -> Result<Option<S>, IsolationError> {
        if self.drained {
            return Err(IsolationError::PoolDrained);
        }
        self.discard_old(now);
        if self.is_full() && self.failures == 0 {
            // The caller uses its sandbox first. A refill in progress is not delayed.
            self.refill_from = now + self.limits.refill_delay;
        }
        Ok(self.idle.pop_front().map(|idle| idle.sandbox))
    }

    /// Marks a sandbox to be destroyed.
    pub(super) fn discard(&mut self, sandbox: S) {
        self.discarded.push_back(sandbox);
    }

    fn discard_old(&mut self, now: Instant) {
        while self.idle.front().is_some_and(|oldest| self.expiry(oldest).is_some_and(|end| end <= now)) {
            self.discarded.extend(self.idle.pop_front().map(|idle| idle.sandbox));
        }
    }

    /// Returns the next step of the background task.
    pub(super) fn next(&mut self, now: Instant) -> Step<S> {
        if self.drained {
            return Step::Stop;
        }
        self.discard_old(now);
        if let Some(discarded) = self.discarded.pop_front() {
            return Step::Destroy(discarded);
        }
        if !self.is_full() {
            return if self.refill_from <= now { Step::Make } else { Step::Wait(Some(self.refill_from)) };
        }
        Step::Wait(self.idle.front().and_then(|oldest| self.expiry(oldest)))
    }

    /// Adds a new idle sandbox. Returns it if the pool was drained in the meantime.
    pub(super) fn add(&mut self, sandbox: S, now: Instant) -> Option<S> {
        if self.drained {
            return Some(sandbox);
        }
        self.idle.push_back(IdleSandbox { created: now, sandbox });
        self.recover(now);
        None
    }

    /// Resets the failures after a sandbox was created. Returns true if creation had failed before.
    pub(super) fn recover(&mut self, now: Instant) -> bool {
        let recovered = self.failures > 0;
        if recovered {
            self.refill_from = now;
        }
        self.failures = 0;
        self.failure = None;
        recovered
    }

    /// Records a failure of the background task, and delays the refill.
    pub(super) fn fail(&mut self, error: IsolationError, now: Instant) {
        self.refill_from = now + pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.failure = Some(error);
    }

    /// Returns true if the pool is full. Returns the last failure instead if there is one; each failure is returned once.
    pub(super) fn filled(&mut self) -> Result<bool, IsolationError> {
        if self.drained {
            return Err(IsolationError::PoolDrained);
        }
        self.failure.take().map_or(Ok(self.is_full()), Err)
    }

    /// Drains the pool: from now on, no sandbox is handed out, added or created.
    pub(super) fn close(&mut self) {
        self.drained = true;
    }

    /// Returns a sandbox that is still to be destroyed.
    pub(super) fn undestroyed(&self) -> Option<&S> {
        self.discarded.back().or(self.idle.back().map(|idle| &idle.sandbox))
    }

    /// Removes the sandbox that [`PoolState::undestroyed`] returned.
    pub(super) fn forget_undestroyed(&mut self) {
        if self.discarded.pop_back().is_none() {
            self.idle.pop_back();
        }
    }

    /// Drains the pool, and removes and returns all its sandboxes.
    pub(super) fn abandon(&mut self) -> Vec<S> {
        self.close();
        self.idle.drain(..).map(|idle| idle.sandbox).chain(self.discarded.drain(..)).collect()
    }
}

/// Returns the pause after a failure that `failures` consecutive ones preceded.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2u32.saturating_pow(failures)).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFILL_DELAY: Duration = Duration::from_millis(5);
    const AGE: Duration = Duration::from_secs(60);

    fn state(now: Instant) -> PoolState<u32> {
        PoolState::new(PoolLimits { idle: 2, refill_delay: REFILL_DELAY, max_age: AGE, ..PoolLimits::default() }, now)
    }

    fn full(now: Instant) -> PoolState<u32> {
        let mut state = state(now);
        for number in [1, 2] {
            assert_eq!(state.next(now), Step::Make);
            assert_eq!(state.add(number, now), None);
        }
        assert!(state.filled().unwrap());
        state
    }

    fn broken() -> IsolationError {
        IsolationError::SandboxGone("broken".to_owned())
    }

    #[test]
    fn full_pool_delays_refill_after_take_and_filling_pool_does_not() {
        let now = Instant::now();
        let mut state = full(now);
        assert_eq!(state.take(now).unwrap(), Some(1));
        assert_eq!(state.next(now), Step::Wait(Some(now + REFILL_DELAY)));
        // A second take does not delay the refill.
        assert_eq!(state.take(now + REFILL_DELAY / 2).unwrap(), Some(2));
        assert_eq!(state.next(now + REFILL_DELAY), Step::Make);
        assert_eq!(state.add(3, now + REFILL_DELAY), None);
        assert_eq!(state.take(now + REFILL_DELAY).unwrap(), Some(3));
        assert_eq!(state.next(now + REFILL_DELAY), Step::Make);
    }

    #[test]
    fn take_returns_no_sandbox_twice_and_none_over_max_age() {
        let now = Instant::now();
        let mut state = full(now);
        assert_eq!(state.next(now), Step::Wait(Some(now + AGE)));
        assert_eq!(state.take(now).unwrap(), Some(1));
        assert_eq!(state.take(now + AGE).unwrap(), None);
        assert_eq!(state.next(now + AGE), Step::Destroy(2));
        assert_eq!(state.next(now + AGE), Step::Make);
    }

    #[test]
    fn unbounded_max_age_never_expires() {
        let now = Instant::now();
        let mut state = PoolState::new(PoolLimits { idle: 1, max_age: Duration::MAX, ..PoolLimits::default() }, now);
        state.add(1, now);
        assert_eq!(state.next(now + AGE), Step::Wait(None));
        assert_eq!(state.take(now + AGE).unwrap(), Some(1));
    }

    #[test]
    fn create_failure_is_returned_once_and_backs_off_until_success() {
        let now = Instant::now();
        let mut state = state(now);
        state.fail(broken(), now);
        assert_eq!(state.next(now), Step::Wait(Some(now + FIRST_PAUSE)));
        state.fail(broken(), now);
        assert_eq!(state.next(now), Step::Wait(Some(now + 2 * FIRST_PAUSE)));
        assert!(state.filled().is_err());
        assert!(!state.filled().unwrap());
        for _ in 0..100 {
            state.fail(broken(), now);
        }
        assert_eq!(state.next(now), Step::Wait(Some(now + MAX_PAUSE)));
        assert!(state.recover(now));
        assert!(!state.recover(now));
        assert!(!state.filled().unwrap());
        assert_eq!(state.next(now), Step::Make);
    }

    #[test]
    fn discarded_sandbox_is_destroyed_before_next_create() {
        let now = Instant::now();
        let mut state = state(now);
        state.discard(9);
        assert_eq!(state.next(now), Step::Destroy(9));
        assert_eq!(state.next(now), Step::Make);
    }

    #[test]
    fn closed_pool_refuses_take_and_add_and_lists_remaining_sandboxes() {
        let now = Instant::now();
        let mut state = full(now);
        state.discard(9);
        state.close();
        assert!(matches!(state.take(now), Err(IsolationError::PoolDrained)));
        assert!(matches!(state.filled(), Err(IsolationError::PoolDrained)));
        assert_eq!(state.add(3, now), Some(3));
        assert_eq!(state.next(now), Step::Stop);
        let mut left = Vec::new();
        while let Some(one) = state.undestroyed().copied() {
            left.push(one);
            state.forget_undestroyed();
        }
        assert_eq!(left, [9, 2, 1]);
    }

    #[test]
    fn abandoned_pool_returns_all_sandboxes() {
        let now = Instant::now();
        let mut state = full(now);
        state.discard(9);
        assert_eq!(state.abandon(), [1, 2, 9]);
        assert_eq!(state.next(now), Step::Stop);
    }
}
