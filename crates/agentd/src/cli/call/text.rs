//! Prints the result of a capability for people.

use super::super::writer;
use agentd_core::escape;
use serde_json::Value;
use std::io::{self, Write as _};

/// Prints a result: the output of a command or cell as it is, unless it was printed before, and other results as JSON.
pub(super) fn print(result: &Value, was_live: bool) -> io::Result<()> {
    let stream = |name: &str| result[name]["text"].as_str();
    let streams = [stream("stdout").or_else(|| stream("terminal")), stream("stderr")];
    match (result, streams) {
        (Value::Null, _) => Ok(()),
        (_, [Some(out), error]) => {
            if !was_live {
                io::stdout().write_all(out.as_bytes())?;
                io::stderr().write_all(error.unwrap_or_default().as_bytes())?;
            }
            if result["session"].is_object() { cell(result) } else { Ok(()) }
        }
        _ => writeln!(io::stdout(), "{}", escape::json(&format!("{result:#}"))),
    }
}

/// Prints what a cell has reported.
fn cell(result: &Value) -> io::Result<()> {
    let displays = result["displays"].as_array().into_iter().flatten();
    for forms in displays.chain([&result["value"]]).filter_map(Value::as_object) {
        if let Some(plain) = forms.get("text/plain").and_then(Value::as_str) {
            writeln!(io::stdout(), "{}", lines(plain))?;
        }
        for (kind, form) in forms.iter().filter(|(kind, _)| kind.starts_with("image/")) {
            let length = form.as_str().map_or(0, str::len);
            writeln!(io::stdout(), "[{}, {length} characters: use --json]", escape::text(kind))?;
        }
    }
    if let Some(traceback) = result["error"]["traceback"].as_str() {
        writeln!(io::stderr(), "{}", lines(traceback.trim_end()))?;
    }
    if result["session"]["new"] == true {
        let text = |name: &str| escape::text(result["session"][name].as_str().unwrap_or_default()).to_string();
        writer::message(format_args!("session {} begins, in the sandbox {}", text("handle"), text("sandbox")));
    }
    Ok(())
}

/// Escapes each line of a text from the sandbox.
fn lines(text: &str) -> String {
    text.lines().map(|line| escape::text(line).to_string()).collect::<Vec<_>>().join("\n")
}
