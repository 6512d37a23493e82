//! Entry points of the fuzz targets in `fuzz/`, for the parsers of kernels, modules and packages. Each function returns how much
//! of the input was valid, or a description of the invariant that the input broke.

use crate::{bzimage, loadable, modules, package};
use std::{io::Cursor, path::PathBuf};

/// The maximum length of a path that the kernel accepts, in bytes (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// Reads the files of a Debian package and returns their number up to the first error.
///
/// # Errors
/// A message if a path is longer than the kernel accepts.
pub fn deb(bytes: &[u8]) -> Result<usize, String> {
    let (mut found, mut longest) = (0, 0);
    let each = |path: PathBuf, _| {
        found += 1;
        longest = longest.max(path.as_os_str().len());
        Ok(())
    };
    // Any error is allowed; only the paths that `each` receives are examined.
    package::files_in(Cursor::new(bytes), |_| true, each).ok();
    if longest > MAX_PATH { Err(format!("a path of {longest} bytes")) } else { Ok(found) }
}

/// Extracts the kernel and the release from a bzImage and returns whether both are present.
///
/// # Errors
/// A message if the release is longer than the parser's limit of 256 bytes.
pub fn bzimage(bytes: &[u8]) -> Result<bool, String> {
    let release = bzimage::release(bytes);
    if let Some(release) = release.as_ref().filter(|release| release.len() > 256) {
        return Err(format!("a release of {} bytes", release.len()));
    }
    Ok(bzimage::is(bytes) && bzimage::kernel(bytes).is_ok() && release.is_some())
}

/// Parses the same ELF file as a module, for its dependencies, and as an executable, for its loadable part. Returns how many of
/// the two were valid.
///
/// # Errors
/// A message if the loadable part is longer than the file.
pub fn elf(bytes: &[u8]) -> Result<usize, String> {
    let cut = loadable(bytes);
    match &cut {
        Ok(cut) if cut.len() > bytes.len() => Err(format!("{} bytes of {}", cut.len(), bytes.len())),
        _ => Ok(usize::from(cut.is_ok()) + usize::from(modules::dependencies(bytes).is_ok_and(|names| !names.is_empty()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seed.rs"));

    /// Returns an `ar` archive whose tar archive holds two files, one with a short name and one with a long name.
    fn package() -> Vec<u8> {
        let mut data = tar::Builder::new(Vec::new());
        for name in ["./boot/vmlinuz-6.1", &format!("./lib/modules/{}/x.ko", "d/".repeat(60))] {
            let mut header = tar::Header::new_gnu();
            header.set_size(4);
            header.set_mode(0o644);
            data.append_data(&mut header, name, &b"text"[..]).unwrap();
        }
        let data = data.into_inner().unwrap();
        let mut bytes = b"!<arch>\n".to_vec();
        for (name, content) in [("debian-binary", &b"2.0\n"[..]), ("data.tar", &data)] {
            bytes.extend_from_slice(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).as_bytes(),
            );
            bytes.extend_from_slice(content);
        }
        bytes
    }

    /// Returns a relocatable ELF file with a `.modinfo` section (`elf(5)`): header, contents of the section, names, three section
    /// headers.
    fn module() -> Vec<u8> {
        let info = b"license=GPL\0depends=virtio,virtio-ring\0";
        let names = b"\0.modinfo\0.shstrtab\0";
        let (info_at, names_at) = (64, 64 + info.len());
        let table_at = (names_at + names.len()).next_multiple_of(8);
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        for half in [1_u16, 62] {
            bytes.extend_from_slice(&half.to_le_bytes());
        }
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        for long in [0, 0, table_at as u64] {
            bytes.extend_from_slice(&long.to_le_bytes());
        }
        bytes.extend_from_slice(&0_u32.to_le_bytes());
        for half in [64_u16, 0, 0, 64, 3, 2] {
            bytes.extend_from_slice(&half.to_le_bytes());
        }
        bytes.extend_from_slice(info);
        bytes.extend_from_slice(names);
        bytes.resize(table_at, 0);
        for (name, kind, at, length) in [(0_u32, 0_u32, 0, 0), (1, 1, info_at, info.len()), (10, 3, names_at, names.len())] {
            bytes.extend_from_slice(&name.to_le_bytes());
            bytes.extend_from_slice(&kind.to_le_bytes());
            for long in [0, 0, at as u64, length as u64] {
                bytes.extend_from_slice(&long.to_le_bytes());
            }
            bytes.resize(bytes.len() + 8, 0);
            bytes.extend_from_slice(&1_u64.to_le_bytes());
            bytes.resize(bytes.len() + 8, 0);
        }
        bytes
    }

    #[test]
    fn seeds_are_accepted_in_full() {
        assert_eq!(deb(&package()), Ok(2));
        assert_eq!(modules::dependencies(&module()).unwrap(), ["virtio", "virtio_ring"]);
        assert_eq!(elf(&module()), Ok(2));
        let image = bzimage::tests::image(b"\x7fELF of a kernel");
        assert_eq!(bzimage(&image), Ok(true));
        keep_seed("deb", "two", &package());
        keep_seed("elf", "module", &module());
        keep_seed("bzimage", "plain", &image);
    }

    /// The package holds the header of a GNU long name that is longer than any path.
    #[test]
    fn package_with_an_endless_name_is_refused_without_reading_it() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let mut bytes = b"!<arch>\n".to_vec();
        bytes.extend_from_slice(
            format!("{:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", "data.tar", 0, 0, 0, 100_644, 9_999_999_999_u64).as_bytes(),
        );
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + (1 << 20), b'n');
        let mut stream = Cursor::new(&bytes);
        let error = package::files_in(&mut stream, |_| true, |_, _| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "a file name is too long");
        assert!(stream.position() < 128 << 10, "{} bytes were read", stream.position());
    }
}
