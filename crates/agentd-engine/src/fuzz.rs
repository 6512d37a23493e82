//! Entry points of the fuzz targets in `fuzz/`. Each returns how much of its input was valid; its error is an invariant that the
//! input broke.

use crate::{
    capability::{Capability, CapabilityRegistry, Run},
    parameters::parse_parameters,
};
use agentd_records::json::{canonical_of_any, parse};
use serde_json::{Map, Value};
use std::sync::OnceLock;

/// Reads a manifest, and fills its command with no parameters if its schema accepts that.
///
/// # Errors
/// A manifest was accepted twice with different results, or its command was filled for parameters that the schema refuses.
pub fn manifest(bytes: &[u8]) -> Result<usize, String> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Ok(0) };
    let Ok(capability) = Capability::parse(text) else { return Ok(0) };
    let name = capability.id();
    let registry = CapabilityRegistry::default().with([("fuzzed", text)]).map_err(|error| error.to_string())?;
    let again = registry.find(&name).map_err(|error| error.to_string())?;
    if again.digest != capability.digest || again.bounds != capability.bounds {
        return Err(format!("{name} was read in two ways"));
    }
    let Run::Command(template) = &capability.run else { return Err(format!("{name} has no command")) };
    let empty = Map::new();
    let is_valid = capability.parameters.validate(&Value::Object(empty.clone())).is_ok();
    Ok(1 + usize::from(is_valid && template.fill(&empty).is_ok()))
}

/// Parses parameters, validates them with the schema of every built-in command, and fills the commands that accept them.
///
/// # Errors
/// The canonical form is not that of the same value, or a command was filled with fewer or other arguments than it must have.
pub fn parameters(bytes: &[u8]) -> Result<usize, String> {
    let Ok(parameters) = parse_parameters(bytes) else { return Ok(0) };
    let value = Value::Object(parameters.clone());
    let canonical = canonical_of_any(&value).map_err(|error| error.to_string())?;
    let again = parse::<Value>(canonical.as_bytes()).map_err(|error| error.to_string())?;
    let second = canonical_of_any(&again).map_err(|error| error.to_string())?;
    if second != canonical {
        return Err(format!("{canonical} became {second}"));
    }
    let mut valid = 1;
    for capability in built_in()?.iter().filter(|capability| capability.parameters.validate(&value).is_ok()) {
        valid += 1;
        let Run::Command(template) = &capability.run else { continue };
        if matches!(template.session(&parameters), Ok(Some(cell)) if cell.handle.is_empty()) {
            return Err(format!("{}: a session has no handle", capability.id()));
        }
        let Ok(command) = template.fill(&parameters) else { continue };
        if command.argv.is_empty() || command.argv.iter().any(|argument| argument.contains('\0')) {
            return Err(format!("{}: an argument cannot be passed", capability.id()));
        }
        valid += 1;
    }
    Ok(valid)
}

/// Returns the built-in capabilities, whose schemas are compiled once.
fn built_in() -> Result<&'static CapabilityRegistry, String> {
    static BUILT_IN: OnceLock<Result<CapabilityRegistry, String>> = OnceLock::new();
    let built_in = BUILT_IN.get_or_init(|| CapabilityRegistry::built_in().map_err(|error| error.to_string()));
    built_in.as_ref().map_err(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seed.rs"));

    const SHELL: &str = include_str!("../capabilities/shell.exec.v1.toml");
    const CODE: &str = include_str!("../capabilities/code.run.v1.toml");
    const CALLS: [&str; 3] = [
        r#"{"command":"a","env":{"A":"b"},"timeout_ms":5}"#,
        r#"{"argv":["-a",""],"stdin_base64":"AP8="}"#,
        r#"{"language":"python","source":"1.5","args":["-b"]}"#,
    ];

    #[test]
    fn seeds_are_accepted() {
        for (name, seed) in [("shell", SHELL), ("code", CODE)] {
            assert!(manifest(seed.as_bytes()).unwrap() > 0, "{name}");
            keep_seed("engine_manifest", name, seed.as_bytes());
        }
        for (name, seed) in ["command", "argv", "code"].iter().zip(CALLS) {
            assert_eq!(parameters(seed.as_bytes()), Ok(3), "{name}");
            keep_seed("engine_parameters", name, seed.as_bytes());
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        /// Changes some bytes of a valid input.
        #[test]
        fn changed_inputs_break_no_invariant(
            changes in proptest::collection::vec((proptest::prelude::any::<usize>(), proptest::prelude::any::<u8>()), 1..4),
        ) {
            let changed = |seed: &str| {
                let mut bytes = seed.as_bytes().to_vec();
                for (at, value) in &changes {
                    let at = at % bytes.len();
                    bytes[at] = *value;
                }
                bytes
            };
            proptest::prop_assert_eq!(manifest(&changed(SHELL)).err(), None);
            for seed in CALLS {
                proptest::prop_assert_eq!(parameters(&changed(seed)).err(), None);
            }
        }
    }
}
