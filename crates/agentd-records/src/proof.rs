//! Proofs about the tree: that it contains a leaf, and that one tree continues another (RFC 6962, sections 2.1.1 and 2.1.2).

use crate::merkle::{Edge, Hash};

/// Returns `count` consecutive hashes of a level of tiles, from the index on. All of them lie in one tile.
pub(crate) type Hashes<'a, E> = dyn FnMut(usize, u64, u64) -> Result<Vec<Hash>, E> + 'a;

/// Returns the audit path of the leaf `index` in the tree of `size` leaves, from the leaf's sibling to the root's child.
///
/// # Errors
/// The errors of `hashes`.
pub(crate) fn inclusion<E>(index: u64, size: u64, hashes: &mut Hashes<'_, E>) -> Result<Vec<Hash>, E> {
    let (mut start, mut end, mut path) = (0, size, Vec::new());
    while end - start > 1 {
        let middle = start + split(end - start);
        let sibling = if index < middle { middle..end } else { start..middle };
        path.push(subtree(sibling.start, sibling.end, hashes)?);
        (start, end) = if index < middle { (start, middle) } else { (middle, end) };
    }
    path.reverse();
    Ok(path)
}

/// Returns the proof that the tree of `new` leaves continues the tree of `old` leaves. The proof is empty if the sizes are equal,
/// or if `old` is 0.
///
/// # Errors
/// The errors of `hashes`.
pub(crate) fn consistency<E>(old: u64, new: u64, hashes: &mut Hashes<'_, E>) -> Result<Vec<Hash>, E> {
    if old == 0 || old >= new {
        return Ok(Vec::new());
    }
    // The old tree ends at `old` within the subtree from `start` to `end`; `whole` is true if this subtree is the old tree.
    let (mut start, mut end, mut whole, mut proof) = (0, new, true, Vec::new());
    while old != end {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(subtree(middle, end, hashes)?);
            end = middle;
        } else {
            proof.push(subtree(start, middle, hashes)?);
            start = middle;
            whole = false;
        }
    }
    if !whole {
        proof.push(subtree(start, end, hashes)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Returns true if `path` proves that `leaf` is the leaf `index` of the tree with this size and root (RFC 9162, section 2.1.3.2).
pub fn is_included(leaf: Hash, index: u64, (size, root): (u64, Hash), path: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = Hash::node(*sibling, hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = Hash::node(hash, *sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == root
}

/// Returns true if `proof` proves that the new tree continues the old one (RFC 9162, section 2.1.4.2). Each tree is its size and
/// root.
pub fn is_consistent(old: (u64, Hash), new: (u64, Hash), proof: &[Hash]) -> bool {
    if old.0 >= new.0 || old.0 == 0 {
        let empty = old.0 != 0 || old.1 == Hash::empty();
        return proof.is_empty() && empty && (old.0 == 0 || old == new);
    }
    let own = old.0.is_power_of_two().then_some(old.1);
    let mut path = own.into_iter().chain(proof.iter().copied());
    let Some(first) = path.next() else { return false };
    let (mut node, mut last) = (old.0 - 1, new.0 - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut before, mut after) = (first, first);
    for hash in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            before = Hash::node(hash, before);
            after = Hash::node(hash, after);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            after = Hash::node(after, hash);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && before == old.1 && after == new.1
}

/// Returns the largest power of two below `leaves`, which is at least 2.
fn split(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// Returns the root of the leaves from `start` to `end`, from complete subtrees.
fn subtree<E>(mut start: u64, end: u64, hashes: &mut Hashes<'_, E>) -> Result<Hash, E> {
    let mut roots = Vec::new();
    while start < end {
        // The largest subtree that starts here, and does not reach beyond the end.
        let height = start.trailing_zeros().min((end - start).ilog2());
        let (level, below) = (height / 8, height % 8);
        let mut edge = Edge::default();
        for hash in hashes(usize::try_from(level).unwrap_or(0), start >> (level * 8), 1 << below)? {
            edge.push(hash, |_, _| ());
        }
        roots.push(edge.root());
        start += 1 << height;
    }
    Ok(roots.into_iter().rev().reduce(|right, left| Hash::node(left, right)).unwrap_or_else(Hash::empty))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// The trees of up to `size` leaves: their roots, and the hashes of their levels.
    struct Trees {
        roots: Vec<Hash>,
        levels: Vec<Vec<Hash>>,
    }

    impl Trees {
        fn new(size: u64) -> Self {
            let (mut edge, mut roots, mut levels) = (Edge::default(), vec![Hash::empty()], vec![Vec::new(); 3]);
            for index in 0..size {
                edge.push(leaf(index), |level, hash| levels[level].push(hash));
                roots.push(edge.root());
            }
            Self { roots, levels }
        }

        fn at(&self, size: u64) -> (u64, Hash) {
            (size, self.roots[usize::try_from(size).unwrap()])
        }

        fn read(&self) -> impl FnMut(usize, u64, u64) -> Result<Vec<Hash>, Infallible> {
            move |level, index, count| {
                assert_eq!(index / 256, (index + count - 1) / 256, "one tile");
                let start = usize::try_from(index).unwrap();
                Ok(self.levels[level][start..start + usize::try_from(count).unwrap()].to_vec())
            }
        }
    }

    fn leaf(index: u64) -> Hash {
        Hash::leaf(&index.to_be_bytes())
    }

    /// The root as RFC 6962 defines it, by recursion.
    fn defined(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::empty(),
            [one] => *one,
            many => {
                let (left, right) = many.split_at(usize::try_from(split(many.len() as u64)).unwrap());
                Hash::node(defined(left), defined(right))
            }
        }
    }

    #[test]
    fn roots_are_those_of_the_definition_and_edges_are_restored() {
        let leaves: Vec<_> = (0..600).map(leaf).collect();
        let trees = Trees::new(600);
        for size in 0..=600 {
            assert_eq!(trees.roots[size], defined(&leaves[..size]), "{size}");
            let size = size as u64;
            let partial: Vec<_> = (0..3)
                .map(|level| {
                    let items = crate::tile::items(size, level);
                    let width = crate::tile::partial_width(size, level);
                    trees.levels[level][usize::try_from(items - width).unwrap()..usize::try_from(items).unwrap()].to_vec()
                })
                .collect();
            assert_eq!(Edge::restore(size, &partial).root(), trees.at(size).1, "{size}");
        }
    }

    #[test]
    fn every_proof_holds_for_its_trees_and_for_no_other() {
        let trees = Trees::new(520);
        for size in (1..20).chain([255, 256, 257, 511, 512, 513, 520]) {
            for index in (0..size).filter(|index| size < 20 || index % 37 == 0 || size - index < 4) {
                let path = inclusion(index, size, &mut trees.read()).unwrap();
                assert!(is_included(leaf(index), index, trees.at(size), &path), "{index} of {size}");
                assert!(!is_included(leaf(index + 1), index, trees.at(size), &path));
                assert!(!is_included(leaf(index), index + 1, trees.at(size), &path));
                assert!(!is_included(leaf(index), index, trees.at(size - 1), &path));
                assert!(!is_included(leaf(index), index, trees.at(size), &[&path[..], &[leaf(0)]].concat()));
            }
            for old in (0..=size).filter(|old| size < 20 || old % 41 == 0 || size - old < 4) {
                let proof = consistency(old, size, &mut trees.read()).unwrap();
                assert!(is_consistent(trees.at(old), trees.at(size), &proof), "{old} to {size}");
                assert!(!is_consistent(trees.at(old), (size, leaf(3)), &proof) || old == 0);
                assert!(!is_consistent((old, leaf(3)), trees.at(size), &proof));
                assert!(!is_consistent(trees.at(old), trees.at(size), &[&proof[..], &[leaf(0)]].concat()));
                if old > 1 && old < size {
                    assert!(!is_consistent(trees.at(old - 1), trees.at(size), &proof), "{old} to {size}");
                    assert!(!is_consistent(trees.at(old), trees.at(size), &proof[1..]));
                }
            }
        }
    }
}
