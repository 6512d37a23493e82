//! Reads and writes files in named sandboxes.

use super::failure::failed;
use agentd_daemon::Client;
use agentd_engine::SandboxFailure;
use agentd_sandboxes::Name;
use data_encoding::BASE64;
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::fd::AsFd as _,
    path::Path,
};

/// The most bytes that one operation reads, unless the caller wants fewer.
const MOST: usize = 1 << 20;

/// Reads a part of a file, and returns the part and the size of the file.
pub(super) async fn read(
    client: &Client,
    name: &Name,
    path: &str,
    (offset, length): (Option<u64>, Option<usize>),
) -> Result<Value, SandboxFailure> {
    let mut file = File::from(client.read(name, Path::new(path)).await.map_err(failed)?);
    let offset = offset.unwrap_or(0);
    let length = u64::try_from(length.unwrap_or(MOST)).map_err(failed)?;
    let part = move || {
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset))?;
        let mut part = Vec::new();
        file.take(length).read_to_end(&mut part)?;
        Ok::<_, std::io::Error>((size, part))
    };
    // The file is on disk.
    let (size, part) = tokio::task::spawn_blocking(part).await.map_err(failed)?.map_err(failed)?;
    let length = part.len();
    let (encoding, content) = match String::from_utf8(part) {
        Ok(text) => ("text", text),
        Err(error) => ("base64", BASE64.encode(error.as_bytes())),
    };
    Ok(json!({ "size": size, "offset": offset, "length": length, "encoding": encoding, "content": content }))
}

/// Writes a file.
pub(super) async fn write(
    client: &Client,
    name: &Name,
    path: &str,
    (text, base64): (Option<String>, Option<String>),
) -> Result<Value, SandboxFailure> {
    let content = match base64 {
        None => text.unwrap_or_default().into_bytes(),
        Some(base64) => BASE64.decode(base64.as_bytes()).map_err(|error| SandboxFailure {
            code: "invalid-content",
            message: format!("base64: {error} — send base64 with padding (RFC 4648, section 4)"),
        })?,
    };
    let length = content.len();
    let mut file = File::from(memfd_create("content", MemfdFlags::CLOEXEC).map_err(failed)?);
    file.write_all(&content).and_then(|()| file.rewind()).map_err(failed)?;
    client.write(name, Path::new(path), file.as_fd()).await.map_err(failed)?;
    Ok(json!({ "path": path, "length": length }))
}
