//! `agentd key`: creates, restricts, lists and revokes the API keys of callers.

use super::{
    args::{CreateKeyArgs, KeyCommand, RestrictKeyArgs},
    call, data,
    failure::Failure,
    records, writer,
};
use agentd_core::escape;
use agentd_records::{AuditEvent, Label, Leaf, Timestamp};
use agentd_server::auth::{self, ApiKey, Caveats, USUAL_INTERFACES};
use agentd_state::{ApiKeyId, ApiKeyRecord, Retention, StateStore};
use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
};
use zeroize::Zeroizing;

/// The acts of these commands in the audit log.
const CREATED: &str = "api-key-created";
const REVOKED: &str = "api-key-revoked";

/// The fewest digits that identify a key.
const MIN_DIGITS: usize = 4;

/// The longest credential in bytes.
const MAX_CREDENTIAL: u64 = 8 << 10;

/// The width of the names in the list.
const NAME: usize = 18;

/// Runs a subcommand. Returns the exit code.
pub(crate) async fn key(command: &KeyCommand) -> Result<u8, Failure> {
    match command {
        KeyCommand::Create(args) => create(args).await?,
        KeyCommand::Restrict(args) => restrict(args)?,
        KeyCommand::Ls { json } => list(*json).await?,
        KeyCommand::Revoke { id } => revoke(id).await?,
    }
    Ok(0)
}

fn store() -> Result<StateStore, Failure> {
    Ok(StateStore::open(&data::folder()?.join("state"), Retention::default())?)
}

async fn create(args: &CreateKeyArgs) -> Result<(), Failure> {
    let known = call::registry()?;
    for capability in &args.capability {
        known.find(capability)?;
    }
    let (key, now) = (ApiKey::random().map_err(|errno| format!("create a key: getrandom: {errno}"))?, Timestamp::now());
    let transports = if args.transport.is_empty() { &USUAL_INTERFACES[..] } else { &args.transport };
    let mut transports: Vec<Label> = transports.iter().map(|one| one.word().try_into()).collect::<Result<_, _>>()?;
    let mut groups = labels(&args.group)?;
    let mut capabilities = labels(&args.capability)?;
    for list in [&mut transports, &mut groups, &mut capabilities] {
        list.sort_unstable();
        list.dedup();
    }
    let record = ApiKeyRecord {
        id: key.id(),
        digest: key.digest(),
        public_key: auth::public_key(&key)?,
        name: args.name.as_str().try_into()?,
        groups,
        capabilities: (!capabilities.is_empty()).then_some(capabilities),
        transports,
        created: now,
        created_by: records::principal()?,
        expires: args.expires.map(|lifetime| now.plus_seconds(lifetime.as_secs().max(1))),
        revoked: None,
        last_used: None,
    };
    let store = store()?;
    // Before the key is valid, so that no valid key lacks its leaf.
    record_act(CREATED, created(&record)?)?;
    store.add_api_key(record.clone()).await?;
    writeln!(std::io::stdout(), "{}", key.secret_text())?;
    let until = record.expires.map_or_else(|| "until it is revoked".to_owned(), |expires| format!("until {expires}"));
    writer::message(format_args!(
        "this is the only time that the key is shown: it is the key {} of service:{}, valid {until}",
        record.id, record.name
    ));
    Ok(())
}

/// Reads a credential from standard input, because other users can read arguments, and prints a token that permits less.
fn restrict(args: &RestrictKeyArgs) -> Result<(), Failure> {
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(MAX_CREDENTIAL)?));
    let read = std::io::stdin().take(MAX_CREDENTIAL).read_to_string(&mut text);
    read.map_err(|error| format!("read a credential: standard input: {error} — pass an API key or a token"))?;
    let set = |names: Vec<String>| (!names.is_empty()).then(|| names.into_iter().collect());
    let now = Timestamp::now();
    let caveats = Caveats {
        expires: args.expires.map(|lifetime| now.plus_seconds(lifetime.as_secs().max(1)).micros() / 1_000_000),
        capabilities: set(args.capability.clone()),
        transports: set(args.transport.iter().map(|one| one.word().to_owned()).collect()),
        workspaces: (!args.workspace.is_empty()).then(|| args.workspace.clone()),
    };
    let token = auth::restrict(text.trim(), &caveats)?;
    Ok(writeln!(std::io::stdout(), "{}", *token)?)
}

fn labels(names: &[String]) -> Result<Vec<Label>, Failure> {
    names.iter().map(|name| Ok(Label::try_from(name.as_str())?)).collect()
}

/// Returns the details of the leaf for a new key.
fn created(record: &ApiKeyRecord) -> Result<BTreeMap<Label, Label>, Failure> {
    let joined = |what: &str, list: &[Label]| {
        let text = list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let label = Label::try_from(if list.is_empty() { "none" } else { &text });
        label.map_err(|_| format!("create a key: {what}: the names have more than 512 bytes — name fewer"))
    };
    let all = || Label::try_from("all").map_err(|error| error.to_string());
    let details = [
        ("key", record.id.to_string().try_into()?),
        ("service", record.name.clone()),
        ("groups", joined("groups", &record.groups)?),
        ("capabilities", record.capabilities.as_deref().map_or_else(all, |list| joined("capabilities", list))?),
        ("transports", joined("transports", &record.transports)?),
        ("expires", record.expires.map_or_else(|| "never".to_owned(), |time| time.to_string()).try_into()?),
    ];
    details.into_iter().map(|(name, label)| Ok((name.try_into()?, label))).collect()
}

fn record_act(act: &str, details: BTreeMap<Label, Label>) -> Result<(), Failure> {
    let records = records::records()?;
    // Generates a signing key if there is none.
    records.keys()?;
    let event = AuditEvent::Administrative { principal: records::principal()?, act: act.try_into()?, details };
    records.recorder()?.record(&Leaf::new(Timestamp::now(), event))?;
    Ok(())
}

async fn revoke(digits: &str) -> Result<(), Failure> {
    let store = store()?;
    let id = match digits.parse() {
        Ok(id) => id,
        Err(_) => find(digits, &store.api_keys().await?)?,
    };
    // Before its leaf, because it must hold at once. A command that was interrupted in between is repeated.
    let record = store.revoke_api_key(id, Timestamp::now()).await?;
    let at = record.revoked.unwrap_or(record.created).to_string();
    let details = [("key", id.to_string()), ("service", record.name.to_string()), ("revoked", at)];
    let details = details.into_iter().map(|(name, text)| Ok((name.try_into()?, text.try_into()?)));
    let details = details.collect::<Result<_, Failure>>()?;
    record_act(REVOKED, details)
        .map_err(|error| format!("the key {id} is revoked, but the audit log does not have it: {error} — repeat the command"))?;
    writeln!(std::io::stdout(), "{id} revoked")?;
    Ok(())
}

/// Returns the only key whose identifier starts with `digits`.
fn find(digits: &str, keys: &[ApiKeyRecord]) -> Result<ApiKeyId, Failure> {
    // Somebody may pass the key itself, which must not be repeated on a terminal.
    let is_prefix = digits.len() < 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_prefix || digits.len() < MIN_DIGITS {
        return Err(format!(
            "not the identifier of a key: name at least {MIN_DIGITS} of its 16 digits — `agentd key ls` lists the keys"
        )
        .into());
    }
    let mut found = keys.iter().map(|key| key.id).filter(|id| id.to_string().starts_with(digits));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => {
            Err(format!("no API key has an identifier that starts with {digits} — `agentd key ls` lists the keys").into())
        }
        _ => Err(format!("{digits}: more than one API key starts with these digits — name more digits").into()),
    }
}

async fn list(json: bool) -> Result<(), Failure> {
    let store = StateStore::open_existing(&data::folder()?.join("state"), Retention::default())?;
    let (keys, now) = (
        match store {
            Some(store) => store.api_keys().await?,
            None => Vec::new(),
        },
        Timestamp::now(),
    );
    let mut out = std::io::stdout().lock();
    if json {
        let list: Vec<_> = keys.iter().map(|key| as_json(key, now)).collect();
        writeln!(out, "{}", escape::json(&format!("{:#}", serde_json::Value::from(list))))?;
        return Ok(());
    }
    if keys.is_empty() {
        writeln!(out, "there is no API key — `agentd key create` creates one")?;
        return Ok(());
    }
    writeln!(out, "{:16} {:NAME$} {:8} {:16} {:16}", "id", "service", "state", "expires", "last used")?;
    for key in &keys {
        let time = |time: Option<Timestamp>| time.map_or_else(|| "never".to_owned(), minute);
        let (id, name) = (key.id.to_string(), key.name.to_string());
        let line = format!("{id:16} {name:NAME$} {:8} {:16} {:16}", state(key, now), time(key.expires), time(key.last_used));
        writeln!(out, "{}", escape::text(line.trim_end()))?;
    }
    Ok(())
}

/// Returns a time to the minute, in UTC.
fn minute(time: Timestamp) -> String {
    time.to_string().replace('T', " ").chars().take(16).collect()
}

fn state(key: &ApiKeyRecord, now: Timestamp) -> &'static str {
    match key.revoked {
        Some(_) => "revoked",
        None if key.is_valid(now) => "valid",
        None => "expired",
    }
}

fn as_json(key: &ApiKeyRecord, now: Timestamp) -> serde_json::Value {
    let ApiKeyRecord { id, name, groups, capabilities, transports, created, created_by, expires, revoked, last_used, .. } = key;
    serde_json::json!({
        "id": id.to_string(),
        "service": name,
        "state": state(key, now),
        "groups": groups,
        "capabilities": capabilities,
        "transports": transports,
        "created": created,
        "created_by": created_by,
        "expires": expires,
        "revoked": revoked,
        "last_used": last_used,
    })
}
