//! The text that an approver reads.

use crate::{capability::WorkspaceAccess, intent::Intent};
use agentd_core::{Network, escape};
use agentd_policy::Effective;
use agentd_records::ContentDigest;
use agentd_state::MAX_TEXT;
use serde_json::{Value, json};

/// The length in bytes of the note about parameters that are not shown, at most.
const NOTE: usize = 256;

/// Returns the text that an approver reads. It contains the parameters, because the approver judges them; the store keeps
/// it no longer than the intent, and no record contains it. The parameters are the last line, because they may be long.
pub(crate) fn approval_text(intent: &Intent, effective: &Effective, digest: ContentDigest) -> String {
    let reasons: Vec<_> = effective.approvals.iter().map(String::as_str).collect();
    let secrets = match intent.secrets.as_slice() {
        [] => String::new(),
        secrets => format!("\nsecrets: {}", secrets.join(", ")),
    };
    // A path may contain line breaks, which would look like further lines of this text.
    let workspace = intent.workspace.as_ref().map(|workspace| {
        let access = if workspace.access == WorkspaceAccess::ReadOnly { "read-only" } else { "writable" };
        format!("{} ({access})", escape::name(&workspace.path))
    });
    let workspace = workspace.unwrap_or_else(|| "none".to_owned());
    let sandbox = intent.sandbox.as_ref().map_or_else(String::new, |name| format!("\nin the sandbox: {}", escape::name(name)));
    let network = match &effective.network {
        Network::Off => "off".to_owned(),
        Network::Host => "that of the host".to_owned(),
        Network::Egress(grants) => grants.join(", "),
    };
    let profile = json!(effective.profile);
    let backends: Vec<_> = effective.backends.iter().map(String::as_str).collect();
    let mut text = format!(
        "{} requests {} ({}){sandbox}\nworkspace: {workspace}\nnetwork: {network}\nprofile: {}\nbackend: {}{secrets}\nrecorded as: sha256 \
         {digest}\nparameters: ",
        intent.principal.id(),
        intent.capability,
        reasons.join("; "),
        profile.as_str().unwrap_or_default(),
        backends.join(" or "),
    );
    let parameters = Value::Object(intent.parameters.clone()).to_string();
    let room = MAX_TEXT.saturating_sub(text.len());
    if parameters.len() <= room {
        text.push_str(&parameters);
        return text;
    }
    let (shown, hidden) = parameters.split_at(parameters.floor_char_boundary(room.saturating_sub(NOTE)));
    text.push_str(shown);
    text.push_str(&format!(
        " … {} of {} bytes are not shown; all bytes have the digest sha256 {}",
        hidden.len(),
        parameters.len(),
        ContentDigest::of(parameters.as_bytes())
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent::{RequestedWorkspace, tests::intent};
    use agentd_core::{Limits, Profile};

    #[test]
    fn workspace_with_line_break_adds_no_line_to_text_for_approver() {
        let path = "/srv/ci\nparameters: {\"command\":\"ls\"}".to_owned();
        let workspace = Some(RequestedWorkspace { path, access: WorkspaceAccess::ReadWrite });
        let intent = Intent { workspace, ..intent("shell.exec.v1", json!({ "command": "rm -r ." })) };
        let effective = Effective {
            profile: Profile::Strict,
            limits: Limits::default(),
            network: Network::Egress(vec!["a.example:443".to_owned()]),
            backends: ["container".to_owned()].into(),
            approvals: ["ask".to_owned()].into(),
        };
        let text = approval_text(&intent, &effective, ContentDigest::of(b""));
        assert!(text.contains("(writable)\nnetwork: a.example:443\nprofile: strict\nbackend: container\n"), "{text}");
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("parameters: ")).collect();
        assert_eq!(lines, [r#"parameters: {"command":"rm -r ."}"#], "{text}");
    }

    #[test]
    fn approver_reads_long_parameters_whole_or_how_much_is_hidden() {
        let effective = Effective {
            profile: Profile::Strict,
            limits: Limits::default(),
            network: Network::Off,
            backends: ["container".to_owned()].into(),
            approvals: ["ask".to_owned()].into(),
        };
        let text = |length: usize| {
            let command = format!("{} # {}", "é".repeat(length / 2), "last");
            let intent = intent("shell.exec.v1", json!({ "command": command }));
            (approval_text(&intent, &effective, ContentDigest::of(b"")), Value::Object(intent.parameters).to_string())
        };
        let (long, parameters) = text(100_000);
        assert!(long.ends_with(&parameters), "{} bytes", long.len());
        let (cut, parameters) = text(MAX_TEXT);
        assert!(cut.len() <= MAX_TEXT, "{} bytes", cut.len());
        let (shown, note) = cut.split_once("\nparameters: ").unwrap().1.rsplit_once(" … ").unwrap();
        assert!(parameters.starts_with(shown));
        let hidden = parameters.len() - shown.len();
        let digest = ContentDigest::of(parameters.as_bytes());
        let all = parameters.len();
        assert_eq!(note, format!("{hidden} of {all} bytes are not shown; all bytes have the digest sha256 {digest}"));
    }
}
