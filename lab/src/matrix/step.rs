//! The definition of a row of the matrix.

use crate::args::KernelSeries;
use std::fmt;

/// Number of consecutive merges in which every row runs at least once.
pub const TURNS: u32 = 8;

/// Suites that run only in rows that name them: those of the lab, and those that need programs from package registries.
const ONLY_BY_NAME: [&str; 9] = [
    "microvm",
    "microvm_leaks",
    "agentd_kernel",
    "egress_clients",
    "egress_registries",
    "mcp_clients",
    "mcp_conformance",
    "serve_chaos_long",
    "transport_clients",
];

/// A row: suites × user × kernel × backends.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The row's name, unique in the table.
    pub name: &'static str,
    /// Machine, kernel and user.
    pub place: Place,
    /// Test executables.
    pub suites: Suites,
    /// Value of `AGENTD_TEST_BACKENDS`.
    pub backends: &'static str,
    /// Assets that must be built before the row starts.
    pub needs: &'static [Asset],
    /// Runs in which the row takes part.
    pub turn: Turn,
    /// Estimated processor time on an idle machine, in minutes. Correct the estimate from the tables of such runs; these tables
    /// lack the time of Gondolin's emulator.
    pub minutes: u32,
    /// The claim that the row proves, or the reason why another row makes it less urgent.
    pub why: &'static str,
}

/// The machine on which a row's suites run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Commands in the checkout, run by `bash -euo pipefail`.
    Check(&'static str),
    /// Unit and documentation tests, run by cargo.
    Units,
    /// This machine.
    Host(User),
    /// A machine of the lab.
    Lab(KernelSeries, User),
    /// Firecracker, nested in a machine of the lab.
    Microvm(User),
    /// The commands of `docs/firecracker.md`, in a machine of the lab.
    Documented,
}

/// The user that runs a row's suites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The user that runs `./test`; usually root.
    Root,
    /// An ordinary user. In the lab: with a delegated control group and subordinate ids.
    Ordinary,
    /// An ordinary user with subordinate ids.
    Ids,
    /// An ordinary user with a delegated control group of version 1.
    Group,
}

/// Rows on this host that run one after another. Rows of different lanes may run at the same time, because each suite has
/// namespaces of its own ([`private`](super::private)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Rows as the user that runs `./test`: these share the runtime directory of that user.
    Root,
    /// Rows as an ordinary user: these share the quotas of the kernel for that user.
    User,
}

/// Test executables of a row, by the names of cargo's targets.
#[derive(Debug, Clone, Copy)]
pub enum Suites {
    /// The row runs only these suites.
    Only(&'static [&'static str]),
    /// The row runs all suites that can run outside the lab, including new ones, except these.
    Except(&'static [&'static str]),
}

/// Runs in which a row takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Every run.
    Always,
    /// Every run whose rotation has this remainder, and `--all`.
    Rotates(u32),
}

/// An input that is built once per checkout, below `target/`, and shared by all rows. In the order in which they are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asset {
    /// Test executables and agentd.
    Programs,
    /// Kernels and root disk of the lab.
    Lab,
    /// A small Debian with Python, for images and machines.
    Debian,
    /// Kernel and template from which microVMs start.
    Microvm,
    /// Gondolin and its guest.
    Gondolin,
    /// Programs from package registries: agent CLIs, uv, and clients of the daemon's transports.
    Clients,
}

impl Asset {
    /// Returns all assets from which this one is built.
    pub fn needs(self) -> &'static [Self] {
        match self {
            Self::Programs | Self::Lab | Self::Debian | Self::Clients => &[],
            Self::Gondolin => &[Self::Programs],
            Self::Microvm => &[Self::Programs, Self::Debian],
        }
    }
}

impl Place {
    /// Returns true if only root can prepare the place.
    pub fn needs_root(self) -> bool {
        !matches!(self, Self::Check(_) | Self::Units | Self::Host(User::Root))
    }

    /// Returns the lane of a row on this host that creates sandboxes.
    pub fn lane(self) -> Option<Lane> {
        match self {
            Self::Units | Self::Host(User::Root) => Some(Lane::Root),
            Self::Host(_) => Some(Lane::User),
            Self::Check(_) | Self::Lab(..) | Self::Microvm(_) | Self::Documented => None,
        }
    }

    /// Returns true if tests are counted there.
    pub fn counts_tests(self) -> bool {
        !matches!(self, Self::Check(_) | Self::Documented)
    }
}

impl Suites {
    /// Returns true if the suite `name` belongs to the row.
    pub fn include(self, name: &str) -> bool {
        match self {
            Self::Only(names) => names.contains(&name),
            Self::Except(names) => !names.contains(&name) && !ONLY_BY_NAME.contains(&name),
        }
    }
}

impl fmt::Display for Suites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only([]) => f.write_str("-"),
            Self::Only(names) => f.write_str(&names.join(" ")),
            Self::Except([]) => f.write_str("all"),
            Self::Except(names) => write!(f, "all except {}", names.join(" ")),
        }
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("every run"),
            Self::Rotates(turn) => write!(f, "turn {turn} of {}", TURNS),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = |user: User| match user {
            User::Root => "root",
            User::Ordinary => "ordinary user",
            User::Ids => "ordinary user with subordinate ids",
            User::Group => "ordinary user with a version 1 control group",
        };
        match *self {
            Self::Check(_) | Self::Units => write!(f, "this host"),
            Self::Host(who) => write!(f, "this host, {}", user(who)),
            Self::Lab(KernelSeries::V6_1, who) => write!(f, "lab with Linux 6.1, {}", user(who)),
            Self::Lab(KernelSeries::V6_12, who) => write!(f, "lab with Linux 6.12, {}", user(who)),
            Self::Microvm(who) => write!(f, "microVM in the lab with Linux 6.12, {}", user(who)),
            Self::Documented => write!(f, "lab with Linux 6.12, root"),
        }
    }
}
