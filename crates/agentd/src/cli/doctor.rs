//! `agentd doctor`: every backend attacked anew, and what held.

use super::{Failure, args::DoctorArgs, probe_cache::REQUIRED, terminal::Progress};
use agentd_core::{BackendCapabilities, Bit, EvidenceResult};
use agentd_isolation::{available_backends, create_backend};
use std::fmt::Write;

struct Row {
    name: String,
    probed: Result<BackendCapabilities, String>,
}

/// Probes and prints.
pub(crate) async fn doctor(args: &DoctorArgs) -> Result<u8, Failure> {
    let names = match &args.backend {
        Some(name) => vec![name.clone()],
        None => available_backends(),
    };
    let progress = Progress::of("attacking every backend");
    let mut rows = Vec::new();
    for name in names {
        let backend = create_backend(&name, &std::env::temp_dir())?;
        let probed = backend.probe().await.map_err(|e| e.to_string());
        rows.push(Row { name: backend.name().to_owned(), probed });
    }
    drop(progress);
    let auto = auto(&rows);
    let text = if args.json { json(&rows, auto)? } else { table(&rows, auto) };
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}

/// Which backend `auto` takes.
fn auto(rows: &[Row]) -> Option<&str> {
    let proven = rows.iter().filter_map(|row| Some((row, row.probed.as_ref().ok()?)));
    let fit = proven.filter(|(_, proven)| REQUIRED.iter().all(|bit| proven.has(*bit)));
    fit.reduce(|best, next| if next.1.score() > best.1.score() { next } else { best }).map(|(row, _)| row.name.as_str())
}

fn json(rows: &[Row], auto: Option<&str>) -> Result<String, Failure> {
    let backends: Vec<_> = rows
        .iter()
        .map(|row| match &row.probed {
            Ok(proven) => serde_json::json!(proven),
            Err(error) => serde_json::json!({ "name": row.name, "error": error }),
        })
        .collect();
    Ok(format!("{}\n", serde_json::to_string_pretty(&serde_json::json!({ "auto": auto, "backends": backends }))?))
}

fn table(rows: &[Row], auto: Option<&str>) -> String {
    let mut out = format!("{:<14}", "backend");
    for bit in Bit::ALL {
        out.push_str(&format!("{:<12}", bit.to_string()));
    }
    out = out.trim_end().to_owned() + "\n";
    for row in rows {
        let cell = |bit| match &row.probed {
            Ok(proven) if proven.has(bit) => "proven",
            Ok(proven) if !proven.evidence.iter().any(|e| e.bit == bit) => "—",
            _ => "missing",
        };
        let cells: String = Bit::ALL.into_iter().map(|bit| format!("{:<12}", cell(bit))).collect();
        out.push_str(format!("{:<14}{cells}", row.name).trim_end());
        out.push('\n');
    }
    for row in rows {
        // Writing to a string does not fail.
        match &row.probed {
            Ok(proven) => {
                for evidence in proven.evidence.iter().filter(|e| e.result != EvidenceResult::Held) {
                    let why = match &evidence.result {
                        EvidenceResult::Broken(how) => format!("BROKEN: {how}"),
                        EvidenceResult::NotTried(why) => format!("not proven: {why}"),
                        EvidenceResult::Held => continue,
                    };
                    writeln!(out, "\n{}: {} ({})\n  {why}", row.name, evidence.bit, evidence.check).unwrap_or_default();
                    if !evidence.remedy.is_empty() {
                        writeln!(out, "  → {}", evidence.remedy).unwrap_or_default();
                    }
                }
                let held = proven.evidence.iter().filter(|e| e.result == EvidenceResult::Held).count();
                if !proven.evidence.is_empty() {
                    writeln!(out, "\n{}: {held} of {} attacks were tried and held", row.name, proven.evidence.len())
                        .unwrap_or_default();
                    writeln!(out, "  {}", proven.platform_features.join("; ")).unwrap_or_default();
                }
            }
            Err(error) => writeln!(out, "\n{}: {error}", row.name).unwrap_or_default(),
        }
    }
    match auto {
        Some(name) => writeln!(out, "\nauto takes {name}").unwrap_or_default(),
        None => {
            writeln!(out, "\nauto takes none: no backend proves files, processes, network and system calls").unwrap_or_default()
        }
    }
    out
}
