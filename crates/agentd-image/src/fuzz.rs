//! Entry points for the fuzz targets in `fuzz/`, which exercise the parsers of images. Each returns how much of its input was
//! valid, or the invariant that the input violated.

use crate::{
    manifest::{Config, Document, choose},
    unpack::{Bounds, Ownership, UnpackError, decompress, unpack},
};
use std::{fs::File, io, os::fd::AsFd as _, path::Path};

/// Small limits that a short input can reach.
const BOUNDS: Bounds =
    Bounds { total: 1 << 20, file: 64 << 10, entries: 64, path: 512, depth: 16, extension: 4096, directories: 4096, names: 4096 };

/// Decompresses a layer, unpacks it into the empty `directory`, and returns its number of entries; 0 if the layer is not valid.
///
/// # Errors
/// If `directory` cannot be opened, or if more was unpacked than the bounds allow.
pub fn layer(bytes: &[u8], directory: &Path) -> Result<u64, String> {
    let root = File::open(directory).map_err(|error| error.to_string())?;
    let unpacked = decompress(bytes, &BOUNDS)
        .map_err(UnpackError::from_stream)
        .and_then(|plain| unpack(plain, root.as_fd(), Ownership::Caller, &BOUNDS));
    match unpacked {
        Ok(layer) if layer.entries > BOUNDS.entries || layer.bytes > BOUNDS.total => Err(format!("{layer:?}")),
        Ok(layer) => Ok(layer.entries),
        Err(_) => Ok(0),
    }
}

/// Decompresses a stream and returns the length of the plain stream, in bytes.
///
/// # Errors
/// If the plain stream is longer than the bounds allow.
pub fn compressed(bytes: &[u8]) -> Result<u64, String> {
    let Ok(mut plain) = decompress(bytes, &BOUNDS) else { return Ok(0) };
    match io::copy(&mut plain, &mut io::sink()) {
        Ok(length) if length > BOUNDS.total => Err(format!("{length} bytes")),
        length => Ok(length.unwrap_or(0)),
    }
}

/// Parses a document as a manifest or an index, and as the configuration of an image. Returns the number of successful parses.
///
/// # Errors
/// If a configuration is accepted whose number of layers differs from the requested number.
pub fn json(bytes: &[u8]) -> Result<usize, String> {
    let document = Document::parse(bytes);
    if let Ok(Document::Index(index)) = &document {
        // Any error is allowed; the target looks for panics.
        choose(&index.manifests).ok();
    }
    let mut valid = usize::from(document.is_ok());
    for layers in 0..3 {
        let Ok(config) = Config::parse(bytes, layers) else { continue };
        if config.rootfs.diff_ids.len() != layers {
            return Err(format!("{} layers instead of {layers}", config.rootfs.diff_ids.len()));
        }
        valid += 1;
    }
    Ok(valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        digest::Digest,
        manifest::{Descriptor, INDEX, LAYER, MANIFEST, Manifest, Platform},
    };
    use serde_json::json;
    use std::io::Write as _;
    use tar::{Builder, EntryType, Header};

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seed.rs"));
    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/tar_entries.rs"));

    /// Creates a layer with a directory, a file with a pax header, links, a whiteout and an opaque mark.
    fn archive() -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        let extension = b"36 SCHILY.xattr.user.comment=a note\n22 mtime=1700000000.5\n";
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(extension.len() as u64);
        header.set_cksum();
        archive.append(&header, &extension[..]).unwrap();
        append_entries(
            &mut archive,
            &[
                ("etc/hostname", EntryType::Regular, "", b"name\n"),
                ("bin/", EntryType::Directory, "", b""),
                ("bin/sh", EntryType::Symlink, "../etc/hostname", b""),
                ("bin/hard", EntryType::Link, "etc/hostname", b""),
                ("var/.wh.old", EntryType::Regular, "", b""),
                ("opt/.wh..wh..opq", EntryType::Regular, "", b""),
            ],
        );
        archive.into_inner().unwrap()
    }

    #[test]
    fn layers_of_the_seeds_are_accepted_in_full() {
        let plain = archive();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
        for (name, seed) in [("plain", &plain), ("gzip", &gzip), ("zstd", &zstd)] {
            let directory = tempfile::tempdir().unwrap();
            assert_eq!(layer(seed, directory.path()), Ok(6), "{name}");
            assert_eq!(compressed(seed), Ok(plain.len() as u64), "{name}");
            keep_seed("compressed", name, seed);
        }
        // Only the plain archive is kept: a mutated compressed archive is rarely a valid archive.
        keep_seed("layer", "plain", &plain);
    }

    #[test]
    fn documents_of_the_seeds_are_accepted_in_full() {
        let here = Platform::here();
        let config = json!({
            "os": here.os, "architecture": here.architecture, "history": [],
            "config": {"User": "1000:1000", "Env": ["A=b"], "Entrypoint": null, "Cmd": ["sh"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [Digest::compute(b"").to_string()]},
        });
        let config = serde_json::to_vec(&config).unwrap();
        let manifest =
            serde_json::to_vec(&Manifest::new(&config, vec![Descriptor::new(LAYER, Digest::compute(b"x"), 1)])).unwrap();
        let entry =
            Descriptor { platform: Some(here), ..Descriptor::new(MANIFEST, Digest::compute(&manifest), manifest.len() as u64) };
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})).unwrap();
        for (name, seed) in [("config", &config), ("manifest", &manifest), ("index", &index)] {
            assert_eq!(json(seed), Ok(1), "{name}");
            keep_seed("image_json", name, seed);
        }
    }
}
