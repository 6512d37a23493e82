//! Tests of the toolchains and caches that a sandbox is shown by default.

use super::*;
use std::{fs, os::unix::fs::symlink};

struct Home(tempfile::TempDir, PathBuf);

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("home");
        fs::create_dir(&path).unwrap();
        Self(directory, path)
    }

    fn with(directories: &[&str]) -> Self {
        let home = Self::new();
        for directory in directories {
            fs::create_dir_all(home.1.join(directory)).unwrap();
        }
        home
    }

    fn toolchains(&self, path: &str) -> ShownLayouts {
        self.shown(path, &[], |caller| toolchains(caller, LeftOut::Tools(&[])))
    }

    fn caches(&self, variables: &[(&str, &Path)], granted: &[Grant]) -> ShownLayouts {
        self.shown("", variables, |caller| caches(caller, Path::new("/home/agent"), granted, LeftOut::Tools(&[])))
    }

    fn shown(&self, path: &str, variables: &[(&str, &Path)], find: impl Fn(&Caller<'_>) -> ShownLayouts) -> ShownLayouts {
        let guard = Guard::for_home(Some(self.1.as_os_str()));
        let variable = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.as_os_str().to_owned());
        find(&Caller { guard: &guard, path: self.1.join(path).as_os_str(), variable: &variable })
    }
}

fn paths(shown: &ShownLayouts) -> Vec<PathBuf> {
    shown.grants.iter().map(|grant| grant.path.clone()).collect()
}

#[test]
fn toolchain_on_path_is_granted_read_only() {
    let home = Home::with(&[".cargo/bin", ".rustup", ".cargo/registry"]);
    assert!(home.toolchains("bin").grants.is_empty());
    let shown = home.toolchains(".cargo/bin");
    assert_eq!(paths(&shown), [home.1.join(".cargo/bin"), home.1.join(".rustup")]);
    assert!(shown.grants.iter().all(|grant| grant.access == Access::ReadOnly && grant.object.is_some()));
    assert_eq!(shown.variables, [("RUSTUP_HOME", home.1.join(".rustup"))]);
    let off = ["cargo".to_owned()];
    for without in [LeftOut::All, LeftOut::Tools(&off)] {
        assert!(home.shown(".cargo/bin", &[], |caller| toolchains(caller, without)).grants.is_empty());
    }
}

#[test]
fn toolchain_linked_to_home_or_secrets_is_left_out() {
    let home = Home::with(&[".local", ".ssh"]);
    for target in ["..", "../.ssh"] {
        symlink(target, home.1.join(".local/bin")).unwrap();
        let shown = home.toolchains(".local/bin");
        assert!(shown.grants.is_empty() && shown.left_out.len() == 1, "{target}: {shown:?}");
        fs::remove_file(home.1.join(".local/bin")).unwrap();
    }
}

#[test]
fn toolchain_behind_link_in_home_is_granted_at_real_path() {
    let home = Home::with(&["../data/nvm/versions/node/v1/bin"]);
    symlink("../data/nvm", home.1.join(".nvm")).unwrap();
    let shown = home.toolchains(".nvm/versions/node/v1/bin");
    let real = home.0.path().canonicalize().unwrap().join("data/nvm");
    assert_eq!((paths(&shown), shown.variables), (vec![real.join("versions")], vec![("NVM_DIR", real.clone())]));
    // A file with tokens is also found behind the link.
    fs::create_dir(real.join("versions/node/v1/etc")).unwrap();
    fs::write(real.join("versions/node/v1/etc/npmrc"), "token").unwrap();
    assert!(home.toolchains(".nvm/versions/node/v1/bin").grants.is_empty());
}

#[test]
fn directory_with_a_credential_file_is_left_out() {
    let home = Home::with(&[".cargo/registry", ".cargo/bin", ".nvm/versions/node/v1/etc", ".pyenv/versions/v1", ".npm/_cacache"]);
    fs::write(home.1.join(".cargo/credentials.toml"), "token").unwrap();
    assert_eq!(paths(&home.caches(&[], &[])), [home.1.join(".cargo/registry"), home.1.join(".npm/_cacache")]);
    for (file, path) in [
        (".pyenv/versions/v1/pip.conf", ".pyenv"),
        (".nvm/versions/node/v1/etc/npmrc", ".nvm"),
        (".cargo/bin/credentials", ".cargo/bin"),
    ] {
        assert_eq!(home.toolchains(path).grants.len(), 1, "{file}");
        fs::write(home.1.join(file), "token").unwrap();
        let shown = home.toolchains(path);
        assert!(shown.grants.is_empty() && shown.left_out[0].1.contains(file), "{shown:?}");
        fs::remove_file(home.1.join(file)).unwrap();
    }
    fs::write(home.1.join(".cargo/registry/credentials.toml"), "token").unwrap();
    assert_eq!(paths(&home.caches(&[], &[])), [home.1.join(".npm/_cacache")]);
}

#[test]
fn maven_with_credentials_in_its_settings_is_left_out() {
    for (maven, path) in [
        (".sdkman/candidates/maven/3.9.6", ".sdkman/candidates/maven/current/bin"),
        (".asdf/installs/maven/3.9.6", ".asdf/shims"),
        (".local/share/mise/installs/maven/3.9.6", ".local/share/mise/shims"),
    ] {
        let home = Home::with(&[maven, &format!("{maven}/conf")]);
        let settings = home.1.join(maven).join("conf/settings.xml");
        assert_eq!(home.toolchains(path).grants.len(), 1, "{path}");
        // The file that Maven ships.
        fs::write(&settings, "<settings><servers><!-- <server/> --></servers><mirrors><mirror/></mirrors></settings>").unwrap();
        assert_eq!(home.toolchains(path).grants.len(), 1, "{path}");
        for text in ["<servers><server><password>x", "<profile>", "<!-- <server>"] {
            fs::write(&settings, text).unwrap();
            let shown = home.toolchains(path);
            assert!(shown.grants.is_empty() && shown.left_out[0].1.contains("conf/settings.xml"), "{text}: {shown:?}");
        }
        fs::remove_file(&settings).unwrap();
        symlink("/dev/null", &settings).unwrap();
        assert!(home.toolchains(path).grants.is_empty(), "{path}");
    }
}

#[test]
fn cache_is_granted_copy_on_write_at_default_path_of_its_tool() {
    let home = Home::with(&[".cargo/registry", ".m2/repository", "../moved/registry"]);
    let shown = home.caches(&[], &[]);
    assert_eq!(paths(&shown), [home.1.join(".cargo/registry"), home.1.join(".m2/repository")]);
    assert_eq!(shown.grants[0].target, Some("/home/agent/.cargo/registry".into()));
    assert!(shown.grants.iter().all(|grant| grant.access == Access::CopyOnWrite && grant.object.is_some()));
    let moved = home.0.path().canonicalize().unwrap().join("moved");
    let shown = home.caches(&[("CARGO_HOME", &moved)], &[]);
    assert_eq!(paths(&shown)[0], moved.join("registry"));
    assert_eq!(shown.grants[0].target, Some("/home/agent/.cargo/registry".into()));
}

#[test]
fn cache_that_overlaps_a_grant_is_left_out() {
    let home = Home::with(&[".cargo/registry/src", ".m2/repository"]);
    for granted in [".cargo/registry", ".cargo", ".cargo/registry/src"] {
        let granted = Grant::new(home.1.join(granted), Access::ReadWrite);
        assert_eq!(paths(&home.caches(&[], &[granted])), [home.1.join(".m2/repository")]);
    }
}

#[test]
fn cache_that_is_a_link_to_secrets_is_left_out() {
    let home = Home::with(&[".cargo", ".ssh/registry", "project"]);
    for target in ["../.ssh", "../project", ".."] {
        symlink(target, home.1.join(".cargo/registry")).unwrap();
        let shown = home.caches(&[], &[]);
        assert!(shown.grants.is_empty() && shown.left_out.len() == 1, "{target}: {shown:?}");
        fs::remove_file(home.1.join(".cargo/registry")).unwrap();
    }
    // The home directory itself is never granted, so links in it are the user's own. The guard still checks their targets.
    fs::remove_dir(home.1.join(".cargo")).unwrap();
    symlink(".ssh", home.1.join(".cargo")).unwrap();
    assert!(home.caches(&[], &[]).grants.is_empty());
}
