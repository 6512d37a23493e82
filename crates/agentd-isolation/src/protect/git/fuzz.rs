//! Entry points of the fuzz targets for git's file formats.

use super::{config, index};

/// Parses a configuration file and returns the number of its variables up to the first error.
///
/// # Errors
/// Fails if a variable has a form that git's syntax does not allow.
pub fn git_config(bytes: &[u8]) -> Result<usize, String> {
    let (mut variables, mut held) = (0, 0);
    let mut odd = false;
    config::parse(bytes, |variable| {
        variables += 1;
        held += variable.key.len() + variable.value.as_ref().map_or(0, Vec::len);
        odd |= variable.key.is_empty() || variable.section().iter().any(u8::is_ascii_uppercase);
    });
    // Every byte of a key or a value comes from a byte of the file.
    if odd || held > bytes.len() { Err(format!("{variables} variables of {held} bytes")) } else { Ok(variables) }
}

/// Parses an index with object names of both lengths, and returns the number of its entries under the shorter one.
///
/// # Errors
/// Fails if more entries are kept than the file can contain.
pub fn git_index(bytes: &[u8]) -> Result<usize, String> {
    let [short, long] = [20, 32].map(|object| index::entries(bytes, object, |_| true).by_name.len());
    // The smallest entry has 62 bytes and the zero byte of an empty name.
    if short.max(long) > bytes.len() / 63 { Err(format!("{short} and {long} entries")) } else { Ok(short) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path, process::Command};

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seed.rs"));

    fn git(root: &Path, args: &[&str]) {
        let output = Command::new("git").args(args).current_dir(root).env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    #[test]
    fn seeds_are_accepted_in_full() {
        let root = tempfile::tempdir().unwrap();
        git(root.path(), &["init", "-q", "--object-format", "sha1"]);
        git(root.path(), &["config", "core.hooksPath", "a \"b\" # c"]);
        git(root.path(), &["config", "remote.a b.url", "https://example.org/x"]);
        fs::write(root.path().join("AGENTS.md"), "x").unwrap();
        fs::write(root.path().join("AGENTS.mdx"), "y").unwrap();
        git(root.path(), &["add", "-A"]);
        let read = |name: &str| fs::read(root.path().join(".git").join(name)).unwrap();
        let config = read("config");
        assert!(git_config(&config).unwrap() >= 3);
        keep_seed("git_config", "new", &config);
        for version in ["2", "4"] {
            git(root.path(), &["update-index", "--index-version", version]);
            let index = read("index");
            assert_eq!(git_index(&index), Ok(2));
            keep_seed("git_index", version, &index);
        }
    }
}
