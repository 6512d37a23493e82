//! Inspection: the gateway ends TLS on both sides, so that rules apply to each request, and secrets stay outside the sandbox.
//!
//! A flow is inspected only if its grants state a method and path, or if its host has a secret. These are the steps:
//!
//! 1. `carry` takes over after the check of the ClientHello. It connects to the server, verifies the certificate against
//!    [`roots`], agrees with the server on one protocol of the client's offer, and then shows the client a certificate of the
//!    sandbox's [`authority`].
//! 2. `session` serves HTTP/1.1 or HTTP/2 with bounds. `wire` and `tasks` connect it to the sockets and the event loop.
//! 3. `exchange` handles one request: `check` compares host, method and path, [`secret`] replaces placeholders, [`aws`] signs
//!    requests to AWS again, and `credential` refuses other credentials.
//! 4. `mask` covers secrets in the response: `body` in headers, body and trailers, `websocket` in frames. `tunnel` carries a
//!    connection after its upgrade.
//!
//! Before a sandbox starts, [`target`] reads the destination of a secret, and [`trust`] creates the files by which programs in
//! the sandbox trust the authority.

pub mod authority;
pub mod aws;
mod body;
mod carry;
mod check;
mod credential;
pub mod error;
mod exchange;
pub(crate) mod mask;
pub mod roots;
pub mod secret;
mod session;
pub mod target;
mod tasks;
pub mod trust;
mod tunnel;
pub(crate) mod websocket;
pub(crate) mod wire;

use crate::{
    grant::Access,
    name::HostName,
    record::{FlowRefusal, explanation},
};
use authority::SandboxAuthority;
use aws::AwsKey;
use error::InspectionError;
use roots::TrustedRoots;
use rustls::{
    ClientConfig, ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use secret::{Secret, SecretHost};
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// The settings of inspection.
pub struct Inspection {
    /// The authority whose certificate the sandbox trusts.
    pub authority: Arc<SandboxAuthority>,
    /// The authorities with which servers' certificates are verified.
    pub roots: TrustedRoots,
    /// The secrets of the sandbox.
    pub secrets: Vec<Secret>,
    /// The keys of AWS.
    pub aws: Vec<AwsKey>,
}

impl Inspection {
    /// Returns the hosts that may receive a secret.
    pub fn hosts(&self) -> impl Iterator<Item = &SecretHost> {
        self.secrets.iter().map(Secret::host).chain(self.aws.iter().map(AwsKey::host))
    }

    /// Returns true if a secret is meant for the port of the host.
    fn has_secret(&self, name: &HostName, port: u16) -> bool {
        self.hosts().any(|host| host.name == *name && host.port == port)
    }
}

/// Inspection, ready for connections.
pub(crate) struct Inspector {
    settings: Arc<Inspection>,
    connector: TlsConnector,
    provider: Arc<CryptoProvider>,
    deny_reason: Option<String>,
}

impl Inspector {
    pub(crate) fn new(settings: Arc<Inspection>, deny_reason: Option<String>) -> Result<Self, InspectionError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(settings.roots.store())
            .with_no_client_auth();
        Ok(Self { settings, connector: TlsConnector::from(Arc::new(client)), provider, deny_reason })
    }

    /// Returns true if flows to the port of the name are inspected.
    pub(crate) fn wants(&self, name: &HostName, port: u16, access: &Access) -> bool {
        !access.requests.is_empty() || self.settings.has_secret(name, port)
    }

    /// Returns the settings of TLS towards the sandbox, as the server with this name.
    fn server(&self, name: &HostName, protocols: Vec<Vec<u8>>) -> Result<Arc<ServerConfig>, InspectionError> {
        let leaf = self.settings.authority.leaf(name)?;
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Leaf(leaf)));
        config.alpn_protocols = protocols;
        // A session that is resumed would need a store for each name and protocol, and a signature takes less than 100 µs.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Returns the text that the program and its user receive.
    fn explain(&self, refusal: &FlowRefusal) -> String {
        explanation(refusal, self.deny_reason.as_deref())
    }
}

/// The one certificate of a connection, whose name was already checked.
#[derive(Debug)]
struct Leaf(Arc<CertifiedKey>);

impl ResolvesServerCert for Leaf {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
