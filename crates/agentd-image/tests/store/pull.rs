//! Pulling from a real registry on this machine's loopback: Debian's `docker-registry`.

use crate::{
    import::{assert_empty, layers, reference},
    made::{architecture, config, gzip, zstd},
    place::Place,
};
use agentd_image::{Digest, Image, ImageError, Progress, Store};
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol, Config, ImageLayer},
    manifest::OciImageManifest,
    secrets::RegistryAuth,
};
use serde_json::json;
use std::{
    env, fs,
    future::Future,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// A registry that ends with its test.
struct Registry {
    server: Child,
    address: String,
    place: Place,
}

impl Registry {
    fn start(login: bool) -> Self {
        let place = Place::new();
        // Free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        // agent / secret
        let known = "agent:$2b$04$XC1UHdrdM6JebyJOQB5aVOiaOMH6i080GWvgiCfDyjlUiO0W8sXje\n";
        fs::write(place.at("users"), known).unwrap();
        let auth = json!({"htpasswd": {"realm": "test", "path": place.at("users")}});
        let mut settings = json!({
            "version": 0.1, "log": {"level": "error"}, "http": {"addr": address},
            "storage": {"filesystem": {"rootdirectory": place.at("registry")}, "delete": {"enabled": true}},
        });
        if login {
            settings["auth"] = auth;
        }
        // JSON is YAML.
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
            assert!(registry.server.try_wait().unwrap().is_none(), "docker-registry ended at once");
            thread::sleep(Duration::from_millis(10));
        }
        registry
    }

    fn reference(&self, name: &str) -> Reference {
        reference(&format!("{}/{name}", self.address))
    }

    /// Pushes an image of the three layers and returns the digest of its manifest.
    async fn push(&self, name: &str, auth: &RegistryAuth) -> Digest {
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
        Digest::of(&bytes)
    }

    /// Pushes an index that leads to `manifest` on this machine and to nothing on others.
    async fn push_index(&self, name: &str, manifest: Digest) {
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

    /// Changes a byte of each blob of the registry that is longer than a manifest's link.
    fn damage(&self, digest: &str) {
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

fn wait_for<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn pull(store: &Store, reference: &Reference) -> (Result<Image, ImageError>, Vec<Progress>) {
    let mut told = Vec::new();
    let image = store.pull(reference, |progress| told.push(progress)).await;
    (image, told)
}

#[test]
fn an_image_is_pulled_once_and_only_what_is_missing() {
    let registry = Registry::start(false);
    let place = Place::new();
    let store = Store::open(&place.at("store")).unwrap();
    wait_for(async {
        let digest = registry.push("some/image:1", &RegistryAuth::Anonymous).await;
        let (image, told) = pull(&store, &registry.reference("some/image:1")).await;
        let image = image.unwrap();
        assert_eq!((image.digest, image.layers.len()), (digest, 2));
        assert_eq!(fs::read(image.layers[1].join("etc/name")).unwrap(), b"first");
        // Two layers, though the manifest names three.
        assert_eq!(told.iter().filter(|one| one.received == one.total).count(), 2);

        let by_digest = registry.reference(&format!("some/image@{digest}"));
        let (again, told) = pull(&store, &by_digest).await;
        assert_eq!((again.unwrap().layers, told), (image.layers, vec![]));

        registry.push_index("some/image:many", digest).await;
        assert_eq!(pull(&store, &registry.reference("some/image:many")).await.0.unwrap().digest, digest);
    });
    assert_eq!(store.images().unwrap().len(), 3);
    assert_eq!(fs::read_dir(place.at("store/staging")).unwrap().count(), 0);
}

#[test]
fn what_a_registry_damaged_is_refused_and_nothing_is_left() {
    let registry = Registry::start(false);
    let place = Place::new();
    let store = Store::open(&place.at("store")).unwrap();
    wait_for(async {
        let digest = registry.push("image:1", &RegistryAuth::Anonymous).await;
        let by_digest = registry.reference(&format!("image@{digest}"));
        let layer = Digest::of(&gzip(&layers()[0])).to_string();
        let configuration = Digest::of(config(&layers()).to_string().as_bytes()).to_string();
        for damaged in [layer, configuration, digest.to_string()] {
            registry.damage(&damaged);
            let error = pull(&store, &by_digest).await.0.unwrap_err();
            assert!(matches!(error, ImageError::Registry { .. } | ImageError::Digest { .. }), "{error}");
            assert_empty(&place.at("store"));
            registry.damage(&damaged);
        }
        pull(&store, &by_digest).await.0.unwrap();
    });
}

#[test]
fn an_image_that_is_not_there_is_an_error_that_names_the_registry() {
    let registry = Registry::start(false);
    let place = Place::new();
    let store = Store::open(&place.at("store")).unwrap();
    let error = wait_for(pull(&store, &registry.reference("absent:1"))).0.unwrap_err();
    assert!(error.to_string().contains(&registry.address), "{error}");
    assert_empty(&place.at("store"));
}

/// Tells this program to pull with a login, from where, and into which place.
const PULLER: &str = "AGENTD_TEST_PULLER";

#[test]
fn puller() {
    let Some(image) = env::var_os(PULLER) else { return };
    let place = PathBuf::from(env::var_os("DOCKER_CONFIG").unwrap());
    let store = Store::open(&place.join("store")).unwrap();
    wait_for(store.pull(&reference(image.to_str().unwrap()), |_| {})).unwrap();
}

#[test]
fn a_registry_that_wants_a_login_gets_the_callers() {
    let registry = Registry::start(true);
    let place = Place::new();
    wait_for(registry.push("image:1", &RegistryAuth::Basic("agent".into(), "secret".into())));
    // By name, so that names are resolved too, which a static program does without the C library's plug-ins.
    let registry_name = registry.address.replace("127.0.0.1", "localhost");
    let image = format!("{registry_name}/image:1");
    // The environment is a process's own: that of another is set.
    let pull = || {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "pull::puller"])
            .env(PULLER, &image)
            .env("DOCKER_CONFIG", place.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    };
    assert!(!pull());
    // agent:secret
    fs::write(place.at("config.json"), json!({"auths": {registry_name: {"auth": "YWdlbnQ6c2VjcmV0"}}}).to_string()).unwrap();
    assert!(pull());
}
