//! The clients in other namespaces that have connected, and have not yet proven that they have the key.
//!
//! At most 64 such clients wait. They are grouped by their pair of user and PID namespace. If another client connects, the oldest
//! client of the largest group is displaced. All processes of a payload are in the same namespaces. A payload therefore displaces
//! only its own connections, unless another group is as large.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// The maximum number of waiting clients.
const MAX_WAITING: usize = 64;

/// The waiting clients, in the order in which they connected. `O` identifies the namespaces of a client.
pub(crate) struct Waiting<O>(Mutex<Vec<Waiter<O>>>);

struct Waiter<O> {
    origin: O,
    /// Wakes the client's task when dropped, because the client was displaced.
    kept: oneshot::Sender<()>,
}

/// The place of a waiting client. Dropping this value frees the place.
pub(crate) struct WaitingSlot<'a, O> {
    all: &'a Waiting<O>,
    displaced: oneshot::Receiver<()>,
}

impl<O> Waiting<O> {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    fn all(&self) -> MutexGuard<'_, Vec<Waiter<O>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a client, and displaces another one if there are too many.
    pub(crate) fn enter(&self, origin: O) -> WaitingSlot<'_, O>
    where
        O: Copy + Eq + Hash,
    {
        let (kept, displaced) = oneshot::channel();
        let mut all = self.all();
        all.push(Waiter { origin, kept });
        if all.len() > MAX_WAITING {
            let displaced = oldest_of_the_most(&all);
            all.remove(displaced);
        }
        drop(all);
        WaitingSlot { all: self, displaced }
    }
}

/// Returns the position of the oldest waiting client of the origin that has the most.
fn oldest_of_the_most<O: Copy + Eq + Hash>(all: &[Waiter<O>]) -> usize {
    let mut numbers: HashMap<_, usize> = HashMap::new();
    for waiter in all {
        *numbers.entry(waiter.origin).or_default() += 1;
    }
    let max = numbers.values().max();
    all.iter().position(|waiter| numbers.get(&waiter.origin) == max).unwrap_or(0)
}

impl<O> WaitingSlot<'_, O> {
    /// Waits until the client is displaced.
    pub(crate) async fn displaced(&mut self) {
        // Nothing is ever sent: the result is that the sender was dropped.
        let _: Result<(), _> = (&mut self.displaced).await;
    }
}

impl<O> Drop for WaitingSlot<'_, O> {
    fn drop(&mut self) {
        self.displaced.close();
        self.all.all().retain(|waiter| !waiter.kept.is_closed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_displaced(place: &mut WaitingSlot<'_, Option<u32>>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(place.displaced()).poll(&mut context).is_ready()
    }

    #[test]
    fn client_displaces_the_oldest_of_the_origin_with_the_most() {
        let all = Waiting::new();
        let mut honest = [all.enter(Some(1)), all.enter(None)];
        let mut payload: Vec<_> = (0..MAX_WAITING).map(|_| all.enter(Some(2))).collect();
        let mut later = all.enter(Some(3));
        assert!(honest.iter_mut().chain([&mut later]).all(|place| !is_displaced(place)));
        let displaced: Vec<usize> = (0..payload.len()).filter(|number| is_displaced(&mut payload[*number])).collect();
        assert_eq!(displaced, [0, 1, 2]);
    }

    #[test]
    fn client_that_left_makes_room() {
        let all = Waiting::new();
        let mut first = all.enter(Some(1));
        for _ in 0..MAX_WAITING * 2 {
            all.enter(Some(1));
        }
        assert!(!is_displaced(&mut first));
        assert_eq!(all.all().len(), 1);
        drop(first);
        assert!(all.all().is_empty());
    }

    #[test]
    fn namespaces_that_cannot_be_inspected_are_treated_as_one() {
        let all = Waiting::new();
        let mut honest = all.enter(Some(1));
        let mut unknown: Vec<_> = (0..MAX_WAITING).map(|_| all.enter(None)).collect();
        assert!(!is_displaced(&mut honest) && is_displaced(&mut unknown[0]) && !is_displaced(&mut unknown[1]));
    }
}
