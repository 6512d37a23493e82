//! Certificates of clients.

use crate::place::{Remote, folder, private};
use agentd_client::{Client, ClientError, request};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;
use std::fs;

/// An authority for clients.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

/// A certificate and its private key.
struct Credential {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { params, key: KeyPair::generate().unwrap() }
    }

    fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    fn issue(&self, uri: &str, change: impl FnOnce(&mut CertificateParams)) -> Credential {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let issued = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        Credential { certificate: issued.pem(), key: key.serialize_pem() }
    }
}

/// Starts a daemon that accepts the certificates of an authority.
fn trusting(authority: &Authority) -> Remote {
    let root = folder();
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(root.path().join("cert.pem"), own.cert.pem()).unwrap();
    private(&root.path().join("key.pem"), &own.signing_key.serialize_pem());
    fs::write(root.path().join("ca.pem"), authority.pem()).unwrap();
    Remote::with(root, &["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--tls-client-ca", "ca.pem"], "off")
}

async fn connect(remote: &Remote, credential: Option<&Credential>) -> Result<Client, ClientError> {
    let builder = Client::builder(&remote.url).ca_certificate(fs::read(remote.path("cert.pem")).unwrap());
    let client = match credential {
        Some(Credential { certificate, key }) => builder.client_certificate(certificate, key),
        None => builder,
    }
    .connect()
    .await?;
    // In TLS 1.3, the server refuses a certificate after the client has finished its part.
    client.health().await.map(|_| client)
}

fn reason(error: ClientError) -> String {
    match error {
        ClientError::Call(error) => error.reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_authenticates_a_service_until_its_authority_is_replaced() {
    let authority = Authority::new();
    let remote = trusting(&authority);
    let ci = authority.issue("spiffe://a.example/ci", |_| {});
    let client = connect(&remote, Some(&ci)).await.unwrap();
    let outcome = client.execute(request("shell.exec.v1", &json!({ "command": "true" })).unwrap()).await.unwrap();
    assert_eq!(outcome.exit_code, Some(0));
    assert!(remote.good(&["audit", "tail", "--json", "-n", "10"]).contains("service:spiffe://a.example/ci"));
    assert_eq!(reason(connect(&remote, None).await.unwrap_err()), "unauthenticated");
    // A credential in the request decides, also if it is wrong.
    let pem = fs::read(remote.path("cert.pem")).unwrap();
    let both = Client::builder(&remote.url).ca_certificate(pem).client_certificate(&ci.certificate, &ci.key);
    let both = both.api_key("agentd_wrong").unwrap().connect().await.unwrap();
    assert_eq!(reason(both.health().await.unwrap_err()), "unauthenticated");
    fs::write(remote.path("ca.pem"), Authority::new().pem()).unwrap();
    remote.signal("HUP");
    let messages = [remote.message(), remote.message(), remote.message()];
    assert!(messages[2].contains("certificate loaded"), "{messages:?}");
    assert_eq!(reason(client.health().await.unwrap_err()), "unauthenticated", "the connection was open before");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_others_for_other_uses_or_of_the_past_are_refused() {
    let authority = Authority::new();
    let remote = trusting(&authority);
    let refused = [
        Authority::new().issue("spiffe://a.example/ci", |_| {}),
        authority.issue("spiffe://a.example/ci", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)),
        authority.issue("spiffe://a.example/ci", |params| params.not_before = rcgen::date_time_ymd(2100, 1, 1)),
        authority.issue("spiffe://a.example/ci", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
    ];
    for credential in &refused {
        assert!(connect(&remote, Some(credential)).await.is_err());
    }
    let nameless = authority.issue("urn:ci", |_| {});
    assert_eq!(reason(connect(&remote, Some(&nameless)).await.unwrap_err()), "unauthenticated");
    assert!(connect(&remote, Some(&authority.issue("spiffe://a.example/ci", |_| {}))).await.is_ok());
}
