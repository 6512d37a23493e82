//! Attacks that run *inside* a sandbox and try to get out. Each claim of the probe is defined together with the attack that
//! checks it, as a [`Check`]. The program that creates the sandbox executes itself inside it under the role of an attack, which
//! calls [`main`].
//!
//! An attack only shows that an escape is possible; it changes nothing outside the sandbox.

mod check;
mod egress;
mod files;
mod network;
mod privileges;
mod processes;
mod runner;
mod set_id;
mod sys;
mod syscalls;

use agentd_core::Claim;

pub use check::{BUG, Check, Facts, Verdict};
pub use runner::{main, parse_line};

/// Attacks that are left out in a machine, because they attack resources that the machine does not share with the host.
const ON_A_SHARED_SYSTEM: [&str; 3] =
    ["a3_find_a_writable_system_directory", "a7_read_accounts_and_homes", "a7_read_a_secret_of_etc_after_changing_it"];

/// Attacks on grants of host files.
const ON_GRANTS: [&str; 2] = ["a3_change_a_read_only_grant", "a6_leave_a_set_id_program_in_the_workspace"];

/// Returns every attack that proves something under these facts. With the fact `granted`, these are the attacks on the gateway to
/// granted hosts. Without it, these are all other attacks.
pub fn checks(facts: &Facts) -> impl Iterator<Item = &'static Check> + use<> {
    let gateway = facts.has_granted_hosts();
    let shared = !facts.has_own_machine();
    let granted = !facts.has_no_grants();
    all().filter(move |check| {
        (check.claim == Claim::Egress) == gateway
            && (shared || !ON_A_SHARED_SYSTEM.contains(&check.name))
            && (granted || !ON_GRANTS.contains(&check.name))
    })
}

/// Every attack.
fn all() -> impl Iterator<Item = &'static Check> {
    let tables = [files::CHECKS, network::CHECKS, egress::CHECKS, processes::CHECKS, privileges::CHECKS, syscalls::CHECKS];
    tables.into_iter().flatten()
}
