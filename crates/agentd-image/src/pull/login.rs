//! The caller's login for a registry, as `docker login` left it.

use crate::error::ImageError;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::{Reference, secrets::RegistryAuth};
use std::{env, fs::File, io, path::PathBuf};

/// The login for a registry; anonymous when there is none. On a thread of its own: a credential helper is a program that may ask.
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
    // Docker's own hub, the one registry that is reached under another name, is kept by the address that it had in the first version.
    let server = match reference.resolve_registry() {
        same if same == registry => registry.to_owned(),
        other => format!("https://{other}/v1/"),
    };
    match docker_credential::get_credential_from_reader(io::BufReader::new(file), &server) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(_)) => {
            refuse("an identity token, which is not supported: use a user name and a password".into())
        }
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(RegistryAuth::Anonymous),
        // Its details hold what the helper printed, secrets perhaps.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => refuse(format!("the credential helper {helper} failed")),
        Err(error) => refuse(error.to_string()),
    }
}

fn configuration() -> Option<PathBuf> {
    let folder = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    folder.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".docker"))).map(|folder| folder.join("config.json"))
}
