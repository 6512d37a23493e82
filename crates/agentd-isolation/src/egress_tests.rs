use super::*;
use agentd_core::{DiskLayers, NetworkSecret};

fn network(grants: &[&str]) -> Network {
    Network::Egress(texts(grants))
}

fn texts(grants: &[&str]) -> Vec<String> {
    grants.iter().map(|grant| (*grant).to_owned()).collect()
}

#[test]
fn change_revokes_first_and_adds_no_grant_twice() {
    let before = network(&["a.example", "b.example:443", "10.0.0.0/8:5432"]);
    let after =
        changed(&before, &texts(&["C.example", "b.example", "10.0.0.0/8:5432"]), &texts(&["A.example:443", "10.0.0.0/8:5432"]));
    assert_eq!(after.unwrap(), network(&["b.example:443", "c.example:443", "10.0.0.0/8:5432"]));
    assert_eq!(changed(&before, &[], &texts(&["a.example", "b.example", "10.0.0.0/8:5432"])).unwrap(), network(&[]));
}

#[test]
fn change_that_cannot_be_enforced_is_refused_with_its_cause() {
    let before = network(&["a.example"]);
    let many: Vec<String> = (1..=MAX_PORTS).map(|port| format!("a.example:{port}")).collect();
    for (allow, revoke, cause) in [
        (texts(&["*"]), texts(&[]), "\"*\""),
        (texts(&[]), texts(&["b.example"]), "no network grant b.example:443 — revoke one of its network grants: a.example:443"),
        (texts(&[]), texts(&["a.example:80"]), "no network grant a.example:80"),
        (texts(&["a.example:80/GET:/x", "a.example:80/udp"]), texts(&[]), "over UDP (QUIC)"),
        (texts(&["a.example/GET:/x"]), texts(&[]), "which a named sandbox does not have — remove"),
        (many, texts(&[]), "25 different ports"),
    ] {
        let error = changed(&before, &allow, &revoke).unwrap_err().to_string();
        assert!(error.contains(cause), "{error}");
    }
    for network in [Network::Off, Network::Host] {
        assert!(changed(&network, &[], &[]).unwrap_err().to_string().contains("--net log"));
    }
}

#[tokio::test]
async fn grant_of_udp_is_refused_in_a_machine_only() {
    let with = |grants: &[&str]| SandboxSpec { network: network(grants), ..SandboxSpec::default() };
    let udp = with(&["a.example", "a.example:123/udp"]);
    assert!(describe(&udp).is_ok());
    let errors = [describe_for_machine(&udp).unwrap_err(), MachineGateway::start(&udp).await.unwrap_err()];
    let plain = MachineGateway::start(&with(&["a.example"])).await.unwrap().unwrap();
    let changed = plain.change(&udp.network, |_| async { panic!("the agent must not be asked") }).await.unwrap_err();
    for error in errors.into_iter().chain([changed]) {
        let cause = "network grant a.example:123/udp: UDP is not carried out of a virtual machine — use --backend";
        assert!(error.to_string().contains(cause), "{error}");
    }
    assert_eq!(plain.network(), network(&["a.example"]));
    plain.stop().await;
}

#[test]
fn sandbox_with_layers_on_disk_has_neither_secrets_nor_inspection() {
    let layers = DiskLayers { lower: Vec::new(), upper: "/upper".into() };
    let kept = |grants| SandboxSpec {
        network: network(grants),
        writable: Writable::KeptLayers(layers.clone()),
        ..SandboxSpec::default()
    };
    // HTTP without TLS needs no inspection.
    assert!(settings(&kept(&["a.example", "a.example:80/GET:/x"])).is_ok());
    let error = settings(&kept(&["a.example/GET:/x"])).err().unwrap().to_string();
    assert!(error.contains("which a named sandbox does not have — remove"), "{error}");
    let mut secret = kept(&["a.example"]);
    secret.secrets.push(NetworkSecret::new("KEY@a.example", "the-real-value".to_owned()));
    for secrets in [secret.clone(), SandboxSpec { network: Network::Off, ..secret }] {
        let error = settings(&secrets).err().unwrap().to_string();
        assert!(error.contains("has no secrets — use `agentd run --secret`"), "{error}");
        assert!(!error.contains("the-real-value"), "{error}");
    }
}
