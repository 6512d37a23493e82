//! The languages of sessions, and their kernels.

use std::{fmt, str::FromStr};

/// The descriptor of the socket in the kernel.
pub const CONTROL: u8 = 9;

/// A language of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Python 3.
    Python,
    /// JavaScript, in Node.
    Node,
    /// Bash.
    Bash,
}

/// The error for a language without sessions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("language {0:?} has no sessions — use python, node or bash")]
pub struct UnknownLanguage(pub String);

impl Language {
    /// All languages.
    pub const ALL: [Self; 3] = [Self::Python, Self::Node, Self::Bash];

    /// Returns the name, as parameters contain it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Bash => "bash",
        }
    }

    /// Returns the program that interprets the kernel.
    pub fn program(self) -> &'static str {
        match self {
            Self::Python => "python3",
            Self::Node => "node",
            Self::Bash => "bash",
        }
    }

    /// Returns the text of the kernel.
    pub fn kernel(self) -> &'static str {
        match self {
            Self::Python => include_str!("../kernels/python.py"),
            Self::Node => include_str!("../kernels/node.js"),
            Self::Bash => include_str!("../kernels/bash.sh"),
        }
    }

    /// Returns the path of the kernel in the sandbox.
    pub fn path(self) -> &'static str {
        match self {
            Self::Python => "/tmp/agentd-kernel.py",
            Self::Node => "/tmp/agentd-kernel.js",
            Self::Bash => "/tmp/agentd-kernel.sh",
        }
    }

    /// Returns the command of the kernel, whose standard input is the socket. A shell moves the socket to [`CONTROL`], because
    /// interpreters pass their standard input to child processes.
    pub fn command(self) -> Vec<String> {
        let script = format!("exec {CONTROL}<&0 0</dev/null; exec \"$@\"");
        ["/bin/sh", "-c", &script, "sh", self.program(), self.path()].map(str::to_owned).to_vec()
    }
}

impl FromStr for Language {
    type Err = UnknownLanguage;

    fn from_str(name: &str) -> Result<Self, UnknownLanguage> {
        let language = Self::ALL.into_iter().find(|language| language.name() == name);
        language.ok_or_else(|| UnknownLanguage(name.chars().take(64).collect()))
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_use_the_descriptor_to_which_the_command_moves_the_socket() {
        for (language, uses) in
            [(Language::Python, "CONTROL = 9\n"), (Language::Node, "new Socket({ fd: 9,"), (Language::Bash, "__agentd_cell 9>&-")]
        {
            assert_eq!(language.name().parse(), Ok(language));
            assert!(language.kernel().contains(uses), "{language}");
            assert!(language.command()[2].starts_with("exec 9<&0 "), "{language}");
        }
        assert!("perl".parse::<Language>().is_err());
    }
}
