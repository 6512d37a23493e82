//! A certificate authority of the tests, and a TLS server with its certificate.

use crate::{
    git_server,
    outer::{head, respond, target},
};
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
const NAMES: [&str; 4] = ["*.granted.example", "granted.example", "api.anthropic.com", "api.openai.com"];

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

/// Serves one connection. `/reflect` shows the credential of the request, `/redirect` leads to another host, and `/to?URL` to
/// this URL. `/endless` and `/endless-head` never end, and `/git/` serves the repositories in the directory of [`show`].
pub fn serve(client: TcpStream) {
    let mut stream = StreamOwned::new(ServerConnection::new(MADE.0.clone()).unwrap(), client);
    let head = head(&mut stream, "tls");
    let path = target(&head).split('?').next().unwrap_or_default();
    let files = FILES.lock().unwrap().clone();
    match (path.strip_prefix("/files/"), files) {
        (Some(path), Some(files)) => match fs::read(files.join(path)) {
            Ok(content) => respond(stream, "200 OK", "", &content),
            Err(_) => respond(stream, "404 Not Found", "", b""),
        },
        _ if path == "/reflect" => {
            let line = head.lines().find(|line| line.to_lowercase().starts_with("authorization:")).unwrap_or_default();
            respond(stream, "200 OK", &format!("X-Reflected: {line}\r\n"), format!("you sent {line}.").as_bytes());
        }
        _ if path == "/to" => {
            let to = target(&head).split_once('?').map(|(_, to)| to.to_owned()).unwrap_or_default();
            respond(stream, "302 Found", &format!("Location: {to}\r\n"), b"");
        }
        _ if path == "/endless" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[b'a'; 4096]).is_ok() {}
        }
        _ if path == "/endless-head" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while stream.write_all(b"X-Header: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").is_ok() {}
        }
        (None, Some(files)) if path.starts_with("/git/") => git_server::serve(stream, &head, &files),
        _ if path == "/redirect" => respond(stream, "302 Found", "Location: https://files.granted.example/landed\r\n", b""),
        _ => respond(stream, "200 OK", "", format!("tls {path}").as_bytes()),
    }
}
