//! Tests of validation and decisions.

use crate::{
    Denial, PolicyDecision, PolicyError, PolicyFile, PolicyOutcome, PolicyRequest, PolicySet, RequestedConfinement, Vocabulary,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Capabilities: their traits, and the JSON Schemas of their parameters.
const CAPABILITIES: &str = include_str!("test_capabilities.json");

pub(crate) fn vocabulary() -> Vocabulary {
    let capabilities: BTreeMap<String, Value> = serde_json::from_str(CAPABILITIES).unwrap();
    let vocabulary = capabilities.iter().fold(Vocabulary::default(), |vocabulary, (name, described)| {
        let traits = described["traits"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
        vocabulary.capability(name, &described["parameters"], traits).unwrap()
    });
    vocabulary.backend("container", true).backend("linux-native", true).backend("host-direct", false)
}

fn parse(text: &str) -> Result<PolicySet, PolicyError> {
    PolicySet::parse(&[PolicyFile { name: "test.cedar".to_owned(), text: text.to_owned() }], &vocabulary())
}

pub(crate) fn set(text: &str) -> PolicySet {
    parse(text).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// A request of the agent `ci`, with some fields replaced.
pub(crate) fn request(changes: &Value) -> PolicyRequest {
    let mut request = json!({
        "principal": { "kind": "agent", "name": "ci", "groups": ["builders"], "acts_for": "alice" },
        "capability": "shell.exec.v1",
        "resources": [{ "type": "path", "path": "/srv/ci/project", "write": true }],
        "parameters": { "command": "make", "argv": ["make", "test"] },
        "time": "2026-01-31T12:30:00.123456Z",
        "source": { "transport": "local-socket" },
    });
    for (name, value) in changes.as_object().unwrap() {
        request[name] = value.clone();
    }
    serde_json::from_value(request).unwrap()
}

fn permits(text: &str, changes: &Value) -> bool {
    set(text).decide(&request(changes)).is_permitted()
}

pub(crate) fn denial(decision: &PolicyDecision) -> &Denial {
    match &decision.outcome {
        PolicyOutcome::Denied(denial) => denial,
        PolicyOutcome::Permitted(obligations) => panic!("permitted: {obligations:?}"),
    }
}

pub(crate) const ALL: &str = r#"@id("all") permit (principal, action, resource);"#;

#[test]
fn request_that_no_policy_permits_is_denied() {
    let decision = set(r#"@id("other") permit (principal == Agent::"other", action, resource);"#).decide(&request(&json!({})));
    assert_eq!(*denial(&decision), Denial::NoPermit { resource: "path /srv/ci/project (to change)".to_owned() });
    assert_eq!(decision.policies, Vec::<String>::new());
}

#[test]
fn conditions_on_every_part_of_a_request_decide() {
    for (condition, holds) in [
        (r#"principal == Agent::"ci""#, true),
        (r#"principal == User::"ci""#, false),
        (r#"principal in Group::"builders""#, true),
        (r#"principal in Group::"others""#, false),
        (r#"principal in User::"alice""#, true),
        (r#"principal in User::"bob""#, false),
        (r#"principal.id == "agent:ci" && principal.name == "ci""#, true),
        (r#"action in Action::"shell""#, true),
        (r#"action in Action::"destructive""#, true),
        (r#"action in Action::"read-only""#, false),
        (r#"resource in Path::"/srv/ci""#, true),
        (r#"resource in Path::"/""#, true),
        (r#"resource in Path::"/srv/c""#, false),
        (r#"resource is Path && resource.write"#, true),
        (r#"context.source.transport == "local-socket""#, true),
        (r#"context.source has address"#, false),
        (r#"context.time > datetime("2026-01-31T12:29:59Z") && context.time.toTime() < duration("13h")"#, true),
        (r#"context.time.toTime() < duration("12h")"#, false),
    ] {
        let text = format!(r#"@id("x") permit (principal, action, resource) when {{ {condition} }};"#);
        assert_eq!(permits(&text, &json!({})), holds, "{condition}");
    }
    let shell = |condition: &str| {
        format!(r#"@id("x") permit (principal, action == Action::"shell.exec.v1", resource) when {{ {condition} }};"#)
    };
    assert!(permits(&shell(r#"context.parameters has command && context.parameters.command like "ma*""#), &json!({})));
    assert!(permits(&shell(r#"context.parameters has argv && context.parameters.argv.contains("test")"#), &json!({})));
    assert!(!permits(&shell(r#"context.parameters has cwd && context.parameters.cwd == "/srv/ci""#), &json!({})));
    let resource = |resource: Value| json!({ "resources": [resource] });
    for (condition, of) in [
        (
            r#"resource in Host::"*.example" && resource is Host && resource.port == 443"#,
            json!({ "type": "host", "name": "pypi.example", "port": 443 }),
        ),
        (
            r#"resource is Host && resource has address && resource.address.isInRange(ip("10.0.0.0/8"))"#,
            json!({ "type": "host", "name": "10.1.2.3", "port": 443 }),
        ),
        (
            r#"resource in Image::"docker.io/library/debian""#,
            json!({ "type": "image", "repository": "docker.io/library/debian", "version": "12" }),
        ),
        (
            r#"resource is Sandbox && resource.owner == principal.id"#,
            json!({ "type": "sandbox", "name": "dev", "owner": "agent:ci" }),
        ),
    ] {
        let text = format!(r#"@id("x") permit (principal, action, resource) when {{ {condition} }};"#);
        assert!(permits(&text, &resource(of)), "{condition}");
        assert!(!permits(&text, &resource(json!({ "type": "host", "name": "other.test", "port": 443 }))), "{condition}");
    }
    assert!(permits(r#"@id("x") permit (principal, action, resource == System::"agentd");"#, &json!({ "resources": [] })));
}

#[test]
fn every_resource_of_a_request_must_be_permitted() {
    let text = r#"@id("in") permit (principal, action, resource in Path::"/srv/ci");"#;
    let inside = json!({ "type": "path", "path": "/srv/ci/a" });
    assert!(permits(text, &json!({ "resources": [inside, { "type": "path", "path": "/srv/ci" }] })));
    let decision = set(text).decide(&request(&json!({ "resources": [inside, { "type": "path", "path": "/etc" }] })));
    assert_eq!(*denial(&decision), Denial::NoPermit { resource: "path /etc (to read)".to_owned() });
}

#[test]
fn forbid_prevails_and_states_its_reason() {
    let text = format!(r#"{ALL} @id("no") @reason("not at night") forbid (principal, action, resource);"#);
    let decision = set(&text).decide(&request(&json!({})));
    assert_eq!(decision.policies, ["no"]);
    assert!(denial(&decision).to_string().ends_with("forbidden for path /srv/ci/project (to change): not at night"));
}

/// Each of these policies passes the strict validation and fails for this request.
const FAILING: [&str; 3] = [
    r#"(principal, action, resource) when { Sandbox::"gone".owner == principal.id }"#,
    r#"(principal, action, resource) when { context.time.toTime().toHours() * 9223372036854775807 > 1 }"#,
    r#"(principal, action, resource) when { User::"nobody".name == "nobody" || true }"#,
];

#[test]
fn e12_failing_forbid_denies() {
    for failing in FAILING {
        let decision = set(&format!(r#"{ALL} @id("fails") forbid {failing};"#)).decide(&request(&json!({})));
        assert_eq!((denial(&decision).word(), decision.policies.as_slice()), ("failed", &["fails".to_owned()][..]), "{failing}");
    }
}

#[test]
fn e12_failing_permit_denies_although_another_permits() {
    for failing in FAILING {
        let text = format!(r#"{ALL} @id("fails") @profile("strict") permit {failing};"#);
        let decision = set(&text).decide(&request(&json!({})));
        assert_eq!((denial(&decision).word(), decision.policies.as_slice()), ("failed", &["fails".to_owned()][..]), "{failing}");
    }
}

#[test]
fn e12_optional_attribute_without_has_is_refused_at_load() {
    let unguarded = r#"@id("x") forbid (principal, action == Action::"shell.exec.v1", resource)
        when { context.parameters.cwd == "/etc" };"#;
    assert!(refused(unguarded).contains("cwd"), "{}", refused(unguarded));
    for unguarded in ["context.source.address.isLoopback()", "resource.address.isLoopback()"] {
        let text = format!(r#"@id("x") forbid (principal, action, resource is Host) when {{ {unguarded} }};"#);
        assert!(refused(&text).contains("address"), "{}", refused(&text));
    }
}

#[test]
fn one_wrong_policy_refuses_the_whole_set() {
    for (wrong, cause) in [
        ("permit (principal, action, resource);", "@id"),
        (r#"@id("a b") permit (principal, action, resource);"#, "@id"),
        (r#"@id("all") forbid (principal, action, resource);"#, "same @id"),
        (r#"@id("x") permit (principal == ?principal, action, resource);"#, "templates"),
        (r#"@id("x") permit (principal, action == Action::"shell.exec.v9", resource);"#, "shell.exec.v9"),
        (r#"@id("x") permit (principal == Robot::"r", action, resource);"#, "Robot"),
        (r#"@id("x") forbid (principal, action, resource) when { context.parameters.command == "rm" };"#, "command"),
        (
            r#"@id("x") forbid (principal, action == Action::"fs.write.v1", resource) when { context.parameters.content == "" };"#,
            "content",
        ),
        (r#"@id("x") forbid (principal, action, resource) when { false };"#, "impossible"),
        (r#"@id("x") @profil("strict") permit (principal, action, resource);"#, "@profil is unknown"),
        (r#"@id("x") @profile("strict") forbid (principal, action, resource);"#, "only a permit"),
        (r#"@id("x") @reason("why") permit (principal, action, resource);"#, "@description"),
        (r#"@id("x") @backend("none") permit (principal, action, resource);"#, "'none' is not a backend"),
        (r#"@id("x") permit (principal, action, resource"#, "test.cedar"),
    ] {
        let error = refused(&format!("{ALL}\n{wrong}"));
        assert!(error.contains(cause), "{wrong}: {error}");
    }
    let error = refused(&format!("{ALL}\n\n@id(\"x\") permit (principal, action, resource) when {{ resource.size > 1 }};"));
    assert!(error.contains("test.cedar:3: policy \"x\""), "{error}");
}

#[test]
fn request_in_another_form_is_denied() {
    for (changes, word) in [
        (json!({ "capability": "shell.exec.v9" }), "unknown-capability"),
        (json!({ "capability": "shell" }), "unknown-capability"),
        (json!({ "parameters": { "command": 1 } }), "invalid"),
        (json!({ "parameters": { "comand": "make" } }), "invalid"),
        (json!({ "resources": [{ "type": "path", "path": "/srv/ci/../../etc" }] }), "invalid"),
        (json!({ "resources": [{ "type": "path", "path": "srv/ci" }] }), "invalid"),
        (json!({ "resources": [{ "type": "host", "name": "PyPI.example", "port": 443 }] }), "invalid"),
        (json!({ "principal": { "kind": "agent", "name": "" } }), "invalid"),
        (json!({ "principal": { "kind": "service", "name": "x", "acts_for": "alice" } }), "invalid"),
    ] {
        assert_eq!(denial(&set(ALL).decide(&request(&changes))).word(), word, "{changes}");
    }
}

#[test]
fn strictest_obligation_of_all_determining_permits_holds() {
    let text = r#"
        @id("a") @timeout("1h") @memory("1G") @egress("*.example") @approval("ask a") permit (principal, action, resource);
        @id("b") @profile("strict") @timeout("30s") @egress("pypi.example, other.test") @backend("container") @approval("ask b")
        permit (principal == Agent::"ci", action, resource);
        @id("c") @timeout("1s") permit (principal == Agent::"other", action, resource);"#;
    let decision = set(text).decide(&request(&json!({})));
    let obligations = decision.obligations().unwrap();
    let stated = [
        ("profile", "strict"),
        ("timeout", "30s"),
        ("memory", "1G"),
        ("cpu_weight", "100"),
        ("egress", "pypi.example:443"),
        ("backend", "container"),
        ("approval", "ask a"),
        ("approval", "ask b"),
    ];
    assert_eq!(obligations.annotations(), stated.map(|(name, value)| (name, value.to_owned())));
    assert_eq!(decision.policies, ["a", "b"]);
}

#[test]
fn permits_without_a_common_backend_deny() {
    let text = r#"@id("a") @backend("container") permit (principal, action, resource);
        @id("b") @backend("linux-native") permit (principal, action, resource);"#;
    let decision = set(text).decide(&request(&json!({})));
    assert_eq!((denial(&decision), decision.policies.len()), (&Denial::NoBackend, 2));
}

#[test]
fn default_policy_permits_local_requests_only_and_own_sandboxes() {
    let policy = PolicySet::default_policy(&vocabulary()).unwrap();
    let decide = |changes: Value| policy.decide(&request(&changes));
    let sandbox = |owner| json!({ "resources": [{ "type": "sandbox", "name": "dev", "owner": owner }] });
    assert!(decide(json!({})).is_permitted() && decide(sandbox("agent:ci")).is_permitted());
    assert_eq!(denial(&decide(sandbox("user:alice"))).word(), "forbidden");
    for transport in ["grpc", "rest", "mcp", ""] {
        assert!(!decide(json!({ "source": { "transport": transport } })).is_permitted(), "{transport}");
    }
    let host = RequestedConfinement { backend: Some("host-direct".to_owned()), ..RequestedConfinement::default() };
    assert!(decide(json!({})).obligations().unwrap().apply(&host).is_err());
}

#[test]
fn operators_capability_is_an_action_with_its_parameters() {
    let schema = json!({ "type": "object", "properties": { "level": { "type": "integer" } }, "required": ["level"] });
    let vocabulary = vocabulary().capability("deploy.site.v2", &schema, ["destructive"]).unwrap();
    let text =
        r#"@id("x") permit (principal, action == Action::"deploy.site.v2", resource) when { context.parameters.level < 3 };"#;
    let set = PolicySet::parse(&[PolicyFile { name: "x".to_owned(), text: text.to_owned() }], &vocabulary).unwrap();
    let level = |level: i64| request(&json!({ "capability": "deploy.site.v2", "parameters": { "level": level } }));
    assert!(set.decide(&level(2)).is_permitted() && !set.decide(&level(3)).is_permitted());
    for name in ["deploy", "deploy.v1", "Deploy.site.v1", "deploy..v1", "deploy.site.v", "deploy.site.1", "a.b.vx", ".a.v1"] {
        assert!(Vocabulary::default().capability(name, &schema, []).is_err(), "{name}");
    }
}

#[test]
fn entities_of_requests_conform_to_the_schema() {
    use crate::facts::Facts;
    let set = set(ALL);
    for resource in [
        json!([]),
        json!([{ "type": "path", "path": "/" }]),
        json!([{ "type": "host", "name": "10.1.2.3", "port": 1 }]),
        json!([{ "type": "image", "repository": "r", "version": "sha256:0" }]),
        json!([{ "type": "sandbox", "name": "s", "owner": "user:u" }]),
    ] {
        let request = request(&json!({ "resources": resource }));
        let facts = Facts::new(&request, &set.vocabulary, (&set.types, &set.schema)).unwrap();
        let question = facts.about(request.resources.first()).unwrap();
        // Containers, such as the directories above a path, have no attributes.
        let asked = [question.request.principal(), question.request.resource()];
        let own = asked.map(|uid| question.entities.get(uid.unwrap()).unwrap().clone());
        cedar_policy::Entities::from_entities(own, Some(&set.schema)).unwrap_or_else(|error| panic!("{resource}: {error:?}"));
    }
}

#[test]
fn policies_see_the_names_and_hosts_of_secrets() {
    let secrets = json!({ "secrets": [{ "name": "KEY", "host": "api.example" }, { "name": "AWS", "host": "s3.example" }] });
    let none = json!({ "secrets": [] });
    let when = |condition: &str| format!(r#"{ALL} @id("no") forbid (principal, action, resource) when {{ {condition} }};"#);
    for (condition, forbids) in [
        ("!context.secrets.names.isEmpty()", true),
        (r#"context.secrets.names.contains("KEY")"#, true),
        (r#"context.secrets.hosts.contains("s3.example")"#, true),
        (r#"!["api.example"].containsAll(context.secrets.hosts)"#, true),
        (r#"!["api.example", "s3.example"].containsAll(context.secrets.hosts)"#, false),
        (r#"context.secrets.names.contains("OTHER")"#, false),
    ] {
        assert_eq!(!permits(&when(condition), &secrets), forbids, "{condition}");
        assert!(permits(&when(condition), &none), "{condition}");
        assert!(permits(&when(condition), &json!({})), "{condition}");
    }
    assert!(refused(&when("context.secrets.values.isEmpty()")).contains("values"), "values are never visible");
    let decision = set(ALL).decide(&request(&json!({ "secrets": [{ "name": "", "host": "a.example" }] })));
    assert!(matches!(denial(&decision), Denial::Invalid(_)));
}
