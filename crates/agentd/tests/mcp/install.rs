//! `agentd mcp install` and `uninstall`: the files of all agents.

use crate::client::User;
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::Output,
};

/// Each agent, its file in both scopes, and the pointer to the entry.
const AGENTS: [(&str, &str, &str, &str); 6] = [
    ("claude-code", "work/.mcp.json", "home/.claude.json", "/mcpServers/agentd"),
    ("codex", "work/.codex/config.toml", "home/.codex/config.toml", "/mcp_servers/agentd"),
    ("cursor", "work/.cursor/mcp.json", "home/.cursor/mcp.json", "/mcpServers/agentd"),
    ("vscode", "work/.vscode/mcp.json", "home/.config/Code/User/mcp.json", "/servers/agentd"),
    ("gemini", "work/.gemini/settings.json", "home/.gemini/settings.json", "/mcpServers/agentd"),
    ("opencode", "work/opencode.json", "home/.config/opencode/opencode.json", "/mcp/agentd"),
];

/// Runs `agentd mcp` with the home directory of the test.
fn run(user: &User, args: &[&str]) -> Output {
    fs::create_dir_all(user.path("home")).unwrap();
    let mut command = user.command(&[&["mcp"], args].concat());
    for name in ["CLAUDE_CONFIG_DIR", "CODEX_HOME", "XDG_CONFIG_HOME"] {
        command.env_remove(name);
    }
    command.env("HOME", user.path("home")).output().unwrap()
}

fn good(user: &User, args: &[&str]) -> String {
    let output = run(user, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn bad(user: &User, args: &[&str]) -> String {
    let output = run(user, args);
    assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn parsed(path: &std::path::Path, text: &str) -> Value {
    if path.extension().is_some_and(|extension| extension == "toml") {
        toml::from_str(text).unwrap()
    } else {
        serde_json::from_str(text).unwrap()
    }
}

#[test]
fn entry_is_installed_once_and_removed_again_for_every_agent() {
    let user = User::new();
    for (agent, project, own, pointer) in AGENTS {
        for (scope, file) in [("project", project), ("user", own)] {
            let path = user.path(file);
            good(&user, &["install", agent, "--scope", scope]);
            let text = fs::read_to_string(&path).unwrap();
            let entry = parsed(&path, &text).pointer(pointer).cloned().unwrap();
            let words = format!("{} {}", entry["command"], entry["args"]);
            assert!(words.contains("agentd") && words.contains("\"mcp\""), "{entry:#}");
            good(&user, &["install", agent, "--scope", scope]);
            assert_eq!(fs::read_to_string(&path).unwrap(), text, "the second time changes nothing");
            good(&user, &["uninstall", agent, "--scope", scope]);
            let removed = fs::read_to_string(&path).unwrap();
            assert_eq!(parsed(&path, &removed).pointer(pointer), None, "{removed}");
            good(&user, &["uninstall", agent, "--scope", scope]);
        }
    }
}

#[test]
fn other_content_of_a_file_stays_byte_for_byte() {
    let json =
        "{\n  // kept\n  \"z\": 1.0,\n  \"a\": {\"b\": [1,2]},\n  \"KEY\": {\n    \"other\": {\"command\": \"x\"}\n  }\n}\n";
    let toml = "# kept\nmodel = 'm'\n\n[KEY.other]\ncommand = \"x\"\n\n[tui]\na = 1 # why\n";
    for (agent, project, _, pointer) in AGENTS {
        let user = User::new();
        let path = user.path(project);
        let text = if agent == "codex" { toml } else { json }.replace("KEY", pointer.split('/').nth(1).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        good(&user, &["install", agent]);
        let installed = fs::read_to_string(&path).unwrap();
        assert!(installed.contains("agentd") && installed.contains("kept") && installed.contains("other"), "{installed}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        good(&user, &["uninstall", agent]);
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "{agent}");
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().flatten().filter(|entry| entry.path() != path).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn different_entry_is_replaced_or_removed_only_by_force() {
    let user = User::new();
    let path = user.path("work/.mcp.json");
    let own = "{\"mcpServers\": {\"agentd\": {\"command\": \"mine\"}}}";
    fs::write(&path, own).unwrap();
    for command in ["install", "uninstall"] {
        let message = bad(&user, &[command, "claude-code"]);
        assert!(message.contains("--force"), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), own);
    }
    good(&user, &["install", "claude-code", "--force"]);
    assert!(!fs::read_to_string(&path).unwrap().contains("mine"));
    fs::write(&path, own).unwrap();
    good(&user, &["uninstall", "claude-code", "--force"]);
    assert!(!fs::read_to_string(&path).unwrap().contains("mine"));
}

#[test]
fn print_writes_no_file() {
    for (agent, project, _, pointer) in AGENTS {
        let user = User::new();
        let printed = good(&user, &["install", agent, "--print"]);
        assert!(parsed(&user.path(project), &printed).pointer(pointer).is_some(), "{printed}");
        assert_eq!(fs::read_dir(user.path("work")).unwrap().count(), 0);
    }
}

#[test]
fn link_that_a_payload_left_is_never_followed() {
    let user = User::new();
    fs::write(user.path("target.json"), "{}").unwrap();
    fs::create_dir(user.path("elsewhere")).unwrap();
    symlink(user.path("target.json"), user.path("work/.mcp.json")).unwrap();
    symlink(user.path("elsewhere"), user.path("work/.cursor")).unwrap();
    symlink(user.path("missing"), user.path("work/opencode.json")).unwrap();
    for agent in ["claude-code", "cursor", "opencode"] {
        let message = bad(&user, &["install", agent]);
        assert!(message.contains("symbolic link") && message.contains("--print"), "{message}");
    }
    assert_eq!(fs::read_to_string(user.path("target.json")).unwrap(), "{}");
    assert_eq!(fs::read_dir(user.path("elsewhere")).unwrap().count(), 0);
    assert!(!user.path("missing").exists());
}

#[test]
fn directory_that_every_user_may_change_is_refused() {
    let user = User::new();
    fs::create_dir(user.path("work/.cursor")).unwrap();
    fs::set_permissions(user.path("work/.cursor"), fs::Permissions::from_mode(0o777)).unwrap();
    let message = bad(&user, &["install", "cursor"]);
    assert!(message.contains("chmod o-w"), "{message}");
    assert_eq!(fs::read_dir(user.path("work/.cursor")).unwrap().count(), 0);
}

#[test]
fn files_that_are_no_configuration_are_refused_and_unchanged() {
    let user = User::new();
    let path = user.path("work/.mcp.json");
    let deep = "[".repeat(1 << 20);
    for text in ["{", "[]", "{\"mcpServers\": 1}", "\u{0}", deep.as_str()] {
        fs::write(&path, text).unwrap();
        let message = bad(&user, &["install", "claude-code"]);
        assert!(message.contains("correct the file"), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    fs::write(&path, b"\xff").unwrap();
    bad(&user, &["install", "claude-code"]);
    fs::remove_file(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let message = bad(&user, &["install", "claude-code"]);
    assert!(message.contains("not a regular file"), "{message}");
}
