//! Reads the caller's registry login, as stored by `docker login`.

use crate::error::ImageError;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::{Reference, secrets::RegistryAuth};
use std::{
    env,
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// Returns the login for a registry, anonymous if none is stored. Runs on a blocking thread, because a credential helper is a
/// program that may prompt the user.
pub(super) async fn login(reference: &Reference) -> Result<RegistryAuth, ImageError> {
    let reference = reference.clone();
    tokio::task::spawn_blocking(move || find(&reference)).await.map_err(|_| ImageError::GivenUp)?
}

fn find(reference: &Reference) -> Result<RegistryAuth, ImageError> {
    let Some(path) = configuration() else { return Ok(RegistryAuth::Anonymous) };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(RegistryAuth::Anonymous),
        Err(error) => {
            let why = format!("{}: {error} — make the file readable, or set DOCKER_CONFIG to another folder", path.display());
            return Err(ImageError::Login { registry: reference.registry().to_owned(), why });
        }
    };
    in_file(reference, &path, file)
}

/// Returns the login for a registry in the file at `path`.
fn in_file(reference: &Reference, path: &Path, file: impl io::Read) -> Result<RegistryAuth, ImageError> {
    let registry = reference.registry();
    let refuse = |why: String| Err(ImageError::Login { registry: registry.to_owned(), why });
    // The login of Docker Hub, the only registry whose name differs from its host, is stored under the address of its v1 API.
    let server = match reference.resolve_registry() {
        same if same == registry => registry.to_owned(),
        other => format!("https://{other}/v1/"),
    };
    let path = path.display();
    match docker_credential::get_credential_from_reader(io::BufReader::new(file), &server) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(_)) => refuse(format!(
            "the login in {path} is an identity token, which is not supported — log in with a user name and a password or access \
             token (`docker login -u USER {server}`), or remove the entry"
        )),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(RegistryAuth::Anonymous),
        // The details of the error contain the output of the helper, which may include secrets.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => refuse(format!(
            "the credential helper {helper}, which {path} names, failed — run `docker login {server}` again, or remove the helper \
             from the file"
        )),
        Err(error) => refuse(format!("{path}: {error} — run `docker login {server}` again, or remove the entry")),
    }
}

fn configuration() -> Option<PathBuf> {
    let folder = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    folder.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".docker"))).map(|folder| folder.join("config.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_that_cannot_be_used_names_file_and_remedy() {
        let reference: Reference = "registry.example/a:1".parse().unwrap();
        let refused = |content: &str| {
            in_file(&reference, Path::new("/home/me/.docker/config.json"), content.as_bytes()).err().unwrap().to_string()
        };
        // "<token>:" is how `docker login` stores an identity token: an empty password, and the token in another field.
        let token = r#"{"auths":{"registry.example":{"auth":"YTo=","identitytoken":"secret"}}}"#;
        let message = refused(token);
        assert!(message.contains("the login in /home/me/.docker/config.json is an identity token"), "{message}");
        assert!(
            message.contains(" — log in with a user name") && message.contains("docker login -u USER registry.example"),
            "{message}"
        );
        assert!(!message.contains("secret") && !message.contains("log in again"), "{message}");
        let damaged = refused("{");
        assert!(
            damaged.contains("config.json: ") && damaged.contains(" — run `docker login registry.example` again"),
            "{damaged}"
        );
        let helper = refused(r#"{"credHelpers":{"registry.example":"no-such-helper"}}"#);
        assert!(helper.contains(" — run `docker login registry.example` again"), "{helper}");
    }
}
