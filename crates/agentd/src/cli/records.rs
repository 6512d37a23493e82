//! `agentd audit`, `agentd receipt` and `agentd signing-key`.

use super::{
    args::{AuditCommand, LogArgs, ReceiptCommand, SigningKeyCommand},
    data,
    failure::{self, Failure},
    writer,
};
use agentd_core::escape;
use agentd_records::{
    Alteration, Checkpoint, InvalidLabel, KeyRing, Label, Leaf, LogError, LogReader, MAX_NOTE, MAX_RING, Records, SignedNote,
    Timestamp, VerifyError, prove_consistency, prove_inclusion,
    receipt::{self, MAX_RECEIPT},
    verify,
};
use std::{
    fs::OpenOptions,
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Exit code: what was verified is not trustworthy.
const REFUSED: u8 = 1;

/// Returns the records of this user.
///
/// # Errors
/// If there is no data folder.
pub(crate) fn records() -> Result<Records, Failure> {
    Ok(Records::at(&data::folder()?.join("records")))
}

/// Returns the principal of the command line: this user.
///
/// # Errors
/// None: the name is short.
pub(crate) fn principal() -> Result<Label, InvalidLabel> {
    format!("uid:{}", rustix::process::geteuid().as_raw()).try_into()
}

/// Runs a subcommand of `agentd signing-key`. Returns the exit code.
pub(crate) fn signing_key(command: &SigningKeyCommand) -> Result<u8, Failure> {
    let keys = match command {
        SigningKeyCommand::Show => records()?.keys()?,
        SigningKeyCommand::Rotate => records()?.rotate(&principal()?)?,
    };
    write!(std::io::stdout(), "{}", keys.ring)?;
    Ok(0)
}

/// Runs a subcommand of `agentd receipt`. Returns the exit code.
pub(crate) fn receipt(command: &ReceiptCommand) -> Result<u8, Failure> {
    let ReceiptCommand::Verify { receipt, key } = command;
    let (bytes, ring) = (read("receipt", receipt, MAX_RECEIPT)?, ring(key.as_deref())?);
    match receipt::verify(&bytes, &ring, Timestamp::now()) {
        Ok(verified) => {
            for line in verified.to_string().lines() {
                writeln!(std::io::stdout(), "{}", escape::text(line))?;
            }
            Ok(0)
        }
        Err(error) => Ok(refused(&error)),
    }
}

/// Runs a subcommand of `agentd audit`. Returns the exit code.
pub(crate) fn audit(command: &AuditCommand) -> Result<u8, Failure> {
    let (AuditCommand::Verify { log, .. }
    | AuditCommand::Tail { log, .. }
    | AuditCommand::Checkpoint { log }
    | AuditCommand::Prove { log, .. }
    | AuditCommand::Export { log, .. }) = command;
    let log = Log::open(log)?;
    let done = match command {
        AuditCommand::Verify { checkpoint, json, .. } => log.verify(checkpoint.as_deref(), *json),
        AuditCommand::Tail { lines, json, .. } => log.tail(*lines, *json),
        AuditCommand::Checkpoint { .. } => log.checkpoint().and_then(|(note, _)| Ok(write!(std::io::stdout(), "{note}")?)),
        AuditCommand::Prove { index: Some(index), .. } => log.prove(*index),
        AuditCommand::Prove { since, .. } => log.prove_since(since.as_deref().unwrap_or(Path::new(""))),
        AuditCommand::Export { to, .. } => log.export(to),
    };
    match done {
        Ok(()) => Ok(0),
        Err(failure) => match failure.downcast_ref::<VerifyError>() {
            // The log could not be read, so nothing is known about it.
            None | Some(VerifyError::Log(LogError::Disk(_) | LogError::None(_))) => Err(failure),
            Some(error) => Ok(refused(error)),
        },
    }
}

fn refused(error: &dyn std::error::Error) -> u8 {
    writer::message(format_args!("{error}"));
    REFUSED
}

/// A log, and the keys that verify it.
struct Log {
    reader: LogReader,
    ring: KeyRing,
}

impl Log {
    fn open(args: &LogArgs) -> Result<Self, Failure> {
        let reader = match &args.log {
            Some(folder) => LogReader::new(folder),
            None => records()?.reader(),
        };
        Ok(Self { reader, ring: ring(args.key.as_deref())? })
    }

    /// Returns the checkpoint, whose signature was verified.
    fn checkpoint(&self) -> Result<(SignedNote, Checkpoint), Failure> {
        Ok(self.reader.checkpoint(&self.ring)?)
    }

    fn verify(&self, kept: Option<&Path>, json: bool) -> Result<(), Failure> {
        let kept = kept.map(|path| read("kept checkpoint", path, MAX_NOTE)).transpose()?;
        let verified = verify(&self.reader, &self.ring, kept.as_deref())?;
        let checkpoint = &verified.checkpoint;
        let signed_by: Vec<_> = verified.signed_by.iter().map(ToString::to_string).collect();
        let mut out = std::io::stdout().lock();
        if json {
            let object = serde_json::json!({
                "origin": checkpoint.origin,
                "leaves": checkpoint.size,
                "root": checkpoint.root.to_string(),
                "signed_by": signed_by,
                "kept_leaves": verified.kept,
            });
            return Ok(writeln!(out, "{}", escape::json(&format!("{object:#}")))?);
        }
        let Checkpoint { origin, size, root } = checkpoint;
        writeln!(out, "{origin}: {size} leaves, all as signed by {}; root {root}", signed_by.join(" and "))?;
        if let Some(kept) = verified.kept {
            writeln!(out, "the {kept} leaves of the kept checkpoint are unchanged")?;
        } else {
            writeln!(out, "without a kept checkpoint (--checkpoint), the replacement of a whole log is not detected")?;
        }
        Ok(())
    }

    fn tail(&self, lines: u64, json: bool) -> Result<(), Failure> {
        let (note, checkpoint) = self.checkpoint()?;
        let mut out = std::io::stdout().lock();
        for index in checkpoint.size.saturating_sub(lines)..checkpoint.size {
            // The proof shows that the leaf is the one that was signed.
            let (_, bytes) = prove_inclusion(&self.reader, (&note, &checkpoint), index).map_err(VerifyError::Log)?;
            let leaf = Leaf::parse(&bytes).map_err(|source| VerifyError::Leaf { index, source })?;
            if json {
                let object = serde_json::json!({ "index": index, "leaf": leaf });
                writeln!(out, "{}", escape::json(&object.to_string()))?;
            } else {
                let event = serde_json::to_value(&leaf.event)?;
                let fields = &event[leaf.event.kind()];
                writeln!(out, "{index} {} {} {}", leaf.time, leaf.event.kind(), escape::text(&fields.to_string()))?;
            }
        }
        Ok(())
    }

    fn prove(&self, index: u64) -> Result<(), Failure> {
        let (note, checkpoint) = self.checkpoint()?;
        let (proof, _) = prove_inclusion(&self.reader, (&note, &checkpoint), index).map_err(as_verified)?;
        Ok(write!(std::io::stdout(), "{proof}")?)
    }

    fn prove_since(&self, path: &Path) -> Result<(), Failure> {
        let (note, checkpoint) = self.checkpoint()?;
        let kept = SignedNote::parse(&read("kept checkpoint", path, MAX_NOTE)?).map_err(VerifyError::Kept)?;
        let (text, _) = kept.verify(self.ring.verifiers()).map_err(VerifyError::Kept)?;
        let kept: Checkpoint = text.parse().map_err(VerifyError::KeptForm)?;
        let old = (kept.size, kept.root);
        let proof = prove_consistency(&self.reader, (&note, &checkpoint), old).map_err(|error| match error {
            LogError::Root => Alteration::Rewritten(kept.size).into(),
            other => VerifyError::Log(other),
        })?;
        Ok(write!(std::io::stdout(), "{proof}")?)
    }

    fn export(&self, to: &Path) -> Result<(), Failure> {
        let (note, checkpoint) = self.checkpoint()?;
        self.reader.export(&note, &checkpoint, to)?;
        // Verifies what was copied.
        verify(&LogReader::new(to), &self.ring, Some(note.to_string().as_bytes()))?;
        Ok(writeln!(std::io::stdout(), "{} leaves exported", checkpoint.size)?)
    }
}

/// A leaf that does not exist is an error of the caller. Every other error shows a damaged log.
fn as_verified(error: LogError) -> Failure {
    match error {
        LogError::NoLeaf { .. } => error.into(),
        other => VerifyError::Log(other).into(),
    }
}

/// Returns the public keys of a file, or those of this machine.
fn ring(file: Option<&Path>) -> Result<KeyRing, Failure> {
    let Some(path) = file else { return Ok(records()?.ring()?) };
    let parsed = KeyRing::parse(&read("public keys", path, MAX_RING)?);
    Ok(parsed.map_err(|error| {
        format!("read public keys: {}: {error} — name a file that `agentd signing-key show` printed", path.display())
    })?)
}

/// Reads a file of at most `limit` bytes, without waiting for a FIFO or a device.
pub(crate) fn read(what: &str, path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let what = format!("read {what}");
    let failed = |error: std::io::Error| failure::of_file(&what, path, &error);
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = open.map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("{what}: {}: not a regular file — name a file", path.display()).into());
    }
    let mut bytes = Vec::new();
    // The caller detects a file that is too long by one byte more than the limit.
    let limit = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
