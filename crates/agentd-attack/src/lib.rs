//! Attacks that run *inside* a sandbox and try to get out. A claim of the probe and the attack that checks it are one definition:
//! a [`Check`]. The program that makes the sandbox executes its own image in it under the name [`ROLE`]; [`main`] then runs.
//!
//! An attack only shows that a way is open; it changes nothing on the other side.

mod files;
mod network;
mod privileges;
mod processes;
mod runner;
mod sys;
mod syscalls;

pub use runner::{main, parse_line};

use agentd_core::Bit;
use std::collections::BTreeMap;

/// `argv[0]` under which the attacks run. The other arguments are `key=value` facts and names of checks.
pub const ROLE: &str = "agentd-attack";

/// What an attack came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The sandbox held.
    Held,
    /// It did not; the text says what was possible.
    Broken(String),
    /// The attack could not be tried, which proves nothing.
    NotTried(String),
}

/// One attack.
pub struct Check {
    /// Its name: the line of PITFALLS it replays, and what it tries.
    pub name: &'static str,
    /// The claim that it checks.
    pub bit: Bit,
    /// What to do when it does not hold.
    pub remedy: &'static str,
    run: fn(&Facts) -> Verdict,
}

/// What the outside prepared: `secret_path`, `host_file`, `loopback_port`, `abstract_name`, `unix_path`, `host_pid`, `workspace`,
/// `readonly`, `shm_id`, `shm_file`, `queue`, `host_marker`, `env_marker`;
/// of a sandbox with a root of its own also `own_root` and `capabilities`, a hexadecimal mask of those it keeps; of one in a machine of its
/// own also `own_machine`; of one that is granted nothing also `no_grants`.
#[derive(Debug, Default, Clone)]
pub struct Facts(BTreeMap<String, String>);

impl Facts {
    /// From pairs of names and values.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(pairs.into_iter().collect())
    }

    /// As arguments for [`main`].
    pub fn to_args(&self) -> Vec<String> {
        self.0.iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// Whether the root is the sandbox's own (`own_root=1`), so that changing it changes nothing of the host's.
    fn has_own_root(&self) -> bool {
        self.0.get("own_root").is_some_and(|value| value == "1")
    }

    /// Whether the machine is the sandbox's own (`own_machine=1`), with its programs, accounts and ids.
    fn has_own_machine(&self) -> bool {
        self.0.get("own_machine").is_some_and(|value| value == "1")
    }

    /// Whether nothing of the host is granted (`no_grants=1`); the workspace is a directory of the sandbox's own then.
    fn has_no_grants(&self) -> bool {
        self.0.get("no_grants").is_some_and(|value| value == "1")
    }

    /// The same facts and one more.
    #[must_use]
    pub fn with(mut self, key: &str, value: String) -> Self {
        self.0.insert(key.to_owned(), value);
        self
    }

    fn get(&self, key: &str) -> Result<&str, Verdict> {
        self.0.get(key).map(String::as_str).ok_or_else(|| Verdict::NotTried(format!("the fact {key} is missing")))
    }
}

/// Attacks on what a machine of the sandbox's own has for itself: there they would prove nothing.
const ON_A_SHARED_SYSTEM: [&str; 2] = ["a3_find_the_system_writable", "a7_read_accounts_and_homes"];

/// Attacks on what is granted of the host.
const ON_GRANTS: [&str; 2] = ["a3_change_a_read_only_grant", "a6_leave_a_set_id_program_in_the_workspace"];

/// Every attack that these facts give a meaning.
pub fn checks(facts: &Facts) -> impl Iterator<Item = &'static Check> + use<> {
    let shared = !facts.has_own_machine();
    let granted = !facts.has_no_grants();
    all().filter(move |check| {
        (shared || !ON_A_SHARED_SYSTEM.contains(&check.name)) && (granted || !ON_GRANTS.contains(&check.name))
    })
}

/// Every attack.
fn all() -> impl Iterator<Item = &'static Check> {
    [files::CHECKS, network::CHECKS, processes::CHECKS, privileges::CHECKS, syscalls::CHECKS].into_iter().flatten()
}

/// Shorthand for checks that have nothing more to say than whether a thing was possible.
fn refused(possible: bool, what: impl FnOnce() -> String) -> Verdict {
    if possible { Verdict::Broken(what()) } else { Verdict::Held }
}

/// The first of many verdicts that is not [`Verdict::Held`].
fn first(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    verdicts.into_iter().find(|v| *v != Verdict::Held).unwrap_or(Verdict::Held)
}
