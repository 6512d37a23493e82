//! Reads the caller's registry login, as stored by `docker login`.

use crate::error::ImageError;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::{Reference, secrets::RegistryAuth};
use std::{env, fs::File, io, path::PathBuf};

/// Returns the login for a registry, anonymous if none is stored. Runs on a blocking thread, because a credential helper is a
/// program that may prompt the user.
pub(super) async fn login(reference: &Reference) -> Result<RegistryAuth, ImageError> {
    let reference = reference.clone();
    tokio::task::spawn_blocking(move || find(&reference)).await.map_err(|_| ImageError::GivenUp)?
}

fn find(reference: &Reference) -> Result<RegistryAuth, ImageError> {
    let registry = reference.registry();
    let refuse = |why: String| Err(ImageError::Login { registry: registry.to_owned(), why });
    let Some(path) = configuration() else { return Ok(RegistryAuth::Anonymous) };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(RegistryAuth::Anonymous),
        Err(error) => return refuse(format!("{}: {error}", path.display())),
    };
    // The login of Docker Hub, the only registry whose name differs from its host, is stored under the address of its v1 API.
    let server = match reference.resolve_registry() {
        same if same == registry => registry.to_owned(),
        other => format!("https://{other}/v1/"),
    };
    match docker_credential::get_credential_from_reader(io::BufReader::new(file), &server) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(_)) => {
            refuse("identity tokens are not supported: use a user name and a password".into())
        }
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(RegistryAuth::Anonymous),
        // The details of the error contain the output of the helper, which may include secrets.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => refuse(format!("credential helper {helper} failed")),
        Err(error) => refuse(error.to_string()),
    }
}

fn configuration() -> Option<PathBuf> {
    let folder = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    folder.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".docker"))).map(|folder| folder.join("config.json"))
}
