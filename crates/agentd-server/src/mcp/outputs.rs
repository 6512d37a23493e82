//! The whole texts of results that were cut, for a while and within bounds.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long a text is kept.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// The bytes that are kept for one principal, and for all.
const MAX_OF_OWNER: usize = 20 << 20;
const MAX_OF_ALL: usize = 48 << 20;

/// The longest part that one request reads, in bytes.
const MAX_READ: usize = 12 << 10;

/// The whole texts of cut results. Only the principal who caused a text can read it.
#[derive(Debug, Default)]
pub(super) struct OutputStore(Mutex<Outputs>);

#[derive(Debug, Default)]
struct Outputs {
    by_handle: HashMap<String, Output>,
    /// The handles, the oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

#[derive(Debug)]
struct Output {
    owner: String,
    text: Arc<str>,
    kept_until: Instant,
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OutputPart {
    /// The part.
    pub text: String,
    /// The number of bytes before the part.
    pub cursor: usize,
    /// The number of bytes before the next part; `None` at the end.
    pub next: Option<usize>,
    /// The length of the whole text in bytes.
    pub bytes: usize,
}

impl OutputStore {
    /// Keeps a text for a principal. Returns its handle; `None` if the text is longer than what is kept for one principal. Older
    /// texts are removed to make room: first those of the same principal.
    pub fn keep(&self, owner: &str, handle: String, text: String, now: Instant) -> Option<String> {
        if text.len() > MAX_OF_OWNER {
            return None;
        }
        let mut outputs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outputs.remove_expired(now);
        while outputs.bytes_of(owner) + text.len() > MAX_OF_OWNER {
            outputs.remove_oldest(|output| output.owner == owner);
        }
        while outputs.bytes + text.len() > MAX_OF_ALL {
            outputs.remove_oldest(|_| true);
        }
        outputs.bytes += text.len();
        let output = Output { owner: owner.to_owned(), text: text.into(), kept_until: now + LIFETIME };
        outputs.by_handle.insert(handle.clone(), output);
        outputs.order.push_back(handle.clone());
        Some(handle)
    }

    /// Returns the part of a text that begins at a cursor; `None` if the principal has no such text.
    pub fn read(&self, owner: &str, handle: &str, cursor: usize, now: Instant) -> Option<OutputPart> {
        let text = {
            let mut outputs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            outputs.remove_expired(now);
            outputs.by_handle.get(handle).filter(|output| output.owner == owner)?.text.clone()
        };
        let start = text.floor_char_boundary(cursor.min(text.len()));
        let end = text.floor_char_boundary(text.len().min(start + MAX_READ));
        // Whole lines, unless they are very long.
        let part = &text[start..end];
        let whole_lines = part.rfind('\n').filter(|line| end < text.len() && *line > part.len() / 2);
        let end = whole_lines.map_or(end, |line| start + line + 1);
        let next = (end < text.len()).then_some(end);
        Some(OutputPart { text: text[start..end].to_owned(), cursor: start, next, bytes: text.len() })
    }
}

impl Outputs {
    fn bytes_of(&self, owner: &str) -> usize {
        self.by_handle.values().filter(|output| output.owner == owner).map(|output| output.text.len()).sum()
    }

    fn remove_expired(&mut self, now: Instant) {
        let is_expired = |outputs: &Self| {
            let oldest = outputs.order.front().and_then(|handle| outputs.by_handle.get(handle));
            oldest.is_some_and(|output| output.kept_until <= now)
        };
        while is_expired(self) {
            self.remove_oldest(|_| true);
        }
    }

    fn remove_oldest(&mut self, which: impl Fn(&Output) -> bool) {
        let Some(index) = self.order.iter().position(|handle| self.by_handle.get(handle).is_some_and(&which)) else { return };
        if let Some(output) = self.order.remove(index).and_then(|handle| self.by_handle.remove(&handle)) {
            self.bytes -= output.text.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_text_are_the_whole_text() {
        let (store, now) = (OutputStore::default(), Instant::now());
        let text: String = (0..9_000).map(|n| format!("é{n}\n")).collect();
        store.keep("a", "h".to_owned(), text.clone(), now).unwrap();
        let (mut read, mut cursor) = (String::new(), Some(0));
        while let Some(at) = cursor {
            let part = store.read("a", "h", at, now).unwrap();
            assert!(part.text.len() <= MAX_READ && part.cursor == at && !part.text.is_empty());
            read.push_str(&part.text);
            cursor = part.next;
        }
        assert_eq!(read, text);
        assert_eq!(store.read("a", "h", 1, now).unwrap().cursor, 0, "inside of a character");
        assert_eq!(store.read("a", "h", usize::MAX, now).unwrap().next, None);
    }

    #[test]
    fn principal_cannot_read_the_text_of_another() {
        let (store, now) = (OutputStore::default(), Instant::now());
        store.keep("a", "h".to_owned(), "secret".to_owned(), now).unwrap();
        assert_eq!(store.read("b", "h", 0, now), None);
        assert!(store.read("a", "h", 0, now).is_some());
    }

    #[test]
    fn texts_are_removed_after_their_lifetime() {
        let (store, now) = (OutputStore::default(), Instant::now());
        store.keep("a", "h".to_owned(), "x".to_owned(), now).unwrap();
        assert_eq!(store.read("a", "h", 0, now + LIFETIME), None);
        assert_eq!(store.0.lock().unwrap().bytes, 0);
    }

    #[test]
    fn texts_of_one_principal_do_not_displace_those_of_others() {
        let (store, now) = (OutputStore::default(), Instant::now());
        store.keep("a", "a".to_owned(), "mine".to_owned(), now).unwrap();
        for n in 0..100 {
            store.keep("b", format!("b{n}"), "x".repeat(1 << 20), now).unwrap();
        }
        assert!(store.read("a", "a", 0, now).is_some());
        assert!(store.read("b", "b0", 0, now).is_none() && store.read("b", "b99", 0, now).is_some());
        assert!(store.0.lock().unwrap().bytes <= MAX_OF_OWNER + 4);
        assert_eq!(store.keep("a", "long".to_owned(), "x".repeat(MAX_OF_OWNER + 1), now), None);
    }

    #[test]
    fn all_texts_together_are_bounded() {
        let (store, now) = (OutputStore::default(), Instant::now());
        for n in 0..200 {
            store.keep(&format!("p{n}"), format!("h{n}"), "x".repeat(1 << 20), now).unwrap();
        }
        let outputs = store.0.lock().unwrap();
        assert!(outputs.bytes <= MAX_OF_ALL && outputs.by_handle.len() == outputs.order.len());
    }
}
