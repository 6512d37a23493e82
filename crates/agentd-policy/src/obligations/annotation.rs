//! Annotations of policies, as obligations.

use super::{NetworkBound, Obligations};
use agentd_core::{Profile, duration};
use agentd_egress::NetGrants;
use std::{collections::BTreeSet, fmt::Display, str::FromStr};

/// The names of the annotations that state an obligation of a permit.
pub const ANNOTATIONS: [&str; 13] = [
    "profile",
    "timeout",
    "cpu_time",
    "memory",
    "processes",
    "open_files",
    "file_size",
    "output",
    "cpus",
    "cpu_weight",
    "egress",
    "backend",
    "approval",
];

/// The reason why an annotation is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnnotationProblem {
    /// The name is unknown.
    #[error("@{0} is unknown — the annotations are id, description, reason, {list}", list = ANNOTATIONS.join(", "))]
    Unknown(String),
    /// A forbid has an obligation.
    #[error("@{0} is an obligation, which only a permit can have — remove it, or move it to the permit")]
    Forbid(String),
    /// The annotation `@reason` of a permit.
    #[error("@reason states why a forbid denies; a permit has none — use @description")]
    Reason,
    /// The value cannot be read.
    #[error("@{name}(\"{value}\"): {cause}")]
    Value {
        /// The annotation.
        name: String,
        /// The value.
        value: String,
        /// The cause.
        cause: String,
    },
}

impl Obligations {
    /// Sets the obligation of an annotation. `backends` are the names that `@backend` may contain.
    ///
    /// # Errors
    /// The name is unknown, or the value cannot be read.
    pub fn set(&mut self, name: &str, value: &str, backends: &[&str]) -> Result<(), AnnotationProblem> {
        let wrong = |cause: String| AnnotationProblem::Value { name: name.to_owned(), value: value.to_owned(), cause };
        let limits = &mut self.limits;
        match name {
            "profile" => self.profile = profile(value).map_err(wrong)?,
            "timeout" => limits.wall = Some(duration::parse(value).map_err(wrong)?),
            "cpu_time" => limits.cpu_time = Some(duration::parse(value).map_err(wrong)?),
            "memory" => limits.memory = Some(positive(value).map_err(wrong)?),
            "processes" => limits.processes = Some(positive(value).map_err(wrong)?),
            "open_files" => limits.open_files = Some(positive(value).map_err(wrong)?),
            "file_size" => limits.file_size = Some(parsed(value).map_err(wrong)?),
            "output" => limits.output = Some(parsed(value).map_err(wrong)?),
            "cpus" => limits.cpu_quota = Some(parsed(value).map_err(wrong)?),
            "cpu_weight" => limits.cpu_weight = Some(weight(value).map_err(wrong)?),
            "egress" => self.network = network(value).map_err(wrong)?,
            "backend" => self.backends = known(value, backends).map_err(wrong)?,
            "approval" => self.approvals = BTreeSet::from([approval(value).map_err(wrong)?]),
            other => return Err(AnnotationProblem::Unknown(other.to_owned())),
        }
        Ok(())
    }

    /// Returns the obligations as annotations: name and value, without those that bound nothing.
    pub fn annotations(&self) -> Vec<(&'static str, String)> {
        let limits = &self.limits;
        let time = |limit: Option<std::time::Duration>| limit.map(duration::text);
        fn text<T: Display>(limit: Option<T>) -> Option<String> {
            limit.map(|limit| limit.to_string())
        }
        let backends = self.backends.iter().cloned().collect::<Vec<_>>().join(", ");
        let mut all = vec![("profile", Some(self.profile.to_string()))];
        all.extend([
            ("timeout", time(limits.wall)),
            ("cpu_time", time(limits.cpu_time)),
            ("memory", text(limits.memory)),
            ("processes", text(limits.processes)),
            ("open_files", text(limits.open_files)),
            ("file_size", text(limits.file_size)),
            ("output", text(limits.output)),
            ("cpus", limits.cpu_quota.map(|quota| (f64::from(quota.0) / 1000.0).to_string())),
            ("cpu_weight", text(limits.cpu_weight)),
            ("egress", Some(self.network.to_string())),
            ("backend", Some(backends)),
        ]);
        all.extend(self.approvals.iter().map(|approval| ("approval", Some(approval.clone()))));
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

fn profile(value: &str) -> Result<Profile, String> {
    let known = [Profile::Strict, Profile::Default, Profile::Permissive];
    let found = known.into_iter().find(|profile| profile.to_string() == value);
    found.ok_or_else(|| "the profiles are strict, default and permissive".to_owned())
}

fn parsed<T: FromStr<Err: Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| error.to_string())
}

/// Parses a number that is not zero: a limit of zero would let no command start.
fn positive<T: FromStr<Err: Display> + Display>(value: &str) -> Result<T, String> {
    let number: T = parsed(value)?;
    if number.to_string() == "0" { Err("the limit is zero, with which no command starts".to_owned()) } else { Ok(number) }
}

fn weight(value: &str) -> Result<u32, String> {
    let weight: u32 = parsed(value)?;
    if (1..=10_000).contains(&weight) { Ok(weight) } else { Err("the weight is not between 1 and 10000".to_owned()) }
}

fn network(value: &str) -> Result<NetworkBound, String> {
    match value.trim() {
        "any" => return Ok(NetworkBound::any_host()),
        "host-network" => return Ok(NetworkBound::host_network()),
        _ => {}
    }
    let grants: NetGrants = value.parse().map_err(|error: agentd_egress::grant::GrantError| error.to_string())?;
    let all: Vec<_> = grants.iter().cloned().collect();
    for (index, grant) in all.iter().enumerate() {
        // The gateway would let the narrower grant take precedence, and the policy would permit more than it seems to.
        let wider = all.iter().enumerate().find(|(other, wider)| *other != index && wider.covers(grant));
        if let Some((_, wider)) = wider {
            return Err(format!("'{grant}' has no effect, because '{wider}' contains it — remove it"));
        }
    }
    Ok(NetworkBound::hosts_of(all))
}

fn known(value: &str, backends: &[&str]) -> Result<BTreeSet<String>, String> {
    let names: BTreeSet<String> = value.split(',').map(|name| name.trim().to_owned()).collect();
    match names.iter().find(|name| !backends.contains(&name.as_str())) {
        Some(unknown) => Err(format!("'{unknown}' is not a backend — the backends are {}", backends.join(", "))),
        None => Ok(names),
    }
}

fn approval(value: &str) -> Result<String, String> {
    let text = value.trim();
    let good = !text.is_empty() && text.len() <= 512 && !text.contains(char::is_control);
    if good {
        Ok(text.to_owned())
    } else {
        Err("the text has no characters, more than 512 bytes, or control characters".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKENDS: [&str; 3] = ["container", "host-direct", "linux-native"];

    fn usual() -> Obligations {
        Obligations::usual(["container", "linux-native"].map(str::to_owned).into())
    }

    #[test]
    fn annotations_are_read_and_printed() {
        let stated = [
            ("profile", "strict"),
            ("timeout", "30s"),
            ("cpu_time", "10s"),
            ("memory", "512M"),
            ("processes", "64"),
            ("open_files", "256"),
            ("file_size", "1G"),
            ("output", "1M"),
            ("cpus", "1.5"),
            ("cpu_weight", "50"),
            ("egress", "files.pypi.example:443, pypi.example:443"),
            ("backend", "container"),
            ("approval", "ask the team"),
        ];
        assert_eq!(stated.map(|(name, _)| name), ANNOTATIONS);
        let mut obligations = usual();
        for (name, value) in stated {
            obligations.set(name, value, &BACKENDS).unwrap();
        }
        assert_eq!(obligations.annotations(), stated.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn wrong_values_are_refused() {
        for (name, value, cause) in [
            ("profile", "Strict", "the profiles are strict"),
            ("timeout", "0s", "not a duration"),
            ("memory", "0", "zero"),
            ("processes", "0", "zero"),
            ("processes", "-1", "invalid digit"),
            ("cpu_weight", "0", "between 1 and 10000"),
            ("egress", "*", "*"),
            ("egress", "*.a.example, x.a.example", "has no effect"),
            ("egress", "a.example, a.example", "has no effect"),
            ("backend", "none", "'none' is not a backend"),
            ("backend", "", "'' is not a backend"),
            ("approval", " ", "no characters"),
            ("nice", "1", "unknown"),
        ] {
            let error = usual().set(name, value, &BACKENDS).unwrap_err().to_string();
            assert!(error.contains(cause), "{name} {value}: {error}");
        }
    }
}
