//! The caller's login for a registry, as `docker login` left it.

use crate::error::ImageError;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::secrets::RegistryAuth;

/// The login for a registry; anonymous when there is none. On a thread of its own: a credential helper is a program that may ask.
pub(super) async fn login(registry: &str) -> Result<RegistryAuth, ImageError> {
    // Docker's own name for its hub.
    let server = if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry }.to_owned();
    let found =
        tokio::task::spawn_blocking(move || docker_credential::get_credential(&server)).await.map_err(|_| ImageError::GivenUp)?;
    let refuse = |why: String| Err(ImageError::Login { registry: registry.to_owned(), why });
    match found {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(_)) => {
            refuse("an identity token, which is not supported: use a user name and a password".into())
        }
        Err(CredentialRetrievalError::NoCredentialConfigured | CredentialRetrievalError::ConfigNotFound) => {
            Ok(RegistryAuth::Anonymous)
        }
        // Its details hold what the helper printed, secrets perhaps.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => refuse(format!("the credential helper {helper} failed")),
        Err(error) => refuse(error.to_string()),
    }
}
