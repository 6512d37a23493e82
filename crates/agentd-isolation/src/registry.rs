//! Names of backends, and how to make the backends they name.

use crate::{ContainerBackend, FirecrackerBackend, GondolinBackend, HostDirectBackend, LinuxNativeBackend};
use agentd_core::{IsolationBackend, IsolationError};
use std::{
    path::Path,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

/// Makes a backend that keeps its files below the given directory.
pub type Factory = Arc<dyn Fn(&Path) -> Result<Arc<dyn IsolationBackend>, IsolationError> + Send + Sync>;

struct Entry {
    canonical: String,
    aliases: Vec<String>,
    factory: Factory,
}

fn registry() -> &'static RwLock<Vec<Entry>> {
    static REGISTRY: OnceLock<RwLock<Vec<Entry>>> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let entry = |canonical: &str, aliases: &[&str], factory: Factory| Entry {
            canonical: canonical.to_owned(),
            aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
            factory,
        };
        RwLock::new(vec![
            entry(HostDirectBackend::NAME, &["none", "host", "workstation"], Arc::new(|root| Ok(HostDirectBackend::new(root)))),
            entry(GondolinBackend::NAME, &[], Arc::new(|root| Ok(GondolinBackend::installed(root)?))),
            entry(LinuxNativeBackend::NAME, &["linux", "native", "landlock"], Arc::new(|root| Ok(LinuxNativeBackend::new(root)))),
            entry(ContainerBackend::NAME, &["namespace", "mount-ns"], Arc::new(|root| Ok(ContainerBackend::new(root)))),
            entry(FirecrackerBackend::NAME, &["microvm", "vm"], Arc::new(|root| Ok(FirecrackerBackend::installed(root)?))),
        ])
    })
}

/// Names are trimmed, lower-cased, and `_` reads as `-`.
fn normalise(name: &str) -> String {
    name.trim().to_lowercase().replace('_', "-")
}

/// Canonical names, in the order of registration.
pub fn available_backends() -> Vec<String> {
    registry().read().unwrap_or_else(PoisonError::into_inner).iter().map(|e| e.canonical.clone()).collect()
}

/// The canonical form of a name or alias; `None` when it is unknown.
pub fn canonical_backend_name(name: &str) -> Option<String> {
    let name = normalise(name);
    let entries = registry().read().unwrap_or_else(PoisonError::into_inner);
    entries.iter().find(|e| e.canonical == name || e.aliases.contains(&name)).map(|e| e.canonical.clone())
}

/// Makes the backend called `name`, which keeps its files below `work_root`.
///
/// # Errors
/// [`IsolationError::UnknownBackend`], or what the backend's factory says.
pub fn create_backend(name: &str, work_root: &Path) -> Result<Arc<dyn IsolationBackend>, IsolationError> {
    let canonical = canonical_backend_name(name);
    let factory = {
        let entries = registry().read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().find(|e| Some(&e.canonical) == canonical.as_ref()).map(|e| e.factory.clone())
    };
    match factory {
        Some(factory) => factory(work_root),
        None => Err(IsolationError::UnknownBackend { name: name.to_owned(), available: available_backends().join(", ") }),
    }
}

/// Adds a backend. All of its names become known, or none.
///
/// # Errors
/// [`IsolationError::Registration`] when a name is empty or taken.
pub fn register_backend_factory(canonical: &str, aliases: &[&str], factory: Factory) -> Result<(), IsolationError> {
    let refuse = |name: &str, reason: String| Err(IsolationError::Registration { name: name.to_owned(), reason });
    let canonical = normalise(canonical);
    let aliases: Vec<String> = aliases.iter().map(|a| normalise(a)).collect();
    let mut entries = registry().write().unwrap_or_else(PoisonError::into_inner);
    let mut seen: Vec<&String> = Vec::new();
    for name in std::iter::once(&canonical).chain(&aliases) {
        if name.is_empty() {
            return refuse(name, "a name is empty".to_owned());
        }
        if let Some(taken) = entries.iter().find(|e| e.canonical == *name || e.aliases.contains(name)) {
            return refuse(name, format!("already registered for '{}'", taken.canonical));
        }
        if seen.contains(&name) {
            return refuse(name, "named twice".to_owned());
        }
        seen.push(name);
    }
    entries.push(Entry { canonical, aliases, factory });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> Factory {
        Arc::new(|root| Ok(HostDirectBackend::new(root)))
    }

    #[test]
    fn names_are_found_by_any_spelling() {
        for (name, canonical) in [
            ("none", "host-direct"),
            (" Linux_Native ", "linux-native"),
            ("LANDLOCK", "linux-native"),
            ("host_direct", "host-direct"),
        ] {
            assert_eq!(canonical_backend_name(name).as_deref(), Some(canonical), "{name}");
        }
    }

    #[test]
    fn an_unknown_name_says_which_are_known() {
        let error = create_backend("x", Path::new("/tmp")).err().unwrap().to_string();
        assert!(
            error.starts_with("Unknown isolation backend 'x'. Available backends: host-direct, gondolin, linux-native"),
            "{error}"
        );
    }

    #[test]
    fn nothing_is_half_registered() {
        let before = available_backends().len();
        for (name, aliases) in
            [("", vec![]), ("mine", vec!["mine-too", "landlock"]), ("none", vec![]), ("mine", vec!["Mine"]), ("mine", vec![" "])]
        {
            assert!(register_backend_factory(name, &aliases, any()).is_err(), "{name} {aliases:?}");
        }
        assert_eq!(available_backends().len(), before);
        assert_eq!(canonical_backend_name("mine-too"), None);
        let error = register_backend_factory("mine", &["landlock"], any()).err().unwrap().to_string();
        assert!(error.contains("already registered for 'linux-native'"), "{error}");
    }
}
