//! The order in which waiting intents begin, as a function of what is recorded about them.
//!
//! A higher priority goes first. Among equal priorities, the principal with the fewest intents in flight goes first, then the one
//! whose last begin is the longest ago, and then the intent that has waited longest. A principal with many waiting intents
//! therefore gets no more places than one with few.

use std::{cmp::Reverse, collections::BTreeSet};

/// The importance of an intent. A higher priority begins first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// It begins after all others.
    Low,
    /// The usual importance.
    #[default]
    Normal,
    /// It begins before all others.
    High,
}

/// An intent that waits, or that has just arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiter {
    /// The order of arrival.
    pub number: i64,
    pub priority: i64,
    /// The intents in flight of its principal.
    pub in_flight: i64,
    /// The time of the last begin of its principal; 0 if none is known.
    pub last_begun: i64,
    /// All accounts to which it will be charged.
    pub accounts: BTreeSet<String>,
    /// The account whose limit it reached at its last attempt.
    pub blocked_by: Option<String>,
}

impl Priority {
    /// Returns the priority as a number that grows with it.
    pub(crate) fn rank(self) -> i64 {
        match self {
            Self::Low => 0,
            Self::Normal => 1,
            Self::High => 2,
        }
    }
}

impl Waiter {
    /// Returns true if `other` begins before this one. An intent that waits for the limit of one account holds up only those that
    /// are charged to this account too.
    pub fn yields_to(&self, other: &Self) -> bool {
        let order = |waiter: &Self| (Reverse(waiter.priority), waiter.in_flight, waiter.last_begun, waiter.number);
        let compete = match &other.blocked_by {
            Some(account) => self.accounts.contains(account),
            None => !self.accounts.is_disjoint(&other.accounts),
        };
        compete && order(other) < order(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn waiter(number: i64, accounts: &[&str]) -> Waiter {
        let accounts = accounts.iter().map(|account| (*account).to_owned()).collect();
        Waiter { number, priority: 1, in_flight: 0, last_begun: 0, accounts, blocked_by: None }
    }

    #[test]
    fn order_is_priority_then_share_then_turn_then_arrival() {
        let own = waiter(2, &["a", "all"]);
        let first = waiter(1, &["b", "all"]);
        assert!(own.yields_to(&first) && !first.yields_to(&own));
        for later in [
            Waiter { priority: 0, ..first.clone() },
            Waiter { in_flight: 1, ..first.clone() },
            Waiter { last_begun: 1, ..first.clone() },
        ] {
            assert!(!own.yields_to(&later) && later.yields_to(&own), "{later:?}");
        }
        let urgent = Waiter { priority: 2, in_flight: 9, last_begun: 9, number: 9, ..first };
        assert!(own.yields_to(&urgent));
    }

    #[test]
    fn intent_that_waits_for_an_account_holds_up_nobody_outside_of_it() {
        let own = waiter(2, &["a", "all"]);
        let blocked = |by: &str| Waiter { blocked_by: Some(by.to_owned()), ..waiter(1, &["b", "group", "all"]) };
        assert!(!own.yields_to(&blocked("b")) && !own.yields_to(&blocked("group")));
        assert!(own.yields_to(&blocked("all")));
        assert!(!own.yields_to(&waiter(1, &["b"])), "they share no account");
    }

    /// Gives `places` places one after the other to principals that all have waiting intents. Returns the places of each.
    fn shared_out(waiting: &[usize], places: usize) -> BTreeMap<usize, usize> {
        let (mut left, mut got, mut last) = (waiting.to_vec(), BTreeMap::new(), vec![0; waiting.len()]);
        for clock in 1..=places {
            let all: Vec<(usize, Waiter)> = (0..waiting.len())
                .filter(|principal| left[*principal] > 0)
                .map(|principal| {
                    let mut waiter = waiter(i64::try_from(principal).unwrap(), &["all"]);
                    waiter.last_begun = last[principal];
                    (principal, waiter)
                })
                .collect();
            let next = all.iter().find(|(_, own)| all.iter().all(|(_, other)| !own.yields_to(other)));
            let Some((next, _)) = next else { break };
            left[*next] -= 1;
            last[*next] = i64::try_from(clock).unwrap();
            *got.entry(*next).or_default() += 1;
        }
        got
    }

    proptest! {
        /// While several principals wait, none gets two places more than another that still waits.
        #[test]
        fn principal_with_many_waiting_intents_gets_no_more_places(
            waiting in prop::collection::vec(1usize..20, 1..6), places in 1usize..60,
        ) {
            let got = shared_out(&waiting, places);
            prop_assert_eq!(got.values().sum::<usize>(), places.min(waiting.iter().sum()), "no place stays free");
            for (principal, number) in got.iter().filter(|(principal, number)| **number < waiting[**principal]) {
                prop_assert!(got.values().all(|other| *other <= number + 1), "{principal}: {got:?}");
            }
        }

        /// One of the waiting intents always goes first: the order has no cycle.
        #[test]
        fn some_waiting_intent_yields_to_nobody(
            all in prop::collection::vec((0i64..3, 0i64..3, 0i64..3, prop::option::of(0usize..3), 0usize..3), 1..12),
        ) {
            let names = ["a", "b", "c"];
            let waiters: Vec<Waiter> = all.iter().enumerate().map(|(number, (priority, in_flight, last_begun, blocked, own))| {
                let accounts = [names[*own].to_owned(), "all".to_owned()].into();
                let blocked_by = blocked.map(|blocked| names[blocked].to_owned());
                let number = i64::try_from(number).unwrap();
                Waiter { number, priority: *priority, in_flight: *in_flight, last_begun: *last_begun, accounts, blocked_by }
            }).collect();
            prop_assert!(waiters.iter().any(|own| waiters.iter().all(|other| own == other || !own.yields_to(other))));
        }
    }
}
