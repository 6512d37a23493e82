//! Files and directories below a home directory that contain credentials, private keys or records of the user's activity.

/// A path below a home directory whose content must stay secret.
pub(super) struct Secret {
    /// The path relative to the home directory.
    pub path: &'static str,
    /// A description of the content.
    pub holds: &'static str,
}

const fn secret(path: &'static str, holds: &'static str) -> Secret {
    Secret { path, holds }
}

const KEYS: &str = "private keys";
const CLOUD: &str = "credentials of a cloud account";
const REGISTRY: &str = "credentials of a package registry";
const GIT: &str = "credentials of Git servers";
const TOKENS: &str = "access tokens";
const PASSWORDS: &str = "passwords";
const DATABASE: &str = "passwords of databases";
const BROWSER: &str = "cookies and saved passwords";
const MAIL: &str = "mail and mail passwords";
const WALLET: &str = "keys of a cryptocurrency wallet";
const HISTORY: &str = "a history of commands, which may include passwords";
const DISPLAY: &str = "credentials for the display and its keyboard";

/// All secrets. A file that a new tool adds belongs here, with a description of its content.
pub(super) const SECRETS: &[Secret] = &[
    secret(".ssh", KEYS),
    secret(".gnupg", KEYS),
    secret(".pki", KEYS),
    secret(".config/age", KEYS),
    secret(".config/sops", KEYS),
    secret(".minikube/certs", KEYS),
    secret(".aws", CLOUD),
    secret(".azure", CLOUD),
    secret(".config/gcloud", CLOUD),
    secret(".config/doctl", CLOUD),
    secret(".config/hcloud", CLOUD),
    secret(".config/rclone", CLOUD),
    secret(".config/openstack", CLOUD),
    secret(".config/configstore", CLOUD),
    secret(".oci", CLOUD),
    secret(".aliyun", CLOUD),
    secret(".bluemix", CLOUD),
    secret(".boto", CLOUD),
    secret(".s3cfg", CLOUD),
    secret(".fly", CLOUD),
    secret(".config/heroku", CLOUD),
    secret(".kube", "credentials of Kubernetes clusters"),
    secret(".docker", "credentials of image registries"),
    secret(".config/containers", "credentials of image registries"),
    secret(".netrc", PASSWORDS),
    secret(".authinfo", PASSWORDS),
    secret(".authinfo.gpg", PASSWORDS),
    secret(".password-store", PASSWORDS),
    secret(".local/share/keyrings", PASSWORDS),
    secret(".local/share/kwalletd", PASSWORDS),
    secret(".config/op", PASSWORDS),
    secret(".config/Bitwarden", PASSWORDS),
    secret(".config/Bitwarden CLI", PASSWORDS),
    secret(".config/1Password", PASSWORDS),
    secret(".config/KeePass", PASSWORDS),
    secret(".config/keepassxc", PASSWORDS),
    secret(".subversion/auth", PASSWORDS),
    secret(".git-credentials", GIT),
    secret(".config/git/credentials", GIT),
    secret(".git-credential-cache", GIT),
    secret(".cache/git/credential", GIT),
    secret(".config/gh", GIT),
    secret(".config/hub", GIT),
    secret(".config/glab-cli", GIT),
    secret(".config/tea", GIT),
    secret(".npmrc", REGISTRY),
    secret(".yarnrc.yml", REGISTRY),
    secret(".pypirc", REGISTRY),
    secret(".config/pip/pip.conf", REGISTRY),
    secret(".config/pypoetry/auth.toml", REGISTRY),
    secret(".cargo/credentials", REGISTRY),
    secret(".cargo/credentials.toml", REGISTRY),
    secret(".local/share/uv/credentials", REGISTRY),
    secret(".config/pnpm", REGISTRY),
    secret(".condarc", REGISTRY),
    secret(".gem/credentials", REGISTRY),
    secret(".bundle/config", REGISTRY),
    secret(".composer/auth.json", REGISTRY),
    secret(".config/composer/auth.json", REGISTRY),
    secret(".m2/settings.xml", REGISTRY),
    secret(".m2/settings-security.xml", REGISTRY),
    secret(".gradle/gradle.properties", REGISTRY),
    secret(".nuget/NuGet", REGISTRY),
    secret(".vault-token", TOKENS),
    secret(".terraform.d", TOKENS),
    secret(".terraformrc", TOKENS),
    secret(".pulumi/credentials.json", TOKENS),
    secret(".databrickscfg", TOKENS),
    secret(".kaggle", TOKENS),
    secret(".cache/huggingface/token", TOKENS),
    secret(".huggingface", TOKENS),
    secret(".claude/.credentials.json", TOKENS),
    secret(".claude.json", TOKENS),
    secret(".codex/auth.json", TOKENS),
    secret(".gemini/oauth_creds.json", TOKENS),
    secret(".config/github-copilot", TOKENS),
    secret(".pgpass", DATABASE),
    secret(".my.cnf", DATABASE),
    secret(".mylogin.cnf", DATABASE),
    secret(".mozilla", BROWSER),
    secret(".config/google-chrome", BROWSER),
    secret(".config/chromium", BROWSER),
    secret(".config/BraveSoftware", BROWSER),
    secret(".config/microsoft-edge", BROWSER),
    secret(".config/vivaldi", BROWSER),
    secret(".config/opera", BROWSER),
    secret("snap/firefox", BROWSER),
    secret("snap/chromium", BROWSER),
    secret(".var/app", BROWSER),
    secret(".config/Slack", BROWSER),
    secret(".config/Signal", "messages and their encryption key"),
    secret(".thunderbird", MAIL),
    secret(".config/evolution", MAIL),
    secret(".local/share/evolution", MAIL),
    secret(".mutt", MAIL),
    secret(".msmtprc", MAIL),
    secret(".bitcoin", WALLET),
    secret(".ethereum", WALLET),
    secret(".electrum", WALLET),
    secret(".config/solana", WALLET),
    secret(".bash_history", HISTORY),
    secret(".zsh_history", HISTORY),
    secret(".local/share/fish", HISTORY),
    secret(".local/state/bash", HISTORY),
    secret(".python_history", HISTORY),
    secret(".node_repl_history", HISTORY),
    secret(".psql_history", HISTORY),
    secret(".mysql_history", HISTORY),
    secret(".sqlite_history", HISTORY),
    secret(".Xauthority", DISPLAY),
    secret(".ICEauthority", DISPLAY),
];

#[cfg(test)]
mod tests {
    use super::SECRETS;
    use std::path::{Component, Path};

    #[test]
    fn secrets_are_distinct_plain_relative_paths() {
        let mut paths: Vec<&str> = SECRETS.iter().map(|secret| secret.path).collect();
        assert!(paths.iter().all(|path| Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))));
        paths.sort_unstable();
        assert!(paths.windows(2).all(|pair| pair[0] != pair[1]));
        for wanted in [".git-credentials", ".config/git/credentials", ".vault-token", ".mozilla", ".bash_history"] {
            assert!(paths.contains(&wanted), "{wanted}");
        }
    }
}
