//! Virtual machines: what differs from a sandbox on the host's kernel.

use crate::{
    EgressTest,
    json_document::is_documented,
    outer::{PUBLIC, heads, name},
    place::{EgressDir, TOOLS, backend},
};
use agentd::isolation::{Command, Network, NetworkFlow, NetworkLog, NetworkVerdict, Sandbox, SandboxSpec};
use agentd_isolation::egress::raise_descriptor_limit;
use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    sync::Arc,
    time::Duration,
};

pub const TESTS: &[EgressTest] = &[
    ("json_states_that_a_destination_is_the_word_of_the_guest", origin),
    ("explain_states_what_the_guest_reports", explain),
    ("secret_reaches_its_host_and_is_not_in_the_machine", secret),
    ("granted_hosts_of_a_running_machine_change", changed),
    ("connections_end_at_a_restore_and_a_fork_has_its_own", restored),
];

const LONG: Duration = Duration::from_secs(120);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn spec(grants: &[&str]) -> SandboxSpec {
    SandboxSpec { network: Network::Egress(grants.iter().map(|grant| (*grant).to_owned()).collect()), ..SandboxSpec::default() }
}

fn python(script: &str) -> Command {
    Command {
        argv: ["/usr/bin/python3", "-c", &[TOOLS, script].concat()].map(Into::into).to_vec(),
        capture: 1 << 16,
        ..Command::default()
    }
}

async fn printed(sandbox: &Arc<dyn Sandbox>, script: &str) -> String {
    text(&sandbox.exec(python(script)).await.unwrap().stdout.to_bytes())
}

fn in_runtime<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(test)
}

fn origin(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let script = "
attempt('granted.example', 2222, b'hello')
attempt('other.example', 2222)
attempt('93.184.216.34', 853)
";
    let argv = ["/usr/bin/python3", "-c", &[TOOLS, script].concat()];
    let output = EgressDir::new().run(backend, &["--json", "--net", "allow=granted.example:2222"], &argv);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let flows = object["network"]["flows"].as_array().unwrap();
    for (to, allowed) in [("granted.example:2222", true), ("other.example", false), ("93.184.216.34:853", false)] {
        let flow = flows.iter().find(|flow| flow["to"] == to).unwrap_or_else(|| panic!("{to}: {object:#}"));
        assert_eq!((&flow["allowed"], &flow["origin"]), (&allowed.into(), &"guest".into()), "{flow:#}");
    }
    is_documented("`agentd run --json`", 1, &[&object["network"]]);
}

fn explain(backend: &str) {
    let output = EgressDir::new().run(backend, &["--explain", "--net", "allow=a.example"], &["true"]);
    let text = text(&output.stdout);
    for line in [
        "allowed      a.example:443 (TLS for this name)",
        "guest        the agent in the machine states each destination and each refused attempt; this host looks up the grants",
        "recorded     each connection, and each refused attempt that the agent in the machine reports",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}

fn secret(backend: &str) {
    const VALUE: &str = "real-value-5d1c9b6f70e24a33";
    name("granted.example", &[PUBLIC]);
    let script = "
import os, urllib.request as r
key = os.environ['API_KEY']
answer = r.urlopen(r.Request('https://granted.example/reflect', headers={'Authorization': 'Bearer ' + key}))
print(answer.read().decode(), dict(os.environ))
";
    let place = EgressDir::new();
    let options = ["--net", "allow=granted.example", "--secret", "API_KEY@granted.example=env:REAL_KEY"];
    let mut command = place.trusting(backend, &options, &["/usr/bin/python3", "-c", script]);
    let output = command.env("REAL_KEY", VALUE).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(heads("tls").iter().any(|head| head.contains(&format!("Bearer {VALUE}"))), "{:?}", heads("tls"));
    let all = [text(&output.stdout), text(&output.stderr)].concat();
    assert!(all.contains("API_KEY") && !all.contains(VALUE), "{all}");
}

fn changed(name_of_backend: &str) {
    name("granted.example", &[PUBLIC]);
    in_runtime(async {
        let sandbox = backend(name_of_backend).create_sandbox(spec(&[])).await.unwrap();
        let talk = "attempt('granted.example', 2222, b'hello')";
        assert_eq!(printed(&sandbox, talk).await, "granted.example 2222 no such name\n");
        let granted = spec(&["granted.example:2222"]).network;
        sandbox.set_network(&granted).await.unwrap();
        assert_eq!(printed(&sandbox, talk).await, "granted.example 2222 hello\n");
        sandbox.set_network(&spec(&[]).network).await.unwrap();
        assert_eq!(printed(&sandbox, talk).await, "granted.example 2222 no such name\n");
        sandbox.destroy().await.unwrap();
        assert!(sandbox.set_network(&granted).await.is_err());
    });
}

fn next(log: &dyn NetworkLog) -> NetworkFlow {
    log.next(LONG).expect("a flow")
}

fn restored(name_of_backend: &str) {
    name("granted.example", &[PUBLIC]);
    in_runtime(async {
        // The gateways of a process share its descriptors.
        raise_descriptor_limit().unwrap();
        let sandbox = backend(name_of_backend).create_sandbox(spec(&["granted.example:2222"])).await.unwrap();
        let log = sandbox.network_log().unwrap();
        let hold = "
import time
s = connect('granted.example', 2222)
s.sendall(b'hello')
print(s.recv(10), flush=True)
time.sleep(3600)
";
        let mut held = sandbox.exec_streaming(python(hold)).await.unwrap();
        let mut line = String::new();
        let stdout = File::from(held.take_streams().stdout.unwrap());
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "b'hello'\n");
        sandbox.snapshot("before").await.unwrap();
        sandbox.restore("before").await.unwrap();
        let flow = next(&*log);
        let NetworkVerdict::Granted { cut: Some(cut), .. } = &flow.verdict else { panic!("{flow:?}") };
        assert!(flow.from_guest && cut.contains("restore"), "{flow:?}");
        let talk = "attempt('granted.example', 2222, b'again')";
        assert_eq!(printed(&sandbox, talk).await, "granted.example 2222 again\n");
        assert_eq!(next(&*log).verdict, NetworkVerdict::Granted { rule: "granted.example:2222".to_owned(), cut: None });
        // A change in one does not change the other.
        let fork = sandbox.fork().await.unwrap();
        sandbox.set_network(&spec(&[]).network).await.unwrap();
        assert_eq!(printed(&fork, talk).await, "granted.example 2222 again\n");
        assert_eq!(printed(&sandbox, talk).await, "granted.example 2222 no such name\n");
        let in_fork = next(&*fork.network_log().unwrap());
        assert_eq!((in_fork.name.as_deref(), in_fork.sent), (Some("granted.example"), 5), "{in_fork:?}");
        fork.destroy().await.unwrap();
        sandbox.destroy().await.unwrap();
        let left: Vec<_> = std::iter::from_fn(|| log.next(LONG)).collect();
        assert!(left.iter().all(|flow| matches!(flow.verdict, NetworkVerdict::Refused { .. })), "{left:?}");
    });
}
