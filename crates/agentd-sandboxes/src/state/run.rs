//! Which layers can become one. All lists of layers must agree: where one of them begins, ends or branches off inside a run, that run is
//! not one for it.

use crate::layer_id::LayerId;
use std::collections::{HashMap, HashSet};

/// The longest run in `stack` that every one of `stacks` has as a whole or not at all; none of fewer than two layers.
/// `stack` is one of `stacks`; `together` says whether two layers are where they can be merged.
pub(super) fn longest(stack: &[LayerId], stacks: &[&Vec<LayerId>], together: impl Fn(LayerId, LayerId) -> bool) -> Vec<LayerId> {
    let mut above: HashMap<LayerId, HashSet<Option<LayerId>>> = HashMap::new();
    let mut below: HashMap<LayerId, HashSet<Option<LayerId>>> = HashMap::new();
    for stack in stacks {
        for (at, layer) in stack.iter().enumerate() {
            above.entry(*layer).or_default().insert(stack.get(at + 1).copied());
            below.entry(*layer).or_default().insert(at.checked_sub(1).map(|at| stack[at]));
        }
    }
    let only = |of: &HashMap<LayerId, HashSet<Option<LayerId>>>, layer: LayerId, other: LayerId| {
        of.get(&layer).is_some_and(|found| found.len() == 1 && found.contains(&Some(other)))
    };
    // Wherever the one is, the other is next to it.
    let joined = |low: LayerId, high: LayerId| only(&above, low, high) && only(&below, high, low) && together(low, high);
    let mut longest: &[LayerId] = &[];
    let mut begin = 0;
    for at in 1..=stack.len() {
        if at == stack.len() || !joined(stack[at - 1], stack[at]) {
            if at - begin > longest.len().max(1) {
                longest = &stack[begin..at];
            }
            begin = at;
        }
    }
    longest.to_vec()
}

/// Whether every one of `stacks` has `run` as a whole or no layer of it.
pub(super) fn is_whole(run: &[LayerId], stacks: &[&Vec<LayerId>]) -> bool {
    stacks.iter().all(|stack| place(run, stack).is_some() || !stack.iter().any(|layer| run.contains(layer)))
}

/// Puts `merged` where `run` is; whether it was there.
pub(super) fn replace(run: &[LayerId], merged: LayerId, stack: &mut Vec<LayerId>) -> bool {
    let Some(at) = place(run, stack) else { return false };
    stack.splice(at..at + run.len(), [merged]);
    true
}

fn place(run: &[LayerId], stack: &[LayerId]) -> Option<usize> {
    stack.windows(run.len()).position(|window| window == run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layers(text: &str) -> Vec<LayerId> {
        text.chars().map(|layer| format!("{:016x}", layer as u32).parse().unwrap()).collect()
    }

    fn longest_of(stack: &str, others: &[&str]) -> Vec<LayerId> {
        let all: Vec<_> = [stack].iter().chain(others).map(|stack| layers(stack)).collect();
        longest(&all[0], &all.iter().collect::<Vec<_>>(), |_, _| true)
    }

    #[test]
    fn a_run_ends_where_any_list_begins_ends_or_branches_off() {
        assert_eq!(longest_of("abcd", &[]), layers("abcd"));
        assert_eq!(longest_of("abcde", &["ab"]), layers("cde"));
        assert_eq!(longest_of("abcd", &["abcx", "a"]), layers("bc"));
        assert_eq!(longest_of("abcd", &["abcd", "xy"]), layers("abcd"));
        assert_eq!(longest_of("abcd", &["cd"]), layers("ab"));
        assert_eq!(longest_of("ab", &["a"]), []);
        assert_eq!(longest_of("a", &[]), []);
        assert_eq!(longest_of("", &[]), []);
    }

    #[test]
    fn a_run_ends_where_the_next_layer_lies_elsewhere() {
        let all = layers("abcde");
        let apart = layers("bc");
        let found = longest(&all, &[&all], |low, high| apart != [low, high]);
        assert_eq!(found, layers("cde"));
    }

    proptest! {
        #[test]
        fn what_is_found_is_whole_for_all(stacks in proptest::collection::vec("[a-f]{0,6}", 1..6)) {
            // A stack has a layer once.
            let once = |stack: &String| {
                let mut seen = HashSet::new();
                layers(stack).into_iter().filter(|layer| seen.insert(*layer)).collect::<Vec<_>>()
            };
            let all: Vec<_> = stacks.iter().map(once).collect();
            let all: Vec<_> = all.iter().collect();
            let run = longest(all[0], &all, |_, _| true);
            prop_assert!(run.is_empty() || run.len() > 1 && is_whole(&run, &all));
        }
    }
}
