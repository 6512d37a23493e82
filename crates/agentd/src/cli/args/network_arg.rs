//! Values of `--net`.

use super::net::{ReadGrants, read_grants};
use agentd_core::{IsolationError, Network, NetworkLimits};
use agentd_egress::{NetGrant, NetGrants, preset::Preset};
use std::{path::Path, str::FromStr};

/// A value of `--net`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetworkArg {
    /// Loopback only.
    Off,
    /// The host's network.
    Host,
    /// No host, but each attempt is reported with the network grant that would allow it.
    Log,
    /// The granted hosts.
    Allow(Vec<String>),
    /// The hosts that a file grants.
    File(ReadGrants),
}

impl FromStr for NetworkArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=').unwrap_or((text, "")) {
            ("off", "") => Ok(Self::Off),
            ("host", "") => Ok(Self::Host),
            ("log", "") => Ok(Self::Log),
            ("allow", grants) => Ok(Self::Allow(grants.split(',').map(|grant| grant.trim().to_owned()).collect())),
            ("approve", grants) => {
                let grants = grants.split(',').map(|grant| grant.trim().parse::<NetGrant>().and_then(NetGrant::with_approval));
                let grants = grants.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
                Ok(Self::Allow(grants.iter().map(ToString::to_string).collect()))
            }
            ("preset", names) => {
                let presets = names.split(',').map(|name| Preset::find(name.trim()));
                let presets = presets.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
                Ok(Self::Allow(presets.iter().flat_map(|preset| preset.allow.iter()).map(ToString::to_string).collect()))
            }
            ("file", path) => read_grants(Path::new(path)).map(Self::File),
            _ => {
                let instead = if !text.is_empty() && text.parse::<NetGrants>().is_ok() { text } else { "example.com" };
                Err(format!(
                    "expected off, host, log, allow=HOSTS, approve=HOSTS, preset=NAMES or file=PATH, as in --net allow={instead}"
                ))
            }
        }
    }
}

impl From<&Preset> for NetworkArg {
    fn from(preset: &Preset) -> Self {
        Self::Allow(preset.allow.iter().map(ToString::to_string).collect())
    }
}

impl NetworkArg {
    /// Returns the network that all values together request; without a value, loopback only.
    ///
    /// # Errors
    /// The values exclude each other.
    pub(crate) fn network(args: &[Self]) -> Result<Network, IsolationError> {
        let grants = args.iter().map(|arg| match arg {
            Self::Off | Self::Host => None,
            Self::Log => Some(Vec::new()),
            Self::Allow(grants) => Some(grants.clone()),
            Self::File(read) => Some(read.file.allow.iter().map(ToString::to_string).collect()),
        });
        match (args, grants.collect::<Option<Vec<_>>>()) {
            ([] | [Self::Off], _) => Ok(Network::Off),
            ([Self::Host], _) => Ok(Network::Host),
            (_, Some(grants)) => Ok(Network::Egress(grants.concat())),
            (_, None) => Err(IsolationError::Invalid {
                what: "--net".to_owned(),
                reason:
                    "off or host is combined with another value — use off or host alone, or only allow=, approve=, preset=, file= and log"
                        .to_owned(),
            }),
        }
    }

    /// Returns the limits of all files, together with those of the option `--net-limit`.
    pub(crate) fn limits(args: &[Self], limits: &[NetworkLimits]) -> NetworkLimits {
        let of_files = args.iter().filter_map(|arg| match arg {
            Self::File(read) => Some(&read.file.limits),
            _ => None,
        });
        of_files.chain(limits).fold(NetworkLimits::default(), |all, limits| all.tightest(*limits))
    }

    /// Returns the operators' texts for refused destinations.
    pub(crate) fn deny_reasons(args: &[Self]) -> Vec<String> {
        let reasons = args.iter().map(|arg| match arg {
            Self::File(read) => read.file.deny_reason.clone(),
            _ => None,
        });
        reasons.flatten().collect()
    }
}
