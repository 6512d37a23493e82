//! Strips an executable to the part that the kernel loads. This omits symbols and debug information, which are most of a debug
//! build.

use object::{
    Endianness,
    elf::{FileHeader64, PT_LOAD},
    read::elf::{FileHeader, ProgramHeader},
};
use std::io;

/// Returns the beginning of a static x86-64 executable, up to the end of the last loadable segment (`elf(5)`), without the
/// section header table.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if `elf` is not such a file, or is truncated.
pub fn loadable(elf: &[u8]) -> io::Result<Vec<u8>> {
    let bad = |error: object::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let header = FileHeader64::<Endianness>::parse(elf).map_err(bad)?;
    let endian = header.endian().map_err(bad)?;
    let loaded = header.program_headers(endian, elf).map_err(bad)?.iter().filter(|part| part.p_type(endian) == PT_LOAD);
    let end = loaded.map(|part| part.p_offset(endian).saturating_add(part.p_filesz(endian))).max().unwrap_or(0);
    let cut = usize::try_from(end).ok().and_then(|end| elf.get(..end));
    let mut cut = cut.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the ELF file is truncated"))?.to_vec();
    // Clear the offset of the section header table (`e_shoff`), its length, and the index of the section names (`e_shnum`,
    // `e_shstrndx`).
    for place in [40..48, 60..64] {
        if let Some(bytes) = cut.get_mut(place) {
            bytes.fill(0);
        }
    }
    Ok(cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    #[test]
    fn loadable_part_of_program_is_smaller_and_runs() {
        let dir = tempfile::tempdir().unwrap();
        let whole = fs::read(std::env::current_exe().unwrap()).unwrap();
        let cut = loadable(&whole).unwrap();
        assert!(cut.len() < whole.len());
        let path = dir.path().join("program");
        fs::write(&path, cut).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Command::new(&path).arg("--help").output().unwrap().status.success());
        assert!(loadable(b"#!/bin/sh\n").is_err());
    }
}
