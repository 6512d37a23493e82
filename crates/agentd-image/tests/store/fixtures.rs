//! Builds archives and images byte by byte, so that every field can be invalid.

use agentd_image::Digest;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use std::{fs, io::Write, path::Path};
use tar::{Builder, EntryType, Header};

/// One entry of an archive.
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: EntryType,
    pub link: Vec<u8>,
    pub mode: u32,
    pub owner: (u64, u64),
    pub modified: u64,
    pub attributes: Vec<(&'static str, Vec<u8>)>,
    pub data: Vec<u8>,
}

impl Entry {
    fn new(path: &str, kind: EntryType, mode: u32) -> Self {
        let (path, link, data) = (path.into(), Vec::new(), Vec::new());
        Self { path, kind, link, mode, owner: (0, 0), modified: 1_700_000_000, attributes: Vec::new(), data }
    }

    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub fn owner(self, uid: u64, gid: u64) -> Self {
        Self { owner: (uid, gid), ..self }
    }

    pub fn attribute(mut self, key: &'static str, value: &[u8]) -> Self {
        self.attributes.push((key, value.to_owned()));
        self
    }
}

pub fn file(path: &str, data: impl Into<Vec<u8>>) -> Entry {
    Entry { data: data.into(), ..Entry::new(path, EntryType::Regular, 0o644) }
}

pub fn dir(path: &str) -> Entry {
    Entry::new(path, EntryType::Directory, 0o755)
}

pub fn symlink(path: &str, target: &str) -> Entry {
    Entry { link: target.into(), ..Entry::new(path, EntryType::Symlink, 0o777) }
}

pub fn hard_link(path: &str, target: &str) -> Entry {
    Entry { link: target.into(), ..Entry::new(path, EntryType::Link, 0o644) }
}

pub fn fifo(path: &str) -> Entry {
    Entry::new(path, EntryType::Fifo, 0o640)
}

pub fn device(path: &str) -> Entry {
    Entry::new(path, EntryType::Char, 0o666)
}

/// Builds a tar archive of these entries. Names are written unchanged.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_ustar();
        let mut extended: Vec<(&str, &[u8])> = entry.attributes.iter().map(|(key, value)| (*key, value.as_slice())).collect();
        if entry.path.len() <= 100 {
            header.as_mut_bytes()[..entry.path.len()].copy_from_slice(&entry.path);
        } else {
            extended.push(("path", &entry.path));
        }
        if entry.link.len() <= 100 {
            header.as_mut_bytes()[157..157 + entry.link.len()].copy_from_slice(&entry.link);
        } else {
            extended.push(("linkpath", &entry.link));
        }
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(entry.modified);
        header.set_size(entry.data.len() as u64);
        header.set_cksum();
        archive.append_pax_extensions(extended).unwrap();
        archive.append(&header, &entry.data[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A function that compresses a layer.
pub type Pack = fn(&[u8]) -> Vec<u8>;

/// Returns the architecture of this host by its name in images.
pub fn architecture() -> &'static str {
    if std::env::consts::ARCH == "x86_64" { "amd64" } else { "arm64" }
}

/// Returns the configuration of an image of these uncompressed layers.
pub fn config(layers: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::compute(layer).to_string()).collect();
    json!({
        "os": "linux", "architecture": architecture(), "created": "2024-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin", "A=b=c", "broken"], "Entrypoint": ["/bin/sh"], "Cmd": ["-c", "id"],
                   "WorkingDir": "/srv", "User": "1000:1000"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

/// The directory of an OCI layout.
pub struct Layout<'a>(pub &'a Path);

impl Layout<'_> {
    /// Writes a layout with one image named `tag` of these layers, each compressed by its function.
    pub fn with_image(&self, layers: &[Vec<u8>], pack: &[Pack], tag: &str) -> Value {
        let packed: Vec<_> = layers.iter().zip(pack).map(|(layer, pack)| pack(layer)).collect();
        let mut descriptor = self.image(&config(layers), &packed);
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.index(&json!({"schemaVersion": 2, "manifests": [descriptor]}));
        descriptor
    }

    /// Writes an image and returns the descriptor of its manifest.
    pub fn image(&self, config: &Value, layers: &[Vec<u8>]) -> Value {
        let layers: Vec<_> = layers.iter().map(|layer| self.blob("application/vnd.oci.image.layer.v1.tar+gzip", layer)).collect();
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes())
    }

    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::compute(bytes);
        fs::create_dir_all(self.0.join("blobs/sha256")).unwrap();
        fs::write(self.0.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    pub fn index(&self, index: &Value) {
        fs::write(self.0.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(self.0.join("index.json"), index.to_string()).unwrap();
    }

    /// Returns an archive of the files of the layout.
    pub fn archive(&self) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        archive.append_dir_all("", self.0).unwrap();
        archive.into_inner().unwrap()
    }
}

/// Returns an archive as `docker save` wrote it before version 25: the second occurrence of a layer is a link.
pub fn docker_save(layers: &[Vec<u8>], tag: &str) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        let name = format!("{at:064}/layer.tar");
        entries.push(dir(&format!("{at:064}/")));
        match layers[..at].iter().position(|earlier| earlier == layer) {
            Some(first) => entries.push(symlink(&name, &format!("../{}", names[first]))),
            None => entries.push(file(&name, layer.clone())),
        }
        names.push(name);
    }
    saved(entries, &names, layers, tag)
}

/// Returns an archive as `podman save` writes it: layers at the top, and links from the names that Docker used.
pub fn podman_save(layers: &[Vec<u8>], tag: &str) -> Vec<u8> {
    let names: Vec<_> = layers.iter().map(|layer| format!("{}.tar", Digest::compute(layer).hex())).collect();
    let mut entries = Vec::new();
    for (at, (name, layer)) in names.iter().zip(layers).enumerate() {
        if !names[..at].contains(name) {
            entries.push(file(name, layer.clone()));
        }
        entries.push(symlink(&format!("{at:064}/layer.tar"), &format!("../{name}")));
    }
    saved(entries, &names, layers, tag)
}

fn saved(mut entries: Vec<Entry>, names: &[String], layers: &[Vec<u8>], tag: &str) -> Vec<u8> {
    let config = config(layers).to_string();
    let config_name = format!("{}.json", Digest::compute(config.as_bytes()).hex());
    entries.push(file(&config_name, config));
    entries.push(file("manifest.json", json!([{"Config": config_name, "RepoTags": [tag], "Layers": names}]).to_string()));
    archive(&entries)
}
