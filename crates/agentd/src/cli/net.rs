//! `agentd net`: answers questions about network grants without a connection to anything, and prints the record of named
//! sandboxes.

use super::{
    args::{CheckArgs, NetCommand, read_grants},
    failure::Failure,
    flow_list, terminal,
    wrap::wrap,
};
use agentd_core::escape;
use agentd_egress::{
    gateway::enforceable,
    grant::NetGrants,
    preset::{self, Preset},
};
use std::io::Write;

/// Exit code: the destination is refused.
const REFUSED: u8 = 1;

/// Runs a subcommand. Returns the exit code.
pub(crate) fn net(command: &NetCommand) -> Result<u8, Failure> {
    match command {
        NetCommand::Check(args) => check(args),
        NetCommand::Log { name, json } => flow_list::print(name.as_ref(), *json),
        NetCommand::Presets { json } => presets(*json),
    }
}

fn check(args: &CheckArgs) -> Result<u8, Failure> {
    let mut grants: Vec<_> = args.allow.iter().flat_map(NetGrants::iter).cloned().collect();
    let mut deny_reason = None;
    if let Some(path) = &args.grants {
        let file = read_grants(path)?.file;
        grants.extend(file.allow.iter().cloned());
        deny_reason = file.deny_reason;
    }
    for name in &args.preset {
        grants.extend(Preset::find(name)?.allow.iter().cloned());
    }
    let grants = grants.into_iter().collect();
    // Network grants with which `agentd run` refuses to start are also an error here.
    enforceable(&grants, true)?;
    let answer = args.destination.check(&grants);
    let reason = answer.as_ref().err().map(ToString::to_string);
    let text = match (&answer, args.json) {
        (_, true) => {
            let access = answer.as_ref().ok();
            let object = serde_json::json!({
                "allowed": answer.is_ok(),
                "rule": access.map(|access| &access.rule),
                "checks": access.map(ToString::to_string),
                "needs_approval": access.map(|access| access.approval),
                "reason": reason,
                "deny_reason": deny_reason.filter(|_| answer.is_err()),
            });
            escape::json(&format!("{object:#}"))
        }
        (Ok(access), false) => format!("allowed by {}: {access}", access.rule),
        (Err(refusal), false) => match deny_reason {
            Some(own) => format!("refused: {refusal}\n{own}"),
            None => format!("refused: {refusal}"),
        },
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(if answer.is_ok() { 0 } else { REFUSED })
}

fn presets(json: bool) -> Result<u8, Failure> {
    let presets = preset::names().into_iter().map(Preset::find).collect::<Result<Vec<_>, _>>()?;
    let grants = |preset: &Preset| preset.allow.iter().map(ToString::to_string).collect::<Vec<_>>();
    let text = if json {
        let objects = presets.iter().map(|preset| {
            let secrets = preset.secrets.iter().map(|secret| serde_json::json!({ "target": secret.text, "from": secret.from }));
            let secrets: Vec<_> = secrets.collect();
            serde_json::json!({
                "name": preset.name,
                "description": preset.description,
                "allow": grants(preset),
                "secrets": secrets,
                "env": preset.env,
            })
        });
        format!("{:#}\n", serde_json::Value::from_iter(objects))
    } else {
        let width = terminal::width();
        let paragraphs = presets.iter().map(|preset| {
            let text = format!("{}: {}: {}", preset.name, preset.description, grants(preset).join(", "));
            wrap(&text, "", width)
        });
        paragraphs.collect()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}
