use super::*;
use serde_json::json;

fn entry() -> Value {
    json!({ "command": "agentd", "args": ["mcp"], "enabled": true, "timeout": 7 })
}

fn install(text: &str, syntax: Syntax) -> String {
    with(text, syntax, "servers", "agentd", &entry(), false).unwrap().unwrap()
}

fn uninstall(text: &str, syntax: Syntax) -> String {
    without(text, syntax, "servers", "agentd", &entry(), false).unwrap().unwrap()
}

const JSON: &str = "{\n    // z before a, on purpose\n    \"z\": [1, 2.50, \"\\u00e9\"],\n    \"servers\": {\n        \"other\": { \"command\": \"x\" }, // mine\n    },\n    \"a\": null\n}\n";

const TOML: &str = "# mine\nmodel = \"m\"\n\n[servers.other]\ncommand = \"x\" # why\n\n[tui]\ntheme = 'dark'\n";

#[test]
fn entry_is_added_and_everything_else_stays() {
    let added = install(JSON, Syntax::Json);
    assert!(
        added.contains("\"agentd\"") && added.contains("// z before a") && added.contains("2.50") && added.contains("// mine"),
        "{added}"
    );
    assert_eq!(
        of_object(&json(&added).unwrap().object_value().unwrap().object_value("servers").unwrap(), "agentd").unwrap(),
        Some(entry())
    );
    let added = install(TOML, Syntax::Toml);
    assert!(added.contains("[servers.agentd]") && added.starts_with("# mine\n") && added.contains("# why"), "{added}");
    assert_eq!(of_table(&toml(&added).unwrap(), "servers", "agentd").unwrap(), Some(entry()));
}

#[test]
fn removal_of_an_added_entry_gives_the_old_text() {
    for (text, syntax) in [
        (JSON, Syntax::Json),
        ("{\n  \"servers\": {\n    \"other\": {}\n  }\n}\n", Syntax::Json),
        (TOML, Syntax::Toml),
        ("[tui]\ntheme = 'dark'\n", Syntax::Toml),
        ("", Syntax::Toml),
    ] {
        assert_eq!(uninstall(&install(text, syntax), syntax), text);
    }
}

#[test]
fn empty_or_missing_file_gets_the_table() {
    for text in ["", "{}", "{\n}\n", "// only a comment\n"] {
        let added = install(text, Syntax::Json);
        let removed = uninstall(&added, Syntax::Json);
        assert!(added.ends_with("}\n") && !removed.contains("agentd"), "{added}{removed}");
        let plain: String = added.lines().filter(|line| !line.starts_with("//")).collect();
        assert_eq!(serde_json::from_str::<Value>(&plain).unwrap(), json!({ "servers": { "agentd": entry() } }));
    }
}

#[test]
fn same_entry_changes_nothing_and_another_one_is_kept_unless_forced() {
    for (text, syntax) in [(JSON, Syntax::Json), (TOML, Syntax::Toml)] {
        let added = install(text, syntax);
        assert_eq!(with(&added, syntax, "servers", "agentd", &entry(), false), Ok(None));
        let other = json!({ "command": "evil" });
        let differs = Err(EntryError::Differs("servers.agentd".to_owned()));
        assert_eq!(with(&added, syntax, "servers", "agentd", &other, false), differs);
        assert_eq!(without(&added, syntax, "servers", "agentd", &other, false), differs);
        let replaced = with(&added, syntax, "servers", "agentd", &other, true).unwrap().unwrap();
        assert!(replaced.contains("evil") && replaced.contains("other"), "{replaced}");
        assert_eq!(without(&replaced, syntax, "servers", "agentd", &entry(), true).unwrap().unwrap(), text);
        assert_eq!(without(text, syntax, "servers", "agentd", &entry(), false), Ok(None));
    }
}

#[test]
fn text_that_is_no_configuration_is_refused() {
    let deep = "[".repeat(100_000);
    for text in ["{", "[]", "1", "{\"servers\": []}", "{\"servers\": {\"agentd\": }}", "{a: 1}", deep.as_str()] {
        assert!(with(text, Syntax::Json, "servers", "agentd", &entry(), true).is_err(), "{:.40}", text);
    }
    let deep = format!("a = {}", "[".repeat(100_000));
    for text in ["a", "servers = 1", "[[servers]]", "[servers]\n[servers]", deep.as_str()] {
        assert!(with(text, Syntax::Toml, "servers", "agentd", &entry(), true).is_err(), "{:.40}", text);
    }
}

#[test]
fn inline_servers_stay_inline() {
    let text = "servers = { other = { command = \"x\" } }\n";
    let added = install(text, Syntax::Toml);
    assert_eq!(of_table(&toml(&added).unwrap(), "servers", "agentd").unwrap(), Some(entry()));
    assert_eq!(
        toml(&uninstall(&added, Syntax::Toml)).unwrap().get("servers").map(value),
        Some(json!({ "other": { "command": "x" } }))
    );
}
