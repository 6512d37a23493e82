//! Parses the syntax of git's configuration files like git (`git-config(1)`, "Syntax"; `config.c` in git's sources).

/// The name in a section header: `section`, or `section.subsection`.
#[derive(Debug, Default)]
struct Section {
    name: Vec<u8>,
    /// The length of the part before the subsection.
    own: usize,
}

/// One variable of a file. The section is borrowed: a file of 1 MiB may contain a section name of 512 KiB with 100,000 variables.
#[derive(Debug)]
pub(super) struct Variable<'a> {
    section: Option<&'a Section>,
    /// The last part of the variable's name, in lower case.
    pub key: Vec<u8>,
    /// The value; `None` for a line without `=`, which means true.
    pub value: Option<Vec<u8>>,
}

impl Variable<'_> {
    /// Returns the section without its subsection, in lower case.
    pub(super) fn section(&self) -> &[u8] {
        self.section.map_or(&[], |section| &section.name[..section.own])
    }

    /// Returns whether the variable is `section.key`, without a subsection.
    pub(super) fn is(&self, section: &[u8], key: &[u8]) -> bool {
        self.key == key && self.section.is_some_and(|own| own.name == section)
    }
}

/// Calls `each` with the variables of a file up to its first syntax error. Git rejects a file with an error as a whole.
pub(super) fn parse(content: &[u8], mut each: impl FnMut(&Variable<'_>)) {
    let mut parser = Parser { rest: content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content), ended: false };
    let mut section = None;
    while let Some(c) = parser.next_significant() {
        let read = match c {
            b'[' => parser.section().map(|name| {
                let own = name.iter().position(|c| *c == b'.').unwrap_or(name.len());
                section = Some(Section { name, own });
            }),
            _ => parser.variable(c, section.as_ref()).map(|variable| each(&variable)),
        };
        if read.is_none() {
            break;
        }
    }
}

struct Parser<'a> {
    rest: &'a [u8],
    /// Whether the end of the file was reached, which is first returned as a line break.
    ended: bool,
}

impl Parser<'_> {
    fn next(&mut self) -> u8 {
        match self.rest {
            [b'\r', b'\n', rest @ ..] => {
                self.rest = rest;
                b'\n'
            }
            [c, rest @ ..] => {
                self.rest = rest;
                *c
            }
            [] => {
                self.ended = true;
                b'\n'
            }
        }
    }

    /// Returns the next character that is neither a space nor part of a comment.
    fn next_significant(&mut self) -> Option<u8> {
        let mut comment = false;
        loop {
            match self.next() {
                b'\n' if self.ended => return None,
                b'\n' => comment = false,
                b'#' | b';' => comment = true,
                c if comment || is_space(c) => {}
                c => return Some(c),
            }
        }
    }

    /// Parses a section header after `[`, up to and including `]`.
    fn section(&mut self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        loop {
            match self.next() {
                b']' => return Some(name),
                c if is_space(c) => return self.subsection(c, name),
                c if c.is_ascii_alphanumeric() || c == b'-' || c == b'.' => name.push(c.to_ascii_lowercase()),
                _ => return None,
            }
        }
    }

    fn subsection(&mut self, mut c: u8, mut name: Vec<u8>) -> Option<Vec<u8>> {
        while is_space(c) {
            if c == b'\n' {
                return None;
            }
            c = self.next();
        }
        if c != b'"' {
            return None;
        }
        name.push(b'.');
        loop {
            match self.next() {
                b'\n' => return None,
                b'"' => break,
                b'\\' => match self.next() {
                    b'\n' => return None,
                    escaped => name.push(escaped),
                },
                plain => name.push(plain),
            }
        }
        (self.next() == b']').then_some(name)
    }

    /// Parses a variable that begins with `first`. A variable before the first section has no name that git uses.
    fn variable<'s>(&mut self, first: u8, section: Option<&'s Section>) -> Option<Variable<'s>> {
        if !first.is_ascii_alphabetic() {
            return None;
        }
        let mut key = vec![first.to_ascii_lowercase()];
        let mut c = self.next();
        while c.is_ascii_alphanumeric() || c == b'-' {
            key.push(c.to_ascii_lowercase());
            c = self.next();
        }
        while c == b' ' || c == b'\t' {
            c = self.next();
        }
        let value = match c {
            b'\n' => None,
            b'=' => Some(self.value()?),
            _ => return None,
        };
        Some(Variable { section, key, value })
    }

    fn value(&mut self) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        // The length of the value without trailing unquoted space.
        let mut trimmed = 0;
        let (mut quoted, mut comment) = (false, false);
        loop {
            match self.next() {
                b'\n' if quoted => return None,
                b'\n' => {
                    value.truncate(trimmed);
                    return Some(value);
                }
                _ if comment => {}
                c if !quoted && is_space(c) => {
                    if !value.is_empty() {
                        value.push(c);
                    }
                    continue;
                }
                b'#' | b';' if !quoted => {
                    comment = true;
                    continue;
                }
                b'\\' => match self.next() {
                    // Like any other character, an escaped line break keeps the space before it.
                    b'\n' => {}
                    b't' => value.push(b'\t'),
                    b'b' => value.push(8),
                    b'n' => value.push(b'\n'),
                    c @ (b'\\' | b'"') => value.push(c),
                    _ => return None,
                },
                b'"' => quoted = !quoted,
                c => value.push(c),
            }
            if !comment {
                trimmed = value.len();
            }
        }
    }
}

fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\n' | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::{Command, Stdio};

    /// The name and the value of a variable.
    type Pair = (Vec<u8>, Option<Vec<u8>>);

    fn pairs(content: &[u8]) -> Vec<Pair> {
        let mut pairs = Vec::new();
        parse(content, |variable| {
            let section = variable.section.map(|section| [&section.name[..], b"."].concat()).unwrap_or_default();
            pairs.push(([section, variable.key.clone()].concat(), variable.value.clone()));
        });
        pairs
    }

    /// Returns the variables that git reads from a file; `None` if git rejects the file.
    fn as_git_reads(content: &[u8]) -> Option<Vec<Pair>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let git = Command::new("git")
            .args(["config", "--list", "--null", "--no-includes", "--file"])
            .arg(file.path())
            .stderr(Stdio::null())
            .output()
            .unwrap();
        let one = |entry: &[u8]| match entry.iter().position(|c| *c == b'\n') {
            Some(at) => (entry[..at].to_vec(), Some(entry[at + 1..].to_vec())),
            None => (entry.to_vec(), None),
        };
        let entries = git.stdout.strip_suffix(b"\0").unwrap_or(&git.stdout);
        let all = if entries.is_empty() { Vec::new() } else { entries.split(|c| *c == 0).map(one).collect() };
        git.status.success().then_some(all)
    }

    /// Returns whether the output of git for `content` is unambiguous, which requires that `content` has no zero byte.
    fn comparable(content: &[u8]) -> bool {
        !content.contains(&0)
    }

    #[test]
    fn parse_quotes_continuations_and_comments_as_git() {
        for content in [
            &b"[core]\nhooksPath = a"[..],
            b"[CORE]\n  HOOKSPATH=\"a b\"",
            b"[core] hooksPath = a",
            b"[core]\nhooksPath = a\nhooksPath = b",
            b"[core]\nhooksPath = a\\\nb",
            b"[core]\nhooksPath = a \\\n",
            b"[core]\nhooksPath = a\r\\",
            b"[core]\nhooksPath = \"a;b\" ; c",
            b"[core]\nhooksPath = a\\\\b \\\"c",
            b"[core]\nhooksPath = a\"b # c\"d # e",
            b"[core]\nhooksPath",
            b"[core]\nhooksPath =",
            b"[core \"x\"]\nhooksPath = a",
            b"[include]\npath = ../x\n[includeIf \"gitdir:~/a\\\"b\"]path=y",
            b"[core]\r\nhooksPath = a\r\n",
            b"\xef\xbb\xbf[core]\na = \tb\t c \t\n",
            b"[a.B]\nc = d",
            b"hooksPath = a",
            b"[core",
            b"[core]\na = \"b",
            b"[core]\na b",
        ] {
            if let Some(expected) = as_git_reads(content) {
                assert_eq!(pairs(content), expected, "{}", String::from_utf8_lossy(content));
            }
        }
    }

    #[test]
    fn parse_of_a_long_section_borrows_its_name_in_every_variable() {
        let content = [b"[core \"", &vec![b'x'; 1 << 19][..], b"\"]\n", &b"a\n".repeat(1 << 18)].concat();
        let (mut variables, mut names) = (0, std::collections::HashSet::new());
        parse(&content, |variable| {
            assert_eq!((variable.section(), variable.key.as_slice()), (&b"core"[..], &b"a"[..]));
            names.extend(variable.section.map(std::ptr::from_ref));
            variables += 1;
        });
        assert_eq!((variables, names.len()), (1 << 18, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn parse_random_files_as_git(pieces in prop::collection::vec(prop::sample::select(vec![
            "[core]", "[a \"B c\"]", "[A.b]", "[", "]", "x", "hooksPath", " = ", "=", "\"", "\\", "\\\n", "\\n", "\\\"", "\n",
            "\r\n", "\r", " ", "\t", "#", ";", "a-1", "../b", "é", "\u{feff}",
        ]), 0..14), header in prop::bool::ANY) {
            let mut content = if header { b"[s]\nk = ".to_vec() } else { Vec::new() };
            content.extend(pieces.concat().into_bytes());
            prop_assume!(comparable(&content));
            if let Some(expected) = as_git_reads(&content) {
                prop_assert_eq!(pairs(&content), expected);
            }
        }

        #[test]
        fn parse_of_any_bytes_terminates(content in prop::collection::vec(prop::num::u8::ANY, 0..200)) {
            parse(&content, |_| ());
        }
    }
}
