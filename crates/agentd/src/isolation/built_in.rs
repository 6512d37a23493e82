//! The backends of agentd. If the Cargo feature of a backend is off, its names stay registered, and creating it fails with an
//! error that names the feature.

#[cfg(feature = "tools")]
use agentd_isolation::Role;
use agentd_isolation::{BuiltIn, ContainerBackend, Handler, HostDirectBackend, LinuxNativeBackend};
use std::path::{Path, PathBuf};

/// The backend of `agentd-firecracker`.
pub const FIRECRACKER: &str = "firecracker";

/// The backend of `agentd-gondolin`.
pub const GONDOLIN: &str = "gondolin";

/// Handlers of the helper processes, in addition to those of [`agentd_isolation`].
pub(super) const HANDLERS: &[Handler] = &[
    #[cfg(any(feature = "firecracker", feature = "gondolin"))]
    agentd_guest::HANDLER,
    #[cfg(feature = "firecracker")]
    agentd_firecracker::SHIM,
    #[cfg(feature = "firecracker")]
    agentd_firecracker::INIT,
    #[cfg(feature = "tools")]
    Handler { role: Role::Tool, main: |_| agentd_tool::role::main() },
];

/// Returns the backends in the order of registration, which decides between equal backends.
pub(super) fn all() -> Vec<BuiltIn> {
    vec![
        BuiltIn::new(HostDirectBackend::NAME, &["none", "host", "workstation"], |root| Ok(HostDirectBackend::new(root))),
        gondolin(),
        BuiltIn::new(LinuxNativeBackend::NAME, &["linux", "native", "landlock"], LinuxNativeBackend::new).proven_with(nothing),
        BuiltIn::new(ContainerBackend::NAME, &["namespace", "mount-ns"], |root| ContainerBackend::new(root, None))
            .proven_with(nothing),
        firecracker(&["microvm", "vm"]),
    ]
}

/// Returns no files: a proof of a sandbox on the host's kernel depends only on agentd's program.
fn nothing(_: &Path) -> Vec<PathBuf> {
    Vec::new()
}

#[cfg(feature = "gondolin")]
fn gondolin() -> BuiltIn {
    use agentd_gondolin::{GondolinBackend, GondolinConfig};
    BuiltIn::new(GONDOLIN, &[], |root| Ok(GondolinBackend::new(root))).proven_with(GondolinConfig::proof_files)
}

#[cfg(not(feature = "gondolin"))]
fn gondolin() -> BuiltIn {
    BuiltIn::left_out(GONDOLIN, &[], &left_out(GONDOLIN))
}

#[cfg(feature = "firecracker")]
fn firecracker(aliases: &[&str]) -> BuiltIn {
    use agentd_firecracker::{FirecrackerBackend, FirecrackerConfig};
    let config = |root: &Path| FirecrackerConfig { work_root: root.to_owned(), ..FirecrackerConfig::default() };
    BuiltIn::new(FIRECRACKER, aliases, move |root| FirecrackerBackend::new(config(root)))
        .proven_with(FirecrackerConfig::proof_files)
}

#[cfg(not(feature = "firecracker"))]
fn firecracker(aliases: &[&str]) -> BuiltIn {
    BuiltIn::left_out(FIRECRACKER, aliases, &left_out(FIRECRACKER))
}

/// Returns the error text for a Cargo feature that is off.
#[cfg(not(all(feature = "firecracker", feature = "gondolin", feature = "images", feature = "policy")))]
pub(crate) fn left_out(feature: &str) -> String {
    format!("this program was built without the Cargo feature '{feature}' — build agentd with --features {feature}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolation::create_backend;

    #[test]
    fn machine_backend_is_created_or_fails_with_the_feature_to_build_with() {
        for (name, built) in [(FIRECRACKER, cfg!(feature = "firecracker")), (GONDOLIN, cfg!(feature = "gondolin"))] {
            match create_backend(name, &std::env::temp_dir()) {
                Ok(backend) => assert!(built && backend.name() == name),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!built && error.contains(&format!("Cargo feature '{name}'")), "{name}: {error}");
                }
            }
        }
    }
}
