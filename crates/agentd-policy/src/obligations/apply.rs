//! Comparison of a request with the obligations of its permission.

use super::{Obligations, USUAL_CPU_WEIGHT};
use agentd_core::{Limits, Network, Profile, duration};
use agentd_egress::NetGrant;
use std::{collections::BTreeSet, fmt::Display, time::Duration};

/// The confinement that a caller requests. The policies determine what the caller does not state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestedConfinement {
    /// The profile. Unless stated: `default`, or the weakest permitted one if that is stricter.
    pub profile: Option<Profile>,
    /// The limits. Unless stated: those of the policies.
    pub limits: Limits,
    /// The network. Unless stated: the hosts that the policies name, and nothing if the policies permit every host.
    pub network: Option<Network>,
    /// The canonical name of the backend.
    pub backend: Option<String>,
}

/// The confinement with which a permitted request is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The profile.
    pub profile: Profile,
    /// The limits.
    pub limits: Limits,
    /// The network.
    pub network: Network,
    /// The backends, one of which must be used.
    pub backends: BTreeSet<String>,
    /// The texts of the approvals that the request needs before it is executed.
    pub approvals: BTreeSet<String>,
}

/// One item of a request that exceeds what the policies permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// The annotation that bounds the item.
    pub annotation: &'static str,
    /// The requested value.
    pub requested: String,
    /// The permitted value.
    pub permitted: String,
}

/// Everything in a request that exceeds what the policies permit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", list(.0))]
pub struct Excess(pub Vec<Exceeded>);

fn list(items: &[Exceeded]) -> String {
    let items = items.iter().map(|item| {
        let permitted = if item.permitted.is_empty() { "nothing" } else { item.permitted.as_str() };
        format!("{} {}, permitted: {permitted}", item.annotation, item.requested)
    });
    items.collect::<Vec<_>>().join("; ")
}

impl Obligations {
    /// Returns the confinement of a request: what the caller requests, within what the policies permit.
    ///
    /// # Errors
    /// [`Excess`] if more is requested than the policies permit. The request is then refused, and not reduced.
    pub fn apply(&self, requested: &RequestedConfinement) -> Result<Effective, Excess> {
        let mut excess = Vec::new();
        let profile = requested.profile.unwrap_or(self.profile.min(Profile::Default));
        if profile > self.profile {
            excess.push(exceeded("profile", profile, self.profile));
        }
        let limits = self.apply_limits(&requested.limits, &mut excess);
        let network = self.apply_network(requested.network.as_ref(), &mut excess);
        let mut backends = self.backends.clone();
        if let Some(name) = &requested.backend {
            if !backends.contains(name) {
                excess.push(exceeded("backend", name, backends.iter().cloned().collect::<Vec<_>>().join(", ")));
            }
            backends = BTreeSet::from([name.clone()]);
        }
        if !excess.is_empty() {
            return Err(Excess(excess));
        }
        Ok(Effective { profile, limits, network, backends, approvals: self.approvals.clone() })
    }

    fn apply_limits(&self, requested: &Limits, excess: &mut Vec<Exceeded>) -> Limits {
        let bounds = &self.limits;
        let mut limits = Limits {
            wall: requested.wall,
            grace: requested.grace,
            cpu_time: within("cpu_time", requested.cpu_time, bounds.cpu_time, duration::text, excess),
            memory: within("memory", requested.memory, bounds.memory, text, excess),
            processes: within("processes", requested.processes, bounds.processes, text, excess),
            open_files: within("open_files", requested.open_files, bounds.open_files, text, excess),
            file_size: within("file_size", requested.file_size, bounds.file_size, text, excess),
            output: within("output", requested.output, bounds.output, text, excess),
            cpu_quota: within("cpus", requested.cpu_quota, bounds.cpu_quota, |quota| text(f64::from(quota.0) / 1000.0), excess),
            cpu_weight: within("cpu_weight", requested.cpu_weight, bounds.cpu_weight, text, excess),
        };
        if requested.cpu_weight.is_none() {
            // Without a limit the kernel uses the usual weight. Only a smaller bound needs a control group.
            limits.cpu_weight = bounds.cpu_weight.filter(|bound| *bound < USUAL_CPU_WEIGHT);
        }
        if let Some(bound) = bounds.wall {
            // A command may run until the end of the grace period, so the bound covers both.
            let grace = requested.grace.unwrap_or(Duration::ZERO);
            let wall = requested.wall.unwrap_or(bound.saturating_sub(grace));
            if wall.saturating_add(grace) > bound || wall.is_zero() {
                let with_grace = format!("{} with a grace period of {}", duration::text(wall), duration::text(grace));
                let requested = if grace.is_zero() { duration::text(wall) } else { with_grace };
                excess.push(exceeded("timeout", requested, duration::text(bound)));
            }
            limits.wall = Some(wall);
        }
        limits
    }

    fn apply_network(&self, requested: Option<&Network>, excess: &mut Vec<Exceeded>) -> Network {
        match requested {
            None => match self.network.hosts() {
                Some(hosts) if !hosts.is_empty() => Network::Egress(hosts.iter().map(ToString::to_string).collect()),
                _ => Network::Off,
            },
            Some(Network::Off) => Network::Off,
            Some(Network::Host) => {
                if !self.network.permits_host_network() {
                    excess.push(exceeded("egress", "host-network", self.network.to_string()));
                }
                Network::Host
            }
            Some(Network::Egress(grants)) => {
                for grant in grants {
                    let permitted = grant.parse::<NetGrant>().is_ok_and(|grant| self.network.permits(&grant));
                    if !permitted {
                        excess.push(exceeded("egress", grant, self.network.to_string()));
                    }
                }
                Network::Egress(grants.clone())
            }
        }
    }
}

fn exceeded(annotation: &'static str, requested: impl Display, permitted: impl Display) -> Exceeded {
    Exceeded { annotation, requested: requested.to_string(), permitted: permitted.to_string() }
}

fn text(limit: impl Display) -> String {
    limit.to_string()
}

/// Returns the requested limit, or the bound if no limit is requested.
fn within<T: Ord + Copy>(
    annotation: &'static str,
    requested: Option<T>,
    bound: Option<T>,
    text: impl Fn(T) -> String,
    excess: &mut Vec<Exceeded>,
) -> Option<T> {
    if let (Some(requested), Some(bound)) = (requested, bound)
        && requested > bound
    {
        excess.push(exceeded(annotation, text(requested), text(bound)));
    }
    requested.or(bound)
}
