//! The command of a capability, with its parameters filled in.

use super::argument::{Argument, ArgumentError, pointer_of};
use crate::schema::Schema;
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{fmt, time::Duration};

/// How parameters become a command.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CommandTemplate {
    /// The program and its arguments.
    argv: Vec<Argument>,
    /// The parameters with the content of standard input.
    #[serde(default)]
    stdin: StdinTemplate,
    /// The parameter with the working directory.
    cwd: Option<String>,
    /// The parameter with environment variables, an object of strings.
    env: Option<String>,
    /// The parameter with the time limit in milliseconds.
    timeout: Option<String>,
    /// The form of the result.
    #[serde(default)]
    pub(crate) output: OutputForm,
}

/// The parameters with the content of standard input: at most one of them may be present.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdinTemplate {
    /// The parameter with text.
    text: Option<String>,
    /// The parameter with bytes in base64.
    base64: Option<String>,
}

/// How the output of a command becomes the result of a capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputForm {
    /// The result has the exit code and both streams.
    #[default]
    Streams,
    /// Standard output is the result: JSON that the manifest's schema describes.
    Json,
}

/// A command whose parameters are filled in. [`fmt::Debug`] prints no argument, because arguments may be secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// The program and its arguments. There is at least one.
    pub argv: Vec<String>,
    /// The content of standard input.
    pub stdin: Vec<u8>,
    /// The working directory: absolute, or relative to the workspace.
    pub cwd: Option<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// The time limit that the parameters request.
    pub timeout: Option<Duration>,
}

impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandLine({} arguments, {} bytes of input)", self.argv.len(), self.stdin.len())
    }
}

impl CommandTemplate {
    /// Compares the template with the schema of the parameters.
    ///
    /// # Errors
    /// A message about the first part that does not fit.
    pub(super) fn check(&self, parameters: &Schema) -> Result<(), String> {
        if self.argv.is_empty() {
            return Err("argv is empty — name a program".to_owned());
        }
        self.argv.iter().try_for_each(|argument| argument.check(parameters))?;
        let StdinTemplate { text, base64 } = &self.stdin;
        let named = [("stdin", text, "string"), ("stdin", base64, "string"), ("cwd", &self.cwd, "string")];
        let named = named.into_iter().chain([("env", &self.env, "object"), ("timeout", &self.timeout, "integer")]);
        for (key, name, kind) in named {
            let Some(name) = name else { continue };
            let property = parameters.property(name);
            if property.and_then(|property| property.get("type")).and_then(Value::as_str) != Some(kind) {
                return Err(format!("{key}: the schema must have a property {name:?} of type {kind}"));
            }
            let is_text =
                |schema: &Value| schema["additionalProperties"]["type"] == "string" && schema.get("properties").is_none();
            if kind == "object" && !property.is_some_and(is_text) {
                return Err(format!("{key}: state additionalProperties = {{ type = \"string\" }} for the property {name:?}"));
            }
        }
        Ok(())
    }

    /// Returns the command for valid parameters.
    ///
    /// # Errors
    /// [`ArgumentError`] for a value that cannot be passed to a program in this way.
    pub(crate) fn fill(&self, parameters: &Map<String, Value>) -> Result<CommandLine, ArgumentError> {
        let mut command = CommandLine::default();
        self.argv.iter().try_for_each(|argument| argument.fill(parameters, &mut command.argv))?;
        let error = |name: &str, reason| ArgumentError { pointer: pointer_of(name), reason };
        if command.argv.first().is_none_or(String::is_empty) {
            return Err(ArgumentError { pointer: String::new(), reason: "the parameters name no program" });
        }
        if let Some((name, cwd)) = text(&self.cwd, parameters) {
            if cwd.is_empty() || cwd.contains('\0') {
                return Err(error(name, "a path is not empty and contains no NUL character"));
            }
            command.cwd = Some(cwd.to_owned());
        }
        command.stdin = match (text(&self.stdin.text, parameters), text(&self.stdin.base64, parameters)) {
            (Some(_), Some((name, _))) => return Err(error(name, "standard input is given twice")),
            (Some((_, text)), None) => text.as_bytes().to_vec(),
            (None, Some((name, base64))) => {
                BASE64.decode(base64.as_bytes()).map_err(|_| error(name, "the value is not base64 with padding"))?
            }
            (None, None) => Vec::new(),
        };
        if let Some((name, variables)) = self.env.as_ref().and_then(|name| Some((name, parameters.get(name)?.as_object()?))) {
            for (variable, value) in variables {
                let value = value.as_str().unwrap_or_default();
                if variable.is_empty() || variable.contains(['=', '\0']) || value.contains('\0') {
                    return Err(error(name, "the name of a variable is not empty, and has no `=`; nothing has a NUL character"));
                }
                command.env.push((variable.clone(), value.to_owned()));
            }
        }
        if let Some((name, timeout)) = self.timeout.as_ref().and_then(|name| Some((name, parameters.get(name)?))) {
            let millis = timeout.as_u64().filter(|millis| *millis > 0);
            command.timeout = Some(Duration::from_millis(millis.ok_or_else(|| error(name, "write a positive integer"))?));
        }
        Ok(command)
    }
}

/// Returns the parameter with this name, and its text; `None` if it is absent.
fn text<'p>(name: &'p Option<String>, parameters: &'p Map<String, Value>) -> Option<(&'p str, &'p str)> {
    let name = name.as_deref()?;
    Some((name, parameters.get(name)?.as_str()?))
}
