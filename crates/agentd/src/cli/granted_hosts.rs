//! `agentd sandbox net`: the hosts that a named sandbox may reach.

use super::{args::NetworkChangeArgs, failure::Failure};
use agentd_core::{Network, escape};
use agentd_daemon::Client;
use agentd_egress::{NetGrant, NetGrants};
use agentd_sandboxes::{Record, SandboxStore};
use std::io::{self, Write};

/// Applies the requested change, if any. Prints the network grants if no change or JSON was requested.
pub(crate) async fn granted_hosts(client: &Client, state: &SandboxStore, args: NetworkChangeArgs) -> Result<(), Failure> {
    let texts = |lists: &[NetGrants]| lists.iter().flat_map(NetGrants::iter).map(ToString::to_string).collect::<Vec<_>>();
    let (allow, revoke) = (texts(&args.allow), texts(&args.revoke));
    let changes = !(args.allow.is_empty() && args.revoke.is_empty());
    if changes {
        client.change_network(&args.name, allow, revoke).await?;
    }
    let record = state.record(&args.name)?;
    if args.json {
        writeln!(io::stdout(), "{}", escape::json(&format!("{:#}", object(&record))))?;
    } else if !changes {
        let (kind, grants) = describe(&record.about.spec.network);
        match kind {
            "off" => writeln!(io::stdout(), "off (loopback only)")?,
            "host" => writeln!(io::stdout(), "host (the host's network)")?,
            _ if grants.is_empty() => writeln!(io::stdout(), "no granted hosts")?,
            _ => writeln!(io::stdout(), "{}", grants.join("\n"))?,
        }
    }
    Ok(())
}

/// Returns the kind of a network, and its network grants, each with its port.
fn describe(network: &Network) -> (&'static str, Vec<String>) {
    match network {
        Network::Off => ("off", Vec::new()),
        Network::Host => ("host", Vec::new()),
        Network::Egress(texts) => {
            let complete = |text: &String| text.parse::<NetGrant>().map_or_else(|_| text.clone(), |grant| grant.to_string());
            ("granted", texts.iter().map(complete).collect())
        }
    }
}

fn object(record: &Record) -> serde_json::Value {
    let (kind, grants) = describe(&record.about.spec.network);
    serde_json::json!({
        "name": record.name,
        "network": kind,
        "grants": grants,
        "deny_reasons": record.about.spec.deny_reasons,
    })
}
