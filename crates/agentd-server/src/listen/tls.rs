//! The certificate of the daemon for TLS, and the authorities of clients' certificates, from PEM files.

use crate::auth::ClientAuthorities;
use agentd_disk::is_own_uid;
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::{VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

/// The longest file in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The protocols inside TLS, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those of the authorities that lead to the root.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The authorities whose certificates are credentials of clients.
    pub client_authorities: Option<PathBuf>,
}

/// The reason why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("TLS: read {path:?}: {source} — name a PEM file that agentd's user can read")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is not a regular file, or too long.
    #[error("TLS: {0:?}: not a regular file of at most 1 MiB — name a PEM file")]
    Kind(PathBuf),
    /// Somebody else could read or replace the private key.
    #[error("TLS: {0:?}: other users can access the private key — run chmod 600 on it, and chown it to root or to agentd's user")]
    Public(PathBuf),
    /// A file is not PEM, or lacks a certificate or a key.
    #[error(
        "TLS: {path:?}: {source} — name a PEM file with the certificate, or with the private key in PKCS #8, SEC1 or PKCS #1"
    )]
    Pem {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: pem::Error,
    },
    /// The authorities of clients cannot be used.
    #[error("TLS: {path:?}: {source} — name a PEM file with the certificates of authorities")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: VerifierBuilderError,
    },
    /// Certificate and key cannot be used together.
    #[error("TLS: certificate {certificate:?} and key {key:?}: {source} — name a key and its own certificate")]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
}

/// The server's side of TLS. Clones share the certificate, which can be replaced.
#[derive(Debug, Clone)]
pub struct TlsServer {
    files: Arc<TlsFiles>,
    config: Arc<RwLock<Arc<ServerConfig>>>,
    authorities: Option<ClientAuthorities>,
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let authorities = files.client_authorities.as_deref().map(authorities).transpose()?.map(ClientAuthorities::new);
        let config = config(&files, authorities.as_ref().map(ClientAuthorities::current))?;
        Ok(Self { files: Arc::new(files), config: Arc::new(RwLock::new(Arc::new(config))), authorities })
    }

    /// Reads the files again. New connections get the new certificate, and clients' certificates are verified by the new
    /// authorities, also those of open connections. If the files cannot be used, the earlier certificate stays.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn reload(&self) -> Result<(), TlsError> {
        let verifier = self.files.client_authorities.as_deref().map(authorities).transpose()?;
        let config = Arc::new(config(&self.files, verifier.clone())?);
        if let (Some(authorities), Some(verifier)) = (&self.authorities, verifier) {
            authorities.replace(verifier);
        }
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Returns the authorities of clients' certificates.
    pub(super) fn authorities(&self) -> Option<ClientAuthorities> {
        self.authorities.clone()
    }

    /// Returns what makes a connection a TLS connection, with the present certificate.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }
}

fn config(files: &TlsFiles, clients: Option<Arc<dyn ClientCertVerifier>>) -> Result<ServerConfig, TlsError> {
    let TlsFiles { certificate, key, .. } = files;
    let pair = |source| TlsError::Pair { certificate: certificate.clone(), key: key.clone(), source };
    let chain = certificates(certificate)?;
    let secret = PrivateKeyDer::from_pem_slice(&read(key, true)?).map_err(not_pem(key))?;
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_client_cert_verifier(clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth))
        .with_single_cert(chain, secret)
        .map_err(pair)?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

fn not_pem(path: &Path) -> impl FnOnce(pem::Error) -> TlsError {
    let path = path.to_owned();
    move |source| TlsError::Pem { path, source }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path, false)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(not_pem(path))?;
    if all.is_empty() { Err(not_pem(path)(pem::Error::NoItemsFound)) } else { Ok(all) }
}

/// Returns the verifier of clients' certificates. A client may also have none, and send another credential.
fn authorities(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let failed = |source| TlsError::Authorities { path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    let found = certificates(path)?;
    let (usable, _) = roots.add_parsable_certificates(found.iter().cloned());
    if usable != found.len() {
        return Err(failed(VerifierBuilderError::NoRootAnchors));
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), ring::default_provider().into());
    verifier.allow_unauthenticated().build().map_err(failed)
}

/// Reads a file. Nobody but root and this user may read or change a private one.
fn read(path: &Path, is_private: bool) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source: io::Error| TlsError::Read { path: path.to_owned(), source };
    // A FIFO would block without O_NONBLOCK.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let stat = fstat(&file).map_err(|errno| failed(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(TlsError::Kind(path.to_owned()));
    }
    let is_trusted = (stat.st_uid == 0 || is_own_uid(stat.st_uid)) && stat.st_mode & 0o077 == 0;
    if is_private && !is_trusted {
        return Err(TlsError::Public(path.to_owned()));
    }
    // With room for the whole file: a buffer that grows leaves copies of the key in memory.
    let length = u64::try_from(stat.st_size).unwrap_or(0).min(MAX_FILE);
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0).saturating_add(2)));
    File::from(file).take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= MAX_FILE => Ok(bytes),
        _ => Err(TlsError::Kind(path.to_owned())),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    pub(in crate::listen) fn pair(folder: &Path, name: &str) -> TlsFiles {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let files = TlsFiles {
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
            client_authorities: None,
        };
        fs::write(&files.certificate, made.cert.pem()).unwrap();
        fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
        files
    }

    #[test]
    fn key_that_others_can_read_or_that_is_another_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (files, other) = (pair(folder.path(), "a"), pair(folder.path(), "b"));
        assert!(TlsServer::load(files.clone()).is_ok());
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(TlsServer::load(files.clone()), Err(TlsError::Public(_))), "{mode:o}");
        }
        let mixed = TlsFiles { key: other.key.clone(), ..files.clone() };
        assert!(matches!(TlsServer::load(mixed), Err(TlsError::Pair { .. })));
        for certificate in [other.key.clone(), "/dev/null".into(), folder.path().to_owned(), folder.path().join("missing")] {
            assert!(TlsServer::load(TlsFiles { certificate, ..other.clone() }).is_err());
        }
        fs::write(&other.key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        assert!(TlsServer::load(other).is_err());
    }

    #[test]
    fn files_that_cannot_be_used_do_not_replace_the_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let files = pair(folder.path(), "a");
        let server = TlsServer::load(files.clone()).unwrap();
        let before = server.config.read().unwrap().clone();
        fs::write(&files.certificate, "nothing").unwrap();
        assert!(server.reload().is_err());
        assert!(Arc::ptr_eq(&before, &server.config.read().unwrap()));
        pair(folder.path(), "a");
        server.reload().unwrap();
        assert!(!Arc::ptr_eq(&before, &server.config.read().unwrap()));
    }
}
