//! The file of quotas, in TOML.

use super::{GROUP, QuotaLimits, QuotaSet};
use agentd_core::duration;
use agentd_disk::{TrustError, read_trusted_file};
use agentd_records::{ContentDigest, Label};
use agentd_state::{Priority, Quota, Rate};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt, num::NonZeroU32, path::Path, time::Duration};

/// The reason why quotas are refused. A file is refused as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuotaError {
    /// The file cannot be read, or somebody else may change it.
    #[error("read quotas: {0}")]
    Trust(#[from] TrustError),
    /// The text is not such a file.
    #[error("quotas are refused: {0}")]
    Syntax(#[from] toml::de::Error),
    /// Values do not fit together.
    #[error("quotas are refused: {}", lines(.0))]
    Refused(Vec<QuotaProblem>),
}

/// A problem in a file of quotas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaProblem {
    /// The table, such as `principal."agent:ci"`.
    pub table: String,
    /// The problem.
    pub problem: &'static str,
}

impl fmt::Display for QuotaProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]: {}", self.table, self.problem)
    }
}

fn lines(problems: &[QuotaProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuotaFile {
    total: Option<QuotaTable>,
    #[serde(default)]
    default: QuotaTable,
    #[serde(default)]
    principal: BTreeMap<String, QuotaTable>,
    #[serde(default)]
    group: BTreeMap<String, QuotaTable>,
}

/// One table.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct QuotaTable {
    rate: Option<RateText>,
    burst: Option<NonZeroU32>,
    concurrency: Option<NonZeroU32>,
    cpu_per_day: Option<DurationText>,
    cpu_per_intent: Option<DurationText>,
    waiting: Option<u32>,
    wait: Option<DurationText>,
    priority: Option<PriorityWord>,
}

/// A number of intents in a second, a minute or an hour: `20/s`, `100/m`, `500/h`.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct RateText {
    intents: NonZeroU32,
    unit: Duration,
}

/// A duration such as `30s` or `2h`.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct DurationText(Duration);

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PriorityWord {
    Low,
    Normal,
    High,
}

impl TryFrom<String> for RateText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a rate — use a value such as 20/s, 100/m or 500/h");
        let (intents, unit) = text.split_once('/').ok_or_else(wrong)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(wrong()),
        };
        // `u32::from_str` also accepts a sign.
        let digits = intents.bytes().all(|byte| byte.is_ascii_digit());
        let intents = intents.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
        Ok(Self { intents, unit: Duration::from_secs(seconds) })
    }
}

impl TryFrom<String> for DurationText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        duration::parse(&text).map(Self)
    }
}

impl RateText {
    /// Returns the bucket of this rate.
    fn bucket(self, burst: Option<NonZeroU32>) -> Rate {
        let size = burst.unwrap_or(self.intents);
        let interval = self.unit.saturating_mul(size.get()) / self.intents.get();
        Rate { intents: size, interval }
    }
}

/// The longest time for which an intent may wait for its place. After a crash, the leaves of an intent are searched for over an
/// hour (`recent_leaves`).
const MAX_WAIT: Duration = Duration::from_secs(30 * 60);

/// The kind of a table, which determines its keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TableKind {
    Total,
    Principals,
    Group,
}

impl QuotaTable {
    /// Returns the problems of the table.
    fn problems(&self, kind: TableKind) -> impl Iterator<Item = &'static str> {
        let queue = self.waiting.is_some() || self.wait.is_some();
        let (day, intent) = (self.cpu_per_day.map(|time| time.0), self.cpu_per_intent.map(|time| time.0));
        let checks = [
            (self.burst.is_some() && self.rate.is_none(), "burst: the size of a burst needs a rate — state rate"),
            (
                day.is_some() != intent.is_some(),
                "cpu-per-day and cpu-per-intent: each intent reserves its processor time before it begins — state both keys",
            ),
            (day.is_some() && intent > day, "cpu-per-intent: longer than cpu-per-day, so no intent could begin — shorten it"),
            (
                queue && kind != TableKind::Principals,
                "waiting and wait: they are keys of a principal and of [default] — move them there",
            ),
            (
                self.wait.as_ref().is_some_and(|wait| wait.0 > MAX_WAIT),
                "wait: longer than 30 minutes, which is the longest wait — shorten it",
            ),
            (
                self.priority.is_some() && kind == TableKind::Total,
                "priority: all principals cannot go before all others — state it for a principal or a group",
            ),
        ];
        checks.into_iter().filter(|(wrong, _)| *wrong).map(|(_, problem)| problem)
    }

    fn limits(&self) -> QuotaLimits {
        let time = |time: Option<DurationText>| time.map(|time| time.0);
        QuotaLimits {
            quota: Quota {
                rate: self.rate.map(|rate| rate.bucket(self.burst)),
                concurrency: self.concurrency.map(NonZeroU32::get),
                cpu_per_day: time(self.cpu_per_day),
            },
            cpu_per_intent: time(self.cpu_per_intent),
            waiting: self.waiting,
            wait: time(self.wait),
            priority: self.priority.map(|word| match word {
                PriorityWord::Low => Priority::Low,
                PriorityWord::Normal => Priority::Normal,
                PriorityWord::High => Priority::High,
            }),
        }
    }
}

impl QuotaSet {
    /// Loads a file. Without a file, the usual values hold.
    ///
    /// # Errors
    /// [`QuotaError`], also if somebody other than root and this user may change the file or a directory above it.
    pub fn load(path: &Path) -> Result<Self, QuotaError> {
        match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            _ => Self::parse(&read_trusted_file(path)?.text),
        }
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// [`QuotaError::Syntax`], or [`QuotaError::Refused`] with every problem that was found.
    pub fn parse(text: &str) -> Result<Self, QuotaError> {
        let QuotaFile { total, default, principal, group } = toml::from_str(text)?;
        let named = |area: &str, name: &str| format!("{area}.{name:?}");
        let principals = principal.iter().map(|(name, table)| (named("principal", name), table, TableKind::Principals));
        let groups = group.iter().map(|(name, table)| (named("group", name), table, TableKind::Group));
        let total_table = total.iter().map(|table| ("total".to_owned(), table, TableKind::Total));
        let all = principals.chain(groups).chain(total_table);
        let all = all.chain([("default".to_owned(), &default, TableKind::Principals)]);
        let problems = all.flat_map(|(table, values, kind)| {
            values.problems(kind).map(move |problem| QuotaProblem { table: table.clone(), problem }).collect::<Vec<_>>()
        });
        let wrong_principals = principal.keys().filter(|name| !is_principal(name)).map(|name| QuotaProblem {
            table: named("principal", name),
            problem: "not a principal — write user:NAME, agent:NAME or service:NAME, such as user:uid:1000",
        });
        let wrong_groups = group.keys().filter(|name| Label::try_from(format!("{GROUP}{name}")).is_err() || name.is_empty());
        let wrong_groups = wrong_groups.map(|name| QuotaProblem {
            table: named("group", name),
            problem: "the name is empty or too long, or has control characters — rename the group",
        });
        let problems: Vec<_> = problems.chain(wrong_principals).chain(wrong_groups).collect();
        if !problems.is_empty() {
            return Err(QuotaError::Refused(problems));
        }
        let limits = |tables: BTreeMap<String, QuotaTable>| -> BTreeMap<String, QuotaLimits> {
            tables.into_iter().map(|(name, table)| (name, table.limits())).collect()
        };
        Ok(Self {
            total: total.map(|table| table.limits()),
            default: default.limits(),
            principals: limits(principal),
            groups: limits(group),
            digest: Some(ContentDigest::of(text.as_bytes())),
        })
    }
}

fn is_principal(name: &str) -> bool {
    let rest = ["user:", "agent:", "service:"].iter().find_map(|kind| name.strip_prefix(kind));
    rest.is_some_and(|rest| !rest.is_empty()) && Label::try_from(name).is_ok()
}
