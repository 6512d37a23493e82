//! A certificate authority of the tests, and a TLS server with its certificate.

use crate::outer::{http, request};
use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
};

/// The names in the certificate of the server.
const NAMES: [&str; 2] = ["*.granted.example", "granted.example"];

/// The directory whose files the server shows below `/files/`.
static FILES: Mutex<Option<PathBuf>> = Mutex::new(None);
static MADE: LazyLock<(Arc<ServerConfig>, Vec<u8>)> = LazyLock::new(make);

fn make() -> (Arc<ServerConfig>, Vec<u8>) {
    let mut authority = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "authority of the tests");
    authority.distinguished_name = name;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&key).unwrap().der().to_vec();
    let issuer = Issuer::new(authority, key);
    let mut server = CertificateParams::new(NAMES.map(str::to_owned)).unwrap();
    server.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    let certificate = server.signed_by(&key, &issuer).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    (Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap()), root)
}

/// Writes the certificate of the authority into a file.
pub fn write_authority(path: &Path) {
    let text = BASE64.encode(&MADE.1);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    fs::write(path, pem).unwrap();
}

/// Lets the server show the files of a directory.
pub fn show(directory: &Path) {
    *FILES.lock().unwrap() = Some(directory.to_path_buf());
}

/// Ends [`show`].
pub fn hide() {
    *FILES.lock().unwrap() = None;
}

/// Serves one connection.
pub fn serve(client: TcpStream) {
    let mut stream = StreamOwned::new(ServerConnection::new(MADE.0.clone()).unwrap(), client);
    let files = FILES.lock().unwrap().clone();
    let Some(files) = files else { return http(stream, "tls") };
    let path = request(&mut stream);
    let path = path.split('?').next().unwrap_or_default();
    let content = path.strip_prefix("/files/").and_then(|path| fs::read(files.join(path)).ok());
    let status = if content.is_some() { "200 OK" } else { "404 Not Found" };
    let content = content.unwrap_or_default();
    let _ = write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", content.len());
    let _ = stream.write_all(&content);
    let _ = stream.flush();
}
