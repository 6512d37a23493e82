//! `agentd sandbox rm`: removes named sandboxes, and prints the last changes of their protected paths.

use super::{failure::Failure, protection};
use agentd_core::escape;
use agentd_daemon::Client;
use agentd_sandboxes::Name;
use std::io::{self, Write};

/// Removes sandboxes until one cannot be removed. Prints the changes of protected paths that were not reported yet, even if a
/// later sandbox cannot be removed.
pub(crate) async fn remove(client: &Client, names: &[Name], json: bool) -> Result<(), Failure> {
    let mut reports = Vec::new();
    let mut removed = Ok(());
    for name in names {
        match client.remove(name).await {
            Ok(report) if json => reports.push((name, report)),
            Ok(report) => protection::warn(&report),
            Err(error) => {
                removed = Err(error);
                break;
            }
        }
    }
    if json {
        let objects = reports.iter().map(|(name, report)| {
            let mut object = serde_json::json!({ "name": name });
            protection::add_limited_to(&mut object, report);
            object
        });
        let objects = serde_json::Value::from_iter(objects);
        // The daemon reports a change once, so reports that cannot be printed here go to standard error.
        let printed = writeln!(io::stdout(), "{}", escape::json(&format!("{objects:#}")));
        printed.inspect_err(|_| reports.iter().for_each(|(_, report)| protection::warn(report)))?;
    }
    Ok(removed?)
}
