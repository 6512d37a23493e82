//! The order of backends that prove the required capabilities.

use agentd_core::{BackendCapabilities, BackendTraits, Startup};
use std::cmp::Ordering;

/// The properties that the order of backends depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// The sum of the scores of the proven claims.
    pub score: u32,
    /// The time that the backend's sandboxes take to start.
    pub startup: Startup,
}

/// The rule that decides between backends with the same score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TieBreak {
    /// Prefer the backend whose sandboxes start faster; if neither does, the first.
    Faster,
    /// Prefer the first backend.
    First,
}

impl Rank {
    /// Returns the rank of a backend with these traits and proven capabilities.
    pub fn of(traits: &BackendTraits, proven: &BackendCapabilities) -> Self {
        Self { score: proven.score(), startup: traits.startup }
    }

    /// Returns true if this backend is better than `earlier`, which precedes it in the order of preference.
    pub fn beats(self, earlier: Self, tie: TieBreak) -> bool {
        match self.score.cmp(&earlier.score) {
            Ordering::Greater => true,
            Ordering::Less => false,
            Ordering::Equal => tie == TieBreak::Faster && self.startup < earlier.startup,
        }
    }
}

/// Returns the index of the best of `ranks`; `None` if there is none.
pub fn best(ranks: &[Rank], tie: TieBreak) -> Option<usize> {
    let better = |best: usize, next: usize| if ranks[next].beats(ranks[best], tie) { next } else { best };
    (0..ranks.len()).reduce(better)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::Startup::{Milliseconds, Seconds};

    #[test]
    fn best_is_the_highest_score_then_the_faster_start_then_the_first() {
        for (ranks, faster, first) in [
            (&[][..], None, None),
            (&[(0, Seconds)], Some(0), Some(0)),
            (&[(10, Milliseconds), (11, Seconds)], Some(1), Some(1)),
            (&[(11, Seconds), (10, Milliseconds)], Some(0), Some(0)),
            (&[(11, Seconds), (11, Milliseconds)], Some(1), Some(0)),
            (&[(11, Milliseconds), (11, Seconds)], Some(0), Some(0)),
            (&[(11, Milliseconds), (11, Milliseconds)], Some(0), Some(0)),
            (&[(9, Milliseconds), (11, Seconds), (11, Seconds), (11, Milliseconds)], Some(3), Some(1)),
        ] {
            let ranks: Vec<Rank> = ranks.iter().map(|&(score, startup)| Rank { score, startup }).collect();
            assert_eq!(best(&ranks, TieBreak::Faster), faster, "{ranks:?}");
            assert_eq!(best(&ranks, TieBreak::First), first, "{ranks:?}");
        }
    }
}
