//! Selects the kernel modules that a machine needs, in load order.

use crate::{error::AssetError, payload};
use object::{Object, ObjectSection};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// Modules that a Firecracker machine needs, built in or loadable: those of its devices, and of the file systems of its root.
pub(crate) const NEEDED: [&str; 5] = ["virtio_mmio", "virtio_blk", "vmw_vsock_virtio_transport", "overlay", "ext4"];
/// Modules that are loaded if the kernel has them.
pub(crate) const OPTIONAL: [&str; 1] = ["virtio_rng"];
/// The list of built-in modules, in the directory of modules (`kmod(8)`).
const BUILT_IN: &str = "modules.builtin";

/// A kernel module, decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The name, in the kernel's spelling (with `_` instead of `-`).
    pub name: String,
    /// The ELF file.
    pub content: Vec<u8>,
}

/// The modules of a kernel.
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
    /// Returns whether a path in a package is a module or the list of built-in modules.
    pub(crate) fn is_source(path: &Path) -> bool {
        name_of(path).is_some() || path.file_name().is_some_and(|name| name == BUILT_IN)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty() && self.built_in.is_empty()
    }

    /// Adds a file of a package.
    pub(crate) fn take(&mut self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        if let Some(name) = name_of(path) {
            self.found.insert(name, Source::Bytes(content));
        } else {
            self.take_built_in(&String::from_utf8_lossy(&content));
        }
        Ok(())
    }

    /// Returns the modules installed below `dir`; none if `dir` does not exist.
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

    /// Returns the requested modules, each after its dependencies. A kernel without any known modules is assumed to have
    /// everything built in.
    pub(crate) fn needed(&self, release: &str, needed: &[&str], optional: &[&str]) -> Result<Vec<Module>, AssetError> {
        let mut order = Vec::new();
        if self.is_empty() {
            return Ok(order);
        }
        for name in needed.iter().chain(optional) {
            if self.built_in.contains(*name) {
                continue;
            }
            if !self.found.contains_key(*name) {
                if optional.contains(name) {
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

/// Returns the name of the module in a file, in the kernel's spelling.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, ending) = file.split_once(".ko")?;
    ["", ".xz", ".zst", ".gz"].contains(&ending).then(|| name.replace('-', "_"))
}

/// Returns the dependencies that a module declares (`modinfo(8)`, `depends`).
pub(crate) fn dependencies(module: &[u8]) -> io::Result<Vec<String>> {
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
    fn module_name_is_derived_from_file_name() {
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
    fn kernel_without_needed_module_is_refused_unless_built_in() {
        let mut modules = Modules::default();
        modules.take_built_in("kernel/virtio_mmio.ko\nkernel/virtio_blk.ko\nkernel/overlay.ko\nkernel/ext4.ko\n");
        let error = modules.needed("6.1", &NEEDED, &OPTIONAL).unwrap_err().to_string();
        assert!(error.contains("find the module vmw_vsock_virtio_transport: kernel 6.1 has it neither"), "{error}");
        modules.take_built_in("kernel/vmw_vsock_virtio_transport.ko");
        assert_eq!(modules.needed("6.1", &NEEDED, &OPTIONAL).unwrap(), []);
    }
}
