//! Agent CLIs from npm, connected by `agentd mcp install`. A server of the test plays their models.

use crate::{
    model::{ANSWER, Model},
    place::{Place, agentd, installed, output},
};
use serde_json::json;
use std::fs;

/// The agent has called the tool, and its model has got the result.
fn is_connected(place: &Place, model: &Model, printed: &str) {
    let made = fs::read_to_string(place.path("work/made.txt")).unwrap_or_default();
    let requests = model.requests.lock().unwrap();
    assert_eq!(
        made,
        "made by the model\n",
        "{printed}\n{:#?}",
        requests.iter().map(|request| &request["tools"]).collect::<Vec<_>>()
    );
    assert!(printed.contains(ANSWER) && printed.contains("result 42"), "{printed}");
    let log = place.good(&agentd(), &["audit", "tail", "--json", "-n", "1"]);
    assert!(log.contains("outcome"), "{log}");
}

#[test]
fn opencode_uses_tools_of_agentd() {
    let (place, model) = (Place::new(), Model::start());
    let url = format!("http://127.0.0.1:{}/v1", model.port);
    let config = json!({ "provider": { "anthropic": { "options": { "baseURL": url, "apiKey": "test" } } }, "autoupdate": false });
    fs::write(place.path("work/opencode.json"), format!("{config:#}")).unwrap();
    place.good(&agentd(), &["mcp", "install", "opencode"]);
    let program = installed("node_modules/opencode-linux-x64/bin/opencode");
    let args = ["run", "-m", "anthropic/claude-sonnet-4-5", "use the tool"];
    // The project's configuration names the command `agentd`.
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", agentd().parent().unwrap().display());
    let printed = output(place.command(&program, &args).env("PATH", path));
    is_connected(&place, &model, &printed);
}

#[test]
fn codex_uses_tools_of_agentd() {
    let (place, model) = (Place::new(), Model::start());
    let url = format!("http://127.0.0.1:{}/v1", model.port);
    let config = format!(
        "model = \"m\"\nmodel_provider = \"test\"\n\n[model_providers.test]\nname = \"test\"\nbase_url = {url:?}\nwire_api = \"responses\"\nenv_key = \"TEST_KEY\"\n"
    );
    fs::create_dir(place.path("home/.codex")).unwrap();
    fs::write(place.path("home/.codex/config.toml"), config).unwrap();
    place.good(&agentd(), &["mcp", "install", "codex", "--scope", "user"]);
    let program = installed("node_modules/.bin/codex");
    let args = ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "use the tool"];
    let printed = output(place.command(&program, &args).env("TEST_KEY", "test"));
    is_connected(&place, &model, &printed);
}
