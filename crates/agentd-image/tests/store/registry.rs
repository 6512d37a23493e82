//! Starts Debian's `docker-registry` for a test.

use crate::{
    fixtures::{architecture, config, gzip, zstd},
    import::{layers, reference},
    place::StoreDir,
};
use agentd_image::Digest;
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol, Config, ImageLayer},
    manifest::OciImageManifest,
    secrets::RegistryAuth,
};
use serde_json::json;
use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// A running registry, which is killed on drop.
pub struct Registry {
    server: Child,
    pub address: String,
    place: StoreDir,
}

impl Registry {
    pub fn start(login: bool) -> Self {
        let place = StoreDir::new();
        // Another process could take this port before the registry binds it.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        // User `agent`, password `secret`.
        let users = "agent:$2b$04$XC1UHdrdM6JebyJOQB5aVOiaOMH6i080GWvgiCfDyjlUiO0W8sXje\n";
        fs::write(place.at("users"), users).unwrap();
        let auth = json!({"htpasswd": {"realm": "test", "path": place.at("users")}});
        let mut settings = json!({
            "version": 0.1, "log": {"level": "error"}, "http": {"addr": address},
            "storage": {"filesystem": {"rootdirectory": place.at("registry")}, "delete": {"enabled": true}},
        });
        if login {
            settings["auth"] = auth;
        }
        // JSON is a subset of YAML, the format of the settings.
        fs::write(place.at("settings"), settings.to_string()).unwrap();
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(place.at("settings"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is not installed: run ./test, which installs it");
        let mut registry = Self { server, address, place };
        while TcpStream::connect(&registry.address).is_err() {
            assert!(registry.server.try_wait().unwrap().is_none(), "docker-registry ended before it accepted connections");
            thread::sleep(Duration::from_millis(10));
        }
        registry
    }

    pub fn reference(&self, name: &str) -> Reference {
        reference(&format!("{}/{name}", self.address))
    }

    /// Pushes an image of the three layers and returns the digest of its manifest.
    pub async fn push(&self, name: &str, auth: &RegistryAuth) -> Digest {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
        let plain = layers();
        let packed: Vec<_> =
            plain.iter().zip([gzip, zstd, gzip]).map(|(layer, pack)| ImageLayer::oci_v1_gzip(pack(layer), None)).collect();
        let config = Config::oci_v1(config(&plain).to_string().into_bytes(), None);
        let manifest = OciImageManifest::build(&packed, &config, None);
        client.push(&self.reference(name), &packed, config, auth, Some(manifest)).await.unwrap();
        let (bytes, _) =
            client.pull_manifest_raw(&self.reference(name), auth, &["application/vnd.oci.image.manifest.v1+json"]).await.unwrap();
        Digest::compute(&bytes)
    }

    /// Pushes an index with `manifest` as the image of this host's architecture and of s390x.
    pub async fn push_index(&self, name: &str, manifest: Digest) {
        let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
        let entry = |architecture: &str| {
            json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest.to_string(), "size": 700,
                   "platform": {"os": "linux", "architecture": architecture}})
        };
        let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                           "manifests": [entry("s390x"), entry(architecture())]});
        let index = serde_json::from_value(index).unwrap();
        client.push_manifest_list(&self.reference(name), &RegistryAuth::Anonymous, index).await.unwrap();
    }

    /// Flips a bit in the middle of the registry's blob with this digest. A second call restores the blob.
    pub fn damage(&self, digest: &str) {
        let hex = digest.trim_start_matches("sha256:");
        let path = self.place.at("registry/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data");
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}
