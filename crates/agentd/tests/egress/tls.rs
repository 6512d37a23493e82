//! A certificate authority of the tests, and a TLS server with its certificate.

use crate::outer::{head, respond, respond_with_length, target};
use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use std::{
    fs,
    io::{Read, Write},
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

/// An API: returns the events with which it answers a request with this head, if it has an answer.
pub type EventStream = fn(&str) -> Option<String>;

/// The API that the server plays.
pub static API: Mutex<Option<EventStream>> = Mutex::new(None);

/// Reads the body of a request whose length its head states.
fn skip_body(head: &str, stream: &mut impl Read) {
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    std::io::copy(&mut stream.take(length.unwrap_or(0)), &mut std::io::sink()).unwrap();
}

/// Sends a file of the shown directory, or the file `index.html` of a directory there.
fn send_file(stream: impl Write, head: &str, path: &Path) {
    let file = if path.is_dir() { path.join("index.html") } else { path.to_path_buf() };
    let is_page = file.extension().is_some_and(|extension| extension == "html");
    let kind = if is_page { "text/html" } else { "application/octet-stream" };
    let Ok(content) = fs::read(&file) else { return respond(stream, "404 Not Found", "", b"") };
    let lines = format!("Content-Type: {kind}\r\n");
    if head.starts_with("HEAD ") {
        return respond_with_length(stream, "200 OK", &lines, content.len());
    }
    respond(stream, "200 OK", &lines, &content);
}

/// Serves one connection. `/reflect` shows the credential of the request, and `/redirect` leads to another host.
pub fn serve(client: TcpStream) {
    let mut stream = StreamOwned::new(ServerConnection::new(MADE.0.clone()).unwrap(), client);
    let head = head(&mut stream, "tls");
    let path = target(&head).split('?').next().unwrap_or_default();
    let files = FILES.lock().unwrap().clone();
    let api = *API.lock().unwrap();
    if api.is_some() && head.to_lowercase().contains("\r\nupgrade: websocket") {
        return respond(stream, "426 Upgrade Required", "", b"");
    }
    if let Some(events) = api.and_then(|api| api(&head)) {
        skip_body(&head, &mut stream);
        return respond(stream, "200 OK", "Content-Type: text/event-stream\r\n", events.as_bytes());
    }
    match (path.strip_prefix("/files/"), files) {
        (Some(path), Some(files)) => send_file(stream, &head, &files.join(path)),
        _ if path == "/reflect" => {
            let line = head.lines().find(|line| line.to_lowercase().starts_with("authorization:")).unwrap_or_default();
            respond(stream, "200 OK", &format!("X-Reflected: {line}\r\n"), format!("you sent {line}.").as_bytes());
        }
        _ if path == "/redirect" => respond(stream, "302 Found", "Location: https://files.granted.example/landed\r\n", b""),
        _ => respond(stream, "200 OK", "", format!("tls {path}").as_bytes()),
    }
}
