//! The number of calls that one principal runs at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The calls of one principal that run or wait at a time.
pub(super) const MAX_CALLS: usize = 64;

/// Counts the calls of each principal.
#[derive(Debug, Default)]
pub(super) struct CallSlots(Mutex<HashMap<String, usize>>);

/// A place for one call, until it is dropped.
#[derive(Debug)]
pub(super) struct CallSlot {
    slots: Arc<CallSlots>,
    owner: String,
}

impl CallSlots {
    /// Takes a place; `None` if the principal has none left.
    pub fn take(self: &Arc<Self>, owner: &str) -> Option<CallSlot> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(owner.to_owned()).or_default();
        if *count >= MAX_CALLS {
            return None;
        }
        *count += 1;
        Some(CallSlot { slots: self.clone(), owner: owner.to_owned() })
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        let mut counts = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_principal_are_bounded_and_given_back() {
        let slots = Arc::new(CallSlots::default());
        let mut taken: Vec<_> = (0..MAX_CALLS).map(|_| slots.take("a").unwrap()).collect();
        assert!(slots.take("a").is_none() && slots.take("b").is_some());
        taken.pop();
        taken.push(slots.take("a").unwrap());
        drop(taken);
        assert!(slots.0.lock().unwrap().is_empty());
    }
}
