//! What is kept of a command's output: its head and its tail.

use agentd_core::Captured;
use std::collections::VecDeque;

/// Keeps the first and the last bytes of a stream within a budget; half each.
#[derive(Debug)]
pub(crate) struct Keeper {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_room: usize,
    tail_room: usize,
    omitted: u64,
}

impl Keeper {
    pub(crate) fn new(budget: u64) -> Self {
        let budget = usize::try_from(budget).unwrap_or(usize::MAX);
        Self { head: Vec::new(), tail: VecDeque::new(), head_room: budget - budget / 2, tail_room: budget / 2, omitted: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(bytes.len().min(self.head_room - self.head.len()));
        self.head.extend_from_slice(first);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(self.tail_room);
        self.tail.drain(..excess);
        self.omitted += excess as u64;
    }

    pub(crate) fn finish(self) -> Captured {
        let mut tail: Vec<u8> = self.tail.into();
        let mut head = self.head;
        if self.omitted == 0 {
            head.append(&mut tail);
        }
        Captured { head, tail, omitted: self.omitted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_within_the_budget() {
        let mut keeper = Keeper::new(10);
        keeper.push(b"01234");
        keeper.push(b"56789");
        assert_eq!(keeper.finish(), Captured { head: b"0123456789".to_vec(), tail: vec![], omitted: 0 });
    }

    #[test]
    fn head_and_tail_are_kept_and_the_rest_is_counted() {
        let mut keeper = Keeper::new(4);
        for byte in b'a'..=b'z' {
            keeper.push(&[byte]);
        }
        let kept = keeper.finish();
        assert_eq!((kept.head.as_slice(), kept.tail.as_slice(), kept.omitted), (&b"ab"[..], &b"yz"[..], 22));
        assert_eq!(kept.total(), 26);
    }
}
