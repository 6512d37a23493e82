//! Decompresses kernels, modules and packages. The first bytes of the data determine the format.

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;
use std::io::{self, BufRead, BufReader, Cursor, Read};

/// The maximum decompressed size in bytes. All kernels and modules are smaller.
const MAX_BYTES: u64 = 512 << 20;
/// The memory limit of an xz stream in KiB, as `xz -9` needs it.
const XZ_MEMORY_KIB: u32 = 128 << 10;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// The magic number of the legacy frame of `lz4 -l`. Such a frame has no total length and no checksum. It consists of blocks of 8
/// MiB, and the compressed length precedes each block (lz4's `doc/lz4_Frame_format.md`).
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
const LZ4_BLOCK: usize = 8 << 20;
const LZMA: &[u8] = &[0x5d, 0, 0];
const BZIP2: &[u8] = b"BZh";
const LZO: &[u8] = &[0x89, b'L', b'Z', b'O'];

/// Returns a reader of the decompressed data of a stream.
pub(crate) fn reader<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    let head = stream.fill_buf()?;
    if head.starts_with(GZIP) {
        return Ok(Box::new(MultiGzDecoder::new(stream)));
    }
    if head.starts_with(ZSTD) {
        let decoder = StreamingDecoder::new(stream).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        return Ok(Box::new(decoder));
    }
    if head.starts_with(XZ) {
        return Ok(Box::new(XzReader::new_mem_limit(stream, true, XZ_MEMORY_KIB)));
    }
    for (magic, name) in [(LZMA, "lzma"), (BZIP2, "bzip2"), (LZO, "lzo")] {
        if head.starts_with(magic) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("unsupported compression: {name}")));
        }
    }
    Ok(Box::new(stream))
}

/// Decompresses a whole file. Data after the end of the compressed stream is ignored.
pub(crate) fn plain(bytes: &[u8]) -> io::Result<Vec<u8>> {
    if let Some(blocks) = bytes.strip_prefix(LZ4_LEGACY) {
        return lz4_legacy(blocks);
    }
    let mut plain = Vec::new();
    // Decode one frame only: in a kernel, the frame is followed by a length field, which is not a frame.
    let source: Box<dyn Read + '_> = if bytes.starts_with(GZIP) {
        Box::new(flate2::bufread::GzDecoder::new(bytes))
    } else if bytes.starts_with(XZ) {
        Box::new(XzReader::new_mem_limit(bytes, false, XZ_MEMORY_KIB))
    } else {
        reader(Cursor::new(bytes))?
    };
    source.take(MAX_BYTES + 1).read_to_end(&mut plain)?;
    if plain.len() as u64 > MAX_BYTES { Err(too_large()) } else { Ok(plain) }
}

fn lz4_legacy(mut blocks: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        // Only the last block is shorter than 8 MiB when decompressed. After it comes the total length, or nothing.
        if !plain.is_empty() && (plain.len() % LZ4_BLOCK != 0 || length > rest.len()) {
            break;
        }
        let compressed = rest.get(..length).ok_or(io::ErrorKind::UnexpectedEof)?;
        let read = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        plain.extend_from_slice(&block[..read]);
        if plain.len() as u64 > MAX_BYTES {
            return Err(too_large());
        }
        blocks = &rest[length..];
    }
    Ok(plain)
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("decompressed size exceeds {MAX_BYTES} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Compresses into blocks of literals only (LZ4 block format): a token, the rest of the length, the bytes.
    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut out = LZ4_LEGACY.to_vec();
        for part in bytes.chunks(LZ4_BLOCK) {
            let mut block = vec![0xf0];
            let mut left = part.len() - 15;
            while left >= 255 {
                block.push(255);
                left -= 255;
            }
            block.push(u8::try_from(left).unwrap());
            block.extend_from_slice(part);
            out.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
            out.extend_from_slice(&block);
        }
        out
    }

    #[test]
    fn compressed_payload_with_or_without_trailing_length_is_unpacked() {
        let data = b"kernel ".repeat(2_000_000);
        let length = u32::try_from(data.len()).unwrap().to_le_bytes();
        for stream in [gzip(&data), lz4(&data), data.clone()] {
            assert_eq!(plain(&stream).unwrap(), data);
        }
        for stream in [gzip(&data), lz4(&data)] {
            assert_eq!(plain(&[&stream[..], &length].concat()).unwrap(), data);
        }
    }

    #[test]
    fn unsupported_compression_is_named_in_error() {
        for (magic, name) in [(LZMA, "lzma"), (BZIP2, "bzip2"), (LZO, "lzo")] {
            assert!(plain(magic).unwrap_err().to_string().contains(name));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_payload_causes_no_panic(kind in 0..5usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let heads: [&[u8]; 5] = [&[], GZIP, ZSTD, XZ, LZ4_LEGACY];
            let _ = plain(&[heads[kind], &bytes].concat());
        }
    }
}
