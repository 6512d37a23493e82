//! `agentd doctor`: probes every backend again and prints the results.

use super::{
    args::DoctorArgs,
    failure::{self, Failure},
    named_backend::named_backend,
    selection::{REQUIRED, is_automatic},
    temporary,
    terminal::{self, Progress},
    wrap::wrap,
};
use crate::isolation::{
    available_backends, probe_again,
    rank::{self, Rank, TieBreak},
};
use agentd_core::{BackendCapabilities, BackendTraits, Claim, EvidenceResult, escape};
use std::fmt::Write;

struct Row {
    name: String,
    traits: BackendTraits,
    probed: Result<BackendCapabilities, String>,
}

impl Row {
    /// Returns true if the backend proves all claims that a run requires.
    fn is_fit(&self) -> bool {
        self.probed.as_ref().is_ok_and(|proven| REQUIRED.iter().all(|claim| proven.has(*claim)))
    }
}

/// Probes the backends and prints the results.
pub(crate) async fn doctor(args: &DoctorArgs) -> Result<u8, Failure> {
    let names = match &args.backend {
        Some(name) => vec![name.clone()],
        None => available_backends(),
    };
    let progress = Progress::show("testing every backend with attacks");
    let mut rows = Vec::new();
    for name in names {
        let work_root = temporary::of_here()?;
        let backend = named_backend(&name, &work_root)?;
        // Replaces the stored result, so that later commands use the new one.
        let probed = probe_again(&work_root, backend.name()).await.map_err(|error| failure::message(&error));
        rows.push(Row { name: backend.name().to_owned(), traits: backend.traits(), probed });
    }
    drop(progress);
    let auto = auto(&rows);
    let text = match args.json {
        true => json(&rows, auto)?,
        false => {
            let width = terminal::width();
            format!("{}\n{}", table(&rows, width), wrap(&ending(&rows, auto, args.backend.is_some()), "", width))
        }
    };
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}

/// Returns the backend that `auto` selects.
fn auto(rows: &[Row]) -> Option<&str> {
    let automatic = rows.iter().filter(|row| is_automatic(&row.traits) && row.is_fit());
    let ranked = automatic.filter_map(|row| Some((row, Rank::of(&row.traits, row.probed.as_ref().ok()?))));
    let (rows, ranks): (Vec<&Row>, Vec<Rank>) = ranked.unzip();
    rank::best(&ranks, TieBreak::Faster).map(|best| rows[best].name.as_str())
}

fn json(rows: &[Row], auto: Option<&str>) -> Result<String, Failure> {
    let backends: Vec<_> = rows
        .iter()
        .map(|row| match &row.probed {
            Ok(proven) => serde_json::json!(proven),
            Err(error) => serde_json::json!({ "name": row.name, "error": error }),
        })
        .collect();
    let known = serde_json::to_string_pretty(&serde_json::json!({ "auto": auto, "backends": backends }))?;
    Ok(escape::json(&known) + "\n")
}

/// Returns the last line: the backend that `auto` selects, or whether the requested backend proves enough.
fn ending(rows: &[Row], auto: Option<&str>, one: bool) -> String {
    const NEEDED: &str = "files, processes, network and system calls";
    match (rows, auto) {
        ([row], _) if one && row.is_fit() => format!("{} proves {NEEDED}", row.name),
        ([row], _) if one => format!("{} does not prove {NEEDED}", row.name),
        (_, Some(name)) => format!("auto selects {name}"),
        (_, None) => format!("auto selects none: no backend proves {NEEDED}"),
    }
}

/// Returns a cell of the column of the claim. The widest cell is `missing`.
fn column(claim: Claim, text: &str) -> String {
    let width = claim.to_string().len().max("missing".len()) + 2;
    format!("{text:<width$}")
}

fn table(rows: &[Row], width: usize) -> String {
    let mut out = format!("{:<13}", "backend");
    for claim in Claim::ALL {
        out.push_str(&column(claim, &claim.to_string()));
    }
    out = out.trim_end().to_owned() + "\n";
    for row in rows {
        let cell = |claim| match &row.probed {
            Ok(proven) if proven.has(claim) => "proven",
            Ok(proven) if !proven.evidence.iter().any(|e| e.claim == claim) => "—",
            _ => "missing",
        };
        let cells: String = Claim::ALL.into_iter().map(|claim| column(claim, cell(claim))).collect();
        out.push_str(format!("{:<13}{cells}", row.name).trim_end());
        out.push('\n');
    }
    for row in rows {
        // Writing to a string cannot fail.
        match &row.probed {
            Ok(proven) => {
                for evidence in proven.evidence.iter().filter(|e| e.result != EvidenceResult::Held) {
                    let why = match &evidence.result {
                        EvidenceResult::Broken(how) => format!("BROKEN: {how}"),
                        EvidenceResult::NotTried(why) => format!("not proven: {why}"),
                        EvidenceResult::Held => continue,
                    };
                    out.push('\n');
                    out.push_str(&wrap(&format!("{}: {} ({})", row.name, evidence.claim, evidence.check), "", width));
                    out.push_str(&wrap(&escape::text(&why).to_string(), "  ", width));
                    if !evidence.remedy.is_empty() {
                        out.push_str(&wrap(&format!("→ {}", evidence.remedy), "  ", width));
                    }
                }
                let held = proven.evidence.iter().filter(|e| e.result == EvidenceResult::Held).count();
                if !proven.evidence.is_empty() {
                    writeln!(out, "\n{}: {held} of {} attacks were tried and blocked", row.name, proven.evidence.len())
                        .unwrap_or_default();
                    out.push_str(&wrap(&escape::text(&proven.platform_features.join("; ")).to_string(), "  ", width));
                }
            }
            Err(error) => {
                out.push('\n');
                out.push_str(&wrap(&format!("{}: {}", row.name, escape::text(&error.to_string())), "", width));
            }
        }
    }
    out
}
