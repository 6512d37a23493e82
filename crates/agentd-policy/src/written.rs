//! Requests that people write: the intents of `agentd policy explain`, and the rows of a table.

use crate::{
    obligations::{AnnotationProblem, NetworkBound, Obligations, RequestedConfinement},
    request::{PolicyPrincipal, PolicyRequest, RequestSource, RequestedSecret, Resource},
};
use agentd_core::{Limits, Network};
use agentd_records::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A request as people write it. Fields that are not written have the values of [`WrittenDefaults`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenRequest {
    /// See [`PolicyRequest::principal`].
    pub principal: Option<PolicyPrincipal>,
    /// See [`PolicyRequest::capability`].
    pub capability: String,
    /// See [`PolicyRequest::resources`].
    #[serde(default)]
    pub resources: Vec<Resource>,
    /// See [`PolicyRequest::parameters`].
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// See [`PolicyRequest::secrets`].
    #[serde(default)]
    pub secrets: Vec<RequestedSecret>,
    /// See [`PolicyRequest::time`].
    pub time: Option<Timestamp>,
    /// See [`PolicyRequest::source`].
    pub source: Option<RequestSource>,
    /// The confinement that the caller requests: names and values of annotations.
    #[serde(default)]
    pub requested: BTreeMap<String, AnnotationText>,
}

/// The facts that a written request does not state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenDefaults {
    /// The principal.
    pub principal: PolicyPrincipal,
    /// The time.
    pub time: Timestamp,
    /// The source.
    pub source: RequestSource,
}

/// The value of an annotation: one text, or several that stand for a list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum AnnotationText {
    /// One text.
    One(String),
    /// Several texts.
    Many(Vec<String>),
}

impl AnnotationText {
    /// Returns the text of the annotation.
    pub(crate) fn joined(&self) -> String {
        match self {
            Self::One(text) => text.clone(),
            Self::Many(texts) => texts.join(", "),
        }
    }

    /// Returns each text.
    pub(crate) fn texts(&self) -> BTreeSet<String> {
        match self {
            Self::One(text) => BTreeSet::from([text.clone()]),
            Self::Many(texts) => texts.iter().cloned().collect(),
        }
    }
}

impl WrittenRequest {
    /// Returns the complete request, and the confinement that the caller requests.
    ///
    /// # Errors
    /// The requested confinement cannot be read. `backends` are the names that it may contain.
    pub fn complete(
        self,
        defaults: &WrittenDefaults,
        backends: &[&str],
    ) -> Result<(PolicyRequest, RequestedConfinement), AnnotationProblem> {
        let requested = confinement(&self.requested, backends)?;
        let request = PolicyRequest {
            principal: self.principal.unwrap_or_else(|| defaults.principal.clone()),
            capability: self.capability,
            resources: self.resources,
            parameters: self.parameters,
            secrets: self.secrets,
            time: self.time.unwrap_or(defaults.time),
            source: self.source.unwrap_or_else(|| defaults.source.clone()),
        };
        Ok((request, requested))
    }
}

fn confinement(written: &BTreeMap<String, AnnotationText>, backends: &[&str]) -> Result<RequestedConfinement, AnnotationProblem> {
    let mut read = Obligations { limits: Limits::default(), ..Obligations::usual(BTreeSet::new()) };
    for (name, value) in written {
        read.set(name, &value.joined(), backends)?;
    }
    let wrong = |name: &str, cause: &str| AnnotationProblem::Value {
        name: name.to_owned(),
        value: written.get(name).map(AnnotationText::joined).unwrap_or_default(),
        cause: cause.to_owned(),
    };
    if written.contains_key("approval") {
        return Err(wrong("approval", "a request states no approval"));
    }
    if read.backends.len() > 1 {
        return Err(wrong("backend", "a request names one backend"));
    }
    let network = match read.network.hosts() {
        _ if !written.contains_key("egress") => None,
        Some([]) => Some(Network::Off),
        Some(hosts) => Some(Network::Egress(hosts.iter().map(ToString::to_string).collect())),
        None if read.network == NetworkBound::host_network() => Some(Network::Host),
        None => return Err(wrong("egress", "a request names its hosts")),
    };
    let profile = written.contains_key("profile").then_some(read.profile);
    Ok(RequestedConfinement { profile, limits: read.limits, network, backend: read.backends.into_iter().next() })
}
