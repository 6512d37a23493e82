//! The principal of the command line: the local user.

use super::{failure::Failure, records};
use agentd_policy::{PolicyPrincipal, PrincipalKind};
use rustix::process::{getegid, getgroups};
use std::collections::BTreeSet;

/// Returns this user: `user:uid:N`, in the groups `gid:N` of this process. Numbers are those of the kernel. Names of users and
/// groups may come from a directory service, and change.
///
/// # Errors
/// The kernel does not return the groups.
pub(crate) fn principal() -> Result<PolicyPrincipal, Failure> {
    let name = String::from(records::principal()?);
    let supplementary = getgroups()
        .map_err(|errno| format!("find the groups of this user: getgroups: {errno} — check that getgroups(2) works"))?;
    let numbers: BTreeSet<u32> = supplementary.into_iter().chain([getegid()]).map(|group| group.as_raw()).collect();
    let groups = numbers.into_iter().map(|number| format!("gid:{number}")).collect();
    Ok(PolicyPrincipal { kind: PrincipalKind::User, name, groups, acts_for: None })
}
