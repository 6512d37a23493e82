//! The manifest of a capability, in TOML.

use super::{
    bounds::{EgressText, SandboxBounds, WorkspaceAccess},
    command::{CommandTemplate, OutputForm},
    sandbox::SandboxCapability,
};
use crate::schema::{Schema, SchemaError};
use agentd_core::{Bytes, CpuQuota, Limits, Profile, duration};
use agentd_policy::NetworkBound;
use agentd_records::ContentDigest;
use agentd_tool::capability::ToolCapability;
use serde::Deserialize;
use serde_json::Value;
use std::fmt;

/// The longest description in bytes.
const MAX_DESCRIPTION: usize = 4096;

/// A capability, as its manifest describes it.
#[derive(Debug)]
pub struct Capability {
    /// The name without the version, such as `shell.exec`.
    pub name: String,
    /// The version, from 1.
    pub version: u32,
    /// The description of the capability, for people and models.
    pub description: String,
    /// Properties of the operation.
    pub annotations: Annotations,
    /// The widest sandbox that the capability gets.
    pub bounds: SandboxBounds,
    /// How the capability is executed.
    pub run: Run,
    /// The schema of the parameters.
    pub parameters: Schema,
    /// The schema of the result; `None` if the result has the exit code and both streams of a command.
    pub result: Option<Schema>,
    /// The digest of the manifest.
    pub digest: ContentDigest,
}

/// Properties of an operation, for the decision of a policy or a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Annotations {
    /// The operation changes nothing. Its workspace is read-only.
    pub read_only: bool,
    /// The operation may overwrite or remove something.
    pub destructive: bool,
    /// A repetition with the same parameters changes nothing more.
    pub idempotent: bool,
    /// The operation may reach things outside of this machine.
    pub open_world: bool,
}

impl Annotations {
    /// Returns the words for the properties that hold.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.read_only, "read-only"),
            (self.destructive, "destructive"),
            (self.idempotent, "idempotent"),
            (self.open_world, "open-world"),
        ];
        all.into_iter().filter(|(holds, _)| *holds).map(|(_, word)| word)
    }
}

/// How a capability is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// As a command.
    Command(Box<CommandTemplate>),
    /// As an operation of agentd's own program in the sandbox.
    Tool(&'static ToolCapability),
    /// As an operation on named sandboxes.
    Sandbox(&'static SandboxCapability),
}

/// The reason why a manifest is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The text is not TOML, or not a manifest.
    #[error("{}", .0.message())]
    Toml(#[from] toml::de::Error),
    /// The name is not one of a capability.
    #[error("name {0:?}: write 2 to 8 words of lower-case letters and digits, separated by dots, such as `text.count`")]
    Name(String),
    /// The value of a key is not valid.
    #[error("{key}: {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// The problem.
        problem: String,
    },
    /// A schema is refused.
    #[error("{key}: {source}")]
    Schema {
        /// The key.
        key: &'static str,
        /// The cause.
        source: SchemaError,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ManifestText {
    name: String,
    version: u32,
    description: String,
    #[serde(default)]
    annotations: Annotations,
    #[serde(default)]
    sandbox: SandboxText,
    #[serde(default)]
    limits: LimitsText,
    run: CommandTemplate,
    parameters: toml::Table,
    result: Option<toml::Table>,
}

/// The manifest of an operation of agentd itself, in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnManifest {
    name: String,
    description: String,
    annotations: Annotations,
    /// When absent: the workspace with the access of the annotation `read_only`, and no host.
    sandbox: Option<SandboxText>,
    parameters: Value,
    result: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct SandboxText {
    profile: Profile,
    workspace: WorkspaceAccess,
    egress: EgressText,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct LimitsText {
    timeout: Option<String>,
    cpu_time: Option<String>,
    memory: Option<String>,
    processes: Option<u32>,
    open_files: Option<u64>,
    file_size: Option<String>,
    output: Option<String>,
    cpus: Option<String>,
}

impl LimitsText {
    fn limits(&self) -> Result<Limits, String> {
        let time = |text: &Option<String>| text.as_deref().map(duration::parse).transpose();
        let bytes = |text: &Option<String>| text.as_deref().map(str::parse::<Bytes>).transpose();
        Ok(Limits {
            wall: time(&self.timeout)?,
            cpu_time: time(&self.cpu_time)?,
            memory: bytes(&self.memory)?,
            processes: self.processes,
            open_files: self.open_files,
            file_size: bytes(&self.file_size)?,
            output: bytes(&self.output)?,
            cpu_quota: self.cpus.as_deref().map(str::parse::<CpuQuota>).transpose()?,
            ..Limits::default()
        })
    }
}

impl Capability {
    /// Reads a manifest and checks that its parts fit each other.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let manifest: ManifestText = toml::from_str(text)?;
        let wrong = |key, problem: &str| Err(ManifestError::Value { key, problem: problem.to_owned() });
        if !is_name(&manifest.name) {
            return Err(ManifestError::Name(manifest.name));
        }
        if manifest.version == 0 || manifest.version > 9999 {
            return wrong("version", "write a number from 1 to 9999");
        }
        if manifest.description.trim().is_empty() || manifest.description.len() > MAX_DESCRIPTION {
            return wrong("description", "write 1 to 4096 bytes about what the capability does");
        }
        let limits = manifest.limits.limits().map_err(|problem| ManifestError::Value { key: "limits", problem })?;
        let SandboxText { profile, workspace, egress } = manifest.sandbox;
        let network = NetworkBound::from(egress);
        if manifest.annotations.read_only && (workspace == WorkspaceAccess::ReadWrite || manifest.annotations.destructive) {
            return wrong("annotations", "a read-only operation has no writable workspace and is not destructive");
        }
        if network != NetworkBound::none() && !manifest.annotations.open_world {
            return wrong("annotations", "an operation that may reach hosts is open-world");
        }
        let schema = |key, table| {
            let value = json(table).map_err(|problem| ManifestError::Value { key, problem })?;
            Schema::new(value).map_err(|source| ManifestError::Schema { key, source })
        };
        let parameters = schema("parameters", manifest.parameters)?;
        let result = manifest.result.map(|table| schema("result", table)).transpose()?;
        let run: CommandTemplate = manifest.run;
        run.check(&parameters).map_err(|problem| ManifestError::Value { key: "run", problem })?;
        if (run.output == OutputForm::Json) != result.is_some() {
            return wrong("result", "state a schema if the result is JSON (`output = \"json\"`), and otherwise none");
        }
        Ok(Self {
            name: manifest.name,
            version: manifest.version,
            description: manifest.description,
            annotations: manifest.annotations,
            bounds: SandboxBounds { profile, limits, network, workspace },
            run: Run::Command(Box::new(run)),
            parameters,
            result,
            digest: ContentDigest::of(text.as_bytes()),
        })
    }

    /// Returns the name with the version, such as `shell.exec.v1`.
    pub fn id(&self) -> String {
        format!("{}.v{}", self.name, self.version)
    }
}

impl TryFrom<&'static ToolCapability> for Capability {
    type Error = ManifestError;

    /// Returns the capability of an operation that agentd's own program carries out in the sandbox.
    fn try_from(tool: &'static ToolCapability) -> Result<Self, ManifestError> {
        Self::of_own(tool.manifest, Run::Tool(tool))
    }
}

impl TryFrom<&'static SandboxCapability> for Capability {
    type Error = ManifestError;

    /// Returns the capability of an operation on named sandboxes.
    fn try_from(sandbox: &'static SandboxCapability) -> Result<Self, ManifestError> {
        Self::of_own(sandbox.manifest, Run::Sandbox(sandbox))
    }
}

impl Capability {
    /// Returns the capability of a manifest in JSON.
    fn of_own(text: &str, run: Run) -> Result<Self, ManifestError> {
        let manifest: OwnManifest =
            serde_json::from_str(text).map_err(|error| ManifestError::Value { key: "manifest", problem: error.to_string() })?;
        let (name, version) = manifest.name.rsplit_once(".v").unwrap_or_default();
        let schema = |key, value| Schema::new(value).map_err(|source| ManifestError::Schema { key, source });
        let usual = if manifest.annotations.read_only { WorkspaceAccess::ReadOnly } else { WorkspaceAccess::ReadWrite };
        let usual = SandboxText { workspace: usual, ..SandboxText::default() };
        let SandboxText { profile, workspace, egress } = manifest.sandbox.unwrap_or(usual);
        Ok(Self {
            name: name.to_owned(),
            version: version.parse().map_err(|_| ManifestError::Name(manifest.name.clone()))?,
            description: manifest.description,
            annotations: manifest.annotations,
            bounds: SandboxBounds { profile, limits: Limits::default(), network: egress.into(), workspace },
            run,
            parameters: schema("parameters", manifest.parameters)?,
            result: Some(schema("result", manifest.result)?),
            digest: ContentDigest::of(text.as_bytes()),
        })
    }
}

/// Prints the name with the version.
impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

/// Returns true for words of lower-case letters and digits, separated by dots. No word looks like a version.
fn is_name(name: &str) -> bool {
    let is_version = |word: &str| word.strip_prefix('v').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    let is_word = |word: &str| {
        word.starts_with(|first: char| first.is_ascii_lowercase())
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            && !is_version(word)
    };
    name.len() <= 128 && (2..=8).contains(&name.split('.').count()) && name.split('.').all(is_word)
}

/// Returns a table as JSON.
fn json(table: toml::Table) -> Result<Value, String> {
    fn value_of(value: toml::Value) -> Result<Value, String> {
        Ok(match value {
            toml::Value::String(text) => text.into(),
            toml::Value::Integer(number) => number.into(),
            toml::Value::Float(number) => serde_json::Number::from_f64(number).ok_or("a number is not finite")?.into(),
            toml::Value::Boolean(flag) => flag.into(),
            toml::Value::Datetime(_) => return Err("JSON has no dates — write a string".to_owned()),
            toml::Value::Array(values) => Value::Array(values.into_iter().map(value_of).collect::<Result<_, _>>()?),
            toml::Value::Table(table) => json(table)?,
        })
    }
    let members = table.into_iter().map(|(name, member)| Ok((name, value_of(member)?)));
    Ok(Value::Object(members.collect::<Result<_, String>>()?))
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
