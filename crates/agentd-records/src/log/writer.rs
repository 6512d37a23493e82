//! Writes a log. One commit adds any number of leaves:
//!
//! 1. The leaves are appended to the entry bundles, and their hashes to the tiles. The bundles are flushed.
//! 2. A checkpoint of the new size is signed, written to another file, and flushed.
//! 3. The checkpoint replaces the previous one, and the folder is flushed.
//!
//! Before the end of step 3, the previous checkpoint is valid: the next writer removes the leaves beyond it.

use super::{
    error::LogError,
    read::{CHECKPOINT, LogReader, width},
    series::{Flush, Series},
};
use crate::{
    checkpoint::Checkpoint,
    merkle::{Edge, Hash},
    note::{SignedNote, Signer, VerifierKey},
    tile::{self, FileKind, LEVELS, WIDTH},
};
use agentd_disk::{Lock, flush_directory};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

const LOCK: &str = "lock";
const DRAFT: &str = "checkpoint.draft";

/// The only writer of a log.
pub(crate) struct Writer {
    root: PathBuf,
    signers: Vec<Arc<Signer>>,
    origin: String,
    edge: Edge,
    bundles: Series,
    tiles: Vec<Series>,
    _lock: Lock,
}

impl Writer {
    /// Opens the log in `root`, whose checkpoint `trusted` has signed, or creates it. New checkpoints get the signatures of
    /// `signers`. Removes the leaves of an interrupted commit.
    ///
    /// # Errors
    /// [`LogError::Busy`] if another process writes the log, and an error if the end of the log does not match its checkpoint.
    pub fn open(root: &Path, trusted: &VerifierKey, signers: Vec<Arc<Signer>>) -> Result<Self, LogError> {
        agentd_disk::make_private(root).map_err(|source| LogError::Folder { path: root.to_path_buf(), source })?;
        let lock = Lock::try_take(&root.join(LOCK))?.ok_or_else(|| LogError::Busy(root.to_path_buf()))?;
        let (reader, origin) = (LogReader::new(root), trusted.key_id().name.clone());
        let note = match reader.note() {
            // Without a checkpoint, files belong to a log whose checkpoint was lost.
            Err(LogError::None(path)) if root.join("tile").exists() => return Err(LogError::Missing(path)),
            Err(LogError::None(_)) => return End::read(&reader, 0)?.resume(root, signers, origin, lock)?.signed(),
            note => note?,
        };
        let (text, signatures) = note.verify(std::iter::once(trusted))?;
        let checkpoint: Checkpoint = text.parse()?;
        if checkpoint.origin != origin {
            return Err(LogError::Origin(checkpoint.origin));
        }
        let end = End::read(&reader, checkpoint.size)?;
        if end.edge.root() != checkpoint.root {
            return Err(LogError::Root);
        }
        let writer = end.resume(root, signers, origin, lock)?;
        // An interrupted rotation left the signature of a key that was never used.
        if signatures.unknown.is_empty() { Ok(writer) } else { writer.signed() }
    }

    /// Returns the number of leaves.
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Adds leaves. All of them are durable when this function returns. After an error, the state on disk is unknown, and the
    /// writer must not be used again.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn commit<'l>(&mut self, leaves: impl Iterator<Item = &'l [u8]>) -> Result<(), LogError> {
        for leaf in leaves {
            self.add(leaf)?;
        }
        self.bundles.commit()?;
        self.tiles.iter_mut().try_for_each(Series::commit)?;
        self.sign()
    }

    fn add(&mut self, leaf: &[u8]) -> Result<(), LogError> {
        let mut entry = Vec::with_capacity(leaf.len() + 2);
        tile::append_entry(&mut entry, leaf);
        self.bundles.push(&entry)?;
        let (tiles, mut failed) = (&mut self.tiles, None);
        self.edge.push(Hash::leaf(leaf), |level, hash| {
            if let Some(Err(error)) = tiles.get_mut(level).map(|tiles| tiles.push(&hash.0)) {
                failed = Some(error);
            }
        });
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Signs and replaces the checkpoint.
    fn sign(&self) -> Result<(), LogError> {
        let checkpoint = Checkpoint { origin: self.origin.clone(), size: self.edge.size(), root: self.edge.root() };
        let signers: Vec<_> = self.signers.iter().map(|signer| &**signer).collect();
        let note = SignedNote::sign(checkpoint.to_string(), &signers).to_string();
        agentd_disk::write(&self.root.join(CHECKPOINT), note.as_bytes(), &self.root.join(DRAFT))?;
        Ok(flush_directory(&self.root)?)
    }

    fn signed(self) -> Result<Self, LogError> {
        self.sign()?;
        Ok(self)
    }
}

/// The last files of a log, as they were read. Nothing was changed yet.
struct End {
    edge: Edge,
    /// The last bundle, and the last tile of each level: the path and the items that the checkpoint includes.
    bundle: Option<(PathBuf, Vec<u8>)>,
    tiles: Vec<Option<(PathBuf, Vec<u8>)>>,
}

impl End {
    fn read(reader: &LogReader, size: u64) -> Result<Self, LogError> {
        let find = |kind, level| {
            let index = tile::items(size, level) / WIDTH;
            let found = (tile::partial_width(size, level) > 0).then(|| reader.find(kind, index, width(size, level, index)));
            found.transpose()
        };
        let bundle = find(FileKind::Entries, 0)?;
        let refused = |path: &Path| {
            let path = path.to_path_buf();
            move |source| LogError::File { path, source }
        };
        let (mut partial, mut tiles) = (Vec::new(), Vec::new());
        for level in 0..LEVELS {
            // The last tile of the lowest level was not flushed. It is computed from the bundle.
            let found = match &bundle {
                _ if level > 0 => find(FileKind::Hashes(level), level)?,
                Some((path, entries)) => {
                    let entries = tile::entries(entries).map_err(refused(path))?;
                    Some((PathBuf::new(), entries.into_iter().flat_map(|entry| Hash::leaf(entry).0).collect()))
                }
                None => None,
            };
            partial.push(match &found {
                Some((path, bytes)) => tile::hashes(bytes).map_err(refused(path))?,
                None => Vec::new(),
            });
            tiles.push(found);
        }
        Ok(Self { edge: Edge::restore(size, &partial), bundle, tiles })
    }

    fn resume(self, root: &Path, signers: Vec<Arc<Signer>>, origin: String, lock: Lock) -> Result<Writer, LogError> {
        let size = self.edge.size();
        let resume = |kind, flush, level, found: &Option<(PathBuf, Vec<u8>)>| {
            let found = found.as_ref().map(|(path, items)| (path.as_path(), items.as_slice()));
            Series::resume(root, kind, flush, tile::items(size, level), found)
        };
        let bundles = resume(FileKind::Entries, Flush::Always, 0, &self.bundle)?;
        let tiles = self.tiles.iter().enumerate().map(|(level, found)| {
            let flush = if level == 0 { Flush::WhenFull } else { Flush::Always };
            resume(FileKind::Hashes(level), flush, level, found)
        });
        let tiles = tiles.collect::<Result<_, _>>()?;
        Ok(Writer { root: root.to_path_buf(), signers, origin, edge: self.edge, bundles, tiles, _lock: lock })
    }
}
