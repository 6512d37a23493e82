//! `agentd policy`: the commands, and the commands of `docs/policy.md` as written there.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use json_document::is_documented;
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

#[path = "support/json_document.rs"]
mod json_document;

const DOCUMENT: &str = include_str!("../../../docs/policy.md");

/// A directory with files, in which commands run.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes a file that only this user may change.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        let folder = path.parent().unwrap();
        fs::create_dir_all(folder).unwrap();
        fs::write(&path, text).unwrap();
        for (path, mode) in [(self.0.path(), 0o700), (folder, 0o700), (path.as_path(), 0o600)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        path
    }

    fn run(&self, args: &[&str]) -> Output {
        let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
        let mut run = Command::new(program);
        run.args(args).current_dir(self.0.path()).env("AGENTD_DATA_DIR", self.0.path().join("data")).output().unwrap()
    }

    /// Returns the standard output of a command that ends with this exit code.
    fn output(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns the message of a command that agentd could not carry out.
    fn error(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn json(&self, code: i32, args: &[&str]) -> Value {
        serde_json::from_str(&self.output(code, args)).unwrap()
    }
}

/// A file or a command of the document.
enum Step {
    File(String, String),
    Command(String, String),
}

/// Returns the blocks whose first line names a file, and the commands with their output.
fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for (index, block) in DOCUMENT.split("```").enumerate().filter(|(index, _)| index % 2 == 1) {
        let (head, body) = block.split_once('\n').unwrap_or_else(|| panic!("block {index}: {block}"));
        match head.split_once(' ') {
            Some((_, name)) => steps.push(Step::File(name.to_owned(), body.to_owned())),
            None if head == "console" => {
                for command in body.split("$ ").skip(1) {
                    let (line, output) = command.split_once('\n').unwrap();
                    steps.push(Step::Command(line.to_owned(), output.to_owned()));
                }
            }
            None => panic!("the block {head} is neither a file nor a command"),
        }
    }
    steps
}

/// Returns a line with one blank after each comma, because this build may have other backends than the document.
fn without_backends(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with("  at most: backend ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn documented_scenario_works_as_written() {
    let place = Place::new();
    let (mut files, mut commands) = (0, 0);
    for step in steps() {
        match step {
            Step::File(name, text) => {
                place.write(&name, &text);
                files += 1;
            }
            Step::Command(line, expected) => {
                let words: Vec<&str> = line.split(' ').collect();
                assert_eq!(words[0], "agentd");
                let output = place.run(&words[1..]);
                let printed = String::from_utf8(output.stdout).unwrap();
                assert_eq!(without_backends(&printed), without_backends(&expected), "{line}: {:?}", output.stderr);
                commands += 1;
            }
        }
    }
    assert!(files >= 5 && commands >= 5, "{files} files, {commands} commands");
}

const CI: &str = r#"@id("ci") @timeout("30s") permit (principal == Agent::"ci", action, resource in Path::"/srv/ci");"#;

fn intent(path: &str) -> String {
    let intent = serde_json::json!({
        "principal": { "kind": "agent", "name": "ci" },
        "capability": "fs.stat.v1",
        "parameters": { "path": path },
        "resources": [{ "type": "path", "path": path }],
    });
    intent.to_string()
}

#[test]
fn check_reports_every_problem_with_its_line() {
    let place = Place::new();
    place.write("p/good.cedar", CI);
    assert_eq!(place.output(0, &["policy", "check", "p"]), "valid policies: ci\n");
    assert_eq!(place.json(0, &["policy", "check", "--json", "p"])["policies"], serde_json::json!(["ci"]));
    place.write(
        "p/bad.cedar",
        "\n@id(\"x\") @nice(\"1\") permit (principal, action, resource);\npermit (principal, action, resource);",
    );
    let text = place.output(1, &["policy", "check", "p"]);
    assert!(text.contains("bad.cedar: policy \"x\": @nice is unknown") && text.contains("needs the annotation @id"), "{text}");
    let object = place.json(1, &["policy", "check", "--json", "p/bad.cedar"]);
    assert_eq!((&object["valid"], object["problems"].as_array().unwrap().len()), (&Value::Bool(false), 2));
    place.write("p/bad.cedar", "\n@id(\"x\") permit (principal, action, resource) when { resource.size > 1 };");
    assert_eq!(place.json(1, &["policy", "check", "--json", "p"])["problems"][0]["line"], 2);
    assert!(place.error(&["policy", "check", "missing"]).contains("missing"));
}

#[test]
fn policies_that_a_payload_may_write_are_refused_by_every_command() {
    let place = Place::new();
    let file = place.write("p/ci.cedar", CI);
    place.write("t/t.toml", "[[test]]\nname = \"x\"\nexpect = \"deny\"\nrequest = { capability = \"fs.stat.v1\" }\n");
    place.write("intent", &intent("/srv/ci"));
    let commands: [&[&str]; 4] = [
        &["policy", "check", "p"],
        &["policy", "check", "p/ci.cedar"],
        &["policy", "test", "t", "--policies", "p"],
        &["policy", "explain", "--policies", "p", "intent"],
    ];
    for (path, mode) in [(file.as_path(), 0o666), (file.parent().unwrap(), 0o777), (place.0.path(), 0o777)] {
        let before = fs::metadata(path).unwrap().permissions();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for command in commands {
            assert!(place.error(command).contains("chmod go-w"), "{command:?} {path:?}");
        }
        fs::set_permissions(path, before).unwrap();
    }
    place.output(0, commands[3]);
}

#[test]
fn test_reports_each_decision_that_differs() {
    let place = Place::new();
    place.write("t/ci.cedar", CI);
    let row = |name: &str, expected: &str, path: &str| {
        let request = format!("capability = \"fs.stat.v1\", parameters = {{ path = \"{path}\" }}");
        let resources = format!("resources = [{{ type = \"path\", path = \"{path}\" }}]");
        let principal = "principal = { kind = \"agent\", name = \"ci\" }";
        format!("[[test]]\nname = \"{name}\"\n{expected}\nrequest = {{ {principal}, {request}, {resources} }}\n")
    };
    let good = row("good", "expect = \"permit\"\nobligations = { timeout = \"0.5m\" }\npolicies = [\"ci\"]", "/srv/ci");
    place.write("t/a.toml", &good);
    assert_eq!(place.output(0, &["policy", "test", "t"]), "1 of 1 decisions are as expected\n");
    let wrong = [
        row("decision", "expect = \"permit\"", "/etc"),
        row("obligation", "expect = \"permit\"\nobligations = { timeout = \"31s\" }", "/srv/ci"),
        row("policy", "expect = \"permit\"\npolicies = []", "/srv/ci"),
        row("annotation", "expect = \"permit\"\nobligations = { time = \"31s\" }", "/srv/ci"),
    ];
    place.write("t/b.toml", &wrong.concat());
    let text = place.output(1, &["policy", "test", "t"]);
    assert!(text.ends_with("1 of 5 decisions are as expected\n"), "{text}");
    for expected in [
        "t/b.toml: decision: expected permit, is deny\n  denied: fs.stat.v1 by agent:ci",
        "t/b.toml: obligation: expected @timeout 31s, is 30s\n",
        "t/b.toml: policy: expected the policies none, determined by ci\n",
        "t/b.toml: annotation: the row cannot be read: @time is unknown",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let rows = place.json(1, &["policy", "test", "--json", "t"]);
    let passed: Vec<&Value> = rows.as_array().unwrap().iter().map(|row| &row["passed"]).collect();
    assert_eq!(passed, [true, false, false, false, false]);
    assert_eq!(rows[1]["decision"]["denial"], "no-permit");
    place.write("t/b.toml", "[[test]]\nname = \"x\"\nunknown = 1\n");
    assert!(place.error(&["policy", "test", "t"]).contains("b.toml"));
    assert!(place.error(&["policy", "test", "data/none", "--policies", "t"]).contains("data/none"));
}

#[test]
fn explain_uses_the_enforced_policies_and_compares_the_shadow() {
    let place = Place::new();
    place.write("intent", &intent("/etc"));
    place.write("own", r#"{ "capability": "fs.stat.v1", "parameters": { "path": "/" } }"#);
    let text = place.output(0, &["policy", "explain", "own"]);
    assert!(
        text.starts_with("the default policy decides") && text.contains("policy local applies to the installation"),
        "{text}"
    );
    let object = place.json(0, &["policy", "explain", "--json", "own"]);
    assert_eq!((&object["default_policy"], &object["obligations"]["network"]), (&true.into(), &"any".into()));
    place.write("data/policy/enforced/ci.cedar", CI);
    fs::set_permissions(place.0.path().join("data"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(place.0.path().join("data/policy"), fs::Permissions::from_mode(0o700)).unwrap();
    place.output(1, &["policy", "explain", "own"]);
    place.write("data/policy/shadow/all.cedar", r#"@id("all") permit (principal, action, resource);"#);
    let text = place.output(1, &["policy", "explain", "intent"]);
    assert!(text.starts_with("denied: ") && text.contains("the shadow policies would decide otherwise:\npermitted: "), "{text}");
    let object = place.json(1, &["policy", "explain", "--json", "intent"]);
    assert_eq!((&object["permitted"], &object["shadow"]["permitted"]), (&false.into(), &true.into()));
    assert_eq!(object["nearest"][0]["unmet"][0], r#"the resource is in Path::"/srv/ci""#);
    fs::remove_dir_all(place.0.path().join("data/policy/enforced")).unwrap();
    assert!(place.error(&["policy", "explain", "intent"]).contains("enforced"), "lost policies are not replaced by the default");
}

#[test]
fn json_output_has_the_documented_keys() {
    let place = Place::new();
    place.write("p/ci.cedar", CI);
    place.write("bad.cedar", "permit (principal, action, resource);");
    place.write("t/t.toml", "[[test]]\nname = \"x\"\nexpect = \"deny\"\nrequest = { capability = \"fs.stat.v1\" }\n");
    place.write("in", &intent("/srv/ci"));
    place.write("out", &intent("/etc"));
    place.write("more", &intent("/srv/ci").replacen('{', r#"{ "requested": { "timeout": "1h" },"#, 1));
    let section = "`agentd policy`";
    let checked = [(0, "p"), (1, "bad.cedar")].map(|(code, path)| place.json(code, &["policy", "check", "--json", path]));
    is_documented(section, 0, &checked.iter().collect::<Vec<_>>());
    let explained = [(0, "in"), (1, "out"), (1, "more")]
        .map(|(code, path)| place.json(code, &["policy", "explain", "--json", "--policies", "p", path]));
    is_documented(section, 1, &explained.iter().collect::<Vec<_>>());
    is_documented(section, 2, &[&explained[0]["obligations"]]);
    is_documented(section, 3, &[&place.json(0, &["policy", "test", "--json", "t", "--policies", "p"])[0]]);
}

#[test]
fn intent_that_cannot_be_read_is_refused() {
    let place = Place::new();
    for (text, cause) in [
        ("", "EOF"),
        (r#"{ "capability": "fs.stat.v1", "principle": 1 }"#, "principle"),
        (r#"{ "capability": "fs.stat.v1", "requested": { "approval": "x" } }"#, "approval"),
        (r#"{ "capability": "fs.stat.v1", "requested": { "egress": "any" } }"#, "names its hosts"),
        (r#"{ "capability": "fs.stat.v1", "requested": { "backend": "container, linux-native" } }"#, "one backend"),
        (r#"{ "capability": "fs.stat.v1", "time": "today" }"#, "time"),
    ] {
        place.write("intent", text);
        assert!(place.error(&["policy", "explain", "intent"]).contains(cause), "{text}");
    }
    place.write("intent", r#"{ "capability": "no.such.v1" }"#);
    assert!(place.output(1, &["policy", "explain", "intent"]).contains("the capability \"no.such.v1\" is unknown"));
}

#[test]
fn capability_of_the_operator_is_an_action_that_policies_may_name() {
    let place = Place::new();
    let manifest = "name = \"text.count\"\nversion = 1\ndescription = \"Counts.\"\n[annotations]\nread_only = true\n[run]\n\
        argv = [\"wc\", { parameter = \"file\" }]\n[parameters]\ntype = \"object\"\nadditionalProperties = false\n\
        required = [\"file\"]\nproperties.file = { type = \"string\" }\n";
    let names = r#"@id("count") permit (principal, action == Action::"text.count.v1", resource)
        when { context.parameters.file like "*.txt" };"#;
    place.write("p/count.cedar", names);
    let refused = place.output(1, &["policy", "check", "p"]);
    assert!(refused.contains("text.count.v1"), "a capability that is not registered: {refused}");
    fs::create_dir_all(place.0.path().join("data")).unwrap();
    fs::set_permissions(place.0.path().join("data"), fs::Permissions::from_mode(0o700)).unwrap();
    place.write("data/capabilities/count.toml", manifest);
    assert_eq!(place.output(0, &["policy", "check", "p"]), "valid policies: count\n");
    let request = |file: &str| format!(r#"{{ "capability": "text.count.v1", "parameters": {{ "file": "{file}" }} }}"#);
    for (file, code) in [("a.txt", 0), ("a.rs", 1)] {
        place.write("intent", &request(file));
        place.output(code, &["policy", "explain", "--policies", "p", "intent"]);
    }
    // The groups of the name and of the traits, and the types of the parameters.
    for (scope, code) in [
        (r#"action in Action::"text""#, 0),
        (r#"action in [Action::"read-only"]"#, 0),
        (r#"action == Action::"text.count.v2""#, 1),
    ] {
        place.write("p/count.cedar", &format!(r#"@id("x") permit (principal, {scope}, resource);"#));
        place.output(code, &["policy", "check", "p"]);
    }
    place.write("p/count.cedar", &names.replace("parameters.file like \"*.txt\"", "parameters.name == \"a\""));
    assert!(place.output(1, &["policy", "check", "p"]).contains("name"));
}

#[test]
fn printed_default_policy_is_valid_and_the_schema_is_json() {
    let place = Place::new();
    let text = place.output(0, &["policy", "default"]);
    place.write("p/default.cedar", &text);
    assert_eq!(place.output(0, &["policy", "check", "p"]), "valid policies: agents, hosts-of-agents, local, own-sandboxes\n");
    let schema = place.json(0, &["policy", "schema"]);
    assert!(schema[""]["actions"]["shell.exec.v1"]["appliesTo"].is_object());
}

#[test]
fn text_from_files_is_escaped() {
    let place = Place::new();
    place.write("p/x.cedar", "@id(\"\\u{1b}[31m\") permit (principal, action, resource);");
    let text = place.output(1, &["policy", "check", "p"]);
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let capability: &Path = &place.write("intent", "{ \"capability\": \"\\u001b[31m\" }");
    assert!(!place.output(1, &["policy", "explain", capability.to_str().unwrap()]).contains('\u{1b}'));
}
