//! Reads a file, or a range of its bytes or lines.

use crate::{
    error::{ErrorCode, ToolError},
    limits,
    request::{ReadRange, ReadRequest},
    resolve::{LastLink, Resolver, size},
    response::{ReadResult, Truncation},
};
use memchr::{memchr, memchr_iter};
use rustix::fs::OFlags;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
};

/// Reads the file of a request. Returns the result and the content.
pub(crate) fn read(resolver: &Resolver, request: &ReadRequest) -> Result<(ReadResult, Vec<u8>), ToolError> {
    let path = request.path.as_bytes();
    let place = resolver.resolve("read", path, LastLink::Follow)?;
    let (file, stat) = place.open_regular("read", path, OFlags::RDONLY)?;
    let max = limits::READ.of(request.max_bytes);
    let failed = |error: io::Error| failed(path, &error);
    let part = match request.range {
        None => bytes(file, 0, None, max).map_err(failed)?,
        Some(ReadRange::Bytes { offset, length }) => bytes(file, offset, length, max).map_err(failed)?,
        Some(ReadRange::Lines { first: 0, .. }) => {
            return Err(ToolError::at(ErrorCode::Invalid, "read", path, "the first line has the number 1 — count from 1"));
        }
        Some(ReadRange::Lines { first, count }) => lines(file, first, count, max).map_err(failed)?,
    };
    let first_line = match request.range {
        Some(ReadRange::Lines { first, .. }) => Some(first),
        _ => None,
    };
    let result = ReadResult {
        size: size(&stat),
        offset: part.offset,
        length: part.content.len() as u64,
        first_line,
        truncated: part.truncated.then_some(Truncation::Bytes),
    };
    Ok((result, part.content))
}

/// Returns the error of reading or writing an open file.
pub(crate) fn failed(path: &[u8], error: &io::Error) -> ToolError {
    match rustix::io::Errno::from_io_error(error) {
        Some(errno) => ToolError::system("access", path, errno),
        None => ToolError::at(ErrorCode::System, "access", path, &error.to_string()),
    }
}

/// A part of a file.
struct FilePart {
    offset: u64,
    content: Vec<u8>,
    /// True if the part has fewer bytes than requested, and the file has more.
    truncated: bool,
}

fn bytes(mut file: File, offset: u64, length: Option<u64>, max: u64) -> io::Result<FilePart> {
    let wanted = length.unwrap_or(u64::MAX);
    let mut content = Vec::new();
    // An offset beyond `i64::MAX` is beyond the end of any file.
    if i64::try_from(offset).is_ok() {
        file.seek(SeekFrom::Start(offset))?;
        (&mut file).take(wanted.min(max)).read_to_end(&mut content)?;
    }
    let full = content.len() as u64 == max && max < wanted;
    Ok(FilePart { offset, content, truncated: full && file.read(&mut [0])? > 0 })
}

fn lines(file: File, first: u64, count: Option<u64>, max: u64) -> io::Result<FilePart> {
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let (mut offset, mut to_skip) = (0, first - 1);
    while to_skip > 0 {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        // The line feeds of the lines to skip that are in the buffer.
        let within = usize::try_from(to_skip).unwrap_or(usize::MAX);
        let feeds = memchr_iter(b'\n', buffer).take(within);
        let (seen, last) = feeds.fold((0, None), |(seen, _), at| (seen + 1, Some(at)));
        let used = match last {
            Some(at) if seen == to_skip => at + 1,
            _ => buffer.len(),
        };
        to_skip -= seen;
        offset += used as u64;
        reader.consume(used);
    }
    let (mut content, mut left) = (Vec::new(), count.unwrap_or(u64::MAX));
    while left > 0 {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        let end = memchr(b'\n', buffer).map(|at| at + 1);
        let line = &buffer[..end.unwrap_or(buffer.len())];
        if content.len() as u64 + line.len() as u64 > max {
            let room = usize::try_from(max).unwrap_or(usize::MAX).saturating_sub(content.len());
            content.extend_from_slice(&line[..room.min(line.len())]);
            return Ok(FilePart { offset, content, truncated: true });
        }
        content.extend_from_slice(line);
        let used = line.len();
        left -= u64::from(end.is_some());
        reader.consume(used);
    }
    Ok(FilePart { offset, content, truncated: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn content_over_limit_is_cut_with_mark_and_content_at_limit_is_not() {
        let part = bytes(file(b"12345"), 0, None, 5).unwrap();
        assert!(!part.truncated && part.content == b"12345");
        let part = bytes(file(b"12345"), 1, None, 3).unwrap();
        assert!(part.truncated && part.content == b"234");
        let part = bytes(file(b"12345"), 0, Some(3), 3).unwrap();
        assert!(!part.truncated && part.content == b"123");
        let part = lines(file(b"ab\ncd\n"), 1, None, 4).unwrap();
        assert!(part.truncated && part.content == b"ab\nc");
    }

    #[test]
    fn range_behind_the_end_is_empty() {
        for offset in [5, 6, u64::MAX] {
            assert!(bytes(file(b"12345"), offset, Some(u64::MAX), 10).unwrap().content.is_empty());
        }
        assert!(lines(file(b"a\nb"), 3, Some(5), 10).unwrap().content.is_empty());
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_content(
            content in prop::collection::vec(prop::sample::select(vec![b'a', b'\n', 0, 0xff]), 0..60),
            first in 1..20_u64,
            count in prop::option::of(0..10_u64),
        ) {
            let all: Vec<&[u8]> = content.split_inclusive(|byte| *byte == b'\n').collect();
            let from = usize::try_from(first - 1).unwrap().min(all.len());
            let number = count.map_or(usize::MAX, |count| usize::try_from(count).unwrap());
            let expected: Vec<u8> = all[from..].iter().take(number).copied().collect::<Vec<_>>().concat();
            let part = lines(file(&content), first, count, 1000).unwrap();
            prop_assert_eq!(&part.content, &expected);
            if !expected.is_empty() {
                prop_assert_eq!(&content[usize::try_from(part.offset).unwrap()..][..expected.len()], &expected[..]);
            }
        }

        #[test]
        fn bytes_are_those_of_the_content(
            content in prop::collection::vec(any::<u8>(), 0..60),
            offset in 0..70_u64,
            length in prop::option::of(0..70_u64),
        ) {
            let from = usize::try_from(offset).unwrap().min(content.len());
            let number = length.map_or(usize::MAX, |length| usize::try_from(length).unwrap());
            let expected: Vec<u8> = content[from..].iter().take(number).copied().collect();
            prop_assert_eq!(bytes(file(&content), offset, length, 1000).unwrap().content, expected);
        }
    }
}
