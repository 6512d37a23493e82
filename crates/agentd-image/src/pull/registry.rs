//! One registry, and what is asked of it.

use super::{Progress, download::Download, login::login};
use crate::{
    error::{Doing as _, ImageError},
    manifest::{DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, INDEX, MANIFEST, MOST},
};
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use std::{path::Path, time::Duration};

/// A registry that does not answer for so long will not.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every host there is, as `no_proxy` lists them: `*` is those with a name, addresses are networks.
const EVERYBODY: &str = "*,0.0.0.0/0,::/0";

/// A registry, seen from one repository.
pub(super) struct Registry {
    client: Client,
    auth: RegistryAuth,
    repository: Reference,
}

impl Registry {
    /// The registry of a reference.
    pub(super) async fn of(reference: &Reference) -> Result<Self, ImageError> {
        // The process has one provider of cryptography; when the embedding program chose one already, that is it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let host = reference.resolve_registry();
        let config = ClientConfig {
            connect_timeout: Some(PATIENCE),
            read_timeout: Some(PATIENCE),
            user_agent: concat!("agentd/", env!("CARGO_PKG_VERSION")),
            ..transport(is_loopback(host))
        };
        // Not `Client::new`, which falls back to another configuration when it fails.
        let client = Client::try_from(config).map_err(|source| failed(reference, source))?;
        let auth = login(reference).await?;
        client.store_auth_if_needed(host, &auth).await;
        Ok(Self { client, auth, repository: reference.clone() })
    }

    /// A manifest or an index, held to the digest of its reference by `oci-client`. That crate reads it whole, however long it is; longer
    /// than a manifest may be, it is at least not kept.
    pub(super) async fn manifest(&self, reference: &Reference) -> Result<Vec<u8>, ImageError> {
        let accepted = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX];
        let answer = self.client.pull_manifest_raw(reference, &self.auth, &accepted).await;
        let (bytes, _) = answer.map_err(|source| self.failed(source))?;
        if bytes.len() as u64 > MOST {
            return Err(ImageError::Contradiction("its manifest is bigger than 8 MiB"));
        }
        Ok(bytes.to_vec())
    }

    /// A small blob.
    pub(super) async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        if descriptor.size > MOST {
            return Err(ImageError::Contradiction("its configuration is bigger than 8 MiB"));
        }
        let mut bytes = Vec::new();
        self.blob(descriptor, Download::new(&mut bytes, descriptor.size, |_| {})).await?;
        Ok(bytes)
    }

    /// A layer, into a new file.
    pub(super) async fn layer(
        &self,
        descriptor: &Descriptor,
        to: &Path,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), ImageError> {
        let file = tokio::fs::File::create_new(to).await.doing("make", to)?;
        let (layer, total) = (descriptor.digest, descriptor.size);
        let download = Download::new(file, total, |received| progress(Progress { layer, received, total }));
        self.blob(descriptor, download).await
    }

    /// A blob. Only its digest is asked for: other addresses that a manifest may name are not followed.
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

/// How a registry is spoken to: one on this machine without TLS, and so past any proxy, which would be told the login.
fn transport(on_this_machine: bool) -> ClientConfig {
    if !on_this_machine {
        return ClientConfig { protocol: ClientProtocol::Https, ..ClientConfig::default() };
    }
    ClientConfig {
        protocol: ClientProtocol::Http,
        // Only where one is named does the client not take the environment's (`http_proxy`). This one is for nobody.
        http_proxy: Some("http://127.0.0.1".into()),
        no_proxy: Some(EVERYBODY.into()),
        ..ClientConfig::default()
    }
}

/// Whether a registry is on this machine: there is no wire to listen on, as long as no proxy is asked.
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
    fn only_this_machine_is_spoken_to_without_tls() {
        for here in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000"] {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in ["example.org", "localhost.example.org", "10.0.0.1:5000", "[fe80::1]:5000", "127.0.0.1.example.org", ""]
        {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
    }
}
