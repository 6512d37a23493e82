//! Pulling from a real registry on this machine's loopback: Debian's `docker-registry`.

use crate::{
    import::{assert_empty, layers, reference},
    made::{config, gzip},
    place::Place,
    puppet::Puppet,
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

#[test]
fn a_manifest_is_no_bigger_than_a_manifest_may_be() {
    let manifest = |length| {
        let config = json!({"mediaType": "x", "digest": Digest::of(b"").to_string(), "size": 2});
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": []}).to_string();
        [manifest.as_bytes(), &b" ".repeat(length - manifest.len())].concat()
    };
    for (length, fits) in [(8 << 20, true), ((8 << 20) + 1, false)] {
        let registry = Puppet::start([("/v2/", vec![]), ("/v2/image/manifests/1", manifest(length))].into());
        let place = Place::new();
        let store = Store::open(&place.at("store")).unwrap();
        let error = wait_for(pull(&store, &reference(&format!("{}/image:1", registry.address)))).0.unwrap_err();
        // The configuration of the one that fits is not there.
        let refused = matches!(error, ImageError::Contradiction("its manifest is bigger than 8 MiB"));
        assert!(if fits { matches!(error, ImageError::Registry { .. }) } else { refused }, "{error}");
        let asked_for_more = registry.heard().iter().any(|line| line.contains("/blobs/"));
        assert_eq!(asked_for_more, fits);
        assert_empty(&place.at("store"));
    }
}

#[test]
fn a_manifest_is_what_its_digest_says_whether_a_reference_or_an_index_names_it() {
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": "x", "digest": digest, "size": 2}]}).to_string();
    let place = Place::new();
    let store = Store::open(&place.at("store")).unwrap();
    for name in [&format!("image@{digest}"), "image:1"] {
        let by_digest = "/v2/image/manifests/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let answers = [("/v2/", vec![]), ("/v2/image/manifests/1", index.clone().into()), (by_digest, b"{}".into())];
        let registry = Puppet::start(answers.into());
        let error = wait_for(pull(&store, &reference(&format!("{}/{name}", registry.address)))).0.unwrap_err();
        assert!(error.to_string().contains(&format!("Invalid digest. Expected {digest}")), "{error}");
        assert_empty(&place.at("store"));
    }
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

/// Has another process pull with the login in `login`: the environment is a process's own. Says whether that went well.
fn pulled(image: &str, login: &Place, environment: &[(&str, &str)]) -> bool {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "pull::puller"])
        .env(PULLER, image)
        .env("DOCKER_CONFIG", login.path())
        // The caller's may excuse what these tests ask about.
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .envs(environment.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// Logs `agent` with the password `secret` in.
fn log_in(login: &Place, registry: &str) {
    let login_of = json!({"auths": {registry: {"auth": "YWdlbnQ6c2VjcmV0"}}});
    fs::write(login.at("config.json"), login_of.to_string()).unwrap();
}

#[test]
fn a_registry_that_wants_a_login_gets_the_callers() {
    let registry = Registry::start(true);
    let place = Place::new();
    wait_for(registry.push("image:1", &RegistryAuth::Basic("agent".into(), "secret".into())));
    // By name, so that names are resolved too, which a static program does without the C library's plug-ins.
    let registry_name = registry.address.replace("127.0.0.1", "localhost");
    let image = format!("{registry_name}/image:1");
    assert!(!pulled(&image, &place, &[]));
    log_in(&place, &registry_name);
    assert!(pulled(&image, &place, &[]));
}

#[test]
fn what_is_said_to_a_registry_on_this_machine_is_said_to_no_proxy() {
    for host in ["localhost", "127.0.0.1"] {
        let (registry, proxy) = (Puppet::start(HashMap::new()), Puppet::start(HashMap::new()));
        let place = Place::new();
        let name = format!("{host}:{}", registry.address.port());
        log_in(&place, &name);
        let url = format!("http://{}", proxy.address);
        let environment = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"].map(|variable| (variable, url.as_str()));
        assert!(!pulled(&format!("{name}/image:1"), &place, &environment));
        assert_eq!(proxy.heard(), [""; 0], "{name}");
        assert_eq!(registry.heard().first().map(String::as_str), Some("GET /v2/ HTTP/1.1"), "{name}");
    }
}
