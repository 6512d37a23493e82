//! Which modules a machine needs, and in which order. Debian's packages have no `modules.dep`, which is made when they are installed; each
//! module says itself what it depends on (`modinfo(8)`, the section `.modinfo`).

use crate::error::{Calling, LabError, format_error};
use crate::tool;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What the lab loads. What a kernel has built in, or not at all, is passed over.
const WANTED: [&str; 13] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "loop",
    "overlay",
    "fuse",
    "tun",
    "dummy",
    "vsock",
    "vsock_loopback",
    "vhost_vsock",
    "kvm_amd",
    "kvm_intel",
];

/// A module, ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, as `lsmod` has it.
    pub name: String,
    /// The ELF file.
    pub image: Vec<u8>,
}

/// Names the choice of modules: what was made with another is of no use.
pub fn key() -> String {
    Sha256::digest(WANTED.join(" ")).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The modules that the lab loads, each after those that it depends on.
pub fn collect(tree: &Path) -> Result<Vec<Module>, LabError> {
    let files = files(tree)?;
    in_order(&WANTED, |name| {
        let Some(file) = files.get(name) else { return Ok(None) };
        let image = read(file)?;
        let depends = dependencies(&image).ok_or_else(|| format_error(file.display(), "it does not say what it depends on"))?;
        Ok(Some((image, depends)))
    })
}

/// All modules below a folder, by name.
fn files(tree: &Path) -> Result<BTreeMap<String, PathBuf>, LabError> {
    let mut found = BTreeMap::new();
    let mut folders = vec![tree.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).on("list", &folder)? {
            let entry = entry.on("list", &folder)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().on("stat", &entry.path())?.is_dir() {
                folders.push(entry.path());
            } else if let Some(name) = name.strip_suffix(".ko").or(name.strip_suffix(".ko.xz")) {
                found.insert(name.replace('-', "_"), entry.path());
            }
        }
    }
    Ok(found)
}

fn read(file: &Path) -> Result<Vec<u8>, LabError> {
    if file.extension().is_some_and(|extension| extension == "xz") {
        return tool::output(Command::new("xz").arg("-dc").arg(file));
    }
    fs::read(file).on("read", file)
}

/// The names after `depends=` in the section `.modinfo`, where each entry ends with a zero byte.
fn dependencies(image: &[u8]) -> Option<Vec<String>> {
    const KEY: &[u8] = b"\0depends=";
    let start = image.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let list = image[start..].split(|byte| *byte == 0).next()?;
    let list = std::str::from_utf8(list).ok()?;
    Some(list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}

/// `wanted` and what they depend on, dependencies first, each once. `load` answers nothing for what is not a module.
fn in_order(
    wanted: &[&str],
    mut load: impl FnMut(&str) -> Result<Option<(Vec<u8>, Vec<String>)>, LabError>,
) -> Result<Vec<Module>, LabError> {
    enum Step {
        Visit(String),
        Take(Module),
    }
    let mut steps: Vec<Step> = wanted.iter().rev().map(|name| Step::Visit((*name).to_owned())).collect();
    let (mut seen, mut order) = (HashSet::new(), Vec::new());
    while let Some(step) = steps.pop() {
        match step {
            Step::Take(module) => order.push(module),
            Step::Visit(name) if !seen.insert(name.clone()) => {}
            Step::Visit(name) => {
                if let Some((image, depends)) = load(&name)? {
                    steps.push(Step::Take(Module { name, image }));
                    steps.extend(depends.into_iter().rev().map(Step::Visit));
                }
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_modinfo() {
        let image = b"\x7fELF\0\0license=GPL\0depends=kvm,irq-bypass\0retpoline=Y\0";
        assert_eq!(dependencies(image).unwrap(), ["kvm", "irq_bypass"]);
        assert_eq!(dependencies(b"\0depends=\0name=loop\0").unwrap(), Vec::<String>::new());
        assert_eq!(dependencies(b"\x7fELF no modinfo"), None);
    }

    #[test]
    fn what_is_depended_on_comes_first_and_once() {
        let depends: BTreeMap<&str, &[&str]> = BTreeMap::from([
            ("virtio_pci", &["virtio", "virtio_ring"][..]),
            ("virtio_ring", &["virtio"]),
            ("virtio", &[]),
            ("virtio_blk", &["virtio_ring", "virtio"]),
        ]);
        let load = |name: &str| {
            Ok(depends.get(name).map(|list| (name.as_bytes().to_vec(), list.iter().map(|s| (*s).to_owned()).collect())))
        };
        let order = in_order(&["virtio_pci", "built_in", "virtio_blk"], load).unwrap();
        let names: Vec<_> = order.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_pci", "virtio_blk"]);
        assert_eq!(order[3].image, b"virtio_blk");
    }

    #[test]
    fn modules_that_depend_on_each_other_come_to_an_end() {
        let load = |name: &str| Ok(Some((Vec::new(), vec![if name == "a" { "b" } else { "a" }.to_owned()])));
        assert_eq!(in_order(&["a"], load).unwrap().len(), 2);
    }
}
