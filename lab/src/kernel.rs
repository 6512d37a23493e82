//! A kernel from its package: the file that the packages' `vmlinuz` unpacks itself to, because a machine that starts with that is up a
//! second earlier, and Firecracker takes no other; and the modules.

use crate::{
    args::Line,
    error::{Calling, LabError, format_error},
    initramfs::Initramfs,
    modules, packages,
};
use std::{
    fs,
    io::Read,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// A kernel, ready to boot.
#[derive(Debug)]
pub struct Kernel {
    /// The uncompressed ELF file, which starts by the PVH entry.
    pub vmlinux: PathBuf,
    /// The archive that it starts from.
    pub initramfs: PathBuf,
    /// The package's name, which has the version in it, and which modules were taken.
    pub name: String,
}

impl Line {
    /// The package that stands for the newest kernel of the line.
    fn package(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-cloud-amd64",
            Self::V6_12 => "linux-image-6.12-cloud-amd64",
        }
    }
}

/// The kernel of a line: as it was when first asked for, as long as `cache` is kept.
pub fn prepare(line: Line, cache: &Path) -> Result<Kernel, LabError> {
    let known = cache.join(format!("{}-{}", line.package(), modules::key()));
    let name = match fs::read_link(&known) {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(_) => {
            let package = packages::stands_for(line.package())?;
            eprintln!("lab: fetching {package}");
            let folder = format!("{package}-{}", modules::key());
            make(&package, &cache.join(&folder))?;
            symlink(&folder, &known).on("link", &known)?;
            folder
        }
    };
    let folder = cache.join(&name);
    let kernel = Kernel { vmlinux: folder.join("vmlinux"), initramfs: folder.join("initramfs"), name };
    pack(&folder, &kernel.initramfs)?;
    Ok(kernel)
}

/// Everything of a kernel that does not change with this program: `vmlinux` and the modules in the order of loading.
fn make(package: &str, folder: &Path) -> Result<(), LabError> {
    let staging = tempfile::tempdir_in(folder.parent().unwrap_or(folder)).on("make a folder beside", folder)?;
    let unpacked = staging.path().join("package");
    packages::unpack(package, &unpacked)?;
    let new = staging.path().join("kernel");
    fs::create_dir_all(new.join("modules")).on("mkdir", &new)?;
    let boot = unpacked.join("boot");
    let image = fs::read_dir(&boot).on("list", &boot)?.flatten().map(|entry| entry.path());
    let image = image.into_iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
    let image = image.ok_or_else(|| format_error(package, "there is no vmlinuz in it"))?;
    let vmlinux = extract(&fs::read(&image).on("read", &image)?).map_err(|detail| format_error(image.display(), detail))?;
    fs::write(new.join("vmlinux"), vmlinux).on("write", &new)?;
    for (number, module) in modules::collect(&unpacked.join("lib/modules"))?.into_iter().enumerate() {
        let file = new.join("modules").join(format!("{number:02}-{}.ko", module.name));
        fs::write(&file, module.image).on("write", &file)?;
    }
    // What a run before this one was killed over.
    fs::remove_dir_all(folder).ok();
    fs::rename(&new, folder).on("rename to", folder)
}

/// The archive of modules and this program, made anew when the program is.
fn pack(folder: &Path, initramfs: &Path) -> Result<(), LabError> {
    let program = std::env::current_exe().calling(|| "find this program's file".to_owned())?;
    let age = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if age(initramfs).is_some_and(|made| age(&program).is_some_and(|built| built < made)) {
        return Ok(());
    }
    let mut archive = Initramfs::default();
    archive.folder("dev").device("dev/console", 5, 1).folder("root").folder("proc").folder("modules");
    archive.file("init", &fs::read(&program).on("read", &program)?);
    let modules = folder.join("modules");
    let mut names: Vec<_> = fs::read_dir(&modules).on("list", &modules)?.flatten().map(|entry| entry.path()).collect();
    names.sort();
    for path in names {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), &fs::read(&path).on("read", &path)?);
    }
    let new = tempfile::NamedTempFile::new_in(folder).on("make a file in", folder)?;
    fs::write(new.path(), archive.finish()).on("write", new.path())?;
    new.persist(initramfs).map_err(|error| error.error).on("rename to", initramfs)?;
    Ok(())
}

/// The ELF file in a `bzImage` (`Documentation/arch/x86/boot.rst`: `setup_sects`, `payload_offset`, `payload_length`).
fn extract(image: &[u8]) -> Result<Vec<u8>, String> {
    let word = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let payload = || {
        let start = (usize::from(*image.get(0x1f1)?) + 1) * 512 + word(0x248)?;
        image.get(start..start + word(0x24c)?)
    };
    // The last four bytes are the size of what it unpacks to.
    let payload = payload().and_then(|bytes| bytes.split_at_checked(bytes.len().checked_sub(4)?)).ok_or("not a bzImage")?.0;
    let elf = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd(payload)?,
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => lz4(blocks)?,
        _ => return Err("compressed neither with zstd nor with lz4".to_owned()),
    };
    if elf.starts_with(b"\x7fELF") { Ok(elf) } else { Err("what it unpacks to is no ELF file".to_owned()) }
}

fn zstd(payload: &[u8]) -> Result<Vec<u8>, String> {
    let mut elf = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(payload).map_err(|error| error.to_string())?;
    decoder.read_to_end(&mut elf).map_err(|error| error.to_string())?;
    Ok(elf)
}

/// The old format of `lz4 -l`: blocks that unpack to at most 8 MiB, each after its compressed size.
fn lz4(mut blocks: &[u8]) -> Result<Vec<u8>, String> {
    let mut elf = Vec::new();
    while let Some((size, rest)) = blocks.split_first_chunk::<4>() {
        let size = usize::try_from(u32::from_le_bytes(*size)).map_err(|error| error.to_string())?;
        let (block, rest) = rest.split_at_checked(size).ok_or("an lz4 block that is cut short")?;
        elf.extend(lz4_flex::block::decompress(block, 8 << 20).map_err(|error| error.to_string())?);
        blocks = rest;
    }
    Ok(elf)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `bzImage` with `payload` after two sectors of set-up.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 16];
        image[0x1f1] = 1;
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        let length = u32::try_from(payload.len() + 4).unwrap();
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(&[0xaa; 4 + 100]);
        image
    }

    #[test]
    fn a_kernel_in_lz4_blocks_is_unpacked() {
        let elf: Vec<u8> = b"\x7fELF".iter().copied().chain((0..20_000u32).map(|n| (n % 251) as u8)).collect();
        let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
        for part in elf.chunks(9_000) {
            let block = lz4_flex::block::compress(part);
            payload.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            payload.extend(block);
        }
        assert_eq!(extract(&bzimage(&payload)).unwrap(), elf);
        payload.truncate(payload.len() - 1);
        assert!(extract(&bzimage(&payload)).unwrap_err().contains("cut short"));
    }

    #[test]
    fn what_is_no_kernel_is_said_to_be_none() {
        for image in [&b""[..], b"short", &[0xff; 0x300]] {
            assert_eq!(extract(image).unwrap_err(), "not a bzImage");
        }
        assert!(extract(&bzimage(b"BZh9")).unwrap_err().contains("neither"));
    }
}
