//! Detects the compression of a stream from its first bytes and decompresses it. The media type is ignored, because published
//! images contain wrong ones. Both decoders are pure Rust, because they process untrusted input, for images as root.

use crate::{
    bounds::{Bound, Bounds},
    error::UnpackError,
};
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use std::io::{self, BufRead, BufReader, Read};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The magic numbers of zstd's skippable frames, without their first byte, whose low four bits are arbitrary.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Returns true if a stream with these first bytes is compressed.
pub fn is_compressed(head: &[u8]) -> bool {
    head.starts_with(&GZIP) || is_zstd(head)
}

fn is_zstd(head: &[u8]) -> bool {
    head.starts_with(&ZSTD) || (head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == ZSTD_SKIPPABLE)
}

/// Decompresses `stream`, unless it is plain. Reading more than [`Bounds::total`] plain bytes fails.
///
/// # Errors
/// If the first bytes of `stream` cannot be read.
pub fn decompress<'a>(mut stream: impl Read + 'a, bounds: &Bounds) -> io::Result<Bounded<Box<dyn Read + 'a>>> {
    let mut head = Vec::new();
    (&mut stream).take(4).read_to_end(&mut head)?;
    let (gzip, zstd) = (head.starts_with(&GZIP), is_zstd(&head));
    let whole = BufReader::with_capacity(64 << 10, io::Cursor::new(head).chain(stream));
    let plain: Box<dyn Read + 'a> = if gzip {
        Box::new(MultiGzDecoder::new(whole))
    } else if zstd {
        Box::new(Zstd { source: whole, decoder: FrameDecoder::new() })
    } else {
        Box::new(whole)
    };
    Ok(Bounded { inner: plain, left: bounds.total, max: bounds.total })
}

/// A reader that fails with [`UnpackError::TooLarge`] once it has read more than its limit.
pub struct Bounded<R> {
    inner: R,
    left: u64,
    max: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other(UnpackError::TooLarge { bound: Bound::Total, max: self.max, path: None })),
        }
        Ok(read)
    }
}

/// Decodes all frames of a zstd stream in sequence: parallel compressors and `zstd:chunked` write several.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
}

impl<R: BufRead> Zstd<R> {
    /// Begins the next frame that contains data; returns false at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                    if skipped != u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.decoder.can_collect() == 0 {
            if self.decoder.is_finished() {
                if !self.next_frame()? {
                    return Ok(0);
                }
            } else {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
        }
        self.decoder.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use std::io::Write;

    fn plain(stream: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        decompress(stream, &Bounds::default())?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    #[test]
    fn concatenated_streams_are_decompressed_in_full() {
        let data = b"some words, some words, some words".repeat(5000);
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..]].concat();
        for stream in [
            [gzip(&data), gzip(&data)].concat(),
            [zstd(&data), zstd(&data)].concat(),
            [skippable.clone(), zstd(&data), skippable, zstd(&data)].concat(),
            data.repeat(2),
        ] {
            assert_eq!(plain(&stream).unwrap(), data.repeat(2));
        }
    }

    #[test]
    fn decompression_bomb_fails_at_total_bound() {
        let bounds = Bounds { total: 1 << 20, ..Bounds::default() };
        for stream in [gzip(&vec![0; 8 << 20]), zstd(&vec![0; 8 << 20])] {
            let error = io::copy(&mut decompress(&stream[..], &bounds).unwrap(), &mut io::sink()).unwrap_err();
            assert!(matches!(UnpackError::from_stream(error), UnpackError::TooLarge { bound: Bound::Total, .. }));
        }
    }

    #[test]
    fn truncated_stream_fails() {
        for stream in [gzip(b"words"), zstd(b"words")] {
            assert!(plain(&stream[..stream.len() - 6]).is_err());
        }
    }

    proptest! {
        #[test]
        fn random_stream_does_not_panic_decoder(kind in 0..4usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let heads: [&[u8]; 4] = [&[], &GZIP, &ZSTD, &[0x50, 0x2a, 0x4d, 0x18]];
            let _ = plain(&[heads[kind], &bytes].concat());
        }

        #[test]
        fn flipped_byte_does_not_panic_decoder(at in 0..200usize, with in 1u8..) {
            for mut stream in [gzip(&b"words and words ".repeat(200)), zstd(&b"words and words ".repeat(200))] {
                let length = stream.len();
                stream[at % length] ^= with;
                let _ = plain(&stream);
            }
        }
    }
}
