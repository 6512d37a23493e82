//! Entry points of the fuzz targets in `fuzz/`. Each function returns how much of its input was valid, or the invariant that the
//! input broke.

use crate::{AnnotationProblem, Obligations, PolicyFile, PolicyRequest, PolicySet, RequestedConfinement, Vocabulary, explain};
use serde_json::json;
use std::collections::BTreeSet;

/// The backends of the target.
const BACKENDS: [&str; 2] = ["container", "host-direct"];

/// Loads policies, decides about a request, and explains the decision.
///
/// # Errors
/// A policy has no obligations, the obligations are not those that their text states, or an explanation contradicts its decision.
pub fn load(bytes: &[u8]) -> Result<usize, String> {
    let vocabulary = vocabulary().map_err(|error| error.to_string())?;
    let file = PolicyFile { name: "fuzzed".to_owned(), text: String::from_utf8_lossy(bytes).into_owned() };
    let Ok(set) = PolicySet::parse(&[file], &vocabulary) else { return Ok(0) };
    let request: PolicyRequest = serde_json::from_value(json!({
        "principal": { "kind": "agent", "name": "ci", "groups": ["builders"] },
        "capability": "shell.exec.v1",
        "resources": [{ "type": "path", "path": "/srv/ci", "write": true }],
        "parameters": { "command": "make" },
        "time": "2026-01-31T12:30:00.000000Z",
        "source": { "transport": "local-socket" },
    }))
    .map_err(|error| error.to_string())?;
    let explained = explain(&set, &request, &RequestedConfinement::default());
    if let Some(obligations) = explained.decision.obligations() {
        if explained.determining.len() != explained.decision.policies.len() {
            return Err(format!("a permit applies whose conditions do not hold: {explained}"));
        }
        let again = read(obligations).map_err(|error| error.to_string())?;
        if again != *obligations {
            return Err(format!("{obligations:?} became {again:?}"));
        }
    }
    Ok(set.len())
}

/// Returns the obligations that the annotations of `of` state.
fn read(of: &Obligations) -> Result<Obligations, AnnotationProblem> {
    let mut read = Obligations::usual(BTreeSet::new());
    for (name, value) in of.annotations() {
        if name != "approval" && !value.is_empty() {
            read.set(name, &value, &BACKENDS)?;
        }
    }
    read.approvals.clone_from(&of.approvals);
    Ok(read)
}

fn vocabulary() -> Result<Vocabulary, crate::PolicyError> {
    let parameters = json!({ "properties": { "command": { "type": "string" }, "count": { "type": "integer" } } });
    let vocabulary = Vocabulary::default().capability("shell.exec.v1", &parameters, ["destructive"])?;
    Ok(vocabulary.backend(BACKENDS[0], true).backend(BACKENDS[1], false))
}

#[cfg(test)]
mod tests {
    use super::*;

    include!("../../../fuzz/seed.rs");

    #[test]
    fn seeds_are_policies() {
        let annotated = r#"@id("a") @profile("strict") @timeout("30s") @memory("1G") @processes("9") @cpus("1.5") @file_size("1M")
            @egress("*.example, a.test:80/GET:/x") @backend("container") @approval("ask")
            permit (principal in Group::"builders", action in [Action::"shell"], resource is Path in Path::"/srv")
            when { context.parameters has command && context.parameters.command like "ma*" }
            unless { context.source has address };"#;
        let forbid = r#"@id("b") @reason("late") forbid (principal, action, resource)
            when { context.time.toTime() > duration("18h") || !(["x", "y"].contains(principal.name)) };"#;
        let failing = r#"@id("c") permit (principal, action == Action::"shell.exec.v1", resource)
            when { context.parameters has count && context.parameters.count * 9223372036854775807 > 1 };"#;
        for (name, text, policies) in [
            ("default", PolicySet::default_text(), 4),
            ("annotated", annotated, 1),
            ("forbid", forbid, 1),
            ("failing", failing, 1),
        ] {
            assert_eq!(load(text.as_bytes()), Ok(policies), "{name}");
            keep_seed("policy_load", name, text.as_bytes());
        }
        assert_eq!(load(b"permit"), Ok(0));
    }
}
