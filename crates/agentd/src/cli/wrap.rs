//! Wraps text to the width of a terminal.

/// Breaks `text` at blanks into lines of at most `width` characters, each starting with `indent`. A longer word has a separate
/// line.
pub(crate) fn wrap(text: &str, indent: &str, width: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length <= width {
            out.push(' ');
            used += 1 + length;
        } else {
            out.push_str(if used > 0 { "\n" } else { "" });
            out.push_str(indent);
            used = indent.chars().count() + length;
        }
        out.push_str(word);
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_lines_fit_and_keep_every_word() {
        assert_eq!(wrap("one two three four", "  ", 11), "  one two\n  three\n  four\n");
        assert_eq!(wrap("a-very-long-word b", "  ", 8), "  a-very-long-word\n  b\n");
        assert_eq!(wrap("", "  ", 8), "\n");
    }
}
