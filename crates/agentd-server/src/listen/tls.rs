//! The certificate of the daemon for TLS, from PEM files.

use agentd_disk::is_own_uid;
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
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
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let config = RwLock::new(Arc::new(config(&files)?));
        Ok(Self { files: Arc::new(files), config: Arc::new(config) })
    }

    /// Reads the files again. New connections get the new certificate. If the files cannot be used, the earlier certificate stays.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = Arc::new(config(&self.files)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Returns what makes a connection a TLS connection, with the present certificate.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }
}

fn config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let TlsFiles { certificate, key } = files;
    let not_pem = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, source }
    };
    let pair = |source| TlsError::Pair { certificate: certificate.clone(), key: key.clone(), source };
    let text = read(certificate, false)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(not_pem(certificate))?;
    if chain.is_empty() {
        return Err(not_pem(certificate)(pem::Error::NoItemsFound));
    }
    let secret = PrivateKeyDer::from_pem_slice(&read(key, true)?).map_err(not_pem(key))?;
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(pair)?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
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
        let files = TlsFiles { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) };
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
            assert!(TlsServer::load(TlsFiles { certificate, key: other.key.clone() }).is_err());
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
