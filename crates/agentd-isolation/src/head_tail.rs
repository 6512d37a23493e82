//! Captures the head and the tail of a command's output within a budget.

use agentd_core::Captured;
use std::collections::VecDeque;

/// Keeps the first and the last bytes of a stream, each up to half of a budget.
#[derive(Debug)]
pub struct HeadTail {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_room: usize,
    tail_room: usize,
    omitted: u64,
}

impl HeadTail {
    /// Creates an empty capture with a budget in bytes.
    pub fn new(budget: u64) -> Self {
        let budget = usize::try_from(budget).unwrap_or(usize::MAX);
        Self { head: Vec::new(), tail: VecDeque::new(), head_room: budget - budget / 2, tail_room: budget / 2, omitted: 0 }
    }

    /// Adds the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(bytes.len().min(self.head_room - self.head.len()));
        self.head.extend_from_slice(first);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(self.tail_room);
        self.tail.drain(..excess);
        self.omitted += excess as u64;
    }

    /// Returns the kept bytes and the number of omitted ones.
    pub fn finish(self) -> Captured {
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
    fn output_within_budget_is_kept_whole() {
        let mut capture = HeadTail::new(10);
        capture.push(b"01234");
        capture.push(b"56789");
        assert_eq!(capture.finish(), Captured { head: b"0123456789".to_vec(), tail: vec![], omitted: 0 });
    }

    #[test]
    fn output_over_budget_keeps_head_and_tail_and_counts_omitted_bytes() {
        let mut capture = HeadTail::new(4);
        for byte in b'a'..=b'z' {
            capture.push(&[byte]);
        }
        let kept = capture.finish();
        assert_eq!((kept.head.as_slice(), kept.tail.as_slice(), kept.omitted), (&b"ab"[..], &b"yz"[..], 22));
        assert_eq!(kept.total(), 26);
    }
}
