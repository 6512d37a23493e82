//! `agentd capability`: lists and describes capabilities.

use super::{args::CapabilityCommand, call, failure::Failure};
use agentd_core::escape;
use agentd_engine::{Capability, Run};
use serde_json::{Value, json};
use std::io::Write as _;

/// The widest column of names.
const COLUMN: usize = 24;

/// Runs a subcommand. Returns the exit code.
pub(crate) fn capability(command: &CapabilityCommand) -> Result<u8, Failure> {
    let registry = call::registry()?;
    let mut out = std::io::stdout().lock();
    match command {
        CapabilityCommand::Ls { json: true } => {
            let all: Vec<_> = registry.iter().map(summary).collect();
            writeln!(out, "{}", escape::json(&format!("{:#}", Value::from(all))))?;
        }
        CapabilityCommand::Ls { json: false } => {
            for capability in registry.iter() {
                let description = escape::text(&capability.description).to_string();
                writeln!(out, "{:COLUMN$}  {}", capability.id(), first_words(&description, 80 - COLUMN - 2))?;
            }
        }
        CapabilityCommand::Show { name, json: true } => {
            writeln!(out, "{}", escape::json(&format!("{:#}", described(registry.find(name)?))))?;
        }
        CapabilityCommand::Show { name, json: false } => show(&mut out, registry.find(name)?)?,
    }
    Ok(0)
}

/// Returns the text, or as many of its first words as have at most this number of characters, with a mark.
fn first_words(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut line = String::new();
    for word in text.split(' ') {
        if line.chars().count() + word.chars().count() + " …".chars().count() > most {
            break;
        }
        line.push_str(word);
        line.push(' ');
    }
    line + "…"
}

fn summary(capability: &Capability) -> Value {
    json!({
        "capability": capability.id(),
        "description": capability.description,
        "annotations": capability.annotations,
    })
}

fn described(capability: &Capability) -> Value {
    let bounds = &capability.bounds;
    let mut object = summary(capability);
    object["manifest_sha256"] = json!(capability.digest);
    object["runs"] = json!(match capability.run {
        Run::Command(_) => "command",
        Run::Tool(_) | Run::Sandbox(_) => "built-in",
    });
    object["sandbox"] = json!({
        "profile": bounds.profile,
        "workspace": bounds.workspace,
        "egress": bounds.network.hosts().map(|hosts| hosts.iter().map(ToString::to_string).collect::<Vec<_>>()),
        "limits": bounds.limits,
    });
    object["parameters"] = capability.parameters.text().clone();
    object["result"] = capability.result.as_ref().map(|schema| schema.text().clone()).unwrap_or_default();
    object
}

fn show(out: &mut impl std::io::Write, capability: &Capability) -> Result<(), Failure> {
    let words: Vec<_> = capability.annotations.words().collect();
    let object = described(capability);
    writeln!(out, "{}: {}", capability.id(), escape::text(&capability.description))?;
    writeln!(out, "properties: {}", if words.is_empty() { "none".to_owned() } else { words.join(", ") })?;
    writeln!(out, "sandbox: {}", object["sandbox"])?;
    writeln!(out, "parameters: {}", escape::json(&format!("{:#}", object["parameters"])))?;
    if capability.result.is_some() {
        writeln!(out, "result: {}", escape::json(&format!("{:#}", object["result"])))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::first_words;

    #[test]
    fn long_descriptions_end_after_a_word() {
        for (text, most, expected) in [
            ("Reads a file", 12, "Reads a file"),
            ("Reads a file", 11, "Reads a …"),
            ("Reads a file", 8, "Reads …"),
            ("Reads a file", 3, "…"),
            ("Übergrößenträger einer", 18, "Übergrößenträger …"),
        ] {
            assert_eq!(first_words(text, most), expected, "{text} {most}");
        }
    }
}
