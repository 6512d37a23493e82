//! Inspection of TLS in one sandbox: which hosts need it, the secrets, and what programs need to trust the sandbox's authority.

use super::{checks_requests, refused, trusted};
use agentd_core::{IsolationError, NetworkSecret, PlanLine, SandboxSpec};
use agentd_egress::{
    Inspection, NetGrants,
    gateway::injectable,
    grant::Hosts,
    inspect::{
        authority::SandboxAuthority,
        aws::{AwsKey, AwsPlaceholder},
        error::InspectionError,
        roots::TrustedRoots,
        secret::{Placeholder, Secret},
        target::{SecretTarget, SecretUse},
        trust::{JAVA_PASSWORD, TrustFiles},
    },
};
use agentd_kernel::mount::trust::{BUNDLE, KEY_STORE, MAX_FILE, TrustPlan};
use std::{ffi::OsString, sync::Arc};

/// The variables by which programs find a bundle of certificates: OpenSSL and most others, Python's requests, Node, git, cargo,
/// pip and curl.
const VARIABLES: [&str; 7] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "PIP_CERT",
    "CURL_CA_BUNDLE",
];

/// The variable with options for every JVM.
const JVM: &str = "JAVA_TOOL_OPTIONS";

/// The additions to a sandbox whose TLS is inspected.
pub(super) struct Inspected {
    pub(super) inspection: Arc<Inspection>,
    pub(super) trust: TrustPlan,
    pub(super) environment: Vec<(OsString, OsString)>,
}

/// Reads the targets of secrets, and checks that the grants permit them.
///
/// # Errors
/// [`IsolationError::Invalid`] for a target that no request could use, and for a variable of two secrets.
pub(super) fn targets(secrets: &[NetworkSecret], grants: &NetGrants) -> Result<Vec<SecretTarget>, IsolationError> {
    let mut targets: Vec<SecretTarget> = Vec::new();
    for secret in secrets {
        let target = secret.target.parse::<SecretTarget>().map_err(|error| refused(&error))?;
        injectable(&target.host, grants).map_err(|error| refused(&error))?;
        for variable in target.variables() {
            if targets.iter().any(|other| other.variables().contains(&variable)) {
                return Err(refused(&format!(
                    "two secrets have the variable {variable} — use a separate variable for each secret"
                )));
            }
            if VARIABLES.contains(&variable.as_str()) || variable == JVM {
                return Err(refused(&format!("the variable {variable} names the trusted certificates — name another variable")));
            }
        }
        targets.push(target);
    }
    Ok(targets)
}

/// Prepares inspection. Returns `None` if neither a network grant nor a secret needs it.
///
/// # Errors
/// As for [`targets`]. Fails also if the host trusts no authority, if a command could change what the host trusts, and if a value
/// cannot be put into requests.
pub(super) fn prepare(spec: &SandboxSpec, grants: &NetGrants) -> Result<Option<Inspected>, IsolationError> {
    let targets = targets(&spec.secrets, grants)?;
    if targets.is_empty() && grants.need_inspection().is_none() {
        return Ok(None);
    }
    trusted::check(&spec.grants)?;
    let failed = |error: InspectionError| refused(&error);
    let roots = TrustedRoots::host().map_err(failed)?;
    let authority = SandboxAuthority::new().map_err(failed)?;
    let TrustFiles { pem, java } = TrustFiles::new(&roots, &authority);
    if pem.len().max(java.len()) > MAX_FILE {
        return Err(refused(&format!(
            "inspection: the certificates that this host trusts exceed {MAX_FILE} bytes — set SSL_CERT_FILE to a shorter list"
        )));
    }
    let mut environment = VARIABLES.map(|name| (OsString::from(name), OsString::from(BUNDLE))).to_vec();
    let options = format!("-Djavax.net.ssl.trustStore={KEY_STORE} -Djavax.net.ssl.trustStorePassword={JAVA_PASSWORD}");
    environment.push((JVM.into(), options.into()));
    let (mut taken, mut aws) = (Vec::new(), Vec::new());
    for (secret, target) in spec.secrets.iter().zip(targets) {
        let variables = target.variables().into_iter().map(OsString::from);
        let SecretTarget { host, usage, .. } = target;
        match usage {
            SecretUse::Placed(place) => {
                let placeholder = Placeholder::random(&secret.prefix).map_err(failed)?;
                environment.extend(variables.zip([OsString::from(placeholder.to_string())]));
                taken.push(Secret::new(placeholder, secret.value().to_owned(), host, place).map_err(failed)?);
            }
            SecretUse::Signs(scope) => {
                let placeholder = AwsPlaceholder::random().map_err(failed)?;
                let AwsPlaceholder { id, secret: key } = &placeholder;
                environment.extend(variables.zip([id, key].map(|part| OsString::from(part.to_string()))));
                aws.push(AwsKey::new(placeholder, secret.value(), host, scope).map_err(failed)?);
            }
        }
    }
    let inspection = Inspection { authority: Arc::new(authority), roots, secrets: taken, aws };
    let trust = TrustPlan { bundle: pem, key_store: java };
    Ok(Some(Inspected { inspection: Arc::new(inspection), trust, environment }))
}

/// Describes the inspected hosts, the secrets and the trust stores.
///
/// # Errors
/// As for [`targets`], and if a command could change what the host trusts.
pub(super) fn describe(spec: &SandboxSpec, grants: &NetGrants) -> Result<Vec<PlanLine>, IsolationError> {
    let targets = targets(&spec.secrets, grants)?;
    let ruled = grants.iter().filter(|grant| checks_requests(grant)).map(|grant| (grant.hosts.clone(), grant.port));
    let mut lines: Vec<PlanLine> = Vec::new();
    let mut inspected = |name: String| {
        let line = PlanLine::new("inspected", format!("TLS of {name}, with an authority of this sandbox"));
        if !lines.contains(&line) {
            lines.push(line);
        }
    };
    for (hosts, port) in ruled {
        if let Hosts::Names(pattern) = hosts {
            inspected(format!("{pattern}:{port}"));
        }
    }
    targets.iter().for_each(|target| inspected(format!("{}:{}", target.host.name, target.host.port)));
    lines.extend(targets.iter().map(|target| PlanLine::new("secret", format!("{target}; the sandbox has a placeholder"))));
    if !lines.is_empty() {
        trusted::check(&spec.grants)?;
        let places = format!("{BUNDLE}, {KEY_STORE} and the system's bundle");
        lines.push(PlanLine::new("trust", format!("{places}, with the authorities of this host and of the sandbox")));
    }
    Ok(lines)
}
