//! Tests of pulling from a real registry, Debian's `docker-registry`, on loopback.

use crate::{
    fake_server::FakeServer,
    fixtures::{config, gzip},
    import::{assert_empty, layers, reference},
    place::StoreDir,
    registry::Registry,
};
use agentd_image::{Digest, Image, ImageError, Progress, Store};
use oci_client::{Reference, secrets::RegistryAuth};
use serde_json::json;
use std::{
    collections::HashMap,
    env, fs,
    future::Future,
    path::PathBuf,
    process::{Command, Stdio},
};

fn wait_for<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn pull(store: &Store, reference: &Reference) -> (Result<Image, ImageError>, Vec<Progress>) {
    let mut progress = Vec::new();
    let image = store.pull(reference, |step| progress.push(step)).await;
    (image, progress)
}

#[test]
fn pull_of_present_layers_downloads_nothing() {
    let registry = Registry::start(false);
    let place = StoreDir::new();
    let store = Store::open(&place.at("store")).unwrap();
    wait_for(async {
        let digest = registry.push("some/image:1", &RegistryAuth::Anonymous).await;
        let (image, progress) = pull(&store, &registry.reference("some/image:1")).await;
        let image = image.unwrap();
        assert_eq!((image.digest, image.layers.len()), (digest, 2));
        assert_eq!(fs::read(image.layers[1].join("etc/name")).unwrap(), b"first");
        // The manifest names three layers, two of which are the same.
        assert_eq!(progress.iter().filter(|step| step.received == step.total).count(), 2);

        let by_digest = registry.reference(&format!("some/image@{digest}"));
        let (again, progress) = pull(&store, &by_digest).await;
        assert_eq!((again.unwrap().layers, progress), (image.layers, vec![]));

        registry.push_index("some/image:many", digest).await;
        assert_eq!(pull(&store, &registry.reference("some/image:many")).await.0.unwrap().digest, digest);
    });
    assert_eq!(store.images().unwrap().len(), 3);
    assert_eq!(fs::read_dir(place.at("store/staging")).unwrap().count(), 0);
}

#[test]
fn damaged_blob_of_registry_is_refused_and_nothing_is_stored() {
    let registry = Registry::start(false);
    let place = StoreDir::new();
    let store = Store::open(&place.at("store")).unwrap();
    wait_for(async {
        let digest = registry.push("image:1", &RegistryAuth::Anonymous).await;
        let by_digest = registry.reference(&format!("image@{digest}"));
        let layer = Digest::compute(&gzip(&layers()[0])).to_string();
        let configuration = Digest::compute(config(&layers()).to_string().as_bytes()).to_string();
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
fn error_of_missing_image_names_the_registry() {
    let registry = Registry::start(false);
    let place = StoreDir::new();
    let store = Store::open(&place.at("store")).unwrap();
    let error = wait_for(pull(&store, &registry.reference("absent:1"))).0.unwrap_err();
    assert!(error.to_string().contains(&registry.address), "{error}");
    assert_empty(&place.at("store"));
}

#[test]
fn error_of_unreachable_registry_names_the_cause() {
    let place = StoreDir::new();
    let store = Store::open(&place.at("store")).unwrap();
    // Nothing listens at the port of a closed listener.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = wait_for(pull(&store, &reference(&format!("{address}/image:1")))).0.unwrap_err();
    assert!(error.to_string().contains("Connection refused"), "{error}");
    assert_eq!(error.to_string().matches("error sending request").count(), 1, "{error}");
}

#[test]
fn manifest_larger_than_8_mib_is_refused() {
    let manifest = |length| {
        let config = json!({"mediaType": "x", "digest": Digest::compute(b"").to_string(), "size": 2});
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": []}).to_string();
        [manifest.as_bytes(), &b" ".repeat(length - manifest.len())].concat()
    };
    for (length, fits) in [(8 << 20, true), ((8 << 20) + 1, false)] {
        let registry = FakeServer::start([("/v2/", vec![]), ("/v2/image/manifests/1", manifest(length))].into());
        let place = StoreDir::new();
        let store = Store::open(&place.at("store")).unwrap();
        let error = wait_for(pull(&store, &reference(&format!("{}/image:1", registry.address)))).0.unwrap_err();
        // The accepted manifest names a configuration that the server does not have.
        let refused = matches!(error, ImageError::Contradiction("the manifest is larger than 8 MiB"));
        assert!(if fits { matches!(error, ImageError::Registry { .. }) } else { refused }, "{error}");
        let requested_blobs = registry.requests().iter().any(|line| line.contains("/blobs/"));
        assert_eq!(requested_blobs, fits);
        assert_empty(&place.at("store"));
    }
}

#[test]
fn manifest_with_wrong_digest_is_refused() {
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": "x", "digest": digest, "size": 2}]}).to_string();
    let place = StoreDir::new();
    let store = Store::open(&place.at("store")).unwrap();
    for name in [&format!("image@{digest}"), "image:1"] {
        let by_digest = "/v2/image/manifests/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let answers = [("/v2/", vec![]), ("/v2/image/manifests/1", index.clone().into()), (by_digest, b"{}".into())];
        let registry = FakeServer::start(answers.into());
        let error = wait_for(pull(&store, &reference(&format!("{}/{name}", registry.address)))).0.unwrap_err();
        assert!(error.to_string().contains(&format!("Invalid digest. Expected {digest}")), "{error}");
        assert_empty(&place.at("store"));
    }
}

/// The variable that makes this program pull with a login; its value is the image. `DOCKER_CONFIG` is the directory of the store.
const PULLER: &str = "AGENTD_TEST_PULLER";

#[test]
fn puller() {
    let Some(image) = env::var_os(PULLER) else { return };
    let place = PathBuf::from(env::var_os("DOCKER_CONFIG").unwrap());
    let store = Store::open(&place.join("store")).unwrap();
    wait_for(store.pull(&reference(image.to_str().unwrap()), |_| {})).unwrap();
}

/// Pulls in another process, because the login in `login` is found through the environment. Returns whether the pull succeeded.
fn pull_in_child(image: &str, login: &StoreDir, environment: &[(&str, &str)]) -> bool {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "pull::puller"])
        .env(PULLER, image)
        .env("DOCKER_CONFIG", login.path())
        // The caller's exceptions from proxies could hide a failure.
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .envs(environment.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// Writes the credentials of `agent`, with the password `secret`, into the configuration of Docker.
fn log_in(login: &StoreDir, registry: &str) {
    let login_of = json!({"auths": {registry: {"auth": "YWdlbnQ6c2VjcmV0"}}});
    fs::write(login.at("config.json"), login_of.to_string()).unwrap();
}

#[test]
fn registry_with_login_receives_credentials_of_caller() {
    let registry = Registry::start(true);
    let place = StoreDir::new();
    wait_for(registry.push("image:1", &RegistryAuth::Basic("agent".into(), "secret".into())));
    // A name instead of an address also tests the resolver: a static program has none of the C library's plug-ins.
    let registry_name = registry.address.replace("127.0.0.1", "localhost");
    let image = format!("{registry_name}/image:1");
    assert!(!pull_in_child(&image, &place, &[]));
    log_in(&place, &registry_name);
    assert!(pull_in_child(&image, &place, &[]));
}

#[test]
fn requests_to_registry_on_loopback_bypass_proxy() {
    for host in ["localhost", "127.0.0.1"] {
        let (registry, proxy) = (FakeServer::start(HashMap::new()), FakeServer::start(HashMap::new()));
        let place = StoreDir::new();
        let name = format!("{host}:{}", registry.address.port());
        log_in(&place, &name);
        let url = format!("http://{}", proxy.address);
        let environment = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"].map(|variable| (variable, url.as_str()));
        assert!(!pull_in_child(&format!("{name}/image:1"), &place, &environment));
        assert_eq!(proxy.requests(), [""; 0], "{name}");
        assert_eq!(registry.requests().first().map(String::as_str), Some("GET /v2/ HTTP/1.1"), "{name}");
    }
}
