//! What a pool has, and what is to be done about it next: decisions on values, with the time given by the caller.

use super::PoolLimits;
use agentd_core::IsolationError;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long refilling waits after its first failure; twice as long after each further one, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A sandbox that waits, and since when.
struct Spare<S> {
    made: Instant,
    sandbox: S,
}

/// The stock of a pool.
pub(super) struct Stock<S> {
    limits: PoolLimits,
    /// The oldest first.
    spares: VecDeque<Spare<S>>,
    /// Dead or too old; to be destroyed.
    discarded: VecDeque<S>,
    /// Nothing is made in the background before.
    refill_from: Instant,
    /// In a row.
    failures: u32,
    /// The last of them, until it is told.
    failure: Option<IsolationError>,
    drained: bool,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<S> {
    /// Destroy this, which nobody gets any more.
    Destroy(S),
    /// Make one more.
    Make,
    /// Nothing until then, or until something happens.
    Wait(Option<Instant>),
    /// Nothing ever.
    Stop,
}

impl<S> Stock<S> {
    pub(super) fn new(limits: PoolLimits, now: Instant) -> Self {
        Self {
            limits,
            spares: VecDeque::new(),
            discarded: VecDeque::new(),
            refill_from: now,
            failures: 0,
            failure: None,
            drained: false,
        }
    }

    fn is_full(&self) -> bool {
        self.spares.len() >= self.limits.spare
    }

    /// When a spare becomes too old; `None` is never.
    fn expiry(&self, spare: &Spare<S>) -> Option<Instant> {
        spare.made.checked_add(self.limits.max_age)
    }

    /// The oldest spare that is not too old.
    pub(super) fn take(&mut self, now: Instant) -> Result<Option<S>, IsolationError> {
        if self.drained {
            return Err(IsolationError::PoolDrained);
        }
        self.discard_old(now);
        if self.is_full() && self.failures == 0 {
            // Its taker uses it first. Where filling has begun, it goes on.
            self.refill_from = now + self.limits.rest;
        }
        Ok(self.spares.pop_front().map(|spare| spare.sandbox))
    }

    /// Keeps one to be destroyed.
    pub(super) fn discard(&mut self, sandbox: S) {
        self.discarded.push_back(sandbox);
    }

    fn discard_old(&mut self, now: Instant) {
        while self.spares.front().is_some_and(|oldest| self.expiry(oldest).is_some_and(|end| end <= now)) {
            self.discarded.extend(self.spares.pop_front().map(|spare| spare.sandbox));
        }
    }

    /// What the keeper is to do.
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
        Step::Wait(self.spares.front().and_then(|oldest| self.expiry(oldest)))
    }

    /// Takes in one that was made; gives it back where it is not wanted any more.
    pub(super) fn add(&mut self, sandbox: S, now: Instant) -> Option<S> {
        if self.drained {
            return Some(sandbox);
        }
        self.spares.push_back(Spare { made: now, sandbox });
        self.recover(now);
        None
    }

    /// Something was made: whatever failed before does not any more. Says whether that is news.
    pub(super) fn recover(&mut self, now: Instant) -> bool {
        let news = self.failures > 0;
        if news {
            self.refill_from = now;
        }
        self.failures = 0;
        self.failure = None;
        news
    }

    /// The background could not do what it should.
    pub(super) fn fail(&mut self, error: IsolationError, now: Instant) {
        self.refill_from = now + pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.failure = Some(error);
    }

    /// Whether all spares are there; or why not, which is told once.
    pub(super) fn filled(&mut self) -> Result<bool, IsolationError> {
        if self.drained {
            return Err(IsolationError::PoolDrained);
        }
        self.failure.take().map_or(Ok(self.is_full()), Err)
    }

    /// From now on nothing is given, taken in or made.
    pub(super) fn close(&mut self) {
        self.drained = true;
    }

    /// One that is still to be destroyed.
    pub(super) fn last_of_all(&self) -> Option<&S> {
        self.discarded.back().or(self.spares.back().map(|spare| &spare.sandbox))
    }

    /// What [`Stock::last_of_all`] gave is gone.
    pub(super) fn forget_last(&mut self) {
        if self.discarded.pop_back().is_none() {
            self.spares.pop_back();
        }
    }

    /// Closes it and gives up all there is.
    pub(super) fn abandon(&mut self) -> Vec<S> {
        self.close();
        self.spares.drain(..).map(|spare| spare.sandbox).chain(self.discarded.drain(..)).collect()
    }
}

/// How long to wait after so many failures before the last.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2u32.saturating_pow(failures)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_millis(5);
    const AGE: Duration = Duration::from_secs(60);

    fn stock(now: Instant) -> Stock<u32> {
        Stock::new(PoolLimits { spare: 2, rest: REST, max_age: AGE, ..PoolLimits::default() }, now)
    }

    fn full(now: Instant) -> Stock<u32> {
        let mut stock = stock(now);
        for number in [1, 2] {
            assert_eq!(stock.next(now), Step::Make);
            assert_eq!(stock.add(number, now), None);
        }
        assert!(stock.filled().unwrap());
        stock
    }

    fn broken() -> IsolationError {
        IsolationError::Lost("broken".to_owned())
    }

    #[test]
    fn a_full_pool_rests_after_a_take_and_a_pool_being_filled_does_not() {
        let now = Instant::now();
        let mut stock = full(now);
        assert_eq!(stock.take(now).unwrap(), Some(1));
        assert_eq!(stock.next(now), Step::Wait(Some(now + REST)));
        // A second taker does not put it off.
        assert_eq!(stock.take(now + REST / 2).unwrap(), Some(2));
        assert_eq!(stock.next(now + REST), Step::Make);
        assert_eq!(stock.add(3, now + REST), None);
        assert_eq!(stock.take(now + REST).unwrap(), Some(3));
        assert_eq!(stock.next(now + REST), Step::Make);
    }

    #[test]
    fn nobody_gets_the_same_twice_nor_one_that_is_too_old() {
        let now = Instant::now();
        let mut stock = full(now);
        assert_eq!(stock.next(now), Step::Wait(Some(now + AGE)));
        assert_eq!(stock.take(now).unwrap(), Some(1));
        assert_eq!(stock.take(now + AGE).unwrap(), None);
        assert_eq!(stock.next(now + AGE), Step::Destroy(2));
        assert_eq!(stock.next(now + AGE), Step::Make);
    }

    #[test]
    fn an_age_beyond_time_is_never_reached() {
        let now = Instant::now();
        let mut stock = Stock::new(PoolLimits { spare: 1, max_age: Duration::MAX, ..PoolLimits::default() }, now);
        stock.add(1, now);
        assert_eq!(stock.next(now + AGE), Step::Wait(None));
        assert_eq!(stock.take(now + AGE).unwrap(), Some(1));
    }

    #[test]
    fn failures_are_told_once_and_make_refilling_rarer_until_something_is_made() {
        let now = Instant::now();
        let mut stock = stock(now);
        stock.fail(broken(), now);
        assert_eq!(stock.next(now), Step::Wait(Some(now + FIRST_PAUSE)));
        stock.fail(broken(), now);
        assert_eq!(stock.next(now), Step::Wait(Some(now + 2 * FIRST_PAUSE)));
        assert!(stock.filled().is_err());
        assert!(!stock.filled().unwrap());
        for _ in 0..100 {
            stock.fail(broken(), now);
        }
        assert_eq!(stock.next(now), Step::Wait(Some(now + LONGEST_PAUSE)));
        assert!(stock.recover(now));
        assert!(!stock.recover(now));
        assert!(!stock.filled().unwrap());
        assert_eq!(stock.next(now), Step::Make);
    }

    #[test]
    fn what_is_discarded_is_destroyed_before_anything_is_made() {
        let now = Instant::now();
        let mut stock = stock(now);
        stock.discard(9);
        assert_eq!(stock.next(now), Step::Destroy(9));
        assert_eq!(stock.next(now), Step::Make);
    }

    #[test]
    fn a_closed_pool_gives_nothing_takes_nothing_in_and_knows_what_is_left() {
        let now = Instant::now();
        let mut stock = full(now);
        stock.discard(9);
        stock.close();
        assert!(matches!(stock.take(now), Err(IsolationError::PoolDrained)));
        assert!(matches!(stock.filled(), Err(IsolationError::PoolDrained)));
        assert_eq!(stock.add(3, now), Some(3));
        assert_eq!(stock.next(now), Step::Stop);
        let mut left = Vec::new();
        while let Some(one) = stock.last_of_all().copied() {
            left.push(one);
            stock.forget_last();
        }
        assert_eq!(left, [9, 2, 1]);
    }

    #[test]
    fn an_abandoned_pool_gives_up_all_there_is() {
        let now = Instant::now();
        let mut stock = full(now);
        stock.discard(9);
        assert_eq!(stock.abandon(), [1, 2, 9]);
        assert_eq!(stock.next(now), Step::Stop);
    }
}
