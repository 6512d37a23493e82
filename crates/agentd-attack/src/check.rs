//! The definition of an attack: its name and claim, the facts that it needs, and its verdict.

use crate::egress::GRANTED;
use agentd_core::Claim;
use std::collections::BTreeMap;

/// The advice for an attack that can succeed only because of a bug in agentd.
pub const BUG: &str = "report this as a bug of agentd, with the output of `agentd doctor`";

/// The result of an attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The sandbox withstood the attack.
    Held,
    /// The attack succeeded; the text names the access that was possible.
    Broken(String),
    /// The attack could not be tried, which proves nothing.
    NotTried(String),
}

/// One attack.
pub struct Check {
    /// The name of the check: the number of its group of attacks, e.g. `a5`, and the attempted action.
    pub name: &'static str,
    /// The claim that the check verifies.
    pub claim: Claim,
    /// Advice to the user if the claim does not hold.
    pub remedy: &'static str,
    pub(crate) run: fn(&Facts) -> Verdict,
}

/// Facts about the environment of the attacks, prepared outside the sandbox.
///
/// Every sandbox has `secret_path`, `host_file`, `loopback_port`, `abstract_name`, `unix_path`, `host_pid`, `workspace`,
/// `readonly`, `shm_id`, `shm_file`, `queue`, `host_marker` and `env_marker`. A sandbox with its own root also has `own_root`,
/// and `capabilities`, the hexadecimal mask of the capabilities that it keeps. A sandbox in its own machine also has
/// `own_machine`, and a sandbox without grants `no_grants`. A sandbox with granted hosts has other facts: the addresses
/// `granted`, `other_address`, `other_port` and `datagrams`, and the granted `name`.
#[derive(Debug, Default, Clone)]
pub struct Facts(BTreeMap<String, String>);

impl Facts {
    /// Creates facts from pairs of names and values.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(pairs.into_iter().collect())
    }

    /// Returns the facts as arguments for [`crate::main`].
    pub fn to_args(&self) -> Vec<String> {
        self.0.iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// Returns whether the sandbox has its own root (`own_root=1`), so that changes to the root do not affect the host.
    pub(crate) fn has_own_root(&self) -> bool {
        self.0.get("own_root").is_some_and(|value| value == "1")
    }

    /// Returns whether the sandbox runs in its own machine (`own_machine=1`), with its own programs, accounts and ids.
    pub(crate) fn has_own_machine(&self) -> bool {
        self.0.get("own_machine").is_some_and(|value| value == "1")
    }

    /// Returns whether nothing of the host is granted (`no_grants=1`). The workspace is then a directory private to the sandbox.
    pub(crate) fn has_no_grants(&self) -> bool {
        self.0.get("no_grants").is_some_and(|value| value == "1")
    }

    /// Returns true if the sandbox has granted hosts.
    pub(crate) fn has_granted_hosts(&self) -> bool {
        self.0.contains_key(GRANTED)
    }

    /// Adds one fact.
    #[must_use]
    pub fn with(mut self, key: &str, value: String) -> Self {
        self.0.insert(key.to_owned(), value);
        self
    }

    pub(crate) fn get(&self, key: &str) -> Result<&str, Verdict> {
        self.0.get(key).map(String::as_str).ok_or_else(|| Verdict::NotTried(format!("the fact {key} is missing")))
    }
}

/// Returns [`Verdict::Broken`] with the text of `what` if an attack was possible.
pub(crate) fn broken_if(possible: bool, what: impl FnOnce() -> String) -> Verdict {
    if possible { Verdict::Broken(what()) } else { Verdict::Held }
}

/// Returns the first verdict that is not [`Verdict::Held`], or [`Verdict::Held`].
pub(crate) fn first(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    verdicts.into_iter().find(|v| *v != Verdict::Held).unwrap_or(Verdict::Held)
}
