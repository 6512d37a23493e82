//! The arguments, the configuration and the environment of `git`, as values.
//!
//! Git reads no configuration but this one: not that of the system, of the user, or of a template. It therefore runs no hook, no
//! filter, no credential helper and no file system monitor, and knows no protocol but `https`.

use super::message::CloneRequest;
use crate::{
    error::{ErrorCode, ToolError},
    fetch::target::{WebScheme, WebUrl},
};
use data_encoding::BASE64;
use std::ffi::{OsStr, OsString};

/// The maximum length of a branch name, in bytes.
const MAX_BRANCH: usize = 255;

/// The configuration (`git help config`). Values in the environment are stored in no repository.
const CONFIGURATION: [(&str, &str); 21] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("init.templateDir", ""),
    ("init.defaultBranch", "main"),
    ("protocol.allow", "never"),
    ("protocol.https.allow", "always"),
    ("transfer.bundleURI", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("submodule.recurse", "false"),
    ("clone.rejectShallow", "false"),
    ("credential.helper", ""),
    ("filter.lfs.smudge", ""),
    ("filter.lfs.process", ""),
    ("filter.lfs.required", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("advice.detachedHead", "false"),
];

/// Variables that git gets from the sandbox: where programs are, and which certificates are trusted.
const KEPT: [&str; 5] = ["PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE"];

/// Variables that git gets.
const SET: [(&str, &str); 12] = [
    ("HOME", "/dev/null"),
    ("XDG_CONFIG_HOME", "/dev/null"),
    ("LC_ALL", "C"),
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_SYSTEM", "/dev/null"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_ATTR_NOSYSTEM", "1"),
    // Takes precedence over `protocol.*` of every configuration, also in submodules.
    ("GIT_ALLOW_PROTOCOL", "https"),
    ("GIT_PROTOCOL_FROM_USER", "0"),
    ("GIT_TEMPLATE_DIR", ""),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_LFS_SKIP_SMUDGE", "1"),
];

/// How git is executed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GitSettings {
    /// The arguments of the clone into the working directory.
    pub(super) clone: Vec<String>,
    /// The arguments that fetch the submodules afterwards.
    pub(super) submodules: Option<Vec<String>>,
    /// The whole environment.
    pub(super) environment: Vec<(OsString, OsString)>,
}

impl GitSettings {
    /// Returns how a request is carried out. `variable` returns an environment variable of this process.
    ///
    /// # Errors
    /// [`ErrorCode::Invalid`].
    pub(super) fn of(request: &CloneRequest, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, ToolError> {
        let url = WebUrl::parse(&request.url)?;
        if url.host.scheme != WebScheme::Https {
            return Err(invalid("URL: the scheme is not https — use https"));
        }
        let mut clone = ["clone", "--quiet", "--no-local", "--template=", "--no-recurse-submodules"].map(str::to_owned).to_vec();
        if let Some(branch) = &request.branch {
            check_branch(branch)?;
            clone.push(format!("--branch={branch}"));
        }
        if request.depth == Some(0) {
            return Err(invalid("depth: 0 commits — leave it out for the whole history"));
        }
        let depth = request.depth.map(|depth| format!("--depth={depth}"));
        clone.extend(depth.clone());
        clone.push(if request.single_branch { "--single-branch" } else { "--no-single-branch" }.to_owned());
        clone.extend(["--", url.as_str(), "."].map(str::to_owned));
        let submodules = request.submodules.then(|| {
            let update = ["submodule", "--quiet", "update", "--init", "--recursive", "--checkout"].map(str::to_owned);
            update.into_iter().chain(depth).collect()
        });
        let mut configuration: Vec<(String, OsString)> =
            CONFIGURATION.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        if let Some(header) = authorization(request, variable)? {
            // Git sends the header to this host only.
            configuration.push((format!("http.https://{}/.extraHeader", url.authority()), header));
        }
        Ok(Self { clone, submodules, environment: environment(&configuration, variable) })
    }
}

/// Returns the header with the placeholder of the credential.
fn authorization(request: &CloneRequest, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<OsString>, ToolError> {
    let Some(credential) = &request.credential else { return Ok(None) };
    let secret = &credential.secret;
    if credential.user.contains(':') || credential.user.chars().any(char::is_control) || credential.user.len() > 255 {
        return Err(invalid("user: contains a colon or a control character, or is too long"));
    }
    let missing =
        || invalid(&format!("credential: the sandbox has no secret {secret:?} — name it by --secret {secret}@HOST/basic=SOURCE"));
    let placeholder = variable(secret).and_then(|value| value.into_string().ok()).ok_or_else(missing)?;
    let encoded = BASE64.encode(format!("{}:{placeholder}", credential.user).as_bytes());
    Ok(Some(format!("Authorization: Basic {encoded}").into()))
}

fn environment(configuration: &[(String, OsString)], variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<(OsString, OsString)> {
    let kept = KEPT.iter().filter_map(|name| Some((OsString::from(name), variable(name)?)));
    let set = SET.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let count = ("GIT_CONFIG_COUNT".into(), configuration.len().to_string().into());
    let entries = configuration.iter().enumerate().flat_map(|(number, (key, value))| {
        let name = |kind: &str| OsString::from(format!("GIT_CONFIG_{kind}_{number}"));
        [(name("KEY"), OsStr::new(key).to_owned()), (name("VALUE"), value.clone())]
    });
    kept.chain(set).chain([count]).chain(entries).collect()
}

/// Refuses names that git could take for an option or a pattern (`man 1 git-check-ref-format`).
fn check_branch(name: &str) -> Result<(), ToolError> {
    let special = |byte: u8| byte <= b' ' || byte == 0x7f || b"~^:?*[\\".contains(&byte);
    let plain = !name.bytes().any(special) && !name.contains("..") && !name.contains("@{");
    if name.is_empty() || name.len() > MAX_BRANCH || name.starts_with(['-', '/']) || name.ends_with(['/', '.']) || !plain {
        return Err(invalid("branch: not the name of a branch or tag"));
    }
    Ok(())
}

fn invalid(why: &str) -> ToolError {
    ToolError::new(ErrorCode::Invalid, format!("clone: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn settings(more: &Value) -> Result<GitSettings, ToolError> {
        let mut value = json!({ "url": "https://a.example/r.git", "to": "r" });
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let of = |name: &str| match name {
            "PATH" => Some("/usr/bin".into()),
            "TOKEN" => Some("placeholder".into()),
            "GIT_SSH_COMMAND" | "GIT_EXTERNAL_DIFF" => Some("/tmp/evil".into()),
            _ => None,
        };
        GitSettings::of(&serde_json::from_value(value).unwrap(), &of)
    }

    #[test]
    fn arguments_follow_the_parameters() {
        let plain = settings(&json!({})).unwrap();
        let expected =
            "clone --quiet --no-local --template= --no-recurse-submodules --no-single-branch -- https://a.example/r.git .";
        assert_eq!((plain.clone.join(" "), plain.submodules), (expected.to_owned(), None));
        let all = settings(&json!({ "branch": "v1.0/x", "depth": 3, "single_branch": true, "submodules": true })).unwrap();
        assert!(all.clone.join(" ").contains(" --branch=v1.0/x --depth=3 --single-branch -- https"), "{:?}", all.clone);
        assert!(all.submodules.unwrap().ends_with(&["--depth=3".to_owned()]));
    }

    #[test]
    fn value_that_could_be_an_option_or_another_transport_is_refused() {
        for more in [
            json!({ "branch": "--upload-pack=sh" }),
            json!({ "branch": "-b" }),
            json!({ "branch": "" }),
            json!({ "branch": "a b" }),
            json!({ "branch": "a\nb" }),
            json!({ "branch": "a..b" }),
            json!({ "branch": "refs/*" }),
            json!({ "depth": 0 }),
            json!({ "url": "--upload-pack=sh" }),
            json!({ "url": "http://a.example/r" }),
            json!({ "url": "ext::sh -c id" }),
            json!({ "url": "ssh://a.example/r" }),
            json!({ "url": "git@a.example:r" }),
            json!({ "url": "file:///etc" }),
            json!({ "url": "/srv/r" }),
            json!({ "url": "https://u:p@a.example/r" }),
            json!({ "credential": { "secret": "OTHER" } }),
            json!({ "credential": { "secret": "TOKEN", "user": "a:b" } }),
            json!({ "credential": { "secret": "TOKEN", "user": "a\nb" } }),
        ] {
            assert_eq!(settings(&more).unwrap_err().code, ErrorCode::Invalid, "{more}");
        }
    }

    #[test]
    fn environment_has_the_configuration_and_nothing_of_the_caller() {
        let made = settings(&json!({ "credential": { "secret": "TOKEN" } })).unwrap();
        let of = |name: &str| {
            made.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.to_str().unwrap().to_owned())
        };
        let count: usize = of("GIT_CONFIG_COUNT").unwrap().parse().unwrap();
        let entries: Vec<_> = (0..count)
            .map(|at| (of(&format!("GIT_CONFIG_KEY_{at}")).unwrap(), of(&format!("GIT_CONFIG_VALUE_{at}")).unwrap()))
            .collect();
        assert_eq!(entries.len(), CONFIGURATION.len() + 1);
        let header = ("http.https://a.example/.extraHeader", "Authorization: Basic eC1hY2Nlc3MtdG9rZW46cGxhY2Vob2xkZXI=");
        assert_eq!(entries.last().map(|(key, value)| (key.as_str(), value.as_str())), Some(header));
        assert_eq!((of("PATH").unwrap(), of("GIT_ALLOW_PROTOCOL").unwrap()), ("/usr/bin".to_owned(), "https".to_owned()));
        assert_eq!((of("GIT_SSH_COMMAND"), of("GIT_EXTERNAL_DIFF"), of("TOKEN")), (None, None, None));
    }
}
