//! TLS, and its absence.

use crate::place::{Remote, agentd, folder, private};
use agentd_client::{Client, ClientError};
use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

/// Writes a self-signed certificate for this host and its key.
fn certificate(root: &Path) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    fs::write(root.join("cert.pem"), made.cert.pem()).unwrap();
    private(&root.join("key.pem"), &made.signing_key.serialize_pem());
}

fn with_tls() -> Remote {
    let root = folder();
    certificate(root.path());
    Remote::with(root, &["--tls-cert", "cert.pem", "--tls-key", "key.pem"], "off")
}

fn refused(root: &Path, arguments: &[&str]) -> String {
    let output = agentd(root, &[&["serve"], arguments].concat()).output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn plain_text_and_public_keys_are_refused_at_the_start() {
    let root = folder();
    certificate(root.path());
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7411"] {
        assert!(refused(root.path(), &["--listen", address]).contains("there is no TLS"), "{address}");
    }
    let tls = ["--listen", "127.0.0.1:0", "--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    assert!(refused(root.path(), &tls[..4]).contains("--tls-key"));
    assert!(refused(root.path(), &tls[2..]).contains("--listen"));
    fs::set_permissions(root.path().join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(root.path(), &tls).contains("chmod 600"));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_speak_both_versions_of_http_and_verify_the_certificate() {
    let remote = with_tls();
    assert!(remote.url.starts_with("https://"), "{}", remote.url);
    let (key, pem) = (remote.key("ci", &[]), remote.path("cert.pem"));
    let authority = pem.display().to_string();
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let options = ["--cacert", &authority, option, "--write-out", "\n%{http_version}\n%{http_code}"];
        let (body, status) = remote.get(Some(&key), "/v1/capabilities", &options);
        assert!(status == "200" && body.ends_with(&format!("\n{version}")), "{option}: {body}");
    }
    assert_eq!(remote.get(Some(&key), "/healthz", &[]).1, "000", "the certificate is not trusted");
    let builder = Client::builder(&remote.url).api_key(&key).unwrap();
    let client = builder.clone().ca_certificate(fs::read(&pem).unwrap()).connect().await.unwrap();
    assert!(client.health().await.unwrap().ready);
    assert!(matches!(builder.connect().await, Err(ClientError::Connect { .. })));
    // A new certificate, without a restart.
    let old = fs::read(&pem).unwrap();
    certificate(remote.root.path());
    remote.signal("HUP");
    let messages = [remote.message(), remote.message(), remote.message()];
    assert!(messages[2].contains("certificate loaded"), "{messages:?}");
    let client = Client::builder(&remote.url).api_key(&key).unwrap();
    assert!(client.clone().ca_certificate(old).connect().await.is_err());
    assert!(client.ca_certificate(fs::read(&pem).unwrap()).connect().await.unwrap().health().await.unwrap().ready);
    fs::write(&pem, "no certificate").unwrap();
    remote.signal("HUP");
    let messages = [remote.message(), remote.message(), remote.message()];
    assert!(messages[2].contains("certificate not loaded"), "{messages:?}");
}

#[test]
fn plain_text_gets_no_answer_on_a_port_with_tls() {
    let remote = with_tls();
    let key = remote.key("ci", &[]);
    let request = format!("GET /v1/capabilities HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n");
    let mut stream = remote.connect();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    // At most an alert of TLS.
    assert!(answer.len() < 16 && !answer.starts_with(b"HTTP"), "{answer:?}");
}
