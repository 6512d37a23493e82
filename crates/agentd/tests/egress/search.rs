//! Searches the processes below agentd, their memory, environment and files, for a text.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

/// Bytes of memory that are read at once.
const PIECE: usize = 1 << 20;

/// Bytes of a page, and of its entry in `/proc/PID/pagemap`.
const PAGE: u64 = 4096;
const ENTRY: u64 = 8;

/// Returns the processes below `root`: the launcher, the first process of the sandbox, and its commands.
pub fn descendants(root: u32) -> Vec<u32> {
    let parent_of = |pid: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain spaces.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let pairs: Vec<(u32, u32)> = all.filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(pairs.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
        next += 1;
    }
    found.split_off(1)
}

/// Returns true if the memory of a process contains the text. Read-only mappings of files have the content of the files, and are
/// not searched. `None`: this user may not read that memory.
pub fn in_memory(pid: u32, text: &str) -> Option<bool> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let mut memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut pages = File::open(format!("/proc/{pid}/pagemap")).ok()?;
    let mut piece = vec![0; PIECE];
    for line in maps.lines().filter(|line| line.contains(" rw") || (line.contains(" r") && !line.contains('/'))) {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        let (mut at, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut kept = 0;
        while at < to && memory.seek(SeekFrom::Start(at)).is_ok() {
            let max = usize::try_from(to - at).unwrap().min(PIECE - kept);
            // Runtimes reserve many gigabytes that they do not use.
            if !is_used(&mut pages, at, max) {
                (at, kept) = (at + max as u64, 0);
                continue;
            }
            // Some mappings of the kernel cannot be read.
            let Ok(read) = memory.read(&mut piece[kept..kept + max]) else { break };
            if read == 0 {
                break;
            }
            let length = kept + read;
            if has(&piece[..length], text) {
                return Some(true);
            }
            // A text may lie across two pieces.
            kept = text.len().min(length) - 1;
            piece.copy_within(length - kept..length, 0);
            at += read as u64;
        }
    }
    Some(false)
}

/// Returns false if no page of this memory was ever written, or read from a file (`Documentation/admin-guide/mm/pagemap.rst`).
fn is_used(pages: &mut File, at: u64, length: usize) -> bool {
    let mut entries = vec![0; usize::try_from((length as u64 / PAGE + 2) * ENTRY).unwrap()];
    if pages.seek(SeekFrom::Start(at / PAGE * ENTRY)).is_err() {
        return true;
    }
    // The first two bits mean that the page is in memory, or in swap.
    let is_present = |entry: &[u8]| u64::from_ne_bytes(entry.try_into().unwrap()) >> 62 != 0;
    match pages.read(&mut entries) {
        Ok(0) | Err(_) => true,
        Ok(read) => entries[..read].chunks_exact(8).any(is_present),
    }
}

/// Returns the files below a directory that contain the text.
pub fn in_files(directory: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() && fs::read(entry.path()).is_ok_and(|content| has(&content, text)) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Returns true if the bytes contain the text, which is ASCII.
pub fn has(bytes: &[u8], text: &str) -> bool {
    // These functions of the standard library are fast even in a build without optimisation.
    String::from_utf8_lossy(bytes).contains(text)
}
