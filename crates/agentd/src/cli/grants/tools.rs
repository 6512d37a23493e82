//! Tools of the caller's own, which are on the path and lie in the home directory.

use super::Guard;
use agentd_core::{Access, Grant};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

/// A tool installation below a home directory.
struct Tool {
    /// What must be on the caller's `PATH`.
    marker: &'static str,
    /// What is then granted read-only.
    granted: &'static [&'static str],
    /// The variable by which the tool finds the first of these from another home, and its value below the caller's.
    variable: Option<(&'static str, &'static str)>,
}

const TOOLS: [Tool; 11] = [
    Tool { marker: ".cargo/bin", granted: &[".cargo/bin", ".rustup"], variable: Some(("RUSTUP_HOME", ".rustup")) },
    Tool { marker: ".pyenv", granted: &[".pyenv"], variable: Some(("PYENV_ROOT", ".pyenv")) },
    Tool { marker: ".nvm", granted: &[".nvm"], variable: Some(("NVM_DIR", ".nvm")) },
    Tool { marker: ".volta", granted: &[".volta"], variable: Some(("VOLTA_HOME", ".volta")) },
    Tool { marker: ".asdf", granted: &[".asdf"], variable: Some(("ASDF_DATA_DIR", ".asdf")) },
    Tool { marker: ".local/bin", granted: &[".local/bin", ".local/share/uv", ".local/share/pipx"], variable: None },
    Tool { marker: ".local/share/mise", granted: &[".local/share/mise"], variable: Some(("MISE_DATA_DIR", ".local/share/mise")) },
    Tool { marker: ".deno/bin", granted: &[".deno/bin"], variable: None },
    Tool { marker: ".bun/bin", granted: &[".bun/bin"], variable: None },
    Tool { marker: "go/bin", granted: &["go/bin"], variable: None },
    Tool { marker: ".sdkman", granted: &[".sdkman"], variable: Some(("SDKMAN_DIR", ".sdkman")) },
];

/// What tools of the caller's need that are on `path`: read-only grants, and variables. A tool whose directories lead to what is
/// never granted is passed over.
pub(crate) fn tools(guard: &Guard, path: &OsStr) -> (Vec<Grant>, Vec<(&'static str, PathBuf)>) {
    let Some(home) = guard.home() else { return Default::default() };
    let entries: Vec<PathBuf> = std::env::split_paths(path).collect();
    let mut found: Vec<PathBuf> = Vec::new();
    let mut variables = Vec::new();
    for tool in TOOLS.iter().filter(|tool| entries.iter().any(|entry| entry.starts_with(home.join(tool.marker)))) {
        let Some(places) = places(tool, home, guard) else { continue };
        found.extend(places);
        variables.extend(tool.variable.map(|(name, place)| (name, home.join(place))));
    }
    found.dedup();
    (
        found.into_iter().map(|path| Grant { path, target: None, access: Access::ReadOnly, protect: Vec::new() }).collect(),
        variables,
    )
}

/// Those of a tool's directories that are there and lie in the home; `None` where one must not be granted.
fn places(tool: &Tool, home: &Path, guard: &Guard) -> Option<Vec<PathBuf>> {
    let existing =
        tool.granted.iter().map(|g| home.join(g)).filter_map(|g| g.canonicalize().ok()).filter(|g| g.starts_with(home));
    existing.map(|place| guard.refusal(&place).is_none().then_some(place)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_granted_only_when_they_are_on_the_path() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let guard = Guard::of(Some(home.as_os_str()));
        std::fs::create_dir_all(home.join(".cargo/bin")).unwrap();
        std::fs::create_dir_all(home.join(".rustup")).unwrap();
        assert!(tools(&guard, OsStr::new("/usr/bin")).0.is_empty());
        let path = home.join(".cargo/bin").into_os_string();
        let (grants, variables) = tools(&guard, &path);
        assert_eq!(grants.into_iter().map(|g| g.path).collect::<Vec<_>>(), [home.join(".cargo/bin"), home.join(".rustup")]);
        assert_eq!(variables, [("RUSTUP_HOME", home.join(".rustup"))]);
    }

    #[test]
    fn a_tool_that_is_a_link_to_the_home_or_to_secrets_is_passed_over() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let guard = Guard::of(Some(home.as_os_str()));
        std::fs::create_dir_all(home.join(".local")).unwrap();
        std::fs::create_dir_all(home.join(".ssh")).unwrap();
        for target in ["..", "../.ssh"] {
            std::os::unix::fs::symlink(target, home.join(".local/bin")).unwrap();
            let (grants, _) = tools(&guard, home.join(".local/bin").as_os_str());
            assert!(grants.is_empty(), "{target}: {grants:?}");
            std::fs::remove_file(home.join(".local/bin")).unwrap();
        }
    }
}
