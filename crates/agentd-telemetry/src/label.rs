//! Labels of metrics, and attributes of spans.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// The maximum length of a label.
const MAX_LABEL: usize = 64;

/// The label of everything that has no label of its own.
pub(crate) const OTHER: &str = "other";

/// Returns a word as a label. A text that is not one of agentd's words becomes `other`, so that no text of a caller or of a
/// sandbox becomes a label.
pub(crate) fn label(word: &str) -> &str {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if word.len() <= MAX_LABEL && word.bytes().all(is_known) { word } else { OTHER }
}

/// The maximum number of different words of one label. A process cannot grow without bound by ever new words.
pub(crate) const MAX_WORDS: usize = 64;

/// The words that one label of a metric has had.
#[derive(Default)]
pub(crate) struct KnownWords(Mutex<BTreeSet<String>>);

impl KnownWords {
    /// Returns the word as a label, or `other` if there are too many different words.
    pub fn bounded(&self, word: &str) -> String {
        let word = label(word);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(word) {
            return word.to_owned();
        }
        if known.len() >= MAX_WORDS {
            return OTHER.to_owned();
        }
        known.insert(word.to_owned());
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_word_becomes_other() {
        for (text, expected) in [("wall-deadline", "wall-deadline"), ("shell.exec.v1", "shell.exec.v1"), ("", "")] {
            assert_eq!(label(text), expected);
        }
        for text in ["a b", "A", "a\n", "ä", "a/b", &"a".repeat(65)] {
            assert_eq!(label(text), OTHER);
        }
    }
}
