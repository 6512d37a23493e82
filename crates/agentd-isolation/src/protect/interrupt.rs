//! Ends a comparison early: when a client or a signal requests the end, or at a given time.
//!
//! A comparison checks the interrupt between two look-ups of the file system. After an interrupt, it returns the differences
//! found so far, and a gap with the first path that was not compared ([`Cause::Interrupted`](super::Cause)). The next comparison
//! finds the differences of the other paths.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// The minimum time limit of a comparison after a command. Otherwise, a command that runs until its own time limit would prevent
/// the comparison.
const MIN_TIME: Duration = Duration::from_secs(2);

/// The time after an interrupt in which a comparison must return. A comparison that does not return, because a file system does
/// not answer, is abandoned.
const ANSWER: Duration = Duration::from_secs(2);

/// Ends comparisons early. All clones end the same comparisons.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    asked: Arc<(AtomicBool, Notify)>,
    at: Option<Instant>,
    /// The number of checks after which comparisons end, so that a test can end them anywhere.
    #[cfg(test)]
    looks: Option<Arc<std::sync::atomic::AtomicUsize>>,
}

impl Interrupt {
    /// Creates an interrupt that ends comparisons after `limit`, if there is one.
    pub fn within(limit: Option<Duration>) -> Self {
        Self { at: limit.and_then(|limit| Instant::now().checked_add(limit)), ..Self::default() }
    }

    /// Creates an interrupt for the comparison after a command that began at `began` and has this time limit.
    pub fn after_command(began: Instant, limit: Option<Duration>) -> Self {
        Self::within(limit.map(|limit| limit.saturating_sub(began.elapsed()).max(MIN_TIME)))
    }

    /// Returns an interrupt that also ends comparisons after `limit`. A call of [`Interrupt::ask`] on one of the two interrupts
    /// also affects the other.
    #[must_use]
    pub fn and_within(&self, limit: Duration) -> Self {
        Self { asked: self.asked.clone(), ..Self::within(Some(limit)) }
    }

    /// Ends the comparisons that have this interrupt.
    pub fn ask(&self) {
        self.asked.0.store(true, Ordering::SeqCst);
        self.asked.1.notify_waiters();
    }

    /// Returns whether [`Interrupt::ask`] was called.
    pub fn is_asked(&self) -> bool {
        self.asked.0.load(Ordering::SeqCst)
    }

    /// Creates an interrupt that ends comparisons after this number of checks.
    #[cfg(test)]
    pub(super) fn after_looks(looks: usize) -> Self {
        Self { looks: Some(Arc::new(looks.into())), ..Self::default() }
    }

    /// Returns whether comparisons have to end.
    pub fn is_due(&self) -> bool {
        #[cfg(test)]
        if let Some(looks) = &self.looks
            && looks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err()
        {
            return true;
        }
        self.is_asked() || self.at.is_some_and(|at| Instant::now() >= at)
    }

    /// Waits until comparisons have to end.
    pub async fn due(&self) {
        let asked = std::pin::pin!(self.asked.1.notified());
        let at = async {
            match self.at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        // A waiter is notified of every call after its creation.
        if !self.is_asked() {
            tokio::select! {
                () = asked => {}
                () = at => {}
            }
        }
    }

    /// Runs a comparison in a thread for blocking operations. Returns `None` if the comparison failed, or did not return although
    /// it was interrupted. Its thread then continues.
    pub async fn run<T: Send + 'static>(&self, compare: impl FnOnce(&Self) -> T + Send + 'static) -> Option<T> {
        let own = self.clone();
        let mut compared = tokio::task::spawn_blocking(move || compare(&own));
        tokio::select! {
            biased;
            compared = &mut compared => return compared.ok(),
            () = self.due() => {}
        }
        tokio::time::timeout(ANSWER, compared).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn comparison_that_does_not_answer_is_given_up_after_a_stop_or_the_time_limit() {
        for interrupt in [Interrupt::default(), Interrupt::within(Some(Duration::from_secs(5)))] {
            let (end, ends) = mpsc::channel::<()>();
            let hangs = move |_: &Interrupt| ends.recv().is_err();
            let pass = async {
                if interrupt.at.is_none() {
                    interrupt.ask();
                }
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                    tokio::time::advance(Duration::from_secs(10)).await;
                }
            };
            assert_eq!(tokio::join!(interrupt.run(hangs), pass).0, None);
            drop(end);
        }
    }

    #[tokio::test]
    async fn stop_interrupts_the_comparison_that_runs_and_its_result_is_returned() {
        let interrupt = Interrupt::default();
        let (began, has_begun) = tokio::sync::oneshot::channel();
        let compare = move |interrupt: &Interrupt| {
            began.send(()).unwrap();
            while !interrupt.is_due() {
                std::thread::yield_now();
            }
            7
        };
        let stop = async {
            has_begun.await.unwrap();
            interrupt.ask();
        };
        assert_eq!(tokio::join!(interrupt.run(compare), stop).0, Some(7));
        // Does not wait, because the interrupt was requested before.
        interrupt.due().await;
        // Without a stop, the result is also returned, and a comparison that panics has none.
        assert_eq!(Interrupt::default().run(|interrupt| interrupt.is_due()).await, Some(false));
        assert_eq!(Interrupt::default().run(|_| -> u8 { panic!("in a test") }).await, None);
    }

    #[test]
    fn comparison_after_a_command_has_the_rest_of_its_time_and_some_time_at_least() {
        let began = Instant::now();
        assert!(Interrupt::after_command(began, None).at.is_none());
        for (limit, least) in [(Duration::ZERO, MIN_TIME), (Duration::from_secs(1000), Duration::from_secs(990))] {
            let interrupt = Interrupt::after_command(began, Some(limit));
            assert!(interrupt.at.unwrap() >= began + least && !interrupt.is_due(), "{limit:?}");
        }
        assert!(Interrupt::within(Some(Duration::ZERO)).is_due());
    }
}
