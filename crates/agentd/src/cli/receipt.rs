//! `agentd run --receipt`: records a run in the audit log, and writes a signed receipt of it.

use super::{
    args::RunArgs,
    failure::Failure,
    output_file::{INTENT, OutputFile, OutputKind},
    records, request,
    selection::Selected,
    writer::{Output, OutputPiece},
};
use agentd_core::{Command, ControlReport, IsolationError, Outcome, SandboxSpec};
use agentd_records::{
    AuditEvent, ContentDigest, ContentHasher, Label, Leaf, Records, Timestamp, random_id,
    receipt::{
        self, Receipt, ReceiptDecision, RecordedEgress, RecordedOutcome, Subject, recorded_controls, recorded_evidence,
        recorded_limits, recorded_outcome, recorded_usage,
    },
};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::mpsc;

/// The capability that `agentd run` uses.
const CAPABILITY: &str = "shell.exec.v1";

/// A receipt that the caller requested, before the run is recorded.
pub(super) struct RequestedReceipt {
    file: OutputFile,
    records: Records,
    started: Timestamp,
}

/// A run whose intent is in the audit log.
pub(super) struct Recording {
    requested: RequestedReceipt,
    id: Label,
    intent: ContentDigest,
    limits: BTreeMap<Label, u64>,
    /// True if the command has one stream: its terminal.
    terminal: bool,
    output: OutputDigests,
}

/// Computes digests of the standard output and standard error of a command.
#[derive(Default)]
pub(super) struct OutputDigests(Arc<Mutex<[ContentHasher; 2]>>);

/// The facts about a run that has ended.
pub(super) struct Ended<'e> {
    pub selected: &'e Selected,
    pub controls: &'e [ControlReport],
    pub egress: Option<RecordedEgress>,
    pub ran: Result<&'e Outcome, &'e IsolationError>,
}

impl RequestedReceipt {
    /// Prepares a receipt, if one was requested: opens the directory of the file, and generates a key if there is none.
    ///
    /// # Errors
    /// The directory or the keys cannot be used.
    pub fn of(args: &RunArgs) -> Result<Option<Self>, Failure> {
        let Some(path) = &args.receipt else { return Ok(None) };
        let (file, records) =
            (OutputFile::at(OutputKind::Receipt, path, request::followed(args.boundary.follow_links))?, records::records()?);
        records.keys()?;
        Ok(Some(Self { file, records, started: Timestamp::now() }))
    }

    /// Writes the file with the intent, keeps a copy of it, and records the intent in the audit log. The command must not start
    /// before.
    ///
    /// # Errors
    /// The intent cannot be written or recorded.
    pub fn record(self, spec: &SandboxSpec, command: &Command) -> Result<Recording, Failure> {
        let random = || random_id().map_err(|error| format!("receipt: random bytes: {error} — check that getrandom(2) works"));
        let (id, nonce) = (random()?, random()?);
        let text = intent(&nonce, spec, command)?;
        let (id, intent) = (Label::try_from(id)?, self.records.keep(&text)?);
        self.file.write(INTENT, &text)?;
        let event = AuditEvent::Intent {
            id: id.clone(),
            principal: records::principal()?,
            source: "command-line".try_into()?,
            capability: CAPABILITY.try_into()?,
            intent,
            idempotency_key: None,
        };
        self.records.recorder()?.record(&Leaf::new(self.started, event))?;
        let limits = recorded_limits(&[&spec.limits, &command.limits])?;
        Ok(Recording { requested: self, id, intent, limits, terminal: command.pty.is_some(), output: OutputDigests::default() })
    }
}

impl Recording {
    /// Computes digests of the output on its way to `output`.
    pub fn observe(&self, output: Output) -> Output {
        self.output.observe(output)
    }

    /// Signs the receipt, keeps a copy of it, records the end of the run in the audit log, and writes the file.
    ///
    /// # Errors
    /// The end of the run cannot be recorded, or the file cannot be written.
    pub fn finish(self, ended: Ended<'_>) -> Result<(), Failure> {
        let RequestedReceipt { file, records, started } = &self.requested;
        // From here on, no other process can replace the key, so the key is in use at the time of the receipt.
        let recorder = records.recorder()?;
        let finished = Timestamp::now().max(*started);
        let outcome = recorded_outcome(ended.ran)?;
        let receipt = Receipt {
            version: env!("CARGO_PKG_VERSION").try_into()?,
            principal: records::principal()?,
            capability: CAPABILITY.try_into()?,
            intent: self.intent,
            decision: ReceiptDecision { allowed: true, policies: Vec::new() },
            started: *started,
            finished,
            backend: Some(ended.selected.backend.name().try_into()?),
            probed: ended.selected.proven.is_some(),
            controls: recorded_controls(ended.controls)?,
            evidence: recorded_evidence(ended.selected.proven.iter().flat_map(|proven| &proven.evidence))?,
            limits: self.limits,
            usage: ended.ran.map_or(Ok(BTreeMap::new()), |outcome| recorded_usage(outcome.usage))?,
            egress: ended.egress,
            outcome: outcome.clone(),
        };
        let digests = self.output.finish();
        let names: &[&str] = if self.terminal { &["terminal"] } else { &["stdout", "stderr"] };
        let subjects = names.iter().zip(digests).map(|(name, digest)| Subject::new(name, digest)).collect();
        let text = receipt::sign(receipt, subjects, &recorder.keys().signer)?;
        let RecordedOutcome { reason, exit_code, signal } = outcome;
        let receipt = Some(records.keep(&text)?);
        let event = AuditEvent::Outcome { id: self.id, intent: self.intent, reason, exit_code, signal, receipt };
        recorder.record(&Leaf::new(finished, event))?;
        file.write("", &text)
    }
}

impl OutputDigests {
    /// Computes digests of the output on its way to `output`.
    pub fn observe(&self, (to, written, gone): Output) -> Output {
        let (sender, mut pieces) = mpsc::channel(1);
        let digests = self.0.clone();
        tokio::spawn(async move {
            while let Some(piece) = pieces.recv().await {
                let (OutputPiece::Out(bytes) | OutputPiece::Err(bytes)) = &piece;
                let stream = usize::from(matches!(piece, OutputPiece::Err(_)));
                digests.lock().unwrap_or_else(PoisonError::into_inner)[stream].update(bytes);
                // Without a receiver, the senders of pieces get the error.
                if to.send(piece).await.is_err() {
                    return;
                }
            }
        });
        (sender, written, gone)
    }

    /// Returns the digests.
    pub fn finish(&self) -> [ContentDigest; 2] {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().map(ContentHasher::finish)
    }
}

/// Describes the sandbox and the command. Of secrets, only the names and hosts are included. Of environment variables, only the
/// names are included, because the values may be secrets.
fn intent(nonce: &str, spec: &SandboxSpec, command: &Command) -> Result<String, Failure> {
    let secrets: Vec<&str> = spec.secrets.iter().map(|secret| secret.target.as_str()).collect();
    let spec = SandboxSpec { secrets: Vec::new(), ..spec.clone() };
    let texts = |texts: &mut dyn Iterator<Item = &OsStr>| texts.map(text).collect::<Vec<_>>();
    let object = serde_json::json!({
        "v": 1,
        "nonce": nonce,
        "capability": CAPABILITY,
        "argv": texts(&mut command.argv.iter().map(AsRef::as_ref)),
        "cwd": command.cwd.as_ref().map(|cwd| text(cwd.as_os_str())),
        "environment": texts(&mut command.env.iter().map(|(name, _)| name.as_ref())),
        "limits": command.limits,
        "secrets": secrets,
        "sandbox": serde_json::to_value(&spec)
            .map_err(|error| format!("receipt: describe the sandbox: {error} — grant only paths that are UTF-8"))?,
    });
    Ok(format!("{object:#}\n"))
}

/// Returns a text, or the array of its bytes if they are not UTF-8.
fn text(text: &OsStr) -> serde_json::Value {
    text.to_str().map_or_else(|| text.as_encoded_bytes().into(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::NetworkSecret;

    #[test]
    fn intent_names_secrets_and_has_no_value() {
        let secret = NetworkSecret::new("KEY@a.example", "the-real-value".to_owned());
        let spec = SandboxSpec { secrets: vec![secret], ..SandboxSpec::default() };
        let env = vec![("OTHER".into(), "another-value".into())];
        let command = Command { argv: vec!["true".into()], env, ..Command::default() };
        let text = intent("0", &spec, &command).unwrap();
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["secrets"], serde_json::json!(["KEY@a.example"]));
        assert_eq!(object["environment"], serde_json::json!(["OTHER"]));
        assert!(!text.contains("value"), "{text}");
    }
}
