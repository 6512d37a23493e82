//! Clients of gRPC and REST that others wrote, against a daemon: Python's `grpcio` by reflection and standard health, and
//! `schemathesis`, which makes requests from the OpenAPI document. They are installed by `./test` (row `egress-clients`).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod bridge;
#[path = "../mcp_clients/place.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod place;

use bridge::Bridge;
use place::{Place, agentd, installed, output, python};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Stdio},
};

/// A daemon, which is killed at the end.
struct Daemon {
    place: Place,
    process: Child,
    _messages: BufReader<ChildStderr>,
}

impl Daemon {
    fn start() -> Self {
        let place = Place::new();
        let mut command = place.command(&agentd(), &["serve"]);
        let mut process = command.env("AGENTD_DATA_DIR", place.path("data")).stderr(Stdio::piped()).spawn().unwrap();
        let mut messages = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        messages.read_line(&mut line).unwrap();
        assert!(line.contains("serving on "), "{line}");
        Self { place, process, _messages: messages }
    }

    fn socket(&self) -> PathBuf {
        self.place.path("data/serve/agentd.sock")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // The daemon of named sandboxes, if a client has created one.
        let _ = self.place.command(&agentd(), &["daemon", "stop"]).env("AGENTD_DATA_DIR", self.place.path("data")).output();
    }
}

#[test]
fn grpcio_calls_every_method_by_reflection() {
    let daemon = Daemon::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transport_clients/grpc_client.py");
    let target = format!("unix:{}", daemon.socket().display());
    let printed = daemon.place.good(&python(), &[script.to_str().unwrap(), &target]);
    assert_eq!(printed.lines().count(), 6, "{printed}");
}

#[test]
fn example_of_the_documentation_runs() {
    let daemon = Daemon::start();
    let page = include_str!("../../../../docs/grpc.md");
    let (_, example) = page.split_once("```python\n").unwrap();
    let (example, _) = example.split_once("```\n").unwrap();
    let documented = "/home/me/.local/share/agentd/serve/agentd.sock";
    assert!(example.contains(documented));
    let script = daemon.place.path("example.py");
    fs::write(&script, example.replace(documented, daemon.socket().to_str().unwrap())).unwrap();
    assert!(daemon.place.good(&python(), &[script.to_str().unwrap()]).starts_with("Linux "));
}

/// `positive_data_acceptance` is left out: a request that fits the document may still be refused, because each capability has its
/// own schema of parameters, which the document does not contain.
#[test]
fn schemathesis_finds_no_violation_of_the_openapi_document() {
    let daemon = Daemon::start();
    let bridge = Bridge::start(&daemon.socket());
    let document = format!("http://{}/openapi.json", bridge.address);
    let mut command = daemon.place.command(&installed("python/bin/schemathesis"), &["run", &document]);
    command.args(["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--continue-on-failure"]);
    command.args(["--seed", "1", "--generation-database", "none", "--max-examples", "40", "--no-color"]);
    command.args(["--suppress-health-check", "all"]);
    let printed = output(&mut command);
    let tested = printed.lines().find_map(|line| line.trim().strip_prefix("Tested:")).map(str::trim);
    let selected = printed.lines().find_map(|line| line.trim().strip_prefix("Selected:")).map(str::trim);
    assert!(tested.is_some() && selected == tested.map(|tested| format!("{tested}/{tested}")).as_deref(), "{printed}");
}
