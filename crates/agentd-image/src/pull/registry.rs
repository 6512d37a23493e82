//! The connection to one registry and the requests sent over it.

use super::{Progress, download::Download, login::login};
use crate::{
    error::ImageError,
    manifest::{DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, INDEX, MANIFEST, MAX_DOCUMENT_BYTES},
};
use agentd_disk::FileContext as _;
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use std::{path::Path, time::Duration};

/// Timeout for connecting to a registry, and for each read from it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Matches every host in the syntax of `no_proxy`: `*` matches all names, the networks match all addresses.
const EVERY_HOST: &str = "*,0.0.0.0/0,::/0";

/// A registry, with the login for one repository.
pub(super) struct Registry {
    client: Client,
    auth: RegistryAuth,
    repository: Reference,
}

impl Registry {
    /// Creates a client for the registry of `reference`, with the caller's login.
    pub(super) async fn connect(reference: &Reference) -> Result<Self, ImageError> {
        // A process has one cryptography provider. If the embedding program has installed one already, that one is used.
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::trace!("rustls: a cryptography provider is already installed in this process");
        }
        let host = reference.resolve_registry();
        let config = ClientConfig {
            connect_timeout: Some(TIMEOUT),
            read_timeout: Some(TIMEOUT),
            user_agent: concat!("agentd/", env!("CARGO_PKG_VERSION")),
            ..transport(is_loopback(host))
        };
        // `Client::new` is not used: on an error it falls back to a default configuration.
        let client = Client::try_from(config).map_err(|source| failed(reference, source))?;
        let auth = login(reference).await?;
        client.store_auth_if_needed(host, &auth).await;
        Ok(Self { client, auth, repository: reference.clone() })
    }

    /// Fetches a manifest or an index, whose digest `oci-client` verifies if `reference` has one. That crate reads the whole
    /// document into memory, whatever its size; a document above [`MAX_DOCUMENT_BYTES`] is rejected only afterwards.
    pub(super) async fn manifest(&self, reference: &Reference) -> Result<Vec<u8>, ImageError> {
        let accepted = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX];
        let answer = self.client.pull_manifest_raw(reference, &self.auth, &accepted).await;
        let (bytes, _) = answer.map_err(|source| self.failed(source))?;
        if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(ImageError::Contradiction("the manifest is larger than 8 MiB"));
        }
        Ok(bytes.to_vec())
    }

    /// Fetches a blob of at most [`MAX_DOCUMENT_BYTES`] bytes into memory.
    pub(super) async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        if descriptor.size > MAX_DOCUMENT_BYTES {
            return Err(ImageError::Contradiction("the configuration is larger than 8 MiB"));
        }
        let mut bytes = Vec::new();
        self.blob(descriptor, Download::new(&mut bytes, descriptor.size, |_| {})).await?;
        Ok(bytes)
    }

    /// Downloads a layer into the new file `to`.
    pub(super) async fn layer(
        &self,
        descriptor: &Descriptor,
        to: &Path,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), ImageError> {
        let file = tokio::fs::File::create_new(to).await.during("create", to)?;
        let (layer, total) = (descriptor.digest, descriptor.size);
        let download = Download::new(file, total, |received| progress(Progress { layer, received, total }));
        self.blob(descriptor, download).await
    }

    /// Fetches a blob by digest only; the URLs that a manifest may name are ignored.
    async fn blob(&self, descriptor: &Descriptor, download: impl tokio::io::AsyncWrite) -> Result<(), ImageError> {
        let digest = descriptor.digest.to_string();
        self.client.pull_blob(&self.repository, digest.as_str(), download).await.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: OciDistributionError) -> ImageError {
        failed(&self.repository, source)
    }
}

fn failed(reference: &Reference, source: OciDistributionError) -> ImageError {
    ImageError::Registry { registry: reference.registry().to_owned(), source: Box::new(source) }
}

/// Returns the transport settings for a registry. A registry on the loopback interface is contacted without TLS. No proxy is used
/// for it, because a proxy would receive the login in clear text.
fn transport(on_this_machine: bool) -> ClientConfig {
    if !on_this_machine {
        return ClientConfig { protocol: ClientProtocol::Https, ..ClientConfig::default() };
    }
    ClientConfig {
        protocol: ClientProtocol::Http,
        // The client ignores the environment's `http_proxy` only if a proxy is configured. This one is never used, because
        // `no_proxy` matches every host.
        http_proxy: Some("http://127.0.0.1".into()),
        no_proxy: Some(EVERY_HOST.into()),
        ..ClientConfig::default()
    }
}

/// Returns true if `registry` is on this host. Without TLS its traffic cannot be intercepted on a network, as long as no proxy
/// is used.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_loopback_registry_is_used_without_tls() {
        for loopback in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000"] {
            assert!(is_loopback(loopback), "{loopback}");
        }
        for remote in ["example.org", "localhost.example.org", "10.0.0.1:5000", "[fe80::1]:5000", "127.0.0.1.example.org", ""] {
            assert!(!is_loopback(remote), "{remote}");
        }
    }
}
