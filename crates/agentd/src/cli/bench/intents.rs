//! The cost of an intent without its execution, in memory, where the disk's flush costs nothing.

use super::{
    figure::{Figure, Row, Timed, figure},
    files, records,
};
use crate::cli::failure::Failure;
use agentd_core::{Captured, EndReason, Outcome, Usage};
use agentd_disk::Scratch;
use agentd_engine::{
    AdmissionBounds, AdmissionDecision, CapabilityRegistry, Engine, EngineParts, Executed, Intent, LiveQuotas, RunResult,
    Submitted, ValidIntent, admit, vocabulary,
};
use agentd_policy::{IfMissing, LivePolicies, PolicyPrincipal, PrincipalKind, RequestSource, RequestedConfinement};
use agentd_records::{AuditLog, ContentDigest, Records, Timestamp};
use agentd_state::{Retention, StateStore};
use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// The backend that the rows name. No sandbox is created.
const BACKEND: &str = "linux-native";

/// The inputs of admission.
struct Deciding {
    capabilities: CapabilityRegistry,
    policies: LivePolicies,
    isolated: BTreeSet<String>,
}

/// Adds the rows, and returns the folder that they use. There are no rows if the host has no directory in memory.
pub(super) async fn rows(figures: &mut Vec<Figure>) -> Result<Option<Scratch>, Failure> {
    let Some(memory) = files::memory() else { return Ok(None) };
    let scratch = Scratch::make(memory, "agentd-bench").map_err(std::io::Error::other)?;
    let log = Arc::new(Records::at(&scratch.path().join("log")).open_log()?);
    let deciding = Arc::new(Deciding::new(scratch.path())?);
    let measure = move || {
        let (deciding, log) = (deciding.clone(), log.clone());
        Box::pin(async move { decided(&deciding, &log).await }) as Timed
    };
    figures.push(figure("admission + receipt + 3 leaves, in memory", Row::Timed(Box::new(measure))));
    let records = Records::at(&scratch.path().join("records"));
    records.keys()?;
    let state = StateStore::open(&scratch.path().join("state"), Retention::default())?;
    let Deciding { capabilities, policies, isolated } = Deciding::new(scratch.path())?;
    let quotas = LiveQuotas::open(&scratch.path().join("quotas.toml"))?;
    let operator = "uid:1000".try_into()?;
    let parts = EngineParts { capabilities, policies, isolated, quotas, state, records, operator };
    let engine = Arc::new(Engine::start(parts).await?);
    let measure = move || {
        let engine = engine.clone();
        Box::pin(async move { submitted(&engine).await }) as Timed
    };
    figures.push(figure("agentd call without its execution, in memory", Row::Timed(Box::new(measure))));
    Ok(Some(scratch))
}

impl Deciding {
    /// Returns the capabilities that agentd contains, and the default policy: `folder` contains no other.
    fn new(folder: &Path) -> Result<Self, Failure> {
        let capabilities = CapabilityRegistry::built_in()?;
        let words = vocabulary(&capabilities, [(BACKEND, true)])?;
        let policies = LivePolicies::open(&folder.join("policy"), words, IfMissing::UseDefault)?;
        Ok(Self { capabilities, policies, isolated: [BACKEND.to_owned()].into() })
    }
}

fn intent() -> Intent {
    let parameters = serde_json::json!({ "command": "make test", "env": { "CI": "1" } });
    Intent {
        principal: PolicyPrincipal { kind: PrincipalKind::User, name: "uid:1000".to_owned(), groups: Vec::new(), acts_for: None },
        source: RequestSource { transport: "command-line".to_owned(), address: None },
        capability: "shell.exec.v1".to_owned(),
        parameters: parameters.as_object().cloned().unwrap_or_default(),
        scope: None,
        confinement: RequestedConfinement::default(),
        secrets: Vec::new(),
        workspace: None,
        sandbox: None,
        key: None,
        received: Timestamp::now(),
    }
}

/// Measures validation, policies, admission, receipt and audit log: what a process does for each of many intents.
async fn decided(deciding: &Deciding, log: &AuditLog) -> Result<Duration, Failure> {
    let intent = intent();
    let started = Instant::now();
    let valid = ValidIntent::new(intent, &deciding.capabilities).map_err(|refused| refused.1.to_string())?;
    let (policy, _) = deciding.policies.current().decide(&valid.policy_request());
    let bounds = AdmissionBounds { isolated: &deciding.isolated, cpu_time: None };
    match admit(&valid, None, &policy, bounds) {
        AdmissionDecision::Execute(_) => {}
        other => return Err(format!("measure admission: the intent is not executed: {other:?}").into()),
    }
    let admitted = started.elapsed();
    Ok(admitted.saturating_add(records::intent(log).await?))
}

/// Measures the whole engine as `agentd call` uses it: with the store, and with a log that other processes may write in between.
async fn submitted(engine: &Engine) -> Result<Duration, Failure> {
    let intent = intent();
    let started = Instant::now();
    let Submitted::Execute(execution) = engine.submit(intent).await? else {
        return Err("measure an intent: the intent was not executed".into());
    };
    let outcome = Outcome {
        reason: EndReason::Exited,
        exit_code: Some(0),
        signal: None,
        usage: Usage::default(),
        stdout: Captured::default(),
        stderr: Captured::default(),
    };
    let ran = RunResult::Command(Ok(outcome), [ContentDigest::of(b""); 2]);
    execution.finish(Executed { backend: BACKEND, controls: &[], evidence: &[], egress: None, ran }).await?;
    Ok(started.elapsed())
}
