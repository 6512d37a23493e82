//! `agentd sandbox regrant`: resolves the grants of a named sandbox again.

use super::{failure::Failure, grants, protection, request::followed};
use agentd_core::{Grant, escape};
use agentd_daemon::Client;
use agentd_sandboxes::{Name, SandboxStore};
use std::io::{self, Write};

/// Resolves the grants of a sandbox by the same rules as at its creation. Prints the changes of grants, and the changes of
/// protected paths that were not reported yet.
pub(crate) async fn regrant(
    client: &Client,
    state: &SandboxStore,
    name: &Name,
    follow_links: bool,
    json: bool,
) -> Result<(), Failure> {
    let record = state.record(name)?;
    let guard = grants::Guard::host();
    let mut renewed = Vec::new();
    let mut changes = Vec::new();
    for old in &record.about.spec.grants {
        let new = grants::again(old, &guard, followed(follow_links))?;
        changes.extend(change(old, &new));
        renewed.push(new);
    }
    let report = client.regrant(name, renewed).await?;
    let mut out = io::stdout().lock();
    if json {
        let mut object = serde_json::json!({ "name": name, "changes": changes });
        protection::add_limited_to(&mut object, &report);
        // The daemon reports a change once, so a report that cannot be printed here is printed to standard error.
        return Ok(writeln!(out, "{}", escape::json(&format!("{object:#}"))).inspect_err(|_| protection::warn(&report))?);
    }
    protection::warn(&report);
    for change in &changes {
        writeln!(out, "{change}")?;
    }
    if changes.is_empty() {
        writeln!(out, "unchanged")?;
    }
    Ok(())
}

/// Describes the difference between two resolutions of a grant; `None` if there is none.
fn change(old: &Grant, new: &Grant) -> Option<String> {
    let path = old.path.display();
    let moved = if new.path == old.path { String::new() } else { format!(", now at {}", new.path.display()) };
    let dropped: Vec<String> =
        old.protect.iter().filter(|name| !new.protect.contains(name)).map(|name| name.display().to_string()).collect();
    let dropped = if dropped.is_empty() { String::new() } else { format!("; no longer protected: {}", dropped.join(", ")) };
    match (&old.object, &new.object) {
        (Some(was), Some(is)) if was.is_same(is) && moved.is_empty() && dropped.is_empty() => None,
        (Some(was), Some(is)) => Some(format!("{path}: was {was}, is {is}{moved}{dropped}")),
        (_, Some(is)) => Some(format!("{path}: was not recorded, is {is}{moved}{dropped}")),
        (_, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::{Access, ObjectId};

    #[test]
    fn change_of_protected_paths_alone_is_reported() {
        let grant = Grant { object: Some(ObjectId::default()), ..Grant::new("/w", Access::ReadWrite) };
        let old = Grant { protect: vec![".envrc".into(), "hooks".into()], ..grant.clone() };
        let new = Grant { protect: vec![".envrc".into()], ..grant };
        assert_eq!(change(&old, &old), None);
        assert!(change(&old, &new).unwrap().ends_with("no longer protected: hooks"));
    }
}
