//! Extracts the kernel from a bzImage (`Documentation/arch/x86/boot.rst`).

use crate::payload;
use std::io;

/// The offsets of the header fields, and the first protocol version with the payload fields.
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
const VERSION: usize = 0x206;
const RELEASE: usize = 0x20e;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const PROTOCOL_WITH_PAYLOAD: u16 = 0x0208;

/// Returns whether a file is a bzImage.
pub(crate) fn is(image: &[u8]) -> bool {
    image.get(MAGIC.0..).is_some_and(|rest| rest.starts_with(MAGIC.1))
}

/// Returns the kernel's release, as `uname -r` prints it.
pub(crate) fn release(image: &[u8]) -> Option<String> {
    let at = usize::from(short(image, RELEASE)?) + 0x200;
    let text = image.get(at..)?.iter().take(256).take_while(|byte| !b" \0".contains(byte)).copied().collect();
    String::from_utf8(text).ok().filter(|release| !release.is_empty())
}

/// Returns the decompressed payload, normally an ELF kernel.
pub(crate) fn kernel(image: &[u8]) -> io::Result<Vec<u8>> {
    let invalid_data = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let version = short(image, VERSION).ok_or_else(|| invalid_data("the bzImage header is truncated"))?;
    if version < PROTOCOL_WITH_PAYLOAD {
        return Err(invalid_data("the bzImage boot protocol is older than 2.08 and has no payload offset"));
    }
    let part = || {
        let sectors = match image.get(SETUP_SECTORS)? {
            0 => 4,
            sectors => usize::from(*sectors),
        };
        let start = ((sectors + 1) * 512).checked_add(long(image, PAYLOAD_OFFSET)?)?;
        image.get(start..start.checked_add(long(image, PAYLOAD_LENGTH)?)?)
    };
    payload::plain(part().ok_or_else(|| invalid_data("the bzImage payload lies outside of the file"))?)
}

fn short(image: &[u8], at: usize) -> Option<u16> {
    image.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn long(image: &[u8], at: usize) -> Option<usize> {
    image.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[SETUP_SECTORS] = 1;
        image[MAGIC.0..MAGIC.0 + 4].copy_from_slice(MAGIC.1);
        image[VERSION..VERSION + 2].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[RELEASE..RELEASE + 2].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x300..0x310].copy_from_slice(b"6.1.0-9-x (who@)");
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn bzimage_payload_and_release_are_found() {
        let image = image(b"\x7fELF of a kernel");
        assert!(is(&image));
        assert_eq!(release(&image).as_deref(), Some("6.1.0-9-x"));
        assert_eq!(kernel(&image).unwrap(), b"\x7fELF of a kernel");
        assert!(kernel(&image[..1030]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_header_causes_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            let _ = (is(&bytes), release(&bytes), kernel(&bytes));
        }
    }
}
