//! The modules that a machine needs, in the order in which they are loaded.

use crate::{error::AssetError, payload};
use object::{Object, ObjectSection};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// What one of Firecracker's machines needs of its kernel, built in or as a module: its devices, and the file systems of its root.
pub(crate) const NEEDED: [&str; 5] = ["virtio_mmio", "virtio_blk", "vmw_vsock_virtio_transport", "overlay", "ext4"];
/// What it takes where it is there.
pub(crate) const WELCOME: [&str; 1] = ["virtio_rng"];
/// The list of what is built in (`kmod(8)`), beside the modules.
const BUILT_IN: &str = "modules.builtin";

/// One module, plain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, as the kernel spells it.
    pub name: String,
    /// The ELF file.
    pub content: Vec<u8>,
}

/// What a kernel has of modules.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    found: BTreeMap<String, Source>,
    built_in: BTreeSet<String>,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Modules {
    /// Whether a path of a package is one of a module, or of the list of what is built in.
    pub(crate) fn are_in(path: &Path) -> bool {
        name_of(path).is_some() || path.file_name().is_some_and(|name| name == BUILT_IN)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty() && self.built_in.is_empty()
    }

    /// Takes in a file of a package.
    pub(crate) fn take(&mut self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        if let Some(name) = name_of(path) {
            self.found.insert(name, Source::Bytes(content));
        } else {
            self.take_built_in(&String::from_utf8_lossy(&content));
        }
        Ok(())
    }

    /// Those installed below `dir`; none when it is not there.
    pub(crate) fn installed(dir: &Path) -> io::Result<Self> {
        let mut modules = Self::default();
        let mut next = vec![dir.to_path_buf()];
        while let Some(dir) = next.pop() {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    next.push(path);
                } else if path.file_name().is_some_and(|name| name == BUILT_IN) {
                    modules.take_built_in(&fs::read_to_string(&path)?);
                } else if let Some(name) = name_of(&path) {
                    modules.found.insert(name, Source::File(path));
                }
            }
        }
        Ok(modules)
    }

    fn take_built_in(&mut self, list: &str) {
        self.built_in.extend(list.lines().filter_map(|line| name_of(Path::new(line))));
    }

    /// What a machine needs, each after those it depends on. A kernel of which no modules are known is taken to have everything built in.
    pub(crate) fn needed(&self, release: &str, needed: &[&str], welcome: &[&str]) -> Result<Vec<Module>, AssetError> {
        let mut order = Vec::new();
        if self.is_empty() {
            return Ok(order);
        }
        for name in needed.iter().chain(welcome) {
            if self.built_in.contains(*name) {
                continue;
            }
            if !self.found.contains_key(*name) {
                if welcome.contains(name) {
                    continue;
                }
                return Err(AssetError::NoModule { release: release.to_owned(), name: (*name).to_owned() });
            }
            self.visit(name, release, &mut BTreeSet::new(), &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, release: &str, above: &mut BTreeSet<String>, order: &mut Vec<Module>) -> Result<(), AssetError> {
        if order.iter().any(|module| module.name == name) || self.built_in.contains(name) || !above.insert(name.to_owned()) {
            return Ok(());
        }
        let missing = || AssetError::NoModule { release: release.to_owned(), name: name.to_owned() };
        let unreadable = |source| AssetError::Io { context: format!("read the module {name} of {release}"), source };
        let stored = match self.found.get(name).ok_or_else(missing)? {
            Source::File(path) => fs::read(path).map_err(unreadable)?,
            Source::Bytes(bytes) => bytes.clone(),
        };
        let content = payload::plain(&stored).map_err(unreadable)?;
        for below in dependencies(&content).map_err(unreadable)? {
            self.visit(&below, release, above, order)?;
        }
        order.push(Module { name: name.to_owned(), content });
        Ok(())
    }
}

/// The name of the module in a file, as the kernel spells it.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, ending) = file.split_once(".ko")?;
    ["", ".xz", ".zst", ".gz"].contains(&ending).then(|| name.replace('-', "_"))
}

/// The modules that one says it depends on (`modinfo(8)`, `depends`).
fn dependencies(module: &[u8]) -> io::Result<Vec<String>> {
    let bad = |error: object::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let elf = object::File::parse(module).map_err(bad)?;
    let Some(section) = elf.section_by_name(".modinfo") else { return Ok(Vec::new()) };
    let info = section.data().map_err(bad)?;
    let line = info.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(b"depends=")).unwrap_or_default();
    let names = String::from_utf8_lossy(line);
    Ok(names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_name_is_that_of_its_file() {
        for (path, name) in [
            ("kernel/drivers/char/hw_random/virtio-rng.ko", Some("virtio_rng")),
            ("kernel/fs/overlayfs/overlay.ko.xz", Some("overlay")),
            ("kernel/x.ko.zst", Some("x")),
            ("kernel/x.kontact", None),
            ("modules.dep", None),
        ] {
            assert_eq!(name_of(Path::new(path)).as_deref(), name, "{path}");
        }
    }

    #[test]
    fn a_kernel_without_something_needed_is_refused_and_one_that_has_it_built_in_is_not() {
        let mut modules = Modules::default();
        modules.take_built_in("kernel/virtio_mmio.ko\nkernel/virtio_blk.ko\nkernel/overlay.ko\nkernel/ext4.ko\n");
        let error = modules.needed("6.1", &NEEDED, &WELCOME).unwrap_err().to_string();
        assert!(error.contains("kernel 6.1 has no vmw_vsock_virtio_transport"), "{error}");
        modules.take_built_in("kernel/vmw_vsock_virtio_transport.ko");
        assert_eq!(modules.needed("6.1", &NEEDED, &WELCOME).unwrap(), []);
    }
}
