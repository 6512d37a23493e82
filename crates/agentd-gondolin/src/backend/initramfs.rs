//! The initramfs of a machine: the initramfs of the installation with agentd's own program appended, so that host and guest are
//! of the same build.

use agentd_vm::cpio::Archive;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// The file name under which `initramfs.sh` expects the program.
const PROGRAM: &str = "agentd-guest";

/// Writes the contents of `base`, followed by an archive with `program`, to `to`.
pub(super) fn write(base: &Path, mut program: Vec<u8>, to: File) -> io::Result<()> {
    let mut to = BufWriter::with_capacity(1 << 20, to);
    io::copy(&mut File::open(base)?, &mut to)?;
    trim(&mut program);
    let mut archive = Archive::new(to);
    archive.file(PROGRAM, 0o755, &program)?;
    archive.finish()?.flush()
}

/// Removes the parts of a program that are not loaded: sections for linkers and debuggers, which may be most of the file. A file
/// that is not a 64-bit little-endian ELF file (`elf(5)`) is not changed.
fn trim(program: &mut Vec<u8>) {
    let Some(end) = loaded(program) else { return };
    program.truncate(end);
    // Clear e_shoff, e_shnum and e_shstrndx: the section header table has been removed.
    program[0x28..0x30].fill(0);
    program[0x3c..0x40].fill(0);
}

/// Returns the end of the last segment in the file, as an offset in bytes. Returns `None` for an invalid file.
fn loaded(program: &[u8]) -> Option<usize> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = program.get(at..at.checked_add(bytes)?)?;
        let mut whole = [0; 8];
        whole[..bytes].copy_from_slice(field);
        usize::try_from(u64::from_le_bytes(whole)).ok()
    };
    program.strip_prefix(b"\x7fELF\x02\x01")?;
    let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    let mut end = table.checked_add(size.checked_mul(count)?)?;
    for index in 0..count {
        let header = table.checked_add(index.checked_mul(size)?)?;
        // The end is p_offset plus p_filesz.
        end = end.max(number(header.checked_add(8)?, 8)?.checked_add(number(header.checked_add(0x20)?, 8)?)?);
    }
    (end >= 0x40 && end <= program.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn trimmed_program_is_smaller_and_runs() {
        let mut program = std::fs::read("/proc/self/exe").unwrap();
        let whole = program.len();
        trim(&mut program);
        assert!(program.len() < whole);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, program).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let listed = std::process::Command::new(path).args(["--list", "initramfs"]).output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).contains("trimmed_program_is_smaller_and_runs"));
    }

    #[test]
    fn trim_leaves_invalid_elf_file_unchanged() {
        for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF\x02\x01", &[b"\x7fELF\x02\x01".as_slice(), &[0xff; 100]].concat()] {
            let mut kept = bytes.to_vec();
            trim(&mut kept);
            assert_eq!(kept, bytes);
        }
    }
}
