//! Both eras of the protocol on one server.

use crate::client::{Client, Era, NEWEST, User};
use serde_json::{Value, json};

#[test]
fn client_with_initialize_lists_and_calls_tools() {
    for version in ["2025-06-18", "2025-11-25"] {
        let user = User::new();
        let mut client = Client::start(&user, Era::Old(version));
        let tools = client.request("tools/list", json!({}));
        assert!(tools["tools"].as_array().unwrap().len() > 10 && tools.get("resultType").is_none(), "{tools:#}");
        assert_eq!(client.request("ping", json!({})), json!({}));
        assert_eq!(client.shell("echo $((40 + 2))")["result"]["stdout"]["text"], "42\n");
        assert_eq!(client.close(), Some(0));
    }
}

#[test]
fn client_without_initialize_discovers_lists_and_calls_tools() {
    let user = User::new();
    let mut client = Client::start(&user, Era::New);
    let found = client.request("server/discover", json!({}));
    assert!(found["supportedVersions"].as_array().unwrap().contains(&NEWEST.into()), "{found:#}");
    assert_eq!(found["resultType"], "complete");
    let tools = client.request("tools/list", json!({}));
    assert_eq!((&tools["resultType"], &tools["cacheScope"]), (&json!("complete"), &json!("public")));
    assert!(tools["ttlMs"].as_u64().unwrap() > 0);
    assert_eq!(client.shell("echo $((40 + 2))")["result"]["stdout"]["text"], "42\n");
    assert_eq!(client.error("ping", json!({}))["code"], -32601, "removed from this revision");
    assert_eq!(client.close(), Some(0));
}

#[test]
fn client_that_probes_with_discover_can_still_initialize() {
    let user = User::new();
    let mut client = Client::raw(&user, &[]);
    let old = client.error("server/discover", json!({}));
    assert!(old["code"].as_i64().is_some(), "{old:#}");
    let info = json!({ "name": "test", "version": "1" });
    let answer = client.request("initialize", json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info }));
    assert_eq!(answer["serverInfo"]["name"], "agentd");
    assert!(client.request("tools/list", json!({}))["tools"].is_array());
}

#[test]
fn unknown_revision_is_answered_with_those_that_the_server_speaks() {
    let user = User::new();
    let mut client = Client::raw(&user, &[]);
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2099-01-01",
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let error = client.error("tools/list", json!({ "_meta": meta }));
    assert_eq!(error["code"], -32022);
    assert!(error["data"]["supported"].as_array().unwrap().contains(&NEWEST.into()), "{error:#}");
    let info = json!({ "name": "test", "version": "1" });
    let answer = client.request("initialize", json!({ "protocolVersion": "1999-01-01", "capabilities": {}, "clientInfo": info }));
    assert_eq!(answer["protocolVersion"], "2025-11-25");
}

#[test]
fn span_of_the_client_is_the_parent_of_that_of_the_call() {
    let user = User::new();
    let mut client = Client::start(&user, Era::New);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let params = json!({ "name": "shell_exec_v1", "arguments": { "command": "true" }, "_meta": { "traceparent": parent } });
    let result = client.request("tools/call", params);
    let own = result["_meta"]["traceparent"].as_str().unwrap();
    assert!(own.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && own != parent, "{own}");
}

#[test]
fn unknown_methods_and_tools_are_errors_of_the_protocol() {
    let user = User::new();
    for era in [Era::Old("2025-11-25"), Era::New] {
        let mut client = Client::start(&user, era);
        client.request("tools/list", json!({}));
        assert_eq!(client.error("no/such", json!({}))["code"], -32601);
        let error = client.error("tools/call", json!({ "name": "no_such", "arguments": {} }));
        assert_eq!(error["code"], -32602);
        assert!(error["message"].as_str().unwrap().contains("tools/list"), "{error:#}");
        let wrong: Value = client.error("tools/call", json!({ "name": 1 }));
        assert!(wrong["code"].as_i64().is_some());
    }
}
