//! The registry: maps backend names and aliases to the functions that create the backends.

use agentd_core::{IsolationBackend, IsolationError};
use agentd_supervisor::role;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

/// Creates a backend that keeps its files below the given directory.
type Factory = Arc<dyn Fn(&Path) -> Result<Arc<dyn IsolationBackend>, IsolationError> + Send + Sync>;

/// Returns the files on which the proof of a backend depends besides agentd's own program, given agentd's data directory.
pub type ProofFiles = fn(&Path) -> Vec<PathBuf>;

struct Registration {
    canonical: String,
    aliases: Vec<String>,
    factory: Factory,
    /// True if the backend is agentd's own.
    built_in: bool,
    /// `None` if proofs of the backend are not stored.
    proof_files: Option<ProofFiles>,
}

/// A backend of agentd, which a program puts into its [`Registry`].
pub struct BuiltIn(Registration);

impl BuiltIn {
    /// Creates an entry for a backend whose proofs are not stored.
    pub fn new<B: IsolationBackend + 'static>(
        canonical: &str,
        aliases: &[&str],
        make: impl Fn(&Path) -> Result<B, IsolationError> + Send + Sync + 'static,
    ) -> Self {
        Self::with_factory(canonical, aliases, Arc::new(move |root| Ok(Arc::new(make(root)?))))
    }

    /// Creates an entry for a backend that this program was built without. Its names stay reserved, and creating it fails with
    /// `reason`.
    pub fn left_out(canonical: &str, aliases: &[&str], reason: &str) -> Self {
        let (backend, reason) = (canonical.to_owned(), reason.to_owned());
        let refuse = move |_: &Path| Err(IsolationError::Unavailable { backend: backend.clone(), reason: reason.clone() });
        Self::with_factory(canonical, aliases, Arc::new(refuse))
    }

    fn with_factory(canonical: &str, aliases: &[&str], factory: Factory) -> Self {
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        Self(Registration { canonical: canonical.to_owned(), aliases, factory, built_in: true, proof_files: None })
    }

    /// Stores the backend's proof for later processes. The proof is valid as long as the files that `files` returns do not
    /// change. Use this only for a backend with a boundary.
    #[must_use]
    pub fn proven_with(self, files: ProofFiles) -> Self {
        Self(Registration { proof_files: Some(files), ..self.0 })
    }
}

/// The backends that a program can create by name.
pub struct Registry(RwLock<Vec<Registration>>);

impl Registry {
    /// Creates a registry of agentd's own backends. Among equal backends, the first registered one is preferred.
    pub fn new(built_in: Vec<BuiltIn>) -> Self {
        role::exit_if_unhandled();
        Self(RwLock::new(built_in.into_iter().map(|built_in| built_in.0).collect()))
    }

    fn entries(&self) -> std::sync::RwLockReadGuard<'_, Vec<Registration>> {
        role::exit_if_unhandled();
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the canonical names, in the order of registration.
    pub fn available(&self) -> Vec<String> {
        self.entries().iter().map(|e| e.canonical.clone()).collect()
    }

    /// Returns the canonical form of a name or alias; `None` if the name is unknown.
    pub fn canonical_name(&self, name: &str) -> Option<String> {
        let name = normalise(name);
        self.entries().iter().find(|e| e.canonical == name || e.aliases.contains(&name)).map(|e| e.canonical.clone())
    }

    /// Returns true if `name` is the canonical name of one of agentd's own backends. Embedders cannot register a backend under
    /// such a name.
    pub fn is_own(&self, name: &str) -> bool {
        self.entries().iter().any(|e| e.built_in && e.canonical == name)
    }

    /// Returns the backends whose proofs are stored, by canonical name.
    pub(crate) fn provable(&self) -> Vec<(String, ProofFiles)> {
        self.entries().iter().filter_map(|e| Some((e.canonical.clone(), e.proof_files?))).collect()
    }

    /// Creates the backend called `name`, which keeps its files below `work_root`.
    ///
    /// # Errors
    /// - [`IsolationError::UnknownBackend`] if no backend has this name.
    /// - [`IsolationError::Initialize`] with the error of the backend if it cannot be created.
    pub fn create(&self, name: &str, work_root: &Path) -> Result<Arc<dyn IsolationBackend>, IsolationError> {
        let canonical = self.canonical_name(name);
        let found = {
            let entries = self.entries();
            entries.iter().find(|e| Some(&e.canonical) == canonical.as_ref()).map(|e| (e.canonical.clone(), e.factory.clone()))
        };
        match found {
            Some((name, factory)) => {
                factory(work_root).map_err(|source| IsolationError::Initialize { name, source: Box::new(source) })
            }
            None => Err(IsolationError::UnknownBackend { name: name.to_owned(), available: self.available().join(", ") }),
        }
    }

    /// Registers a backend under all of its names, or under none. Names are trimmed and lower-cased, and `_` equals `-`. Empty
    /// aliases are skipped. An alias that equals the canonical name or another alias counts once.
    ///
    /// # Errors
    /// [`IsolationError::Registration`] if the canonical name is empty, or if a name is taken.
    pub fn register<F>(&self, canonical: &str, aliases: &[&str], factory: F) -> Result<(), IsolationError>
    where
        F: Fn(&Path) -> Result<Arc<dyn IsolationBackend>, IsolationError> + Send + Sync + 'static,
    {
        let refuse = |name: &str, reason: String| Err(IsolationError::Registration { name: name.to_owned(), reason });
        let canonical = normalise(canonical);
        if canonical.is_empty() {
            return refuse(&canonical, "the name is empty".to_owned());
        }
        let mut known: Vec<String> = Vec::new();
        for alias in aliases.iter().map(|alias| normalise(alias)) {
            if !alias.is_empty() && alias != canonical && !known.contains(&alias) {
                known.push(alias);
            }
        }
        role::exit_if_unhandled();
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for name in std::iter::once(&canonical).chain(&known) {
            if let Some(taken) = entries.iter().find(|e| e.canonical == *name || e.aliases.contains(name)) {
                return refuse(name, format!("already registered for '{}'", taken.canonical));
            }
        }
        let factory = Arc::new(factory);
        entries.push(Registration { canonical, aliases: known, factory, built_in: false, proof_files: None });
        Ok(())
    }
}

/// Returns the trimmed, lower-cased name, with `-` for `_`.
fn normalise(name: &str) -> String {
    name.trim().to_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostDirectBackend;

    fn registry() -> Registry {
        Registry::new(vec![
            BuiltIn::new("host-direct", &["none", "host"], |root| Ok(HostDirectBackend::new(root))),
            BuiltIn::left_out("linux-native", &["linux", "landlock"], "left out — build it in"),
        ])
    }

    fn any(root: &Path) -> Result<Arc<dyn IsolationBackend>, IsolationError> {
        Ok(Arc::new(HostDirectBackend::new(root)))
    }

    #[test]
    fn backend_name_in_any_spelling_is_found() {
        for (name, canonical) in [
            ("none", "host-direct"),
            (" Linux_Native ", "linux-native"),
            ("LANDLOCK", "linux-native"),
            ("host_direct", "host-direct"),
        ] {
            assert_eq!(registry().canonical_name(name).as_deref(), Some(canonical), "{name}");
        }
    }

    #[test]
    fn unknown_backend_name_error_lists_known_names() {
        let error = registry().create("x", Path::new("/tmp")).err().unwrap().to_string();
        assert_eq!(error, "Unknown isolation backend 'x'. Available backends: host-direct, linux-native");
    }

    #[test]
    fn refused_registration_registers_no_name() {
        let registry = registry();
        let before = registry.available().len();
        for (name, aliases) in
            [("", vec![]), (" ", vec!["mine"]), ("mine", vec!["mine-too", "landlock"]), ("none", vec![]), ("Host_Direct", vec![])]
        {
            assert!(registry.register(name, &aliases, any).is_err(), "{name} {aliases:?}");
        }
        assert_eq!(registry.available().len(), before);
        assert_eq!(registry.canonical_name("mine-too"), None);
        let error = registry.register("mine", &["landlock"], any).err().unwrap().to_string();
        assert!(error.contains("already registered for 'linux-native'"), "{error}");
    }

    #[test]
    fn backend_left_out_of_build_keeps_names_and_fails_with_reason() {
        let registry = registry();
        assert_eq!(registry.canonical_name("landlock").as_deref(), Some("linux-native"));
        let error = registry.create("landlock", Path::new("/tmp")).err().unwrap().to_string();
        assert!(error.contains("linux-native") && error.contains("left out — build it in"), "{error}");
    }
}
