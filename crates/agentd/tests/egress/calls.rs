//! `agentd call http.fetch.v1`: what a URL, a redirect or a server can do, and what the sandbox reaches.

use crate::{
    EgressTest,
    outer::{PUBLIC, heads, name, reached},
    place::EgressDir,
};
use serde_json::{Value, json};
use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

pub const TESTS: &[EgressTest] = &[
    ("fetch_reaches_the_host_of_its_url_and_no_other", own_host),
    ("redirect_to_another_host_needs_a_grant_and_loses_credentials", redirects),
    ("fetch_trusts_the_authorities_that_the_sandbox_shows", authorities),
    ("address_of_another_kind_behind_a_url_is_not_reached", addresses),
    ("name_that_leads_to_loopback_needs_two_grants_and_one_message_says_both", loopback),
    ("endless_responses_end_at_their_limits", endless),
    ("secret_of_a_fetch_stays_with_the_gateway", secret),
    ("as_root::secret_of_a_fetch_is_a_part_of_its_intent", secret_of_intent),
    ("as_root::policies_decide_about_the_host_of_a_url", policies),
];

/// The number of calls, each of which has a data folder of its own.
static CALLS: AtomicU32 = AtomicU32::new(0);

/// Calls a capability without any earlier records. Returns the exit code, the object and the messages.
///
/// In the user namespace of an ordinary user's tests, no directory belongs to root. A data folder that exists already is then not
/// trusted.
pub fn call(place: &EgressDir, backend: &str, capability: &str, parameters: &Value, options: &[&str]) -> (i32, Value, String) {
    let data = place.outside(&format!("data-{}", CALLS.fetch_add(1, Ordering::Relaxed)));
    let mut command = place.call(backend, capability, parameters, options);
    ended(command.env("AGENTD_DATA_DIR", data))
}

/// Calls `http.fetch.v1` with the records and the policies of the place.
fn fetch_again(place: &EgressDir, backend: &str, parameters: &Value, options: &[&str]) -> (i32, Value, String) {
    ended(&mut place.call(backend, "http.fetch.v1", parameters, options))
}

fn ended(command: &mut Command) -> (i32, Value, String) {
    let output = command.env("REAL_KEY", VALUE).output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    let object = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code().unwrap(), object, messages)
}

/// The value of the secret in the variable REAL_KEY of agentd.
pub const VALUE: &str = "real-value-8c1f6d0a44be4f21";

/// A grant for which the gateway inspects TLS: the sandbox then trusts the authorities that the host trusts.
const INSPECTED: &str = "granted.example/*:/*";

fn fetch(backend: &str, parameters: &Value, options: &[&str]) -> (i32, Value, String) {
    call(&EgressDir::new(), backend, "http.fetch.v1", parameters, options)
}

fn own_host(backend: &str) {
    for host in ["granted.example", "other.example"] {
        name(host, &[PUBLIC]);
    }
    let (code, object, messages) = fetch(backend, &json!({ "url": "http://granted.example/a?b" }), &[]);
    assert_eq!(
        (code, &object["result"]["status"], &object["result"]["body"]),
        (0, &json!(200), &json!("http /a?b")),
        "{object:#}\n{messages}"
    );
    assert_eq!(object["result"]["truncated"], Value::Null);
    let grants = ["--net", "allow=granted.example:80,other.example:80"];
    assert_eq!(fetch(backend, &json!({ "url": "http://other.example/" }), &grants).0, 0);
    assert_eq!(reached(), [format!("{PUBLIC}:80"), format!("{PUBLIC}:80")]);
    // A caller who names grants names the host of the URL as well, and each host by its name.
    for net in ["off", "allow=other.example:80", "allow=*.example:80", "allow=granted.example:80,10.0.0.0/8:80"] {
        let (code, object, _) = fetch(backend, &json!({ "url": "http://granted.example/" }), &["--net", net]);
        assert_eq!((code, &object["reason"]), (77, &json!("invalid-network")), "{net}: {object:#}");
    }
    assert_eq!(reached().len(), 2);
}

fn redirects(backend: &str) {
    for host in ["granted.example", "files.granted.example", "forbidden.example"] {
        name(host, &[PUBLIC]);
    }
    let headers = json!({ "Authorization": "own", "X-Api-Key": "own", "Accept": "text/x" });
    let to = |url: &str| json!({ "url": format!("https://granted.example/to?{url}"), "headers": headers });
    let net = ["--net", &format!("allow={INSPECTED},files.granted.example/*:/*,granted.example:80")];
    let (code, object, messages) = fetch(backend, &to("https://files.granted.example/x"), &net);
    assert_eq!((code, &object["result"]["body"]), (0, &json!("tls /x")), "{object:#}\n{messages}");
    assert_eq!(object["result"]["redirects"][0]["status"], 302);
    let seen = heads("tls").into_iter().map(|head| head.to_lowercase()).collect::<Vec<_>>();
    assert!(seen[0].contains("authorization: own") && seen[0].contains("x-api-key: own"), "{seen:?}");
    assert!(!seen[1].contains("own") && seen[1].contains("accept: text/x"), "{seen:?}");
    for (url, reason) in [
        ("https://forbidden.example/", "network"),
        ("https://169.254.169.254/", "network"),
        ("http://granted.example/", "redirect"),
        ("file:///etc/passwd", "redirect"),
    ] {
        let (code, object, _) = fetch(backend, &to(url), &net);
        assert_eq!((code, &object["error"]["code"], &object["result"]), (1, &json!(reason), &Value::Null), "{url}: {object:#}");
    }
    let mut downgrade = to("http://granted.example/y");
    downgrade["allow_downgrade"] = true.into();
    let (code, object, _) = fetch(backend, &downgrade, &net);
    assert_eq!((code, &object["result"]["body"]), (0, &json!("http /y")), "{object:#}");
    assert!(!heads("http")[0].to_lowercase().contains("own"));
    // Without grants, a redirect leads nowhere else.
    let (code, object, _) = fetch(backend, &downgrade, &["--net", &format!("allow={INSPECTED}")]);
    assert_eq!((code, &object["error"]["code"]), (1, &json!("network")), "{object:#}");
    assert_eq!(heads("http").len(), 1);
}

fn authorities(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let url = json!({ "url": "https://granted.example/a" });
    // The gateway passes TLS through, and the host's own bundle has not the authority of the tests.
    let (code, object, _) = fetch(backend, &url, &[]);
    assert_eq!((code, &object["error"]["code"]), (1, &json!("network")), "{object:#}");
    assert!(object["error"]["message"].as_str().unwrap().contains("begin TLS with granted.example:443"), "{object:#}");
    assert_eq!(heads("tls").len(), 0);
    let (code, object, _) = fetch(backend, &url, &["--net", &format!("allow={INSPECTED}")]);
    assert_eq!((code, &object["result"]["body"]), (0, &json!("tls /a")), "{object:#}");
}

fn addresses(backend: &str) {
    name("rebind.example", &[PUBLIC, "169.254.169.254", "127.0.0.1", "10.0.0.5"]);
    let url = json!({ "url": "http://rebind.example/" });
    let place = EgressDir::new();
    let codes: Vec<_> = (0..4).map(|_| call(&place, backend, "http.fetch.v1", &url, &[]).0).collect();
    assert_eq!((codes, reached()), (vec![0, 1, 1, 1], vec![format!("{PUBLIC}:80")]));
    for url in ["http://169.254.169.254/latest", "http://127.0.0.1/", "http://0x7f.1/", "http://[::1]/"] {
        let (code, object, _) = fetch(backend, &json!({ "url": url }), &[]);
        assert_eq!((code, &object["reason"]), (77, &json!("invalid-network")), "{url}: {object:#}");
    }
    assert_eq!(reached().len(), 1);
}

/// The message names all grants that the fetch needs, so it is followed once.
fn loopback(backend: &str) {
    name("local.example", &["127.0.0.1"]);
    let url = json!({ "url": "http://local.example/a" });
    let (code, _, messages) = fetch(backend, &url, &[]);
    assert_eq!((code, reached().len()), (1, 0), "{messages}");
    let (_, rest) = messages.split_once("allow it with ").unwrap_or_else(|| panic!("{messages}"));
    let options: Vec<_> = rest.lines().next().unwrap().split(' ').collect();
    assert_eq!(options, ["--net", "allow=local.example:80,127.0.0.1:80"], "{messages}");
    let (code, object, messages) = fetch(backend, &url, &options);
    assert_eq!((code, &object["result"]["body"]), (0, &json!("http /a")), "{object:#}\n{messages}");
    assert_eq!(reached(), ["127.0.0.1:80"]);
}

fn endless(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let net = ["--net", &format!("allow={INSPECTED}")];
    let body = json!({ "url": "https://granted.example/endless", "max_bytes": 100_000 });
    let (code, object, _) = fetch(backend, &body, &net);
    let result = &object["result"];
    assert_eq!((code, &result["truncated"], &result["length"]), (0, &json!("bytes"), &json!(100_000)), "{}", object["error"]);
    let (code, object, _) = fetch(backend, &json!({ "url": "https://granted.example/endless-head" }), &net);
    // The gateway inspects the response, and refuses it before the program does.
    let refused = code == 1 || object["result"]["status"].as_u64().is_some_and(|status| status >= 400);
    assert!(refused, "{object:#}");
    let around = format!("https://granted.example/to?https://granted.example/to?{}", "x".repeat(10));
    let (code, object, _) = fetch(backend, &json!({ "url": around, "max_redirects": 1 }), &net);
    assert_eq!((code, &object["error"]["code"]), (1, &json!("limit")), "{object:#}");
}

fn secret(backend: &str) {
    for host in ["granted.example", "files.granted.example"] {
        name(host, &[PUBLIC]);
    }
    let headers = json!({ "Authorization": { "secret": "API_KEY", "scheme": "Bearer" } });
    let option = ["--secret", "API_KEY@granted.example=env:REAL_KEY"];
    let place = EgressDir::new();
    let url = json!({ "url": "https://granted.example/reflect", "headers": headers });
    let (code, object, messages) = call(&place, backend, "http.fetch.v1", &url, &option);
    assert_eq!((code, &object["result"]["status"]), (0, &json!(200)), "{object:#}\n{messages}");
    assert!(heads("tls")[0].contains(&format!("Bearer {VALUE}")), "{:?}", heads("tls"));
    assert!(!object.to_string().contains(VALUE) && !messages.contains(VALUE), "{object:#}");
    let data = Command::new("grep").args(["-rl", VALUE]).arg(place.outside("")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&data.stdout), "", "the value is stored");
    // The secret belongs to its host only.
    let away = json!({ "url": "https://granted.example/redirect", "headers": headers });
    let net = ["--net", "allow=granted.example,files.granted.example/*:/*"];
    let (code, object, _) = call(&place, backend, "http.fetch.v1", &away, &[&option[..], &net].concat());
    assert_eq!((code, &object["result"]["body"]), (0, &json!("tls /landed")), "{object:#}");
    assert!(!heads("tls").last().unwrap().to_lowercase().contains("authorization"));
    let (code, object, _) = call(&place, backend, "http.fetch.v1", &url, &[]);
    assert_eq!((code, &object["error"]["code"]), (1, &json!("invalid")), "{object:#}");
}

fn secret_of_intent(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let place = EgressDir::new();
    let url = json!({ "url": "https://granted.example/reflect", "headers": { "Authorization": { "secret": "API_KEY" } } });
    let key = ["--key", "k"];
    let option = ["--secret", "API_KEY@granted.example=env:REAL_KEY"];
    assert_eq!(fetch_again(&place, backend, &url, &[&option[..], &key].concat()).0, 0);
    assert_eq!(fetch_again(&place, backend, &url, &key).1["reason"], "key-conflict");
}

fn policies(backend: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    for host in ["granted.example", "other.example"] {
        name(host, &[PUBLIC]);
    }
    let place = EgressDir::new();
    let folder = place.outside("data/policy/enforced");
    std::fs::create_dir_all(&folder).unwrap();
    let text = r#"@id("all") @egress("any") permit (principal, action, resource);
        @id("no-other") forbid (principal, action == Action::"http.fetch.v1", resource == Host::"other.example");"#;
    std::fs::write(folder.join("test.cedar"), text).unwrap();
    for path in ["data", "data/policy", "data/policy/enforced", "data/policy/enforced/test.cedar"] {
        std::fs::set_permissions(place.outside(path), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    let fetched = |url: &str, options: &[&str]| {
        let (code, object, _) = fetch_again(&place, backend, &json!({ "url": url }), options);
        (code, object["reason"].clone())
    };
    assert_eq!(fetched("http://granted.example/", &[]), (0, json!("exited")));
    assert_eq!(fetched("http://other.example/", &[]), (77, json!("denied")));
    // A redirect cannot lead there either: every granted host is a resource.
    let net = ["--net", "allow=granted.example:80,other.example:80"];
    assert_eq!(fetched("http://granted.example/", &net), (77, json!("denied")));
    assert_eq!(reached().len(), 1);
}
