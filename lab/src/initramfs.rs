//! An archive as the kernel unpacks it before anything runs (`Documentation/driver-api/early-userspace/buffer-format.rst`, "newc").
//! Not compressed: unpacking would take longer than reading.

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
}

/// The file's type and permissions (`inode(7)`).
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DEVICE: u32 = 0o020_600;

impl Initramfs {
    /// A folder; those above it come before.
    pub fn folder(&mut self, name: &str) -> &mut Self {
        self.entry(name, FOLDER, (0, 0), &[])
    }

    /// A file that can be executed.
    pub fn file(&mut self, name: &str, content: &[u8]) -> &mut Self {
        self.entry(name, PROGRAM, (0, 0), content)
    }

    /// A character device.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) -> &mut Self {
        self.entry(name, DEVICE, (major, minor), &[])
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> &mut Self {
        self.entries += 1;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(content.len()).unwrap_or(u32::MAX),
            0,
            0,
            device.0,
            device.1,
            u32::try_from(name.len() + 1).unwrap_or(u32::MAX),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the format's own words: fields at fixed places, name and content at multiples of four.
    #[test]
    fn names_and_contents_are_where_the_kernel_looks() {
        let mut archive = Initramfs::default();
        archive.folder("dev").device("dev/console", 5, 1).file("init", b"12345");
        let bytes = archive.finish();
        let (mut at, mut seen) = (0, Vec::new());
        loop {
            let field = |n: usize| {
                let start = at + 6 + n * 8;
                usize::from_str_radix(std::str::from_utf8(&bytes[start..start + 8]).unwrap(), 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let name = &bytes[at + 110..at + 110 + field(11) - 1];
            let content = (at + 110 + field(11)).next_multiple_of(4);
            if name == b"TRAILER!!!" {
                break;
            }
            seen.push((
                String::from_utf8_lossy(name).into_owned(),
                field(1),
                field(9),
                bytes[content..content + field(6)].to_vec(),
            ));
            at = (content + field(6)).next_multiple_of(4);
        }
        let expected = [
            ("dev".to_owned(), 0o040_755, 0, Vec::new()),
            ("dev/console".to_owned(), 0o020_600, 5, Vec::new()),
            ("init".to_owned(), 0o100_755, 0, b"12345".to_vec()),
        ];
        assert_eq!(seen, expected);
    }
}
