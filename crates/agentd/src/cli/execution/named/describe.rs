//! The state of a named sandbox as JSON.

use super::{
    super::super::sandbox::{own_principal, state},
    owned::{Owner, workspace},
    settings::BACKEND,
};
use agentd_core::{Access, Limits, Network};
use agentd_daemon::Status;
use agentd_sandboxes::Record;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Describes a sandbox for its owner or, under its stored name, for the user who runs the daemon.
pub(super) fn describe(record: &Record, status: &[Status], owner: &Owner) -> Value {
    let about = &record.about;
    let (now, commands) = state(status.iter().find(|status| status.name == record.name).map(|status| status.activity));
    let network = match &about.spec.network {
        Network::Off => Vec::new(),
        Network::Host => vec!["*".to_owned()],
        Network::Egress(grants) => grants.clone(),
    };
    let workspace = workspace(record)
        .map(|grant| json!({ "path": grant.path.to_string_lossy(), "read_only": grant.access != Access::ReadWrite }));
    let snapshots = record.snapshots.iter().map(|(name, snapshot)| json!({ "snapshot": name, "created": snapshot.created }));
    json!({
        "sandbox": owner.shown(record).unwrap_or(record.name.as_str()),
        "owner": about.owner.clone().unwrap_or_else(own_principal),
        "state": now,
        "commands": commands,
        "created": record.created,
        "used": record.used,
        "idle_ttl_s": about.idle_ttl,
        "ttl_s": about.total_ttl,
        "parent": record.parent.as_deref().map(|parent| owner.text(parent)),
        "image": about.image,
        "backend": BACKEND,
        "profile": about.spec.profile,
        "network": network,
        "limits": limits(&about.spec.limits),
        "workspace": workspace,
        "snapshots": snapshots.collect::<Vec<_>>(),
    })
}

fn limits(limits: &Limits) -> Map<String, Value> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let all = [
        ("cpu_time_ms", limits.cpu_time.map(ms)),
        ("memory_bytes", limits.memory.map(|bytes| bytes.0)),
        ("processes", limits.processes.map(u64::from)),
        ("open_files", limits.open_files),
        ("file_size_bytes", limits.file_size.map(|bytes| bytes.0)),
        ("cpu_milli", limits.cpu_quota.map(|quota| quota.0.into())),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect()
}
