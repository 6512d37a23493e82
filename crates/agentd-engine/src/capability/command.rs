//! The command of a capability, with its parameters filled in.

use super::{
    argument::{Argument, ArgumentError, pointer_of},
    session::{SessionCall, SessionTemplate},
};
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
    /// The parameter with the size of a pseudo-terminal, an object with `rows` and `cols`.
    pty: Option<String>,
    /// The parameters of an interpreter session.
    session: Option<SessionTemplate>,
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
    /// The parameter that requests the bytes that the caller sends while the command runs.
    stream: Option<String>,
}

/// A pseudo-terminal that the parameters request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestedPty {
    /// Rows, in characters.
    pub rows: Option<u16>,
    /// Columns, in characters.
    pub cols: Option<u16>,
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
    /// True if standard input is what the caller sends while the command runs.
    pub stream_stdin: bool,
    /// The terminal of the command, instead of pipes.
    pub pty: Option<RequestedPty>,
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
    /// Returns the name of the parameter that requests the bytes that the caller sends while the command runs.
    pub fn stream_parameter(&self) -> Option<&str> {
        self.stdin.stream.as_deref()
    }

    /// Compares the template with the schema of the parameters.
    ///
    /// # Errors
    /// A message about the first part that does not fit.
    pub(super) fn check(&self, parameters: &Schema) -> Result<(), String> {
        if self.argv.is_empty() {
            return Err("argv is empty — name a program".to_owned());
        }
        self.argv.iter().try_for_each(|argument| argument.check(parameters))?;
        let StdinTemplate { text, base64, stream } = &self.stdin;
        let named = [("stdin", text, "string"), ("stdin", base64, "string"), ("stdin", stream, "boolean")];
        let others = [("cwd", &self.cwd, "string"), ("env", &self.env, "object"), ("timeout", &self.timeout, "integer")];
        let named = named.into_iter().chain(others).chain([("pty", &self.pty, "object")]);
        for (key, name, kind) in named {
            let Some(name) = name else { continue };
            let property = parameters.property(name);
            if property.and_then(|property| property.get("type")).and_then(Value::as_str) != Some(kind) {
                return Err(format!("{key}: the schema must have a property {name:?} of type {kind}"));
            }
            let is_text =
                |schema: &Value| schema["additionalProperties"]["type"] == "string" && schema.get("properties").is_none();
            let is_size =
                |schema: &Value| ["rows", "cols"].iter().all(|member| schema["properties"][member]["type"] == "integer");
            if key == "pty" && !property.is_some_and(is_size) {
                return Err(format!("pty: the property {name:?} must have the properties `rows` and `cols` of type integer"));
            }
            if key == "env" && !property.is_some_and(is_text) {
                return Err(format!("{key}: state additionalProperties = {{ type = \"string\" }} for the property {name:?}"));
            }
        }
        if self.pty.is_some() && self.output == OutputForm::Json {
            return Err("pty: a terminal changes the output, which must be JSON — leave out one of them".to_owned());
        }
        self.session.as_ref().map_or(Ok(()), |session| session.check(parameters))
    }

    /// Returns the cell to execute in a session; `None` if the parameters name no session.
    ///
    /// # Errors
    /// As for [`CommandTemplate::fill`].
    pub(crate) fn session(&self, parameters: &Map<String, Value>) -> Result<Option<SessionCall>, ArgumentError> {
        let call = self.session.as_ref().and_then(|session| session.fill(parameters));
        call.map(|call| Ok(SessionCall { timeout: self.timeout(parameters)?, ..call })).transpose()
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
        command.stream_stdin = self.stdin.stream.as_ref().is_some_and(|name| parameters.get(name) == Some(&Value::Bool(true)));
        if let Some(size) = self.pty.as_ref().and_then(|name| parameters.get(name)) {
            let at = |member: &str| size.get(member).and_then(Value::as_u64).and_then(|count| u16::try_from(count).ok());
            command.pty = Some(RequestedPty { rows: at("rows"), cols: at("cols") });
        }
        if !command.stdin.is_empty() && (command.stream_stdin || command.pty.is_some()) {
            let reason = "standard input is given, and is also a stream or a terminal";
            return Err(ArgumentError { pointer: String::new(), reason });
        }
        if let Some((name, variables)) = self.env.as_ref().and_then(|name| Some((name, parameters.get(name)?.as_object()?))) {
            for (variable, value) in variables {
                let value = value.as_str().unwrap_or_default();
                if variable.is_empty() || variable.contains(['=', '\0']) || value.contains('\0') {
                    return Err(error(name, "the name of a variable is not empty, and has no `=`; nothing has a NUL character"));
                }
                command.env.push((variable.clone(), value.to_owned()));
            }
        }
        command.timeout = self.timeout(parameters)?;
        Ok(command)
    }

    fn timeout(&self, parameters: &Map<String, Value>) -> Result<Option<Duration>, ArgumentError> {
        let Some((name, timeout)) = self.timeout.as_ref().and_then(|name| Some((name, parameters.get(name)?))) else {
            return Ok(None);
        };
        let millis = timeout.as_u64().filter(|millis| *millis > 0);
        let wrong = || ArgumentError { pointer: pointer_of(name), reason: "write a positive integer" };
        millis.map(Duration::from_millis).ok_or_else(wrong).map(Some)
    }
}

/// Returns the parameter with this name, and its text; `None` if it is absent.
fn text<'p>(name: &'p Option<String>, parameters: &'p Map<String, Value>) -> Option<(&'p str, &'p str)> {
    let name = name.as_deref()?;
    Some((name, parameters.get(name)?.as_str()?))
}
