//! `agentd quota`: prints the quotas and their use, and validates a file.

use super::{args::QuotaCommand, data, failure::Failure, local_user};
use agentd_core::{duration, escape};
use agentd_engine::{QuotaError, QuotaSet};
use agentd_records::{Label, Timestamp};
use agentd_state::{AccountName, AccountUse, Quota, Retention, StateStore};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// Exit code: the quotas are refused.
const REFUSED: u8 = 1;

/// The width of the names in the table.
const NAME: usize = 24;

/// An account, its limits and its use.
struct ShownAccount {
    name: Label,
    is_shared: bool,
    quota: Quota,
    cpu_per_intent: Option<Duration>,
    used: AccountUse,
}

/// Returns the file of the quotas.
///
/// # Errors
/// If there is no data folder.
pub(crate) fn file() -> Result<PathBuf, Failure> {
    Ok(data::folder()?.join("quotas.toml"))
}

/// Runs a subcommand. Returns the exit code.
pub(crate) async fn quota(command: &QuotaCommand) -> Result<u8, Failure> {
    match command {
        QuotaCommand::Show { json } => show(*json).await.map(|()| 0),
        QuotaCommand::Check { file, json } => check(file, *json),
    }
}

fn check(file: &Path, json: bool) -> Result<u8, Failure> {
    if let Err(error) = file.symlink_metadata() {
        return Err(format!("read quotas: {}: {error} — name a file", file.display()).into());
    }
    let (set, problems) = match QuotaSet::load(file) {
        Ok(set) => (Some(set), Vec::new()),
        Err(QuotaError::Refused(problems)) => (None, problems.iter().map(ToString::to_string).collect()),
        Err(QuotaError::Syntax(error)) => (None, vec![error.to_string().trim_end().to_owned()]),
        Err(other) => return Err(other.into()),
    };
    let accounts = set.as_ref().map(|set| set.accounts().collect::<Vec<_>>());
    let mut out = std::io::stdout().lock();
    if json {
        let object = json!({
            "valid": set.is_some(),
            "accounts": accounts,
            "digest": set.as_ref().and_then(QuotaSet::digest),
            "problems": problems,
        });
        writeln!(out, "{}", escape::json(&format!("{object:#}")))?;
    } else if let Some(accounts) = accounts {
        let names = if accounts.is_empty() { "only [default]".to_owned() } else { accounts.join(", ") };
        writeln!(out, "valid quotas: {}", escape::text(&names))?;
    } else {
        for line in problems.iter().flat_map(|problem| problem.lines()) {
            writeln!(out, "{}", escape::text(line))?;
        }
    }
    Ok(if set.is_some() { 0 } else { REFUSED })
}

async fn show(json: bool) -> Result<(), Failure> {
    let file = file()?;
    let set = QuotaSet::load(&file)?;
    let accounts = accounts(&set).await?;
    let mut out = std::io::stdout().lock();
    if json {
        let object = json!({
            "file": file.display().to_string(),
            "digest": set.digest(),
            "accounts": accounts.iter().map(ShownAccount::to_json).collect::<Vec<_>>(),
        });
        writeln!(out, "{}", escape::json(&format!("{object:#}")))?;
        return Ok(());
    }
    if set.digest().is_none() {
        writeln!(out, "the usual quotas hold, because there is no file {}", escape::text(&file.display().to_string()))?;
    }
    writeln!(out, "{:NAME$} {:>11} {:>7} {:>16} {:>13}", "account", "running", "waiting", "cpu today", "may begin")?;
    for account in &accounts {
        writeln!(out, "{}", escape::text(&account.to_string()))?;
    }
    Ok(())
}

/// Returns the accounts of the file, of this user, and of everybody who has used something.
async fn accounts(set: &QuotaSet) -> Result<Vec<ShownAccount>, Failure> {
    let own = local_user::principal()?;
    let mut names: BTreeSet<Label> = set.accounts().map(Label::try_from).collect::<Result<_, _>>()?;
    names.insert(own.id().try_into()?);
    names.extend(set.of(&own)?.shared.into_iter().map(|shared| shared.account));
    let store = StateStore::open_existing(&data::folder()?.join("state"), Retention::default())?;
    if let Some(store) = &store {
        names.extend(store.accounts().await?);
    }
    let asked: Vec<_> = names
        .into_iter()
        .map(|name| {
            let (quota, cpu_per_intent, is_shared) = set.of_account(&name);
            (AccountName { name, is_shared, rate: quota.rate }, quota, cpu_per_intent)
        })
        .collect();
    let names = asked.iter().map(|(name, _, _)| name.clone()).collect();
    let used = match store {
        Some(store) => store.usage(names, Timestamp::now()).await?,
        None => asked.iter().map(|(_, quota, _)| unused(quota)).collect(),
    };
    let shown = asked.into_iter().zip(used).map(|((account, quota, cpu_per_intent), used)| {
        let AccountName { name, is_shared, .. } = account;
        ShownAccount { name, is_shared, quota, cpu_per_intent, used }
    });
    Ok(shown.collect())
}

fn unused(quota: &Quota) -> AccountUse {
    let available = quota.rate.map(|rate| rate.intents.get());
    AccountUse { in_flight: 0, waiting: 0, cpu: Duration::ZERO, cpu_reserved: Duration::ZERO, available }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl ShownAccount {
    fn to_json(&self) -> Value {
        let Self { name, is_shared, quota, cpu_per_intent, used } = self;
        json!({
            "account": name,
            "shared": is_shared,
            "running": used.in_flight,
            "concurrency": quota.concurrency,
            "waiting": used.waiting,
            "cpu_used_ms": millis(used.cpu),
            "cpu_reserved_ms": millis(used.cpu_reserved),
            "cpu_per_day_ms": quota.cpu_per_day.map(millis),
            "cpu_per_intent_ms": cpu_per_intent.map(millis),
            "rate_available": used.available,
            "rate_burst": quota.rate.map(|rate| rate.intents.get()),
            "rate_interval_ms": quota.rate.map(|rate| millis(rate.interval)),
        })
    }
}

impl std::fmt::Display for ShownAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, quota, used, .. } = self;
        let of = |used: String, max: Option<String>| max.map_or(used.clone(), |max| format!("{used} of {max}"));
        let running = of(used.in_flight.to_string(), quota.concurrency.map(|max| max.to_string()));
        let cpu = of(duration::text(used.cpu.saturating_add(used.cpu_reserved)), quota.cpu_per_day.map(duration::text));
        let begin = used.available.map_or_else(
            || "any number".to_owned(),
            |available| of(available.to_string(), quota.rate.map(|rate| rate.intents.to_string())),
        );
        write!(f, "{:NAME$} {running:>11} {:>7} {cpu:>16} {begin:>13}", name.to_string(), used.waiting)
    }
}
