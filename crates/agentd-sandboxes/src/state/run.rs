//! Selects the layers to merge. A run of layers can be merged only if every list of layers contains the whole run or nothing of
//! it. No list may begin, end or branch off inside the run.

use crate::layer_id::LayerId;
use std::collections::{HashMap, HashSet};

/// Returns the longest run in `stack` that each of `stacks` contains as a whole or not at all. The result is empty if no such run
/// has two or more layers. `stack` is one of `stacks`; `together` returns true if two layers can be merged where they are.
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
    // In every list that contains one of the two layers, the other one is next to it.
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

/// Returns true if each of `stacks` contains `run` as a whole or none of its layers.
pub(super) fn is_whole(run: &[LayerId], stacks: &[&Vec<LayerId>]) -> bool {
    stacks.iter().all(|stack| place(run, stack).is_some() || !stack.iter().any(|layer| run.contains(layer)))
}

/// Replaces `run` with `merged`; returns true if `stack` contained `run`.
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
    fn run_ends_where_another_stack_starts_ends_or_branches() {
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
    fn run_ends_at_layer_in_another_volume() {
        let all = layers("abcde");
        let apart = layers("bc");
        let found = longest(&all, &[&all], |low, high| apart != [low, high]);
        assert_eq!(found, layers("cde"));
    }

    proptest! {
        #[test]
        fn found_run_is_contiguous_in_every_stack(stacks in proptest::collection::vec("[a-f]{0,6}", 1..6)) {
            // Removes repeated layers, because a stack contains each layer at most once.
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
