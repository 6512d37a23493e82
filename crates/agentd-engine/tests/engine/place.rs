//! A place with a store, policies, quotas and an audit log, and intents.

use agentd_core::{Captured, EndReason, Outcome, Usage};
use agentd_engine::{
    CapabilityRegistry, EndedIntent, Engine, EngineParts, Executed, Execution, Intent, LiveQuotas, RunResult, Submitted,
    vocabulary,
};
use agentd_policy::{IfMissing, LivePolicies, PolicyPrincipal, PrincipalKind, RequestSource, RequestedConfinement};
use agentd_records::{AuditEvent, ContentDigest, Leaf, Records, Timestamp, verify};
use agentd_state::{Retention, StateStore};
use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub const ALL: &str = r#"@id("all") @egress("any") permit (principal, action, resource);"#;

pub struct Place {
    directory: Directory,
    pub runtime: Runtime,
}

/// A directory of this place, or of another one.
enum Directory {
    Own(TempDir),
    Other(PathBuf),
}

impl Place {
    pub fn new() -> Self {
        Self { directory: Directory::Own(tempfile::tempdir().unwrap()), runtime: runtime() }
    }

    /// The same place with another runtime, for another thread.
    pub fn at(other: &Self) -> Self {
        Self { directory: Directory::Other(other.path("")), runtime: runtime() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        match &self.directory {
            Directory::Own(directory) => directory.path().join(name),
            Directory::Other(path) => path.join(name),
        }
    }

    /// Writes a file that nobody else may change.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let above = path.ancestors().take_while(|above| above.starts_with(self.path("")));
        for (depth, path) in above.enumerate() {
            let mode = if depth == 0 { 0o600 } else { 0o700 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    pub fn records(&self) -> Records {
        Records::at(&self.path("records"))
    }

    pub fn state(&self) -> StateStore {
        StateStore::open(&self.path("state"), Retention::default()).unwrap()
    }

    /// Starts an engine that enforces this policy, with the quotas that were written.
    pub fn engine(&self, policy: &str) -> Engine {
        self.write("policy/enforced/test.cedar", policy);
        self.start()
    }

    /// Starts an engine with the policies and quotas that were written.
    pub fn start(&self) -> Engine {
        let capabilities = CapabilityRegistry::built_in().unwrap();
        let words = vocabulary(&capabilities, [("container", true), ("linux-native", true)]).unwrap();
        let policies = LivePolicies::open(&self.path("policy"), words, IfMissing::UseDefault).unwrap();
        let quotas = LiveQuotas::open(&self.path("quotas.toml")).unwrap();
        let records = self.records();
        records.keys().unwrap();
        let isolated = ["container", "linux-native"].map(str::to_owned).into();
        let operator = "uid:7".try_into().unwrap();
        let parts = EngineParts { capabilities, policies, isolated, quotas, state: self.state(), records, operator };
        self.runtime.block_on(Engine::start(parts)).unwrap()
    }

    pub fn submit<'e>(&self, engine: &'e Engine, intent: Intent) -> Submitted<'e> {
        self.runtime.block_on(engine.submit(intent)).unwrap()
    }

    pub fn execution<'e>(&self, engine: &'e Engine, key: Option<&str>) -> Execution<'e> {
        match self.submit(engine, intent("make", key)) {
            Submitted::Execute(execution) => *execution,
            Submitted::Hold(_) => panic!("the intent waits for an approval"),
            Submitted::Ended(ended) => panic!("{ended:?}"),
        }
    }

    pub fn ended(&self, engine: &Engine, intent: Intent) -> EndedIntent {
        match self.submit(engine, intent) {
            Submitted::Ended(ended) => ended,
            _ => panic!("the intent is executed"),
        }
    }

    pub fn finish(&self, execution: Execution<'_>) -> EndedIntent {
        self.finish_as(execution, finished(b"out", Duration::ZERO))
    }

    pub fn finish_as(&self, execution: Execution<'_>, ran: RunResult) -> EndedIntent {
        let executed = Executed { backend: "container", controls: &[], evidence: &[], egress: None, ran };
        self.runtime.block_on(execution.finish(executed)).unwrap()
    }

    /// Returns the kinds of all leaves, after a verification of the log.
    pub fn leaves(&self) -> Vec<&'static str> {
        self.events().iter().map(AuditEvent::kind).collect()
    }

    /// Returns the events of all leaves, after a verification of the log.
    pub fn events(&self) -> Vec<AuditEvent> {
        let records = self.records();
        let (reader, ring) = (records.reader(), records.ring().unwrap());
        let size = verify(&reader, &ring, None).unwrap().checkpoint.size;
        let bytes = (0..size.div_ceil(256)).flat_map(|bundle| reader.bundle(size, bundle).unwrap());
        bytes.map(|bytes| Leaf::parse(&bytes).unwrap().event).collect()
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Returns the outcome of a command that has written `output`, and has used this processor time.
pub fn finished(output: &[u8], cpu_user: Duration) -> RunResult {
    let captured = Captured { head: output.to_vec(), ..Captured::default() };
    let outcome = Outcome {
        reason: EndReason::Exited,
        exit_code: Some(0),
        signal: None,
        usage: Usage { cpu_user, ..Usage::default() },
        stdout: captured.clone(),
        stderr: captured,
    };
    RunResult::Command(Ok(outcome), [output, output].map(ContentDigest::of))
}

/// Returns an intent of the user 7 to run a command line.
pub fn intent(command: &str, key: Option<&str>) -> Intent {
    Intent {
        principal: PolicyPrincipal { kind: PrincipalKind::User, name: "uid:7".to_owned(), groups: Vec::new(), acts_for: None },
        source: RequestSource { transport: "command-line".to_owned(), address: None },
        capability: "shell.exec.v1".to_owned(),
        parameters: json!({ "command": command }).as_object().unwrap().clone(),
        scope: None,
        confinement: RequestedConfinement::default(),
        secrets: Vec::new(),
        workspace: None,
        sandbox: None,
        key: key.map(|key| key.parse().unwrap()),
        received: Timestamp::now(),
    }
}

/// Returns an intent of an agent in groups.
pub fn of_agent(name: &str, groups: &[&str]) -> Intent {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    let principal = PolicyPrincipal { kind: PrincipalKind::Agent, name: name.to_owned(), groups, acts_for: None };
    Intent { principal, ..intent("make", None) }
}
