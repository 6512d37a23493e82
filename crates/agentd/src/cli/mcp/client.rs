//! The agents that `agentd mcp install` knows: where their configuration is, and how an entry in it looks.

use super::super::args::{ClientName, McpScope};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The name of the entry.
pub(super) const ENTRY: &str = "agentd";

/// The time in seconds that Codex waits for the result of a tool; its own limit is one minute. An approval may take 15 minutes.
const CODEX_TOOL_TIMEOUT: u32 = 1000;

/// The syntax of a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    /// JSON, perhaps with comments.
    Json,
    /// TOML.
    Toml,
}

/// Where and how an agent is told about agentd.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    /// The directory that the user works in or owns. Its path is trusted.
    pub base: PathBuf,
    /// The file, relative to the base. No part of this path may be a symbolic link.
    pub file: PathBuf,
    /// The syntax of the file.
    pub syntax: Syntax,
    /// The key of the table with all servers.
    pub table: &'static str,
    /// The entry.
    pub entry: Value,
}

/// The directories of the user, as the environment states them.
#[derive(Debug, Clone, Default)]
pub(super) struct UserDirectories {
    pub home: Option<PathBuf>,
    pub claude: Option<PathBuf>,
    pub codex: Option<PathBuf>,
    pub xdg_config: Option<PathBuf>,
}

impl UserDirectories {
    /// Returns the directories that the environment of this process names.
    pub fn of_environment() -> Self {
        let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            home: named("HOME"),
            claude: named("CLAUDE_CONFIG_DIR"),
            codex: named("CODEX_HOME"),
            xdg_config: named("XDG_CONFIG_HOME"),
        }
    }
}

/// Returns where and how an agent is told about agentd. `here` is the current directory, `program` is agentd's own executable.
///
/// # Errors
/// A message, if there is no directory of the user.
pub(super) fn target(
    client: ClientName,
    scope: McpScope,
    here: &Path,
    user: &UserDirectories,
    program: &str,
) -> Result<Target, String> {
    // A project's file is often shared with other users, whose agentd is elsewhere.
    let command = if scope == McpScope::Project { "agentd" } else { program };
    let (base, file) = match scope {
        McpScope::Project => (here.to_path_buf(), project_file(client, here)),
        McpScope::User => user_file(client, user)?,
    };
    let (table, entry) = match client {
        ClientName::ClaudeCode => ("mcpServers", json!({ "type": "stdio", "command": command, "args": ["mcp"] })),
        ClientName::Codex => {
            ("mcp_servers", json!({ "command": command, "args": ["mcp"], "tool_timeout_sec": CODEX_TOOL_TIMEOUT }))
        }
        // The editor starts a server elsewhere, and replaces the variable.
        ClientName::Cursor => ("mcpServers", json!({ "command": command, "args": ["mcp", "--workspace", "${workspaceFolder}"] })),
        ClientName::Vscode => {
            ("servers", json!({ "type": "stdio", "command": command, "args": ["mcp", "--workspace", "${workspaceFolder}"] }))
        }
        ClientName::Gemini => ("mcpServers", json!({ "command": command, "args": ["mcp"] })),
        ClientName::Opencode => ("mcp", json!({ "type": "local", "command": [command, "mcp"], "enabled": true })),
    };
    let syntax = if client == ClientName::Codex { Syntax::Toml } else { Syntax::Json };
    Ok(Target { base, file, syntax, table, entry })
}

fn project_file(client: ClientName, here: &Path) -> PathBuf {
    match client {
        ClientName::ClaudeCode => ".mcp.json".into(),
        ClientName::Codex => ".codex/config.toml".into(),
        ClientName::Cursor => ".cursor/mcp.json".into(),
        ClientName::Vscode => ".vscode/mcp.json".into(),
        ClientName::Gemini => ".gemini/settings.json".into(),
        ClientName::Opencode => opencode_file(here),
    }
}

fn user_file(client: ClientName, user: &UserDirectories) -> Result<(PathBuf, PathBuf), String> {
    let home = || user.home.clone().ok_or("find the configuration: no home directory is known — set HOME".to_owned());
    let config = || user.xdg_config.clone().map_or_else(|| Ok::<_, String>(home()?.join(".config")), Ok);
    Ok(match client {
        ClientName::ClaudeCode => (user.claude.clone().map_or_else(home, Ok)?, ".claude.json".into()),
        ClientName::Codex => match &user.codex {
            Some(codex) => (codex.clone(), "config.toml".into()),
            None => (home()?, ".codex/config.toml".into()),
        },
        ClientName::Cursor => (home()?, ".cursor/mcp.json".into()),
        ClientName::Vscode => (config()?, "Code/User/mcp.json".into()),
        ClientName::Gemini => (home()?, ".gemini/settings.json".into()),
        ClientName::Opencode => {
            let base = config()?;
            let file = Path::new("opencode").join(opencode_file(&base.join("opencode")));
            (base, file)
        }
    })
}

/// Returns the file that opencode reads: the one with comments, if it is the only one.
fn opencode_file(folder: &Path) -> PathBuf {
    let exists = |name: &str| folder.join(name).symlink_metadata().is_ok();
    if exists("opencode.jsonc") && !exists("opencode.json") { "opencode.jsonc".into() } else { "opencode.json".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    fn user() -> UserDirectories {
        UserDirectories { home: Some("/home/u".into()), ..UserDirectories::default() }
    }

    #[test]
    fn every_agent_has_a_file_in_both_scopes() {
        for client in ClientName::value_variants() {
            for scope in [McpScope::Project, McpScope::User] {
                let target = target(*client, scope, Path::new("/nonexistent"), &user(), "/opt/agentd").unwrap();
                let text = target.entry.to_string();
                assert_eq!(text.contains("/opt/agentd"), scope == McpScope::User, "{text}");
                assert!(target.file.is_relative() && text.contains("mcp"), "{target:?}");
            }
        }
    }

    #[test]
    fn variables_move_the_configuration_of_a_user() {
        let user = UserDirectories { codex: Some("/c".into()), xdg_config: Some("/x".into()), ..user() };
        let path = |client| {
            let target = target(client, McpScope::User, Path::new("/nonexistent"), &user, "agentd").unwrap();
            target.base.join(target.file)
        };
        assert_eq!(path(ClientName::Codex), Path::new("/c/config.toml"));
        assert_eq!(path(ClientName::Vscode), Path::new("/x/Code/User/mcp.json"));
        assert_eq!(path(ClientName::Opencode), Path::new("/x/opencode/opencode.json"));
        assert_eq!(path(ClientName::ClaudeCode), Path::new("/home/u/.claude.json"));
        let nowhere = target(ClientName::Gemini, McpScope::User, Path::new("/"), &UserDirectories::default(), "agentd");
        assert!(nowhere.unwrap_err().contains("set HOME"));
    }
}
