//! The cost of records: leaves of the audit log that are durable, and receipt and audit of one intent without the disk's flush.

use super::{
    figure::{Figure, Row, Timed, figure},
    files,
};
use crate::cli::failure::Failure;
use agentd_disk::Scratch;
use agentd_records::{
    AuditEvent, AuditLog, ContentDigest, Label, Leaf, Records, Timestamp,
    receipt::{self, Receipt, ReceiptDecision, RecordedOutcome, Subject},
};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Clients that append at the same time, and the leaves of each.
const CLIENTS: u64 = 64;
const LEAVES: u64 = 200;

/// Measures how many leaves a second become durable in a log in `folder`.
pub(super) async fn leaves_per_second(folder: &Path) -> Result<f64, Failure> {
    let records = Records::at(&folder.join("records"));
    let log = Arc::new(records.open_log()?);
    let started = Instant::now();
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(append(log.clone(), LEAVES))).collect();
    for client in clients {
        client.await??;
    }
    Ok((CLIENTS * LEAVES) as f64 / started.elapsed().as_secs_f64())
}

async fn append(log: Arc<AuditLog>, count: u64) -> Result<(), String> {
    for number in 0..count {
        let leaf = outcome(&number.to_string()).map_err(|error| error.to_string())?;
        log.append(&leaf).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Returns the row of one intent after another: its three leaves, and its receipt. The log is in memory, where a flush costs
/// nothing, in the folder that is returned with the row. There is no row if the host has no such directory.
pub(super) fn row() -> Result<Option<(Figure, Scratch)>, Failure> {
    let Some(memory) = files::memory() else { return Ok(None) };
    let scratch = Scratch::make(memory, "agentd-bench").map_err(std::io::Error::other)?;
    let records = Records::at(&scratch.path().join("records"));
    let log = Arc::new(records.open_log()?);
    let measure = move || {
        let log = log.clone();
        Box::pin(async move { intent(&log).await }) as Timed
    };
    Ok(Some((figure("receipt + 3 leaves of the audit log, in memory", Row::Timed(Box::new(measure))), scratch)))
}

/// Measures the leaves and the receipt of one intent.
pub(super) async fn intent(log: &AuditLog) -> Result<Duration, Failure> {
    let started = Instant::now();
    let (digest, now) = (ContentDigest::of(b"intent"), Timestamp::now());
    let requested = AuditEvent::Intent {
        id: label("1")?,
        principal: label("uid:1000")?,
        source: label("local")?,
        capability: label("shell.exec.v1")?,
        intent: digest,
        idempotency_key: None,
    };
    let decided = AuditEvent::Decision {
        id: label("1")?,
        intent: digest,
        allowed: true,
        policies: vec![label("default")?],
        policy_set: digest,
        obligations: [(label("profile")?, label("strict")?)].into(),
    };
    let (requested, decided) = (Leaf::new(now, requested), Leaf::new(now, decided));
    // Both must be durable before the command starts. One commit is enough for both.
    let (requested, decided) = tokio::join!(log.append(&requested), log.append(&decided));
    requested.and(decided)?;
    let receipt = Receipt {
        version: label(env!("CARGO_PKG_VERSION"))?,
        principal: label("uid:1000")?,
        capability: label("shell.exec.v1")?,
        intent: digest,
        decision: ReceiptDecision { allowed: true, policies: vec![label("default")?] },
        started: now,
        finished: Timestamp::now().max(now),
        backend: Some(label("linux-native")?),
        probed: false,
        controls: Vec::new(),
        evidence: Vec::new(),
        limits: [(label("wall_us")?, 30_000_000)].into(),
        usage: [(label("wall_us")?, 1000)].into(),
        egress: None,
        outcome: RecordedOutcome { reason: label("exited")?, exit_code: Some(0), signal: None },
    };
    let subjects = vec![Subject::new("stdout", digest), Subject::new("stderr", ContentDigest::of(b""))];
    receipt::sign(receipt, subjects, &log.keys().signer)?;
    log.append(&outcome("1")?).await?;
    Ok(started.elapsed())
}

/// Returns the leaf of an outcome.
pub(super) fn outcome(id: &str) -> Result<Leaf, agentd_records::InvalidLabel> {
    let digest = ContentDigest::of(b"intent");
    let (id, reason) = (label(id)?, label("exited")?);
    let event = AuditEvent::Outcome { id, intent: digest, reason, exit_code: Some(0), signal: None, receipt: Some(digest) };
    Ok(Leaf::new(Timestamp::now(), event))
}

fn label(text: &str) -> Result<Label, agentd_records::InvalidLabel> {
    text.try_into()
}
