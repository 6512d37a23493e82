//! Entry points for the fuzz targets in `fuzz/`. Each returns the invariant that its input violated.

use crate::{
    request::{ArchiveRequest, ToolCall, ToolRequest},
    role::serve,
    wire::{decode_reply, encode_call, read_call},
};
use std::path::Path;

/// Decodes bytes as a call and as a reply.
///
/// # Errors
/// If a call that was decoded is not the same after it was encoded again.
pub fn wire(bytes: &[u8]) -> Result<(), String> {
    // Any error is allowed; the target looks for panics.
    decode_reply(bytes).ok();
    let Ok((call, _)) = read_call(&mut &bytes[..]) else { return Ok(()) };
    let again = encode_call(&call, &[]).map_err(|error| error.to_string())?;
    match read_call(&mut &again[..]) {
        Ok((decoded, 0)) if decoded == call => Ok(()),
        other => Err(format!("{call:?} became {other:?}")),
    }
}

/// Lists an archive, and extracts it into `directory`, in which nothing else exists.
///
/// # Errors
/// If the directory cannot be used, or the process would end without a reply.
pub fn archive(bytes: &[u8], directory: &Path) -> Result<(), String> {
    let path = directory.join("archive");
    std::fs::write(&path, bytes).map_err(|error| error.to_string())?;
    for extract_to in [None, Some(directory.join("new").as_path().into())] {
        let request =
            ArchiveRequest { path: path.as_path().into(), extract_to, max_bytes: Some(1 << 20), ..ArchiveRequest::default() };
        let call = ToolCall { within: Some(directory.into()), request: ToolRequest::Archive(request) };
        let frame = encode_call(&call, &[]).map_err(|error| error.to_string())?;
        let mut reply = Vec::new();
        serve(&mut &frame[..], &mut reply).map_err(|error| error.to_string())?;
        decode_reply(&reply).map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::{ErrorCode, ToolError},
        request::ReadRequest,
        wire::{ToolReply, write_reply},
    };
    use tar::{Builder, EntryType};

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seed.rs"));
    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/tar_entries.rs"));

    #[test]
    fn wire_seeds_are_accepted_in_full() {
        let read = ReadRequest { path: (&b"/a\xff\n"[..]).into(), ..ReadRequest::default() };
        let call = ToolCall { within: Some("/".into()), request: ToolRequest::Read(read) };
        let call = encode_call(&call, b"content").unwrap();
        let reply = ToolReply::Failed(ToolError::at(ErrorCode::NotFound, "read", b"/a\xff", "no"));
        let mut frame = Vec::new();
        write_reply(&mut frame, &reply, b"\0\xff").unwrap();
        assert!(read_call(&mut &call[..]).is_ok() && decode_reply(&frame).is_ok());
        for (name, seed) in [("call", call), ("reply", frame)] {
            wire(&seed).unwrap();
            keep_seed("tool_wire", name, &seed);
        }
    }

    /// Creates an archive with a directory, a file, links and a device.
    fn plain() -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        append_entries(
            &mut archive,
            &[
                ("dir/", EntryType::Directory, "", b""),
                ("dir/file", EntryType::Regular, "", b"content"),
                ("dir/link", EntryType::Symlink, "../top", b""),
                ("hard", EntryType::Link, "dir/file", b""),
                ("null", EntryType::Char, "", b""),
            ],
        );
        archive.into_inner().unwrap()
    }

    #[test]
    fn archive_seeds_are_extracted() {
        let mut zipped = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        zipped.add_directory("dir/", options).unwrap();
        zipped.start_file("dir/file", options).unwrap();
        std::io::Write::write_all(&mut zipped, b"content").unwrap();
        zipped.add_symlink("link", "dir/file", options).unwrap();
        for (name, seed) in [("tar", plain()), ("zip", zipped.finish().unwrap().into_inner())] {
            let directory = tempfile::tempdir().unwrap();
            archive(&seed, directory.path()).unwrap();
            assert_eq!(std::fs::read(directory.path().join("new/dir/file")).unwrap(), b"content", "{name}");
            keep_seed("tool_archive", name, &seed);
        }
    }
}
